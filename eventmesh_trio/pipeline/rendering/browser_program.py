"""Which browser, and how it is started: found by the settings, with every flag that it is given."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import attrs

from eventmesh_trio.errors import ConfigError
from eventmesh_trio.pipeline.rendering.limits import RenderLimits

__all__ = ["BrowserPlace", "command_of", "find_browser"]

_NAMES: Final = (
    *("chromium-headless-shell", "headless_shell", "chrome-headless-shell"),
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
)
# Debian's wrapper starts this and does not become it.
_BEHIND_WRAPPER: Final = {
    "chromium-headless-shell": Path("/usr/lib/chromium/chromium-headless-shell")
}
_FLAGS: Final = (
    "--headless",
    "--remote-debugging-pipe",
    "--user-data-dir={folder}",
    # Nothing that is not a page's: no updates, lists, probes, pings, reports, accounts.
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-pings",
    "--no-service-autorun",
    "--password-store=basic",
    "--use-mock-keychain",
    # Nothing that a crawl has no use for: graphics hardware, sound, windows, sharing.
    "--block-new-web-contents",
    "--deny-permission-prompts",
    "--disable-3d-apis",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-notifications",
    "--disable-popup-blocking",
    "--disable-print-preview",
    "--disable-software-rasterizer",
    "--disable-speech-api",
    "--hide-scrollbars",
    "--mute-audio",
    # A page nobody looks at is to run as if somebody did.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-hang-monitor",
    "--disable-ipc-flooding-protection",
    "--disable-renderer-backgrounding",
    # Each page has a context, and so a process, of its own. What it embeds lives there with it:
    # its requests are seen in the page's session, and its memory counts as the page's.
    "--disable-site-isolation-trials",
    "--disable-features=IsolateOrigins,site-per-process,Translate,MediaRouter,DialMediaRouteProvider,"
    "OptimizationHints,AutofillServerCommunication,CertificateTransparencyComponentUpdater,"
    "InterestFeedContentSuggestions,BackForwardCache,AcceptCHFrame,WebRtcHideLocalIpsWithMdns,"
    "GlobalMediaControls,Prerender2,PrivacySandboxSettings4,NetworkTimeServiceQuerying",
)


@attrs.frozen
class BrowserPlace:
    """Where the browser is: exactly one of a program to start and an endpoint to speak to."""

    program: str | None = None
    endpoint: str | None = None

    @property
    def port(self) -> int | None:
        """The endpoint's port."""
        if self.endpoint is None:
            return None
        split = urlsplit(self.endpoint)
        return split.port or 80


def find_browser(limits: RenderLimits) -> BrowserPlace:
    """Where the browser of these settings is; reads file names only.

    Raises:
      ConfigError: there is none, or it must not be used like this; the message says what to do.
    """
    setting = limits.browser
    if "://" in setting:
        return BrowserPlace(endpoint=_judged_endpoint(setting))
    if limits.sandbox and hasattr(os, "geteuid") and os.geteuid() == 0:
        raise ConfigError(
            "render.sandbox is true, and Chromium's sandbox does not work for root: run as another "
            "user, or set render.sandbox to false if what runs here is confined in another way"
        )
    names = _NAMES if setting == "auto" else (setting,)
    for name in names:
        if (found := shutil.which(name)) is not None:
            behind = _BEHIND_WRAPPER.get(Path(found).name)
            return BrowserPlace(program=str(behind) if behind and behind.exists() else found)
    if setting == "auto":
        raise ConfigError(
            "render.browser is auto, and no browser was found: install one, such as Debian's "
            "chromium-headless-shell, or set render.browser to its path, or to off"
        )
    raise ConfigError(f"render.browser is {setting!r}, which is no program that can be run")


def _judged_endpoint(setting: str) -> str:
    split = urlsplit(setting)
    if split.scheme not in ("ws", "http") or not split.hostname:
        raise ConfigError(
            f"render.browser is {setting!r}; an endpoint is ws://HOST:PORT/PATH or http://HOST:PORT"
        )
    local = split.hostname == "localhost"
    with suppress(ValueError):
        local = local or ip_address(split.hostname).is_loopback
    if not local:
        raise ConfigError(
            f"render.browser is at {split.hostname}: it must be on this machine, for all that it "
            "loads has to pass a proxy that listens on loopback; tunnel the endpoint's port and "
            "give it this machine's network"
        )
    return setting


def command_of(
    program: str, limits: RenderLimits, proxy_arguments: Sequence[str], user_agent: str
) -> Sequence[str]:
    """The command line of a browser of our own; ``{folder}`` in it is for its keeper to fill in."""
    return (
        program,
        *_FLAGS,
        *(() if limits.sandbox else ("--no-sandbox",)),
        *proxy_arguments,
        # The older name of what the proxy's own arguments say of WebRTC.
        "--webrtc-ip-handling-policy=disable_non_proxied_udp",
        f"--user-agent={user_agent}",
        "about:blank",
    )
