"""What a page tries in a real Chromium to reach what it must not: nothing there sees a byte."""

import re

import pytest

from eventmesh_trio.errors import BlockedAddress, RobotsDenied, TooLarge
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.wire.requests import CrawlOptions
from tests.helpers.render_site import open_listener, open_site
from tests.helpers.rendering import LOOPBACK, open_rendering

pytestmark = pytest.mark.slow

PLAIN = CrawlOptions()
# Everything is on loopback here. What is allowed of it is one address; the rest is "the inside".
OUTSIDE = AddressPolicy(allow_private=("127.0.0.1/32",))
INSIDE = "127.0.0.2"

ATTEMPTS = """
<link rel=preconnect href="http://{inside}/"><link rel=dns-prefetch href="//{inside}/">
<link rel=stylesheet href="http://{inside}/s.css"><iframe src="http://{inside}/f"></iframe>
<object data="http://{inside}/o"></object><script src="http://{inside}/s.js"></script>
<form id=f action="http://{inside}/form" method=post target=shown></form>
<iframe name=shown></iframe>
<p id=p></p><script>
const told = text => p.append(text + ' ');
const done = [
  fetch('http://{inside}/fetch').then(() => told('fetched'), () => told('no-fetch')),
  fetch('http://169.254.169.254/latest/').then(() => told('metadata'), () => told('no-metadata')),
  fetch('http://localhost:{port}/').then(() => told('name'), () => told('no-name')),
  fetch('http://[::ffff:{dotted}]:{port}/').then(() => told('mapped'), () => told('no-mapped')),
  new Promise(resolve => {{ const s = new WebSocket('ws://{inside}/ws');
    s.onopen = () => resolve(told('socket')); s.onerror = () => resolve(told('no-socket')) }}),
  new Promise(resolve => {{ const s = new EventSource('http://{inside}/events');
    s.onopen = () => resolve(told('events')); s.onerror = () => resolve(told('no-events')) }}),
  new Promise(resolve => {{ const w = new Worker(URL.createObjectURL(new Blob([
    "fetch('http://{inside}/').then(() => postMessage('worker'), () => postMessage('no-worker'))"
    ]))); w.onmessage = m => resolve(told(m.data)) }}),
];
navigator.sendBeacon('http://{inside}/beacon');
f.submit();
try {{ const c = new RTCPeerConnection({{iceServers: [
  {{urls: ['stun:{inside}', 'stun:{dotted}:{port}']}},
  {{urls: 'turn:{inside}?transport=tcp', username: 'u', credential: 'c'}}]}});
  c.createDataChannel('x'); c.createOffer().then(o => c.setLocalDescription(o)) }} catch (e) {{}}
try {{ new WebTransport('https://{inside}/').ready.catch(() => 0) }} catch (e) {{}}
Promise.all(done).then(() => setTimeout(() => {{
  const e = document.createElement('b'); e.id = 'all';
  document.body.append(e) }}, 1500));
</script>"""


@pytest.mark.parametrize("host", [INSIDE, "127.0.0.1"])
async def test_nothing_a_page_does_reaches_an_address_or_port_that_is_refused(host: str):
    async with open_site() as site, open_listener(host) as inside:
        policy = (
            OUTSIDE
            if host == INSIDE
            else AddressPolicy(allow_private=("127.0.0.0/8",), allow_ports=(site.port,))
        )
        async with open_rendering(policy) as renderer:
            body = ATTEMPTS.format(inside=f"{host}:{inside.port}", port=inside.port, dotted=host)
            url = site.page("/", body)
            page = await renderer.render(url, CrawlOptions(dynamic_wait_for="#all"))
            (told,) = re.findall('<p id="p">(.*?)</p>', page.body.decode())
            for attempt in ("fetch", "metadata", "name", "mapped", "socket", "events", "worker"):
                assert f"no-{attempt}" in told
            assert inside.met == 0


async def test_a_service_worker_goes_the_same_way():
    async with open_site() as site, open_listener(INSIDE) as inside:
        site.page(
            "/sw.js",
            f"addEventListener('fetch', e => {{ if (e.request.url.endsWith('/probe'))"
            f" e.respondWith(fetch('http://{INSIDE}:{inside.port}/').then("
            "() => new Response('reached'), () => new Response('refused'))) });"
            "addEventListener('install', () => skipWaiting());"
            "addEventListener('activate', e => e.waitUntil(clients.claim()))",
            content_type="text/javascript",
        )
        url = site.page(
            "/",
            "<p id=p></p><script>(async () => { await navigator.serviceWorker.register('/sw.js');"
            " await new Promise(r => navigator.serviceWorker.controller ? r() :"
            " navigator.serviceWorker.addEventListener('controllerchange', r));"
            " const e = document.createElement('b'); e.id = 'all';"
            " e.textContent = await (await fetch('/probe')).text();"
            " document.body.append(e) })()</script>",
        )
        async with open_rendering(OUTSIDE) as renderer:
            page = await renderer.render(url, CrawlOptions(dynamic_wait_for="#all"))
            assert b">refused</b>" in page.body
            assert inside.met == 0


