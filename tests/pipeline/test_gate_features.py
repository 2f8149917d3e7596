"""What the gate measures: that each feature means what its name says."""

import time

import pytest

from eventmesh_trio.abc import GateFeatures
from eventmesh_trio.pipeline.extract import extract_page

TEXT = "A sentence of some length that a reader sees. " * 10
SENTENCE = "<p>A sentence of some length that a reader sees."
STATE = "<script>window.__INITIAL_STATE__ = {}</script>"


def features_of(page: str, content_type: str = "text/html") -> GateFeatures:
    features = extract_page(page.encode(), content_type=content_type).gate_features
    assert features is not None
    return features


@pytest.mark.parametrize(
    "hiding",
    [
        "<p hidden>{}</p>",
        "<p style='display: none'>{}</p>",
        "<p style='color: red; VISIBILITY:hidden'>{}</p>",
        "<script>{}</script>",
        "<script type='application/json'>{}</script>",
        "<style>{}</style>",
        "<template><p>{}</p></template>",
        "<noscript><p>{}</p></noscript>",
        "<!-- <p>{}</p> -->",
        "<textarea>{}</textarea>",
        "<svg><text>{}</text></svg>",
        "<iframe srcdoc='x'>{}</iframe>",
        "<select><option>{}</select>",
        "<object>{}</object>",
        "<p title='{}'></p>",
        "<input value='{}'>",
    ],
)
def test_text_that_nobody_sees_is_no_text(hiding: str) -> None:
    features = features_of("<body>" + hiding.format(TEXT))
    assert (features.visible_chars, features.paragraphs) == (0, 0)
    assert features.text_ratio == 0.0


def test_the_text_ratio_is_visible_characters_over_the_pages_characters() -> None:
    page = f"<body><p>{'é' * 60}</p><p>{'ü' * 40}</p></body>"
    features = features_of(page)
    assert (features.page_chars, features.visible_chars) == (len(page), 100)
    assert features.text_ratio == 100 / len(page)


def test_spaces_and_invisible_characters_are_no_text() -> None:
    features = features_of("<body><p>one \n\t  two</p><p>\u200b\u200b\u00ad\u2060</p>")
    assert features.visible_chars == len("one two")


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("<p>Too short.</p>" * 9, 0),
        (SENTENCE * 3, 3),
        ("<div>A sentence of some length that a reader sees.</div>", 0),
        ("<p>A sentence of some length,<br><br>in two parts that are one paragraph.", 1),
        ("<p hidden>A sentence of some length that no reader sees.", 0),
    ],
)
def test_a_paragraph_is_a_p_with_a_sentences_length_of_visible_text(body: str, count: int) -> None:
    assert features_of("<body>" + body).paragraphs == count


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<article><p>Text.</p></article>", True),
        ("<main>Text.</main>", True),
        ("<div role=main>Text.</div>", True),
        ("<main id=app></main>", False),
        ("<article hidden>Text.</article>", False),
        ("<div class=article>Text.</div>", False),
        ("<template><article>Text.</article></template>", False),
    ],
)
def test_an_article_is_one_only_with_something_to_read_in_it(body: str, found: bool) -> None:
    assert features_of("<body>" + body).has_article is found


@pytest.mark.parametrize(
    ("meta", "found"),
    [
        ('<meta property="og:title" content="A title">', True),
        ('<meta name="og:title" content="A title">', True),
        ('<meta property="og:title">', False),
        ('<meta property="article:author" content="A">', False),
        ('<meta name="twitter:card" content="summary">', False),
    ],
)
def test_opengraph_is_any_property_of_it_with_a_value(meta: str, found: bool) -> None:
    assert features_of(f"<head>{meta}</head>").has_opengraph is found


ARTICLES = """
    Article AdvertiserContentArticle NewsArticle AnalysisNewsArticle AskPublicNewsArticle
    BackgroundNewsArticle OpinionNewsArticle ReportageNewsArticle ReviewNewsArticle Report
    SatiricalArticle ScholarlyArticle MedicalScholarlyArticle SocialMediaPosting BlogPosting
    LiveBlogPosting DiscussionForumPosting TechArticle APIReference
"""


@pytest.mark.parametrize("kind", ARTICLES.split())
def test_every_kind_of_article_of_schema_org_is_one(kind: str) -> None:
    assert has_article_jsonld(f'{{"@type": "{kind}"}}')


def has_article_jsonld(data: str, kind: str = "application/ld+json") -> bool:
    return features_of(f"<script type='{kind}'>{data}</script>").has_article_jsonld


