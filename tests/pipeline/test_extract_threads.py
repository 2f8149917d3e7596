# ruff: noqa: E501 - markup, as it is written
"""Threads of posts, as different forum software writes them."""

import time

import pytest

from eventmesh_trio.pipeline.extract import extract_document, extract_page
from eventmesh_trio.pipeline.extract.page.outline import outline
from eventmesh_trio.pipeline.extract.selection.threads import select_thread
from eventmesh_trio.pipeline.extract.source.parse import parse

URL = "https://example.org/threads/which-pump.17/"
POSTS = (
    ("ada", "May 17, 2024", "Which pump would you take for a cellar that floods every spring?"),
    ("brno", "May 18, 2024", "A submersible one. Mine has run for six years, and it was cheap."),
    ("cleo", "May 18, 2024", "Agreed!"),
    ("ada", "May 20, 2024", "Thank you both. I have ordered the one with the float switch now."),
)
NAV = "<nav><a href=/>Home</a> <a href=/f>Forums</a></nav>"
SIMILAR = "<div class=similar><h3>Similar threads</h3><a href=/threads/2>Pumps for a well</a></div>"


def cards() -> str:
    """A card beside each post, as XenForo writes it."""
    return "".join(
        f"""<article class="message js-post" id="post-{n}"><div class="message-inner">
        <div class="message-cell message-cell--user"><h4 class="message-name"><a href="/members/{who}.{n}/" class="username">{who}</a></h4>
        <h5 class="userTitle">Full Member</h5><dl class="pairs"><dt>Joined</dt><dd>Jan 3, 2015</dd><dt>Messages</dt><dd>411</dd></dl></div>
        <div class="message-cell message-cell--main"><header class="message-attribution"><ul><li><time>{when}</time></li></ul><a href="#{n}">#{n}</a></header>
        <div class="message-body"><div class="bbWrapper">{text}</div></div>
        <div class="message-signature"><div class="bbWrapper">Sent from my greenhouse, like all the mail that I write.</div></div>
        <footer><a href="/react">Like</a> <a href="/quote">Reply</a></footer></div></div></article>"""
        for n, (who, when, text) in enumerate(POSTS)
    )


def form() -> str:
    """All posts in one form, names twice for two widths of screen, as Invision writes them."""
    return (
        "<form>"
        + "".join(
            f"""<article id="elComment_{n}"><div class="authorPane_mobile"><h3 class="authorPane_author"><a href="/profile/{n}-{who}/">{who}</a></h3></div>
        <aside class="authorPane"><h3 class="authorPane_author"><a href="/profile/{n}-{who}/">{who}</a></h3><ul><li>Members</li><li>10.2k</li></ul></aside>
        <div class="comment_meta"><a href="?p={n}">Posted {when}</a></div><div class="comment_content richText"><p>{text}</p></div></article>"""
            for n, (who, when, text) in enumerate(POSTS)
        )
        + "</form>"
    )


def tables() -> str:
    """A table a post, the body known by its numbered id only, as vBulletin 3 writes it."""
    return "".join(
        f"""<table id="post{n}"><tr><td>{when}</td><td>#{n}</td></tr><tr><td><a class="bigusername" href="member.php?u={n}">{who}</a><div>Join Date: Jan 2015</div><div>Posts: 411</div></td>
        <td><div id="post_message_{7000 + n}">{text}</div></td></tr></table>"""
        for n, (who, when, text) in enumerate(POSTS)
    )


def rows() -> str:
    """Date, author and body in rows of their own, as bbPress and others do."""
    return "<ul class=replies>" + "".join(
        f"""<li class="body"><div class="reply-header"><div class="meta">{when} at 1:23 pm</div></div>
        <div class="reply"><div class="reply-author"><a href="/users/{who}/">{who}</a></div><div class="reply-content"><p>{text}</p></div></div></li>"""
        for who, when, text in POSTS
    )


def nested() -> str:
    """Replies inside what they reply to."""
    markup = ""
    for who, when, text in reversed(POSTS):
        markup = (
            f'<div class="comment"><a class="author" href="/u/{who}">{who}</a><span>{when}</span>'
            f'<div class="md">{text}</div><div class="children">{markup}</div></div>'
        )
    return markup


def page(posts: str) -> bytes:
    return f"<html><body>{NAV}<h1>Which pump?</h1>{posts}{SIMILAR}</body></html>".encode()


@pytest.mark.parametrize("software", [cards, form, tables, rows, nested])
def test_a_thread_is_who_wrote_when_and_what(software: object) -> None:
    extraction = extract_page(page(software()), URL)  # type: ignore[operator]
    text = extraction.document.text
    assert extraction.method == "thread"
    position = 0
    for who, when, body in POSTS:
        found = text.index(body, position)
        head = text[position:found]
        assert who in head
        assert when in head
        position = found + len(body)
    for noise in (
        "Joined",
        "Join Date",
        "411",
        "10.2k",
        "Full Member",
        "Members",
        "Posts:",
        "greenhouse",
    ):
        assert noise not in text
    for noise in ("Like", "Reply", "Similar threads", "Pumps for a well", "Home"):
        assert noise not in text