@pytest.mark.parametrize(
    "body",
    [
        "<script>location = 'http://{}/'</script>",
        "<meta http-equiv=refresh content='0; url=http://{}/'>",
        "<form id=f action='http://{}/' method=post></form><script>f.submit()</script>",
    ],
)
async def test_a_page_that_leads_to_a_refused_address_is_refused(body: str):
    async with (
        open_site() as site,
        open_listener(INSIDE) as inside,
        open_rendering(OUTSIDE) as renderer,
    ):
        url = site.page("/", body.format(f"{INSIDE}:{inside.port}"))
        with pytest.raises(BlockedAddress):
            await renderer.render(url, PLAIN)
        assert inside.met == 0


async def test_redirects_and_the_url_itself_are_refused_alike():
    async with (
        open_site() as site,
        open_listener(INSIDE) as inside,
        open_rendering(OUTSIDE) as renderer,
    ):
        away = f"http://{INSIDE}:{inside.port}/"
        site.page("/away", "", status=302, fields={"Location": away})
        for url in (site.url("/away"), away, "http://169.254.169.254/", "file:///etc/passwd"):
            with pytest.raises(BlockedAddress):
                await renderer.render(url, PLAIN)
        assert inside.met == 0


async def test_files_and_the_browsers_own_pages_are_out_of_reach_of_a_page():
    async with open_site() as site, open_rendering(LOOPBACK) as renderer:
        url = site.page(
            "/",
            "<iframe id=a src='file:///etc/passwd'></iframe><iframe src='chrome://version'></iframe>"
            "<p id=p></p><script>fetch('file:///etc/passwd').catch(() => p.append('no-file'));"
            "try { location = 'file:///etc/passwd' } catch (e) {}</script>",
        )
        page = await renderer.render(url, PLAIN)
        assert b"no-file" in page.body
        assert b"root:" not in page.body
        assert page.final_url == url


async def test_a_hop_that_is_not_allowed_ends_the_page_with_that_error():
    async with open_site() as site, open_rendering(LOOPBACK) as renderer:
        site.page("/private", "<p>private")

        async def ask(url: object) -> None:
            raise RobotsDenied("no")

        url = site.page("/", "<script>location = '/private'</script>")
        with pytest.raises(RobotsDenied):
            await renderer.render(url, PLAIN, before_hop=ask)
        assert site.requests["/private"] == 0


async def test_frames_of_other_sites_are_shown_and_their_requests_judged():
    async with (
        open_site() as site,
        open_site("127.0.0.3") as other,
        open_rendering(AddressPolicy(allow_private=("127.0.0.1/32", "127.0.0.3/32"))) as renderer,
    ):
        other.page("/frame", "<script>parent.postMessage('from the frame', '*')</script>")
        url = site.page(
            "/",
            f"<p id=p></p><script>onmessage = m => p.append(m.data)</script>"
            f"<iframe src='{other.url('/frame')}'></iframe>",
        )
        assert b"from the frame" in (await renderer.render(url, PLAIN)).body


async def test_a_page_that_loads_more_than_it_may_is_too_large():
    from eventmesh_trio.pipeline.fetching.fetch import open_fetcher
    from eventmesh_trio.pipeline.network.proxy import ProxyLimits, open_proxy
    from eventmesh_trio.pipeline.rendering.render import open_renderer
    from tests.helpers.rendering import limits

    async with (
        open_site() as site,
        open_fetcher(policy=LOOPBACK) as fetcher,
        open_proxy(fetcher.backend, ProxyLimits(max_page_bytes=100_000)) as proxy,
        open_renderer(limits(), LOOPBACK, proxy, user_agent="eventmesh-test/1") as renderer,
    ):
        site.page("/data", "x" * 200_000, content_type="text/plain")
        url = site.page("/", "<script>fetch('/data').then(r => r.text())</script>")
        with pytest.raises(TooLarge):
            await renderer.render(url, PLAIN)