@pytest.mark.parametrize(
    "data",
    [
        '{"@type": ["Thing", "NewsArticle"]}',
        '[{"@type": "WebSite"}, {"@type": "BlogPosting"}]',
        '{"@context": "x", "@graph": [{"@type": "WebPage"}, {"@type": "Article"}]}',
        '{"@type": "WebPage", "mainEntity": {"@type": "TechArticle"}}',
        '{"@type": "https://schema.org/Article"}',
        '{"@type": "schema:Article"}',
        '{"@type": "Recipe"}</script><script type="application/ld+json">{"@type": "Article"}',
        '<!-- {"@type": "Article",} -->',
    ],
)
def test_an_article_is_found_wherever_json_ld_has_it(data: str) -> None:
    assert has_article_jsonld(data)


def test_json_ld_with_a_charset_counts_and_what_is_no_article_does_not() -> None:
    assert has_article_jsonld('{"@type": "Article"}', "application/ld+json; charset=utf-8")
    for data in ('{"@type": "Product"}', '{"@type": "ArticleList"}', "{", '{"type": "Article"}'):
        assert not has_article_jsonld(data)
    assert not has_article_jsonld('{"@type": "Article"}', "application/json")


@pytest.mark.parametrize(
    ("script", "chars"),
    [
        ("<script>run();</script>", 6),
        ("<script type=module>run();</script>", 6),
        ("<script type='text/javascript; charset=utf-8'>run();</script>", 6),
        ("<script type='text/babel'>run();</script>", 6),
        ("<script src=/a.js>run();</script>", 0),
        ("<script type='application/json'>[1, 2]</script>", 0),
        ("<script type='application/ld+json'>[1, 2]</script>", 0),
        ("<script type=importmap>{}</script>", 0),
        ("<script type='text/x-handlebars-template'>run();</script>", 0),
    ],
)
def test_script_density_counts_the_inline_script_that_runs(script: str, chars: int) -> None:
    assert features_of("<body>" + script).script_chars == chars


EMPTY, STATED, BARE, ASKS = (
    "empty mount point",
    "application state",
    "scripts but no text",
    "asks for script",
)


@pytest.mark.parametrize(
    ("body", "markers"),
    [
        ("<div id=root></div><script src=a.js></script>", {EMPTY, BARE}),
        (f"<div id=root><p>{TEXT}</p></div><script src=a.js></script>", set()),
        (f"<div id=root style='display:none'><p>{TEXT}</p></div><script src=a.js></script>",
         {EMPTY, BARE}),
        ("<div id=root></div>", set()),  # nothing that could fill it
        (f"<div id=app>Loading…</div><p>{TEXT}</p><script src=a.js></script>", {EMPTY}),
        ("<p ng-app>" + "{{ vm.text }} and {{ vm.more }}" * 30 + "</p><script src=a></script>",
         {EMPTY}),
        (f"<html ng-app><body><p>{TEXT}</p><script src=a.js></script>", set()),
        (f"<html ng-app><body><p>{TEXT}{{{{a}}}}{{{{b}}}}{{{{c}}}}</p><script src=a.js></script>",
         {EMPTY}),
        (f"<p>{TEXT}</p>{STATE}", {STATED}),
        (f"<p>{TEXT}</p><script id=__NEXT_DATA__ type='application/json'>{{}}</script>", {STATED}),
        (f"<p>{TEXT}</p><script>var state = 'webpack'</script>", set()),
        ("<p>Little.</p><script src=a.js></script>", {BARE}),
        ("<p>Little.</p>", set()),
        ("<noscript>Please enable JavaScript.</noscript><script src=a.js></script>", {BARE, ASKS}),
        ("<noscript><meta http-equiv=refresh content='0;url=/plain'></noscript><script>x</script>",
         {BARE, ASKS}),
        ("<noscript><img src=/pixel.gif></noscript><script src=a.js></script>", {BARE}),
        (f"<p>{TEXT}</p><noscript>Please enable JavaScript.</noscript><script src=a.js></script>",
         set()),
    ],
)  # fmt: skip
def test_a_marker_is_evidence_that_a_script_builds_the_page(body: str, markers: set[str]) -> None:
    page = body if body.startswith("<html") else f"<body>{body}"
    assert set(features_of(page).spa_markers) == markers


def test_scripts_within_each_other_count_their_own_characters_once() -> None:
    drawing = f"<svg>{'<script>abc' * 300}</svg>"
    assert features_of(f"<body>{drawing}").script_chars == 3 * 300


@pytest.mark.parametrize(
    "opening", ["<svg>" + "<script>x" * 400, "<script>run()</script>" + "<noscript>x" * 400]
)
def test_what_stands_within_its_like_takes_no_longer_than_beside_it(opening: str) -> None:
    began = time.process_time()
    features_of(f"<body>{opening}{'words ' * 200_000}")
    assert time.process_time() - began < 1.0  # with all of it for each: 3 seconds


def test_a_notice_within_notices_is_read() -> None:
    notice = "<noscript>Some<noscript>words<noscript>Please enable JavaScript</noscript>"
    assert "asks for script" in features_of(f"<body><script>run()</script>{notice}").spa_markers
