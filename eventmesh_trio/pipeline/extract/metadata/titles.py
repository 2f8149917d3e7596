"""The title of a page: of what it declares and what it shows, without the name of its site.

Pages write their title up to four times: in ``<title>`` and for sharing, mostly with the site's
name and sometimes with words for search engines, and as a heading, which is what readers call it.
"""

import html
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import attrs

from eventmesh_trio.pipeline.extract.metadata.head import Heading

__all__ = ["choose_title", "fold"]

_WORD: Final = re.compile(r"\w+")
_SEPARATOR: Final = re.compile(r"\s+(?:[|–—―·•∙»«›‹/\\~>-]|::)+\s+|\s*[|»«]\s*")
_COLON: Final = re.compile(r"(?<=\w):\s+")  # as often within a title as behind a site's name
_HOST: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//(?:[^/?#]*@)?([^/?#:]+)", re.IGNORECASE)
_HOME_WORDS: Final = "home homepage index welcome start startseite accueil inicio untitled"
_HOME: Final = frozenset(_HOME_WORDS.split())
_SITE_LEAST: Final = 3
_SITE_CHARS: Final = 30
"""What stands behind the last separator and is longer is part of a title, if it is not known to be
the site's name."""
_REWORDED_WORDS: Final = 3
_REWORDED_SHARE: Final = 0.5
"""Of a heading's words that a declared title has too; of the shares tried, the best on both halves
of the pages it was chosen on. Of a heading of fewer words one may agree by chance."""
_LEAST_WORDS: Final = 3  # of a title from which such a last part is taken off


@lru_cache(maxsize=512)
def fold(text: str) -> str:
    """The words alone, for comparing: without case, punctuation and trademark signs."""
    return " ".join(_WORD.findall(text.casefold()))


def choose_title(
    declared: Sequence[str], headings: Sequence[Heading], site_name: str | None, url: str | None
) -> str:
    """Choose a page's title.

    Args:
      declared: titles for sharing, of the ``<title>`` element and of JSON-LD, best first.
      headings: ``h1`` and ``h2`` in document order.

    A heading with which a declared title begins is the title: an ``h1`` before an ``h2``. Then an
    ``h1`` that says nearly the same in other words. Else it is the first declared title without the
    site's name; a page that declares none has its first heading. "Home" is no title: the site's
    name is, where it is known.
    """
    site = _Site.of(site_name, url)
    wholes = list(dict.fromkeys(html.unescape(whole) for whole in declared if whole))
    if not wholes:
        first = next((h for h in headings if h.level == 1), headings[0] if headings else None)
        return first.text if first is not None else ""
    title = (
        _announced(headings, wholes, site)
        or _reworded(headings, wholes, site)
        or site.taken_off(wholes[0])
    )
    return site_name if site_name and fold(title) in _HOME else title


def _announced(headings: Sequence[Heading], wholes: Sequence[str], site: "_Site") -> str | None:
    # By letters alone: a line break within a heading leaves no space in its text.
    fronts = {_squeezed(front): front for whole in wholes for front in site.fronts(whole)}
    for level in (1, 2):
        for heading in headings:
            if heading.level == level:
                front = fronts.get(_squeezed(heading.text))
                if front and not site.is_named(front):
                    return heading.text if fold(heading.text) == fold(front) else front
    whole = {_squeezed(part) for whole in wholes for part in (whole, *_COLON.split(whole, 1)[1:])}
    return next(
        (
            site.taken_off(heading.text, guess=False)
            for heading in headings
            if heading.level == 1 and _squeezed(heading.text) in whole
        ),
        None,
    )


def _reworded(headings: Sequence[Heading], wholes: Sequence[str], site: "_Site") -> str | None:
    said = {word for whole in wholes for word in fold(whole).split()}
    ends = {_squeezed(end) for whole in wholes for end in _short_ends(whole)}
    for heading in headings:
        words = set(fold(heading.text).split())
        if (
            heading.level == 1
            and len(words) >= _REWORDED_WORDS
            and len(words & said) >= _REWORDED_SHARE * len(words)
            and _squeezed(heading.text) not in ends
            and not site.is_named(heading.text, exactly=True)
        ):
            return heading.text
    return None


def _short_ends(title: str) -> Iterator[str]:
    """What stands behind a separator and is shorter than what is before it: the site, mostly."""
    for start, end in _cuts(title):
        if len(title) - end < start:
            yield title[end:]


@lru_cache(maxsize=512)
def _cuts(title: str) -> tuple[tuple[int, int], ...]:
    """Where a title's separators begin and end. It is asked up to five times for each title."""
    return tuple(match.span() for match in _SEPARATOR.finditer(title))


@attrs.frozen
class _Site:
    """What the site is called, as far as it is known: squeezed to letters and digits."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, site_name: str | None, url: str | None) -> "_Site":
        names = [_squeezed(site_name)] if site_name else []
        match = _HOST.match(url) if url else None
        if match is not None:
            labels = [
                label
                for label in match[1].lower().split(".")[:-1]
                if label not in ("www", "co", "com")
            ]
            names += [_squeezed(max(labels, key=len))] if labels else []
        return cls(tuple(name for name in names if len(name) >= _SITE_LEAST))

    def is_named(self, part: str, *, exactly: bool = False) -> bool:
        squeezed = _squeezed(part)
        if len(squeezed) < _SITE_LEAST:
            return False
        return any(
            squeezed == name
            or (squeezed in name and 2 * len(squeezed) > len(name))
            or (
                not exactly
                and (squeezed in name or name in squeezed)
                and len(squeezed) <= 3 * len(name)
            )
            for name in self.names
        )

    def fronts(self, title: str) -> Iterator[str]:
        """What a title says before each of its separators; and all of it, if it has none."""
        yield from (title[:start] for start, _ in _cuts(title))
        yield self.taken_off(title)

    def taken_off(self, title: str, *, guess: bool = True) -> str:
        """``Story | The Site`` to ``Story``: by the site's name, or (a guess) by how titles end."""
        cuts = list(_cuts(title))
        start, end = 0, len(title)
        while cuts and self.is_named(title[cuts[-1][1] : end]):
            end = cuts.pop()[0]
        if end == len(title) and cuts:
            if self.is_named(title[: cuts[0][0]], exactly=True):
                start = cuts[0][1]
            elif guess:
                rest, last = title[: cuts[-1][0]], title[cuts[-1][1] :]
                is_long = len(rest.split()) >= _LEAST_WORDS and len(rest) > len(last)
                if is_long and len(last) <= _SITE_CHARS:
                    end = cuts[-1][0]
        return title[start:end].strip() or title


# The title of a page is mostly compared with itself: in its head, for sharing and as its heading.
@lru_cache(maxsize=512)
def _squeezed(text: str) -> str:
    return "".join(_WORD.findall(text.casefold()))