def test_who_signs_below_is_written_below() -> None:
    """As Stack Exchange writes it."""
    posts = "".join(
        f"""<div class="answer" itemscope itemtype="https://schema.org/Answer"><div class="votes">{n}7</div>
        <div class="prose"><p>{text}</p></div><div class="tools"><a href="/share/{n}">Share</a></div>
        <div class="signed"><span>answered {when} at 9:12</span></div><div class="user-details"><a href="/users/{n}/{who}">{who}</a></div></div>"""
        for n, (who, when, text) in enumerate(POSTS)
    )
    document = extract_document(page(posts), "https://example.org/questions/17/which-pump")
    position = 0
    for who, when, body in POSTS:
        position = document.text.index(body, position) + len(body)
        assert document.text[position:].split()[:4] == ["answered", *when.split()]
        position = document.text.index(f"\n{who}", position)
    assert "Share" not in document.text
    assert "27" not in document.text


def test_a_name_that_stands_twice_is_written_once() -> None:
    text = extract_document(page(form()), URL).text
    assert text.count("brno") == 1


def test_how_long_ago_a_post_was_is_left_out() -> None:
    posts = cards().replace("May 18, 2024", "2 years ago")
    text = extract_document(page(posts), URL).text
    assert "years ago" not in text
    assert "brno" in text


def test_since_when_someone_is_a_member_is_neither_name_nor_date() -> None:
    posts = "".join(
        f"""<table><tr><td><div class="author-registered">Joined: Oct 1999</div><div class="author-name">{who}</div></td></tr>
        <tr><td class="post-content">{text}</td></tr></table>"""
        for who, _, text in POSTS
    )
    text = extract_document(page(posts), URL).text
    assert "1999" not in text
    assert all(who in text for who, _, _ in POSTS)


def test_a_quotation_stays_in_the_post_that_quotes() -> None:
    quoted = POSTS[0][2]
    posts = cards().replace(
        "A submersible one.",
        f'<aside class="quote"><div>ada said:</div><blockquote>{quoted}</blockquote></aside>A submersible one.',
    )
    text = extract_document(page(posts), URL).text
    assert text.count(quoted) == 2
    assert text.index("A submersible one.") > text.index(quoted, text.index("brno"))


def test_posts_that_stand_in_noscript_are_found() -> None:
    shell = f"""<html><head><meta name="generator" content="Discourse 3.2"></head><body>
    <section id="main"><div class="spinner">The forum is loading, please wait.</div></section>
    <noscript>{cards()}</noscript></body></html>"""
    extraction = extract_page(shell.encode(), "https://example.org/t/which-pump/17")
    assert extraction.method == "noscript"
    assert all(body in extraction.document.text for _, _, body in POSTS)
    assert "loading" not in extraction.document.text


def test_a_dialog_about_cookies_that_is_longer_than_the_thread_is_no_part_of_it() -> None:
    about = "".join(
        f'<div class="ot-item"><div class="ot-text">These cookies are necessary, reason {n}. {"They help us. " * 20}</div></div>'
        for n in range(12)
    )
    markup = page(cards() + f'<div id="onetrust-consent-sdk">{about}</div>')
    text = extract_document(markup, URL).text
    assert POSTS[0][2] in text
    assert "necessary" not in text


def test_an_article_at_the_address_of_a_thread_stays_one() -> None:
    prose = "".join(
        f"<p>The council met on Tuesday, for the {n}th time in a week, and closed both bridges.</p>"
        for n in range(12)
    )
    markup = f"<html><body>{NAV}<article><h1>Flood</h1>{prose}</article>{SIMILAR}</body></html>"
    extraction = extract_page(markup.encode(), "https://example.org/topics/floods-2024/")
    assert extraction.method != "thread"
    assert "for the 11th time" in extraction.document.text


def test_one_post_is_no_thread() -> None:
    first = cards().split("</article>", maxsplit=1)[0] + "</article>"
    assert select_thread(outline(parse(page(first)).body)) is None


def test_a_page_without_text_is_no_thread() -> None:
    assert (
        select_thread(outline(parse(b"<div class=post></div><div class=post></div>").body)) is None
    )


def test_ten_times_the_posts_take_ten_times_as_long() -> None:
    def seconds(posts: int) -> float:
        body = "".join(
            f'<div class="post p{n}"><a href="/u/{n}">user{n}</a><div class="body">{POSTS[0][2]}</div></div>'
            for n in range(posts)
        )
        walked = outline(parse(page(body)).body)
        start = time.process_time()
        assert select_thread(walked) is not None
        return time.process_time() - start

    small = min(seconds(500) for _ in range(3))
    assert min(seconds(5000) for _ in range(3)) < 40 * small  # a square would be 100 times
