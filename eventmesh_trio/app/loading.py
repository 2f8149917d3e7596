"""From where people write settings to the tree: defaults < profile < file < environment < flags.

Every mistake is found before any is reported: a setting that does not exist (with the one that was
perhaps meant), a value that cannot be read, a value out of range, values that contradict each
other. Each is told with the name of the setting and where it was said.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.profiles import PROFILES
from eventmesh_trio.app.settings import ENVIRONMENT_PREFIX, Setting, settings
from eventmesh_trio.app.values import read_value
from eventmesh_trio.errors import ConfigError

__all__ = ["Settled", "load_config", "settle"]

_PROFILE: Final = "profile"
_NO_SETTINGS: Final = ("CONFIG", "PROFILE")  # read by name: the file, and the profile
_NEAR: Final = 0.6  # of difflib, for a name that can only be meant for us
_SAME: Final = 0.9  # for one that may be somebody else's
_UNREADABLE: Final = re.compile(r"[0-9](?:_?[0-9]){4300,}")  # of more digits no int is made
_TOO_LARGE: Final = "9" * 400  # for every setting


@attrs.frozen
class Settled:
    """What all sources together come to.

    ``origins`` tells for each setting that was said anywhere who said it last; the others have
    their default.
    """

    config: Config
    profile: str | None
    origins: Mapping[str, str]


@attrs.frozen
class _Said:
    path: str
    value: Any
    origin: str


def load_config(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    profile: str | None = None,
    assignments: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration alone; otherwise as `settle`."""
    return settle(
        file=file,
        environ=environ,
        profile=profile,
        assignments=assignments,
        overrides=overrides,
    ).config


