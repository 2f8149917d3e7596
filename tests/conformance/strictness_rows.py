"""What RFC 9110 and RFC 9112 ask of a server, row by row: bytes, and how they must be answered.

A row's bytes are followed on the same connection by `PROBE`. It is answered where the row leaves
the connection open, and never where the row's last request was refused: what follows bytes that are
no request cannot be known to be one.

One module although it is long: it is a table.

Where the RFCs leave a choice, the row's ``section`` says what they allow and its ``what`` what is
done here. The choices: a bare LF ends no line (9112, 2.2); one empty line before a request is
skipped (2.2); HTTP/1.0 connections do not persist (9.3); equal repeated lengths are one (6.3);
Content-Length beside Transfer-Encoding is refused (6.1); trailers are checked and dropped (7.1.2);
unknown methods are for the application (9110, 9.1).
"""

from collections.abc import Iterator
from typing import Final

import attrs

PROBE_BODY: Final = b"the probe"
PROBE: Final = (
    b"POST /probe HTTP/1.1\r\nHost: a\r\nX-Request-ID: probe\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(PROBE_BODY), PROBE_BODY)
)
SERVED: Final = 200
H: Final = b"Host: a\r\n"


@attrs.frozen
class Row:
    """``statuses`` of the answers, without the probe's; 200 stands for whatever the handler says.

    ``bodies`` are what an echo of the served requests gives back. ``close``: the connection must be
    closed although nothing was refused.
    """

    section: str
    what: str
    raw: bytes
    statuses: tuple[int, ...] = (SERVED,)
    bodies: tuple[bytes, ...] = (b"",)
    methods: tuple[str, ...] = ("GET",)
    close: bool = False

    @property
    def closes(self) -> bool:
        return self.close or self.statuses[-1] != SERVED

    def __str__(self) -> str:
        return f"{self.section}: {self.what}"


