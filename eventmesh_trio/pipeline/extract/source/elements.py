"""What the tree construction of HTML distinguishes elements by: their names, in sets.

Names of HTML are lower-case. Elements of drawings and formulas have `SVG` or `MATHML` before their
name, so that none is taken for one of HTML; `ANNOTATION` is the one that may be of either kind.

Source: https://html.spec.whatwg.org/multipage/parsing.html#the-stack-of-open-elements
"""

from typing import Final

SVG: Final = b"S:"
MATHML: Final = b"M:"
ANNOTATION: Final = b"H:"
"""Before ``annotation-xml`` that says that it holds HTML."""
FOREIGN: Final = (SVG, MATHML, ANNOTATION)

TEXT_WITHIN: Final = frozenset(b"M:mi M:mo M:mn M:ms M:mtext".split())
"""Parts of formulas that hold HTML but for `NO_TEXT_WITHIN`."""
HTML_WITHIN: Final = frozenset(b"S:foreignobject S:desc S:title H:annotation-xml".split())
"""Parts of drawings and formulas that hold HTML ("HTML integration points")."""
HOLDS_HTML: Final = HTML_WITHIN | TEXT_WITHIN
NO_TEXT_WITHIN: Final = frozenset((b"mglyph", b"malignmark"))
BREAKS_OUT: Final = frozenset(
    b"b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li"
    b" listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul"
    b" var".split()
)
"""Start tags that end the drawing or formula in which they stand (13.2.6.5)."""

FORMATTING: Final = frozenset(
    b"a b big code em font i nobr s small strike strong tt u".split()  # 13.2.4.3
)
VOID: Final = frozenset(
    b"area base basefont bgsound br col embed frame hr image img input keygen link meta param"
    b" source track wbr".split()
)
OUTSIDE_FORMATTING: Final = frozenset(
    b"base basefont bgsound col frame hr link meta param rb rp rt rtc source table template"
    b" track".split()
)
"""Start tags that open no formatting again, though they are none of `CLOSE_P`."""
HEADINGS: Final = tuple(b"h1 h2 h3 h4 h5 h6".split())
CLOSE_P: Final = frozenset(
    (
        *b"address article aside blockquote center dd details dialog dir div dl dt".split(),
        *b"fieldset figcaption figure footer form header hgroup li listing main menu nav".split(),
        *b"ol p plaintext pre search section summary ul".split(),
        *HEADINGS,
    )
)
"""Blocks: their start tags end a paragraph, and open no formatting again."""
ENDS_THROUGH: Final = frozenset(
    b"address applet article aside blockquote button center dd details dialog dir div dl dt"
    b" fieldset figcaption figure footer h1 h2 h3 h4 h5 h6 header hgroup listing main marquee menu"
    b" nav object ol pre search section select summary ul".split()
)
"""Elements that their end tag ends with all that is open in them, unless a scope is between."""
MARKERS: Final = frozenset(b"applet marquee object template td th caption".split())
"""Elements within which formatting that is open around them is not opened again."""
_IMPLIED_ENDS: Final = b"dd dt li optgroup option p rb rp rt rtc".split()
IMPLIED_ENDS: Final = frozenset(
    kind + name for kind in (b"", SVG, MATHML) for name in _IMPLIED_ENDS
)
"""What some tags end where it is innermost; the parser looks at the name alone."""

TABLE_SCOPES: Final = frozenset((b"table", b"template"))
SECTIONS: Final = frozenset((b"tbody", b"thead", b"tfoot"))
CELLS: Final = frozenset((b"td", b"th"))
IN_TABLES: Final = frozenset((b"caption", b"col", b"colgroup", b"tr")) | SECTIONS | CELLS
"""Tags of which a parser takes no notice outside of a table."""
STRUCTURE: Final = (IN_TABLES - {b"col"}) | TABLE_SCOPES
"""The innermost open one of these tells the insertion mode."""

_FOREIGN_SPECIAL: Final = HOLDS_HTML | {b"M:annotation-xml"}
SCOPES: Final = (
    frozenset(b"applet caption marquee object select table td template th".split())
    | _FOREIGN_SPECIAL
)
SPECIAL: Final = _FOREIGN_SPECIAL | frozenset(
    b"address applet area article aside base basefont bgsound blockquote body br button caption"
    b" center col colgroup dd details dir div dl dt embed fieldset figcaption figure footer form"
    b" frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html iframe img input keygen li link"
    b" listing main marquee menu meta nav noembed noframes noscript object ol p param plaintext pre"
    b" script search section select source style summary table tbody td template textarea tfoot th"
    b" thead title tr track ul wbr xmp".split()
)
PASSED: Final = frozenset((b"address", b"div", b"p"))
"""Special elements that do not keep an item from being ended by the next."""