def settle(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    profile: str | None = None,
    assignments: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Settled:
    """Read the tree: defaults < profile < file < environ < assignments (``KEY=VALUE``) < overrides.

    Args:
      profile: that of a flag; without one ``EVENTMESH_PROFILE`` names it, or ``profile`` in the
        file.
      overrides: what other flags say, by the setting's name.
    Raises:
      ConfigError: one line for each mistake; ``context["problems"]`` has them as a list.
    """
    problems: list[str] = []
    said = [
        *_from_file(file, problems),
        *_from_environ(environ or {}, problems),
        *_from_assignments(assignments, problems),
        *(_Said(path, value, "a flag") for path, value in (overrides or {}).items()),
    ]
    if profile is not None:
        said.append(_Said(_PROFILE, profile, "--profile"))
    named = [one for one in said if one.path == _PROFILE]
    chosen = named[-1] if named else None
    told = [
        *_from_profile(chosen, problems),
        *(one for one in said if one.path != _PROFILE),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for one in told:
        setting = settings().get(one.path)
        if setting is None:
            problems.append(f"{one.origin}: there is no setting {one.path}{_suggestion(one.path)}")
            continue
        try:
            values[one.path] = read_value(setting, one.value)
            origins[one.path] = one.origin
        except ValueError as error:
            problems.append(f"{one.origin}: {one.path}: {error}")
    config = _build(values, origins, problems)
    if config is None or problems:
        raise ConfigError("\n".join(problems), context={"problems": problems})
    return Settled(config, None if chosen is None else str(chosen.value), origins)


# --- Sources -------------------------------------------------------------------------------------


def _from_profile(chosen: _Said | None, problems: list[str]) -> Iterator[_Said]:
    if chosen is None:
        return
    known = PROFILES.get(chosen.value) if isinstance(chosen.value, str) else None
    if known is None:
        problems.append(
            f"{chosen.origin}: there is no profile {chosen.value}; "
            f"there are {', '.join(sorted(PROFILES))}"
        )
        return
    for path, value in known.items():
        yield _Said(path, value, f"profile {chosen.value}")


def _from_file(file: Path | None, problems: list[str]) -> Iterator[_Said]:
    if file is None:
        return
    try:
        tree = _parse(file.read_text("utf-8"))
    except OSError as error:
        problems.append(f"{file}: {error.strerror}")
        return
    except ValueError as error:  # no UTF-8, or no TOML
        problems.append(f"{file}: {error}")
        return
    for path, value in _flatten(tree):
        yield _Said(path, value, str(file))


def _parse(text: str) -> dict[str, Any]:
    """A TOML document. An integer too long for Python is a shorter one, which no setting takes."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # it does not say where; with a shorter one the setting is told
        return tomllib.loads(_UNREADABLE.sub(_TOO_LARGE, text))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and path not in settings():
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _from_environ(environ: Mapping[str, str], problems: list[str]) -> Iterator[_Said]:
    for name, value in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        rest = name.removeprefix(ENVIRONMENT_PREFIX)
        if rest == "PROFILE" and value:  # empty is unset, as where it comes out of a template
            yield _Said(_PROFILE, value, name)
        elif "__" in rest:
            path = rest.lower().replace("__", ".")
            known = settings().get(path)
            if known is None:
                near = _nearest(path, _NEAR)
                hint = f"; did you mean {near.environment}?" if near else ""
                problems.append(f"{name}: there is no setting {path}{hint}")
            else:
                yield _Said(path, value, name)
        elif rest not in _NO_SETTINGS and (meant := _variable_like(rest)) is not None:
            problems.append(f"{name}: there is no such variable; did you mean {meant}?")


def _variable_like(rest: str) -> str | None:
    """The variable of ours that one without a table must be meant for.

    Others may have variables of our prefix (Kubernetes gives a pod the EVENTMESH_PORT of a service
    named eventmesh), so only what is nearly the name of one of ours is a mistake.
    """
    if close := difflib.get_close_matches(rest, _NO_SETTINGS, 1, _SAME):
        return ENVIRONMENT_PREFIX + close[0]
    near = _nearest(_spelled(rest), _SAME, _spelled)
    return near.environment if near else None


def _from_assignments(assignments: Iterable[str], problems: list[str]) -> Iterator[_Said]:
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if equals:
            yield _Said(path.strip(), value.strip(), f"--set {path.strip()}")
        else:
            problems.append(f"--set {assignment}: write it as KEY=VALUE")


# --- Names that do not exist ---------------------------------------------------------------------


def _suggestion(path: str) -> str:
    inside = [known for known in settings() if known.startswith(f"{path}.")]
    if inside:
        return f": it is a table, with {', '.join(inside[:3])}{', ...' if inside[3:] else ''}"
    near = _nearest(path, _NEAR)
    return f"; did you mean {near.path}?" if near else ""


def _spelled(path: str) -> str:
    return re.sub(r"[^a-z0-9]", "", path.lower())


def _nearest(path: str, cutoff: float, spelled: Any = str) -> Setting | None:
    """The setting whose name, or whose place in the tree, is spelled most like ``path``."""
    names = {spelled(".".join(setting.place)): setting for setting in settings().values()}
    names |= {spelled(setting.path): setting for setting in settings().values()}
    found = difflib.get_close_matches(path, names, 1, cutoff)
    return names[found[0]] if found else None


# --- The tree ------------------------------------------------------------------------------------


def _build(
    values: Mapping[str, Any], origins: Mapping[str, str], problems: list[str]
) -> Config | None:
    """The tree with these values in it; None where a section refuses them."""
    given: dict[tuple[str, ...], dict[str, str]] = {}
    for path in values:
        *section, name = settings()[path].place
        given.setdefault(tuple(section), {})[name] = path

    def made(kind: type, section: tuple[str, ...]) -> Any:
        members: dict[str, Any] = {}
        for attribute in attrs.fields(attrs.resolve_types(kind)):
            if attribute.type is not None and attrs.has(attribute.type):
                members[attribute.name] = made(attribute.type, (*section, attribute.name))
        if None in members.values():
            return None
        paths = given.get(section, {})
        try:
            return kind(**members, **{name: values[path] for name, path in paths.items()})
        except ValueError as error:
            problems.extend(_refusals(kind, paths, values, origins, _words(error)))
            return None

    config: Config | None = made(Config, ())
    return config


def _refusals(
    kind: type,
    paths: Mapping[str, str],
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    reason: str,
) -> Iterator[str]:
    """Why a section refuses its values: each that is wrong by itself, else how they disagree."""
    alone: dict[str, str] = {}
    for name, path in paths.items():
        try:
            kind(**{name: values[path]})
        except ValueError as error:
            if not _mentions(_words(error), paths, but=name):
                alone[name] = _words(error)
    for name, text in alone.items() or {next(iter(paths)): reason}.items():
        path = paths[name]
        others = [paths[other] for other in _mentions(text, paths, but=name)]
        where = "".join(f" ({other} is that of {origins[other]})" for other in others)
        yield f"{origins[path]}: {path}: {_renamed(text, kind)}{where}"


def _words(error: ValueError) -> str:
    """The message alone: validators of attrs give the attribute and the value along with it."""
    if isinstance(error, UnicodeError) or not error.args:
        return str(error)
    return str(error.args[0])


def _mentions(text: str, paths: Mapping[str, str], *, but: str) -> list[str]:
    words = set(re.findall(r"\w+", text))
    return [name for name in paths if name in words and name != but]


def _renamed(text: str, kind: type) -> str:
    """A message that names attributes, with the names of their settings."""
    for setting in settings().values():
        name = setting.attribute.name
        if name in attrs.fields_dict(kind) and not setting.path.endswith(f".{name}"):
            text = re.sub(rf"\b{name}\b", setting.path.rpartition(".")[2], text)
    return text
