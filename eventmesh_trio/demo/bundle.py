"""The bundled pages: read from ``pages/`` and put into the frame of the site they belong to.

A page file is a few ``key: value`` lines, an empty line, what goes into ``<head>``, the line
``<!-- body -->``, and the body. ``chrome`` names the frame (``_news.html``): navigation, sidebar,
footer, cookie banner, all that an extraction has to tell from the text.
"""

import html
import math
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from string import Template
from typing import Final

__all__ = ["almanac", "page", "raw"]

_BODY: Final = "<!-- body -->\n"
_ALMANAC_YEARS: Final = range(2026, 2030)
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@cache
def raw(name: str) -> bytes:
    """A file of ``pages/`` as it is."""
    return (files("eventmesh_trio.demo") / "pages" / name).read_bytes()


def page(name: str, url: str) -> bytes:
    """A page in its frame, as UTF-8; ``url`` is what it calls its canonical address."""
    head, body, values = _parts(name)
    frame = Template(raw(f"_{values['chrome']}.html").decode())
    fields = {key: html.escape(value) for key, value in values.items()}
    fields.setdefault("lang", "en")
    fields.setdefault("dir", "ltr")
    return frame.substitute(fields, head=head, body=body, url=html.escape(url)).encode()


def almanac(url: str) -> bytes:
    """The large page: four years of tides in forty-eight tables."""
    return page("almanac.html", url).replace(b"$rows", _almanac_tables())


@cache
def _parts(name: str) -> tuple[str, str, dict[str, str]]:
    text = raw(name).decode()
    preface, _, rest = text.partition("\n\n")
    head, separator, body = rest.partition(_BODY)
    if not separator:
        raise ValueError(f"{name} has no {_BODY.strip()} line")
    pairs = (line.partition(": ") for line in preface.splitlines())
    return head.strip(), body.strip(), {key: value for key, _, value in pairs}


@cache
def _almanac_tables() -> bytes:
    return "\n".join(_tables()).encode()


def _tables() -> Iterator[str]:
    hour = 0.0
    for year in _ALMANAC_YEARS:
        for month, days in zip(_MONTHS, _DAYS, strict=True):
            yield f"<h2>{month} {year}</h2>"
            yield "<table><thead><tr><th>Day</th><th>First low</th><th>First high</th>"
            yield "<th>Second low</th><th>Second high</th><th>Lamp lit</th></tr></thead><tbody>"
            for day in range(1, days + 1):
                tides = [_tide(hour + 6.2103 * step) for step in range(4)]
                cells = "".join(f"<td>{cell}</td>" for cell in tides)
                lamp = f"{12 + 4 * math.cos(2 * math.pi * hour / 8766):.1f} hours"
                yield f"<tr><th>{day} {month}</th>{cells}<td>{lamp}</td></tr>"
                hour += 24
            yield "</tbody></table>"


def _tide(hour: float) -> str:
    """Height and time of a turn of the tide: a wheel for the moon and one for the sun."""
    moon = math.cos(2 * math.pi * hour / 12.4206)
    sun = math.cos(2 * math.pi * hour / 12.0)
    minutes = round(hour * 60) % 1440
    return f"{minutes // 60:02}.{minutes % 60:02}, {2.9 + 1.7 * moon + 0.6 * sun:.2f} m"