def head(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([start, *lines, b"", b""])


def post(fields: bytes, body: bytes, *, version: bytes = b"1.1") -> bytes:
    """The path is one where both servers read the body."""
    return b"POST /crawl/stream HTTP/" + version + b"\r\n" + H + fields + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


def hosts() -> Iterator[Row]:
    one, field = "9112 3.2", "9110 7.2"
    yield Row(one, "one Host field", head(b"Host: a"))
    yield Row(one, "no Host field", head(), (400,))
    yield Row(one, "no Host field in HTTP/1.2", head(start=b"GET / HTTP/1.2"), (400,))
    yield Row(one, "two equal Host fields", head(b"Host: a", b"Host: a"), (400,))
    yield Row(one, "two Host fields that differ", head(b"Host: a", b"Host: b"), (400,))
    yield Row(one, "two Host fields apart", head(b"Host: a", b"X: 1", b"hOsT: b"), (400,))
    yield Row(
        one,
        "two Host fields in HTTP/1.0",
        head(b"Host: a", b"Host: a", start=b"GET / HTTP/1.0"),
        (400,),
    )
    yield Row(one, "no Host field in HTTP/1.0", head(start=b"GET / HTTP/1.0"), close=True)
    for what, value in (
        ("a name", b"example.org"),
        ("a name and a port", b"example.org:8080"),
        ("a port without digits", b"example.org:"),
        ("an IPv4 address", b"127.0.0.1:80"),
        ("an IPv6 address", b"[2001:db8::1]:80"),
        ("an IPv4 address in IPv6", b"[::ffff:1.2.3.4]"),
        ("an address of the future", b"[v1.a:b]"),
        ("encoded octets", b"%65xample.org"),
        ("nothing at all", b""),
        ("sub-delimiters", b"a,b;c=d"),
    ):
        yield Row(field, f"Host is {what}", head(b"Host: " + value))
    for what, value in (
        ("a space within", b"a b"),
        ("a path", b"a/b"),
        ("user information", b"user@a"),
        ("a scheme", b"http://a"),
        ("a port of letters", b"a:port"),
        ("a negative port", b"a:-1"),
        ("a port over 65535", b"a:65536"),
        ("a port of six digits", b"a:000080"),
        ("two ports", b"a:1:2"),
        ("an open bracket", b"[::1"),
        ("empty brackets", b"[]"),
        ("an IPv6 address of nine groups", b"[1:2:3:4:5:6:7:8:9]"),
        ("an IPv6 address without brackets", b"::1"),
        ("a zone", b"[fe80::1%25eth0]"),
        ("a query", b"a?b"),
        ("a fragment", b"a#b"),
        ("a broken triplet", b"a%2"),
        ("octets beyond ASCII", b"\xc3\xa4"),
        ("a quotation mark", b'"a"'),
        ("a backslash", b"a\\b"),
    ):
        yield Row(field, f"Host is malformed: {what}", head(b"Host: " + value), (400,))


def lines() -> Iterator[Row]:
    section = "9112 2.2"
    for what, raw in (
        ("all lines end with a bare LF", b"GET / HTTP/1.1\nHost: a\n\n"),
        ("the request line ends with a bare LF", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
        ("a field ends with a bare LF", b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n"),
        ("the head ends with a bare LF", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("a bare LF hides a request", head(b"Host: a", b"X: 1\n\nGET /b HTTP/1.1\nHost: a")),
        ("a bare CR in a field", head(b"Host: a", b"X: 1\rY: 2")),
        ("a bare CR hides a framing", head(b"Host: a", b"X: 1\rContent-Length: 5")),
        ("a bare CR before the CRLF", head(b"Host: a", b"X: 1\r")),
        ("a bare CR in the request line", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("all lines end with a bare CR", b"GET / HTTP/1.1\rHost: a\r\r"),
        ("a bare LF before the request", b"\n" + head(b"Host: a")),
        ("a bare CR before the request", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("two empty lines before the request", b"\r\n\r\n" + head(b"Host: a")),
        ("a space before the request line", b" " + head(b"Host: a")),
        ("a tab before the request line", b"\t" + head(b"Host: a")),
        ("a space before the first field", head(b" Host: a")),
        ("a line of spaces before the first field", head(b"  ", b"Host: a")),
        ("a line of a tab before the first field", head(b"\t", b"Host: a")),
        ("a byte order mark before the request", b"\xef\xbb\xbf" + head(b"Host: a")),
        ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ):
        yield Row(section, what, raw, (400,))
    yield Row(section, "one empty line before the request", b"\r\n" + head(b"Host: a"))
    yield Row(
        section,
        "an empty line between two requests",
        head(b"Host: a") + b"\r\n" + head(b"Host: a"),
        (SERVED, SERVED),
        (b"", b""),
        ("GET", "GET"),
    )
    yield Row(
        section,
        "a second empty line between two requests",
        head(b"Host: a") + b"\r\n\r\n" + head(b"Host: a"),
        (SERVED, 400),
    )


def fields() -> Iterator[Row]:
    name, fold, value = "9112 5.1", "9112 5.2", "9110 5.5"
    for what, line in (
        ("a space before the colon", b"X : 1"),
        ("a tab before the colon", b"X\t: 1"),
        ("a space before the colon of a framing field", b"Content-Length : 5"),
        ("a space before the colon of a coding", b"Transfer-Encoding : chunked"),
        ("a space in a name", b"X Y: 1"),
        ("no name", b": 1"),
        ("no colon", b"X"),
        ("a parenthesis in a name", b"X(: 1"),
        ("a quotation mark in a name", b'"X": 1'),
        ("a slash in a name", b"X/Y: 1"),
        ("an octet beyond ASCII in a name", b"X\xe4: 1"),
        ("a control character in a name", b"X\x01: 1"),
        ("a NUL in a name", b"X\0: 1"),
    ):
        yield Row(name, what, head(b"Host: a", line), (400,))
    yield Row(
        name, "every character of a token in a name", head(b"Host: a", b"!#$%&'*+-.^_`|~9: 1")
    )
    yield Row(name, "no space after the colon", head(b"Host:a", b"X:1"))
    yield Row(name, "white space around a value", head(b"Host: \t a \t ", b"X:\t1\t"))
    yield Row(name, "an empty value", head(b"Host: a", b"X:"))
    yield Row(name, "a framing field with an underscore", head(b"Host: a", b"Content_Length: 500"))
    for what, line in (
        ("a space", b"X: 1\r\n 2"),
        ("a tab", b"X: 1\r\n\t2"),
        ("nothing but spaces", b"X: 1\r\n  "),
        ("a coding", b"Transfer-Encoding:\r\n chunked"),
        ("a Host", b"X: 1\r\n Host: b"),
    ):
        yield Row(fold, f"a folded line: {what}", head(b"Host: a", line), (400,))
    for octet in (*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F):
        line = b"X: 1" + bytes((octet,)) + b"2"
        yield Row(value, f"octet {octet:#04x} in a value", head(b"Host: a", line), (400,))
    yield Row(value, "a NUL at a value's end", head(b"Host: a", b"X: 1\0"), (400,))
    yield Row(value, "a control character in Host", head(b"Host: a\x01"), (400,))
    yield Row(value, "a tab within a value", head(b"Host: a", b"X: 1\t2"))
    yield Row(value, "octets beyond ASCII in a value", head(b"Host: a", b"X: \x80\xff"))


def request_lines() -> Iterator[Row]:
    line, version = "9112 3", "9110 2.5"
    for what, start in (
        ("two spaces after the method", b"GET  / HTTP/1.1"),
        ("two spaces before the version", b"GET /  HTTP/1.1"),
        ("a tab for a space", b"GET\t/ HTTP/1.1"),
        ("a space at its end", b"GET / HTTP/1.1 "),
        ("a space in the target", b"GET /a b HTTP/1.1"),
        ("no version (HTTP/0.9)", b"GET /"),
        ("no target", b"GET HTTP/1.1"),
        ("nothing but a method", b"GET"),
        ("a fourth word", b"GET / HTTP/1.1 x"),
        ("no token for a method", b"G@T / HTTP/1.1"),
        ("a bracket for a method", b"[] / HTTP/1.1"),
        ("a response", b"HTTP/1.1 200 OK"),
    ):
        yield Row(line, f"request line: {what}", head(b"Host: a", start=start), (400,))
    yield Row(
        line,
        "request line: a method longer than any",
        b"A" * 9000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
        (501,),
    )
    for what, text, status in (
        ("the version in lower case", b"http/1.1", 400),
        ("the version in mixed case", b"HtTP/1.1", 400),
        ("a version of two digits", b"HTTP/1.10", 400),
        ("a version of two digits before the dot", b"HTTP/11.1", 400),
        ("a version without a dot", b"HTTP/11", 400),
        ("a version without a minor", b"HTTP/1", 400),
        ("a version of three parts", b"HTTP/1.1.1", 400),
        ("a version with a sign", b"HTTP/+1.1", 400),
        ("a version of another name", b"HTTPS/1.1", 400),
        ("a version of letters", b"HTTP/x.y", 400),
        ("HTTP/0.9", b"HTTP/0.9", 505),
        ("HTTP/2.0", b"HTTP/2.0", 505),
        ("HTTP/3.0", b"HTTP/3.0", 505),
        ("HTTP/9.9", b"HTTP/9.9", 505),
        ("HTTP/1.2 is answered as HTTP/1.1", b"HTTP/1.2", SERVED),
        ("HTTP/1.9 is answered as HTTP/1.1", b"HTTP/1.9", SERVED),
    ):
        yield Row(version, what, head(b"Host: a", start=b"GET / " + text), (status,))
    yield Row(
        "9113 3.4", "the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9, (505,)
    )


def targets() -> Iterator[Row]:
    def target(section: str, what: str, text: bytes, status: int = SERVED) -> Row:
        raw = head(b"Host: a", start=b"GET " + text + b" HTTP/1.1")
        return Row(section, what, raw, (status,))

    origin, absolute = "9112 3.2.1", "9112 3.2.2"
    yield target(origin, "a path", b"/a/b.c;d=e")
    yield target(origin, "a path and a query", b"/a?b=c&d=/e?f")
    yield target(origin, "an empty query", b"/?")
    yield target(origin, "an empty segment", b"//a//b")
    yield target(origin, "encoded octets", b"/%41%c3%a9%00%0d%0a%ff")
    yield target(origin, "an encoded slash is no separator", b"/a%2Fb")
    yield target(origin, "what browsers send unencoded", b"/[a]|^?{b}%`")
    yield target(origin, "a broken triplet in a path", b"/%zz", 400)
    yield target(origin, "half a triplet in a path", b"/a%4", 400)
    yield target(origin, "a lone percent sign in a path", b"/%", 400)
    yield target(origin, "a fragment", b"/a#b", 400)
    yield target(origin, "a fragment after a query", b"/a?b#c", 400)
    yield target(origin, "a relative path", b"a/b", 400)
    yield target(origin, "a query alone", b"?a", 400)
    yield target(origin, "an octet beyond ASCII", b"/\xc3\xa9", 400)
    yield target(origin, "a NUL", b"/\0", 400)
    yield target(origin, "a control character", b"/\x7f", 400)
    yield target(absolute, "an absolute target", b"http://example.org/a?b")
    yield target(absolute, "an absolute target without a path", b"http://example.org")
    yield target(absolute, "an absolute target with a query alone", b"http://example.org?a")
    yield target(absolute, "an absolute target with a port", b"HTTP://example.org:80/")
    yield target(absolute, "an absolute target of https", b"https://example.org/")
    yield target("9110 4.2.1", "an absolute target without a host", b"http:///a", 400)
    yield target("9110 4.2.1", "an absolute target with a port alone", b"http://:80/a", 400)
    yield target("9110 4.2.4", "user information in a target", b"http://user@a/", 400)
    yield target("9110 4.2.4", "a password in a target", b"http://user:word@a/", 400)
    yield target(absolute, "a malformed authority", b"http://a:b/", 400)
    yield target(absolute, "a fragment in an absolute target", b"http://a/#b", 400)
    yield target(absolute, "another scheme", b"ftp://a/", 400)
    yield target(absolute, "a scheme without an authority", b"http:/a", 400)
    yield Row(
        absolute,
        "an absolute target does without a Host field no more than others",
        head(start=b"GET http://a/ HTTP/1.1"),
        (400,),
    )
    authority, asterisk = "9112 3.2.3", "9112 3.2.4"
    yield target(authority, "the authority form for another method", b"a:443", 400)
    for what, text, status in (
        ("CONNECT is for proxies", b"a:443", 501),
        ("CONNECT to an IPv6 address", b"[::1]:443", 501),
        ("CONNECT without a port", b"a", 400),
        ("CONNECT with an empty port", b"a:", 400),
        ("CONNECT without a host", b":443", 400),
        ("CONNECT with an invalid port", b"a:99999", 400),
        ("CONNECT to a path", b"/", 400),
    ):
        raw = head(b"Host: a", start=b"CONNECT " + text + b" HTTP/1.1")
        yield Row("9110 9.3.6", what, raw, (status,), methods=("CONNECT",))
    for what, text in (
        ("OPTIONS of the server", b"*"),
        ("OPTIONS of the server, absolute", b"http://a"),
        ("OPTIONS of a path", b"/livez"),
    ):
        raw = head(b"Host: a", start=b"OPTIONS " + text + b" HTTP/1.1")
        yield Row(asterisk, what, raw, methods=("OPTIONS",))
    yield target(asterisk, "an asterisk for another method", b"*", 400)
    yield Row(
        asterisk, "more than an asterisk", head(b"Host: a", start=b"OPTIONS *a HTTP/1.1"), (400,)
    )


def transfer_codings() -> Iterator[Row]:
    section, last = "9112 6.1", "9112 6.3"
    body = b"5\r\nhello\r\n0\r\n\r\n"
    both, te = b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"
    yield Row(section, "chunked", post(te, body), bodies=(b"hello",))
    yield Row(section, "chunked in another case", post(te.upper(), body), bodies=(b"hello",))
    for what, given in (
        ("before it", b"Transfer-Encoding: , chunked\r\n"),
        ("after it", b"Transfer-Encoding: chunked ,,\r\n"),
        (
            "in a field of their own",
            b"Transfer-Encoding:\r\nX: 1\r\nTransfer-Encoding: chunked\r\n",
        ),
    ):
        yield Row(
            "9110 5.6.1",
            f"chunked, empty list members {what}",
            post(given, body),
            bodies=(b"hello",),
        )
    for what, given in (
        ("Content-Length before Transfer-Encoding", both + te),
        ("Transfer-Encoding before Content-Length", te + both),
        ("Content-Length: 0 beside Transfer-Encoding", b"Content-Length: 0\r\n" + te),
        ("a malformed Content-Length beside Transfer-Encoding", b"Content-Length: x\r\n" + te),
        ("a coding hidden by a tab beside a length", both + b"Transfer-Encoding:\tchunked\r\n"),
        ("two framings with other fields between", both + b"X: 1\r\n" + te),
    ):
        yield Row(section, what, post(given, body), (400,))
    yield Row(section, "chunked in HTTP/1.0", post(te, body, version=b"1.0"), (400,))
    yield Row(section, "both framings in HTTP/1.0", post(both + te, body, version=b"1.0"), (400,))
    yield Row(section, "a coding in HTTP/0.9", post(te, body, version=b"0.9"), (505,))
    for what, value, status in (
        ("gzip, chunked", b"gzip, chunked", 501),
        ("an unknown coding, chunked", b"br, chunked", 501),
        ("identity, chunked", b"identity, chunked", 501),
        ("chunked is not last", b"chunked, gzip", 400),
        ("chunked is missing", b"gzip", 400),
        ("identity alone", b"identity", 400),
        ("no coding at all", b"", 400),
        ("a name that begins as chunked", b"chunkedfoo", 400),
        ("a name that ends as chunked", b"xchunked", 400),
        ("chunked in quotation marks", b'"chunked"', 400),
        ("chunked twice", b"chunked, chunked", 400),
        ("a parameter of chunked", b"chunked;q=1", 400),
        ("chunked after a vertical tab", b"\x0bchunked", 400),
        ("chunked before a NUL", b"chunked\0", 400),
    ):
        given = b"Transfer-Encoding: " + value + b"\r\n"
        yield Row(section if status == 501 else last, what, post(given, body), (status,))
    for what, first, second, status in (
        ("chunked in two fields", b"chunked", b"chunked", 400),
        ("identity and chunked in two fields", b"identity", b"chunked", 501),
        ("chunked and identity in two fields", b"chunked", b"identity", 400),
    ):
        given = b"Transfer-Encoding: %b\r\nTransfer-Encoding: %b\r\n" % (first, second)
        yield Row(section if status == 501 else last, what, post(given, body), (status,))


def lengths() -> Iterator[Row]:
    section, list_of = "9110 8.6", "9112 6.3"
    for what, value in (
        ("a plus sign", b"+5"),
        ("a minus sign", b"-5"),
        ("a negative zero", b"-0"),
        ("hexadecimal", b"0x5"),
        ("hexadecimal digits", b"a"),
        ("a decimal point", b"5.0"),
        ("an exponent", b"5e0"),
        ("an underscore", b"0_5"),
        ("a space within", b"5 5"),
        ("nothing", b""),
        ("a word", b"five"),
        ("digits beyond ASCII", "\u0665".encode()),
        ("a superscript of Latin-1", b"\xb2"),
        ("a parameter", b"5;x"),
        ("a quotation mark", b'"5"'),
        ("a list that differs", b"5, 6"),
        ("a list with an empty member", b"5,,5"),
        ("a list that ends with a comma", b"5,"),
    ):
        yield Row(
            section,
            f"length: {what}",
            post(b"Content-Length: " + value + b"\r\n", b"hello"),
            (400,),
        )
    yield Row(
        section, "length: digits", post(b"Content-Length: 5\r\n", b"hello"), bodies=(b"hello",)
    )
    yield Row(
        section,
        "length: zeros before it",
        post(b"Content-Length: 005\r\n", b"hello"),
        bodies=(b"hello",),
    )
    yield Row(section, "length: zero", post(b"Content-Length: 0\r\n", b""))
    yield Row(section, "length: none means no body", post(b"", b""))
    yield Row(
        list_of,
        "length: two that differ",
        post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"),
        (400,),
    )
    for what, given in (
        ("two that agree", b"Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("a list that agrees", b"Content-Length: 5, 5\r\n"),
    ):
        yield Row(list_of, f"length: {what}", post(given, b"hello"), bodies=(b"hello",))
    for what, value in (
        ("over the limit", b"10485761"),
        ("over 32 bits", b"4294967301"),
        ("over 63 bits", b"9223372036854775813"),
        ("over 64 bits, by five", b"18446744073709551621"),
        ("of a hundred digits", b"9" * 100),
        ("of five thousand digits", b"9" * 5000),
    ):
        yield Row(
            section,
            f"length: {what}",
            post(b"Content-Length: " + value + b"\r\n", b"hello"),
            (413,),
        )


def chunks() -> Iterator[Row]:
    section, extension, trailer = "9112 7.1", "9112 7.1.1", "9112 7.1.2"
    end = b"0\r\n\r\n"
    for what, body, content in (
        ("one chunk", b"5\r\nhello\r\n" + end, b"hello"),
        ("several chunks", b"2\r\nhe\r\n3\r\nllo\r\n" + end, b"hello"),
        ("no chunk but the last", end, b""),
        ("zeros before a size", b"00005\r\nhello\r\n0000\r\n\r\n", b"hello"),
        (
            "hexadecimal in both cases",
            b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + end,
            b"0123456789" * 2,
        ),
        ("line ends within the data", b"4\r\n\r\n\r\n\r\n" + end, b"\r\n\r\n"),
        (
            "data that looks like a request",
            b"12\r\nGET / HTTP/1.1\r\n\r\n\r\n" + end,
            b"GET / HTTP/1.1\r\n\r\n",
        ),
    ):
        yield Row(section, f"chunks: {what}", chunked(body), bodies=(content,))
    for what, body in (
        ("no size", b"\r\nhello\r\n" + end),
        ("a size of letters", b"xyz\r\nhello\r\n" + end),
        ("hexadecimal junk", b"5g\r\nhello\r\n" + end),
        ("a size with 0x", b"0x5\r\nhello\r\n" + end),
        ("a plus sign", b"+5\r\nhello\r\n" + end),
        ("a minus sign", b"-5\r\nhello\r\n" + end),
        ("an underscore", b"0_5\r\nhello\r\n" + end),
        ("a space before a size", b" 5\r\nhello\r\n" + end),
        ("a space after a size", b"5 \r\nhello\r\n" + end),
        ("a tab after a size", b"5\t\r\nhello\r\n" + end),
        ("a NUL after a size", b"5\0\r\nhello\r\n" + end),
        ("a size of seventeen digits", b"1" + b"0" * 16 + b"\r\nhello\r\n" + end),
        ("a size that wraps 64 bits", b"10000000000000005\r\nhello\r\n" + end),
        ("a bare LF after a size", b"5\nhello\r\n" + end),
        ("a bare CR after a size", b"5\rhello\r\n" + end),
        ("a bare LF after data", b"5\r\nhello\n" + end),
        ("a bare CR after data", b"5\r\nhello\r" + end),
        ("no CRLF after data", b"5\r\nhello" + end),
        ("two octets instead of CRLF", b"5\r\nhelloXX" + end),
        ("more data than its size", b"4\r\nhello\r\n" + end),
        ("less data than its size", b"6\r\nhello\r\n" + end),
        ("a bare LF after the last size", b"5\r\nhello\r\n0\n\n"),
        ("a bare CR after the last size", b"5\r\nhello\r\n0\r\r\n"),
        ("a bare LF at the end", b"5\r\nhello\r\n0\r\n\n"),
        ("junk after the last size", b"5\r\nhello\r\n0x\r\n\r\n"),
    ):
        yield Row(section, f"chunks: {what}", chunked(body), (400,))
    for what, size in (
        ("a chunk over the limit", b"a00001"),
        ("a chunk of 32 bits", b"ffffffff"),
        ("a chunk of 63 bits", b"7fffffffffffffff"),
        ("a chunk of 64 bits", b"ffffffffffffffff"),
    ):
        yield Row(section, f"chunks: {what}", chunked(size + b"\r\nhello\r\n" + end), (413,))
    for what, line in (
        ("a name", b"5;a"),
        ("a name and a value", b"5;a=b"),
        ("a quoted value", b'5;a="b;c\\"\\\\"'),
        ("several", b"5;a;b=c;d"),
        ("white space around its parts", b"5 ;\ta = b"),
    ):
        yield Row(
            extension,
            f"extension: {what}",
            chunked(line + b"\r\nhello\r\n" + end),
            bodies=(b"hello",),
        )
    yield Row(
        extension,
        "extension: of the last chunk",
        chunked(b"5\r\nhello\r\n0;a=b\r\n\r\n"),
        bodies=(b"hello",),
    )
    for what, line in (
        ("no name", b"5;"),
        ("no value", b"5;a="),
        ("a space in a name", b"5;a b"),
        ("an open quotation mark", b'5;a="b'),
        ("a control character", b"5;a=\x01"),
        ("a NUL in a quoted value", b'5;a="\0"'),
        ("a bare LF", b"5;a\nb"),
        ("a bare CR", b"5;a\rb"),
        ("a bare LF in a quoted value", b'5;a="\n"'),
        ("an octet beyond ASCII in a name", b"5;\xe4"),
        ("a line of a thousand octets", b"5;" + b"a" * 1000),
    ):
        yield Row(extension, f"extension: {what}", chunked(line + b"\r\nhello\r\n" + end), (400,))
    yield Row(
        extension,
        "extensions: 40 KiB of them in all",
        chunked(b"".join(b"1;%b\r\nx\r\n" % (b"a" * 400) for _ in range(100)) + end),
        (400,),
    )
    yield Row(
        extension,
        "extensions: 20 KiB of them in all",
        chunked(b"".join(b"1;%b\r\nx\r\n" % (b"a" * 400) for _ in range(50)) + end),
        bodies=(b"x" * 50,),
    )
    for what, lines_ in (
        ("one", b"X: 1\r\n"),
        ("several", b"X: 1\r\nY: 2\r\n"),
        ("a length is not taken for one", b"Content-Length: 50\r\n"),
        ("a coding is not taken for one", b"Transfer-Encoding: gzip\r\n"),
        ("a Host is not taken for one", b"Host: b\r\n"),
        ("a close is not taken for one", b"Connection: close\r\n"),
        ("an expectation is not taken for one", b"Expect: nonsense\r\n"),
    ):
        yield Row(
            trailer,
            f"trailer: {what}",
            chunked(b"5\r\nhello\r\n0\r\n" + lines_ + b"\r\n"),
            bodies=(b"hello",),
        )
    for what, lines_, status in (
        ("no colon", b"X\r\n", 400),
        ("a space before the colon", b"X : 1\r\n", 400),
        ("a folded line", b"X: 1\r\n 2\r\n", 400),
        ("a line that begins with a space", b" X: 1\r\n", 400),
        ("a bare LF", b"X: 1\n", 400),
        ("a bare CR", b"X: 1\rY: 2\r\n", 400),
        ("a NUL", b"X: \0\r\n", 400),
        ("a control character", b"X: \x01\r\n", 400),
        ("a request", b"GET / HTTP/1.1\r\n", 400),
        ("40 KiB in one line", b"X: " + b"x" * 40_000 + b"\r\n", 431),
        ("120 fields", b"X: 1\r\n" * 120, 431),
    ):
        yield Row(
            trailer,
            f"trailer: {what}",
            chunked(b"5\r\nhello\r\n0\r\n" + lines_ + b"\r\n"),
            (status,),
        )


def sizes() -> Iterator[Row]:
    line, section = "9112 3", "9110 5.4"
    longest = 8192 - len(b"GET / HTTP/1.1")
    yield Row(
        line,
        "a request line of 8,192 octets",
        head(b"Host: a", start=b"GET /" + b"a" * longest + b" HTTP/1.1"),
    )
    yield Row(
        line,
        "a request line of 8,193 octets",
        head(b"Host: a", start=b"GET /" + b"a" * (longest + 1) + b" HTTP/1.1"),
        (414,),
    )
    yield Row(
        line,
        "a request line of 100,000 octets",
        head(b"Host: a", start=b"GET /?" + b"a" * 100_000 + b" HTTP/1.1"),
        (414,),
    )
    yield Row(line, "a request line without an end", b"GET /" + b"a" * 20_000, (414,))
    yield Row(section, "a field of 20 KiB", head(b"Host: a", b"X: " + b"x" * 20_000))
    yield Row(section, "a field of 40 KiB", head(b"Host: a", b"X: " + b"x" * 40_000), (431,))
    yield Row(section, "a name of 40 KiB", head(b"Host: a", b"X" * 40_000 + b": 1"), (431,))
    yield Row(
        section,
        "a head without an end",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 50_000,
        (431,),
    )
    yield Row(
        section, "many fields, 40 KiB in all", head(b"Host: a", *[b"X: " + b"x" * 500] * 80), (431,)
    )
    yield Row(section, "100 fields", head(b"Host: a", *[b"X: 1"] * 99))
    yield Row(section, "101 fields", head(b"Host: a", *[b"X: 1"] * 100), (431,))
    yield Row(section, "5,000 fields", head(b"Host: a", *[b"X:"] * 5000), (431,))


def expectations() -> Iterator[Row]:
    section = "9110 10.1.1"
    expect = b"Content-Length: 5\r\nExpect: "
    yield Row(
        section,
        "100-continue with the body at hand",
        post(expect + b"100-continue\r\n", b"hello"),
        bodies=(b"hello",),
    )
    yield Row(
        section,
        "100-Continue in another case",
        post(expect + b"100-Continue\r\n", b"hello"),
        bodies=(b"hello",),
    )
    yield Row(section, "100-continue without a body", head(b"Host: a", b"Expect: 100-continue"))
    yield Row(
        section,
        "100-continue in HTTP/1.0 is ignored",
        post(expect + b"100-continue\r\n", b"hello", version=b"1.0"),
        bodies=(b"hello",),
        close=True,
    )
    yield Row(section, "an empty expectation", head(b"Host: a", b"Expect:"))
    for what, value in (
        ("another expectation", b"200-ok"),
        ("two expectations", b"100-continue, 200-ok"),
        ("a parameter", b"100-continue;a=b"),
        ("a value", b"100-continue=yes"),
    ):
        yield Row(section, what, post(expect + value + b"\r\n", b"hello"), (417,))


def methods() -> Iterator[Row]:
    section = "9110 9.1"
    for method in (b"get", b"Get", b"BREW", b"X-1.2~3", b"PUT", b"PATCH", b"DELETE", b"TRACE"):
        name = method.decode()
        yield Row(
            section,
            f"{name} is a method of its own",
            head(b"Host: a", start=method + b" /livez HTTP/1.1"),
            methods=(name,),
        )
    yield Row(
        section,
        "GET with content",
        head(b"Host: a", b"Content-Length: 5") + b"hello",
        bodies=(b"hello",),
    )
    nothing = "9110 6.4.1"
    yield Row(
        nothing,
        "HEAD is answered without content",
        head(b"Host: a", b"Content-Length: 5", start=b"HEAD / HTTP/1.1") + b"hello",
        methods=("HEAD",),
    )
    yield Row(
        nothing,
        "HEAD of a path",
        head(b"Host: a", start=b"HEAD /livez HTTP/1.1"),
        methods=("HEAD",),
    )
    yield Row(
        nothing,
        "a HEAD that is refused is answered without content",
        head(start=b"HEAD / HTTP/1.1"),
        (400,),
        methods=("HEAD",),
    )
    yield Row(
        nothing,
        "a HEAD with a malformed target",
        head(b"Host: a", start=b"HEAD /#a HTTP/1.1"),
        (400,),
        methods=("HEAD",),
    )
    yield Row(
        nothing,
        "a HEAD with an unknown expectation",
        head(b"Host: a", b"Expect: x", start=b"HEAD / HTTP/1.1"),
        (417,),
        methods=("HEAD",),
    )
    yield Row(
        nothing, "a HEAD with a bare LF", b"HEAD / HTTP/1.1\nHost: a\n\n", (400,), methods=("HEAD",)
    )


def connections() -> Iterator[Row]:
    keeps, closes, pipeline = "9112 9.3", "9112 9.6", "9112 9.3.2"
    get = head(b"Host: a")
    yield Row(keeps, "HTTP/1.1 persists", get)
    yield Row(keeps, "keep-alive in HTTP/1.1", head(b"Host: a", b"Connection: keep-alive"))
    yield Row(
        keeps, "HTTP/1.0 does not persist", head(b"Host: a", start=b"GET / HTTP/1.0"), close=True
    )
    yield Row(
        keeps,
        "keep-alive in HTTP/1.0 is not taken up",
        head(b"Host: a", b"Connection: keep-alive", start=b"GET / HTTP/1.0"),
        close=True,
    )
    for what, value in (
        ("close", b"close"),
        ("close in another case", b"CLOSE"),
        ("close among others", b"foo, close"),
        ("close beside keep-alive", b"keep-alive, close"),
    ):
        yield Row(closes, what, head(b"Host: a", b"Connection: " + value), close=True)
    yield Row(
        closes,
        "close in a second field",
        head(b"Host: a", b"Connection: foo", b"Connection: close"),
        close=True,
    )
    yield Row(closes, "a close that is part of a word", head(b"Host: a", b"Connection: closely"))
    yield Row(
        closes,
        "nothing is served after close",
        head(b"Host: a", b"Connection: close") + get * 3,
        close=True,
    )
    yield Row(
        pipeline, "ten requests at once", get * 10, (SERVED,) * 10, (b"",) * 10, ("GET",) * 10
    )
    three = (
        post(b"Content-Length: 3\r\n", b"one")
        + chunked(b"3\r\ntwo\r\n0\r\n\r\n")
        + post(b"Content-Length: 5\r\n", b"three")
    )
    yield Row(
        pipeline, "bodies in turn", three, (SERVED,) * 3, (b"one", b"two", b"three"), ("POST",) * 3
    )
    yield Row(
        pipeline,
        "HEAD among others",
        get + head(b"Host: a", start=b"HEAD / HTTP/1.1") + get,
        (SERVED,) * 3,
        (b"",) * 3,
        ("GET", "HEAD", "GET"),
    )
    yield Row(
        pipeline,
        "a refused request after two good ones",
        get * 2 + head() + get,
        (SERVED, SERVED, 400),
        (b"", b""),
        ("GET",) * 3,
    )
    yield Row(pipeline, "junk after a good request", get + b"\0\1\2" + get, (SERVED, 400))
    yield Row(
        pipeline,
        "a body longer than its length is the next request",
        post(b"Content-Length: 2\r\n", b"{}(no request)\r\n\r\n"),
        (SERVED, 400),
        (b"{}",),
    )
    yield Row(
        pipeline,
        "a request within a body is content",
        post(b"Content-Length: %d\r\n" % len(get), get),
        bodies=(get,),
    )
    yield Row(
        pipeline,
        "nothing is served after a broken chunk",
        chunked(b"5\r\nhello\r\nzz\r\n") + get * 3,
        (400,),
    )


def upgrades() -> Iterator[Row]:
    section = "9110 7.8"
    key = b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
    websocket = (b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", key)
    start = b"GET /plain HTTP/1.1"
    yield Row(
        section,
        "h2c is ignored",
        head(
            b"Host: a",
            b"Upgrade: h2c",
            b"Connection: Upgrade, HTTP2-Settings",
            b"HTTP2-Settings: AAMAAABkAAQAAP__",
        ),
    )
    yield Row(
        section,
        "an unknown protocol is ignored",
        head(b"Host: a", b"Upgrade: TLS/1.0, x", b"Connection: Upgrade"),
    )
    yield Row(
        section,
        "an Upgrade that Connection does not name",
        head(b"Host: a", *websocket, start=start),
    )
    yield Row(
        section,
        "an Upgrade of a path that has none",
        head(b"Host: a", b"Connection: Upgrade", *websocket, start=start),
    )
    yield Row(
        section,
        "an Upgrade in HTTP/1.0 is ignored",
        head(b"Host: a", b"Connection: Upgrade", *websocket, start=b"GET /crawl/ws HTTP/1.0"),
        close=True,
    )
    for path in (b"/ws", b"/crawl/ws"):
        begin = b"GET " + path + b" HTTP/1.1"
        yield Row(
            section,
            f"an Upgrade beside content is ignored ({path.decode()})",
            head(b"Host: a", b"Connection: Upgrade", *websocket, b"Content-Length: 5", start=begin)
            + b"hello",
            bodies=(b"hello",),
        )
        yield Row(
            section,
            f"an Upgrade beside chunks is ignored ({path.decode()})",
            head(
                b"Host: a",
                b"Connection: Upgrade",
                *websocket,
                b"Transfer-Encoding: chunked",
                start=begin,
            )
            + b"5\r\nhello\r\n0\r\n\r\n",
            bodies=(b"hello",),
        )


ROWS: Final = [
    row
    for table in (
        *(hosts, lines, fields, request_lines, targets, transfer_codings, lengths, chunks),
        *(sizes, expectations, methods, connections, upgrades),
    )
    for row in table()
]
