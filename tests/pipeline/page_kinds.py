# ruff: noqa: E501 - markup, as it is written
"""Pages of the kinds that the web is made of, each as such sites write them."""

from collections.abc import Callable, Mapping
from html import escape
from json import dumps

__all__ = ["KINDS", "Kind"]

Kind = tuple[str, str, str]
"""The page, its Content-Type, and the decision that the gate is to make."""

SENTENCES = (
    "The river had been rising since Tuesday, and nobody in the lower town slept much.",
    "By noon the council had closed both bridges, which cut the market off from the station.",
    "Engineers measured four metres and a half at the old mill, a height last seen in 1954.",
    "Volunteers filled sandbags in the yard of the school, where lessons had been cancelled.",
    "What will happen to the orchards on the southern bank, nobody dared to say on Friday.",
)
CSS = (
    "<style>" + ".nav a{color:#234;padding:4px 8px}.grid{display:grid;gap:12px}\n" * 8 + "</style>"
)
TRACKER = "<script>window.dataLayer=window.dataLayer||[];function gtag(){dataLayer.push(arguments)}</script>"
BUNDLE = '<script defer src="/static/js/main.4f2c9a.js"></script>'
NAV = "<nav>" + "".join(f'<a href="/s/{n}">Section {n}</a> ' for n in range(8)) + "</nav>"
FOOTER = "<footer><a href=/imprint>Imprint</a> <a href=/privacy>Privacy</a> © 2024</footer>"
OG = '<meta property="og:title" content="Flood"><meta property="og:type" content="article">'
NOSCRIPT = "<noscript>You need to enable JavaScript to run this app.</noscript>"


def prose(paragraphs: int, sentences: int = 4) -> str:
    return "".join(
        "<p>" + " ".join(SENTENCES[(n + i) % 5] for i in range(sentences)) + "</p>\n"
        for n in range(paragraphs)
    )


def text(count: int) -> str:
    return " ".join(SENTENCES[n % 5] for n in range(count))


def ld(kind: str, **members: object) -> str:
    data = {"@context": "https://schema.org", "@type": kind, "headline": "Flood", **members}
    return f'<script type="application/ld+json">{dumps(data)}</script>'


def page(body: str, head: str = "", html: str = 'lang="en"') -> str:
    return (
        f'<!DOCTYPE html>\n<html {html}><head><meta charset="utf-8"><title>A page</title>'
        f'<meta name="viewport" content="width=device-width">{head}</head>\n<body>{body}</body></html>'
    )


def article() -> str:
    return page(
        f"{NAV}<main><article><h1>Flood</h1>{prose(9)}</article></main>{FOOTER}",
        OG + ld("NewsArticle"),
    )


def heavy_article() -> str:
    scripts = (
        "<script>" + "ads.push({slot: 'top', sizes: [[728, 90], [970, 250]]});\n" * 60 + "</script>"
    )
    return page(f"{NAV}<article><h1>Flood</h1>{prose(12)}</article>{scripts}", OG + CSS * 6)


def blog() -> str:
    return page(
        f"<header><a href=/>My notes</a></header><article><h1>Rain</h1>{prose(5)}</article>", OG
    )


def docs() -> str:
    sections = "".join(
        f"<section id=s{n}><h2>Option {n}</h2>{prose(2, 2)}"
        f"<pre><code>tool --option-{n} value   # {text(1)}</code></pre></section>"
        for n in range(6)
    )
    return page(f"{NAV}<div role=main>{sections}</div>{FOOTER}", "<link rel=stylesheet href=a.css>")


def forum() -> str:
    posts = "".join(
        f'<div class="post"><a class=user href=/u/{n}>user{n}</a><span>#{n}</span>'
        f'<div class="body">{prose(2, 3)}</div><a href=/quote/{n}>Quote</a></div>'
        for n in range(8)
    )
    return page(f"{NAV}<div class=thread><h1>Pumps</h1>{posts}</div>", ld("DiscussionForumPosting"))


def listing(rows: int = 30) -> str:
    cards = "".join(
        f'<div class="card" data-id="{n}" data-track="list-{n}"><a class="card-link" href="/p/{n}">'
        f'<img class="card-img" src="/img/{n}-320.jpg" srcset="/img/{n}-640.jpg 2x" alt="Product {n}">'
        f'<span class="card-title">Product number {n}</span></a><b class="price">{n}.99</b></div>\n'
        for n in range(rows)
    )
    return page(f"{NAV}<main><h1>Pumps</h1><div class=grid>{cards}</div></main>{FOOTER}", CSS + OG)


def link_hub() -> str:
    rows = "".join(
        f"<tr><td>{n}.</td><td><a href='https://e.org/{n}'>{SENTENCES[n % 5]}</a></td></tr>\n"
        for n in range(30)
    )
    return page(f"<table>{rows}</table>")


def wiki() -> str:
    cites = "".join(
        f'<li id="cite-{n}"><a href="https://e.org/{n}">Source {n}</a>, 2020.</li>'
        for n in range(20)
    )
    return page(
        f"<div id=content class=mw-body role=main><h1>Flood</h1>{prose(14)}<ol>{cites}</ol></div>{NAV}",
        TRACKER,
    )


def next_ssr() -> str:
    data = dumps({"props": {"pageProps": {"article": text(8)}}, "page": "/a", "buildId": "x1"})
    return page(
        f'<div id="__next"><main><article><h1>Flood</h1>{prose(9)}</article></main></div>'
        f'<script id="__NEXT_DATA__" type="application/json">{data}</script>'
        '<script src="/_next/static/chunks/main-8b1.js" async></script>',
        OG + ld("NewsArticle"),
    )


def next_rsc() -> str:
    flight = "".join(f"<script>self.__next_f.push([1,{dumps(text(6))}])</script>" for _ in range(3))
    return page(f"<main><article><h1>Flood</h1>{prose(9)}</article></main>{flight}", OG)


def next_csr() -> str:
    data = dumps({"props": {"pageProps": {}}, "page": "/a", "buildId": "x1"})
    return page(
        f'<div id="__next"></div><script id="__NEXT_DATA__" type="application/json">{data}</script>'
        '<script src="/_next/static/chunks/main-8b1.js" async></script>'
    )


def nuxt_ssr() -> str:
    state = "<script>window.__NUXT__={data:[{title:'Flood'}],state:{}}</script>"
    return page(
        f'<div id="__nuxt"><div id="__layout"><main><h1>Flood</h1>{prose(10)}</main></div></div>{state}',
        OG,
    )


def react_shell() -> str:
    return page(f'{NOSCRIPT}<div id="root"></div>', BUNDLE)


def vite_shell() -> str:
    return page(
        '<div id="root"></div>',
        '<script type="module" crossorigin src="/assets/index-d1a2.js"></script>',
    )


def spinner_shell() -> str:
    return page(
        f'<div id="app"><div class="spinner" role="status"><span>Loading, please wait…</span></div></div>{BUNDLE}',
        OG + CSS,
    )


def vue_shell() -> str:
    message = (
        "<noscript><strong>We're sorry but this app doesn't work properly without JavaScript "
        "enabled. Please enable it to continue.</strong></noscript>"
    )
    return page(f'{message}<div id="app"></div>{BUNDLE}')


def vue_in_page() -> str:
    rows = (
        "<li v-for='x in items'>{{ x.title }} costs {{ x.price }} and ships in {{ x.days }} days</li>"
        * 20
    )
    return page(f'<div id="app" v-cloak><h1>{{{{ title }}}}</h1><ul>{rows}</ul></div>{BUNDLE}')


def angular_shell() -> str:
    return page("<app-root></app-root>" + BUNDLE, '<base href="/">')


def angular_universal() -> str:
    return page(
        f'<app-root ng-version="17.0.2"><main><h1>Flood</h1>{prose(10)}</main></app-root>'
        '<script id="ng-state" type="application/json">{}</script>' + BUNDLE,
        OG,
    )


def angularjs() -> str:
    rows = (
        '<div ng-repeat="p in vm.posts"><h2>{{ p.title }}</h2><p>{{ p.text }} {{ p.date }}</p></div>'
        * 3
    )
    return page(f"{rows}{BUNDLE}", html="ng-app=shop")


def svelte_shell() -> str:
    return page('<div style="display: contents"><script>__sveltekit_x={base:""};</script></div>')


def flutter() -> str:
    return page("<flutter-view></flutter-view><script src=flutter_bootstrap.js async></script>")


def amp() -> str:
    boiler = "<style amp-boilerplate>body{-webkit-animation:-amp-start 8s steps(1,end) 0s 1 normal both}</style>"
    return page(
        f"<article><h1>Flood</h1>{prose(10)}<amp-img src=a.jpg width=600 height=400></amp-img></article>",
        boiler
        + '<script async src="https://cdn.ampproject.org/v0.js"></script>'
        + ld("NewsArticle"),
        html="amp lang=en",
    )


def frameset() -> str:
    return (
        '<html><head><title>Our club</title></head><frameset cols="20%,80%"><frame src="menu.html">'
        '<frame src="main.html"><noframes><body>Your browser cannot show frames.</body></noframes>'
        "</frameset></html>"
    )


def noscript_redirect() -> str:
    return page(
        f'<div id="page"></div>{BUNDLE}',
        '<noscript><meta http-equiv="refresh" content="0; url=/nojs"></noscript>',
    )


def challenge() -> str:
    return page(
        "<h1>Checking your browser</h1><p>Please wait a few seconds.</p>"
        f"{NOSCRIPT}<script>{'var a=1;a=(a*7)%13;' * 120}</script>"
    )


def cookie_wall() -> str:
    return page(
        "<div class=consent role=dialog><h2>We value your privacy</h2><p>We and our 812 partners store "
        "information on a device.</p><button>Accept all</button><button>Reject</button></div>"
        f"<script>{'window.__tcfapi=function(){};' * 60}</script>{BUNDLE}",
        CSS,
    )


def cookie_banner() -> str:
    banner = "<div id=cookie-banner>We use cookies. <button>OK</button></div>"
    return page(f"{banner}<main><article><h1>Flood</h1>{prose(9)}</article></main>", OG + TRACKER)


def paywall() -> str:
    return page(
        f"{NAV}<main><article><h1>Flood</h1>{prose(2)}<div class=paywall><p>Subscribe to read on: this "
        f"article is for subscribers only.</p></div></article></main>{TRACKER}",
        OG + ld("NewsArticle", isAccessibleForFree=False),
    )


def product() -> str:
    return page(
        f"{NAV}<main><h1>Pump P-12</h1><p>{text(4)}</p><table>"
        + "".join(f"<tr><th>Property {n}</th><td>Value {n}</td></tr>" for n in range(12))
        + f"</table></main>{TRACKER}{BUNDLE}",
        OG + CSS + ld("Product"),
    )


def recipe() -> str:
    steps = "".join(f"<li>{SENTENCES[n % 5]}</li>" for n in range(8))
    return page(f"<main><h1>Soup</h1>{prose(4)}<ol>{steps}</ol></main>{FOOTER}", OG + ld("Recipe"))


def landing() -> str:
    tiles = "".join(
        f'<section class="tile tile--{n} u-padding-l u-bg-light" data-aos="fade-up" data-aos-delay="{n}00">'
        f'<svg viewBox="0 0 24 24"><path d="M3 12l6 6L21 6l-2-2-10 10-4-4z"/></svg><h2>Benefit {n}</h2>'
        f"<p>{SENTENCES[n % 5]}</p></section>"
        for n in range(6)
    )
    return page(f"{NAV}<main>{tiles}</main>{TRACKER}{BUNDLE}", OG + CSS)


def login() -> str:
    return page(
        "<main><form method=post action=/login><label>Name <input name=user></label><label>Password "
        "<input type=password name=pw></label><button>Sign in</button></form></main>",
        CSS,
    )


def parked() -> str:
    return page(
        f"<script>window.park='{'eyJ1dWlkIjoi' * 80}'</script><div id=target></div>" + BUNDLE
    )


def js_redirect() -> str:
    return page("<script>window.location.replace('/home?from=/' + location.hash)</script>")


def meta_refresh() -> str:
    return page("", '<meta http-equiv="refresh" content="0; url=https://example.org/new">')


def empty() -> str:
    return ""


def plain_html() -> str:
    return f"<html><title>Notes</title><body><h1>Notes</h1>{prose(8)}</body></html>"


def tag_soup() -> str:
    return (
        f"<TITLE>Old page</TITLE><center><font size=2>{'<P>'.join(SENTENCES * 3)}</font></center>"
    )


def data_table() -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{r * c}</td>" for c in range(8)) + "</tr>" for r in range(60)
    )
    return page(f"<h1>Levels</h1><table>{rows}</table>")


def gallery() -> str:
    images = "".join(f'<a href="/g/{n}"><img src="/g/{n}.jpg" alt=""></a>' for n in range(40))
    return page(f"<main><h1>Photos</h1>{images}</main>{FOOTER}", OG)


def hidden_content() -> str:
    return page(f'<div style="display:none">{prose(9)}</div><p>Members only.</p>', OG)


def template_content() -> str:
    return page(f"<template id=t><article>{prose(9)}</article></template>{BUNDLE}")


def comments_only() -> str:
    return page(f"<!-- {text(30)} --><p>Under construction.</p>")


def infinite_feed() -> str:
    state = dumps({"feed": [text(3)] * 12})
    return page(
        f"<div id=react-root></div><script>window.__INITIAL_STATE__={state}</script>{NOSCRIPT}{BUNDLE}",
        OG,
    )


def swagger() -> str:
    return page(
        "<div id=swagger-ui></div><script>window.onload=()=>{SwaggerUIBundle({url:'/openapi.json'})}"
        "</script>",
        "<script src=swagger-ui-bundle.js></script>",
    )


def press_release() -> str:
    return page(f"{NAV}<main><h1>News</h1>{prose(3)}</main>{FOOTER}", CSS)


def rss() -> str:
    items = "".join(
        f"<item><title>Item {n}</title><description>{escape(SENTENCES[n % 5])}</description></item>"
        for n in range(10)
    )
    return f'<?xml version="1.0"?><rss version="2.0"><channel><title>Feed</title>{items}</channel></rss>'


HTML = "text/html; charset=utf-8"
_TABLE: Mapping[Callable[[], str], str] = {
    article: "raw",
    heavy_article: "probes_first",
    blog: "raw",
    docs: "raw",
    forum: "raw",
    listing: "probes_first",
    link_hub: "probes_first",
    wiki: "raw",
    next_ssr: "raw",
    next_rsc: "raw",
    next_csr: "headless",
    nuxt_ssr: "raw",
    react_shell: "headless",
    vite_shell: "headless",
    spinner_shell: "headless",
    vue_shell: "headless",
    vue_in_page: "probes_first",
    angular_shell: "headless",
    angular_universal: "raw",
    angularjs: "headless",
    svelte_shell: "headless",
    flutter: "headless",
    amp: "raw",
    frameset: "headless",
    noscript_redirect: "headless",
    challenge: "headless",
    cookie_wall: "headless",
    cookie_banner: "raw",
    paywall: "raw",
    product: "probes_first",
    recipe: "raw",
    landing: "probes_first",
    login: "headless",
    parked: "headless",
    js_redirect: "headless",
    meta_refresh: "headless",
    empty: "headless",
    plain_html: "raw",
    tag_soup: "raw",
    data_table: "headless",
    gallery: "headless",
    hidden_content: "headless",
    template_content: "headless",
    comments_only: "headless",
    infinite_feed: "headless",
    swagger: "headless",
    press_release: "raw",
}
KINDS: Mapping[str, Kind] = {
    **{make.__name__: (make(), HTML, decision) for make, decision in _TABLE.items()},
    "xhtml": (article(), "application/xhtml+xml", "raw"),
    "html without a type": (react_shell(), "", "headless"),
    "json": (dumps({"items": [text(2)] * 5}), "application/json", "raw"),
    "tiny json": ("{}", "application/json", "raw"),
    "problem json": ('{"title": "x"}', "application/problem+json", "raw"),
    "plain text": (text(20), "text/plain", "raw"),
    "rss": (rss(), "application/rss+xml", "raw"),
    "sitemap": ("<urlset><url><loc>https://e.org/</loc></url></urlset>", "application/xml", "raw"),
    "csv": ("a,b\n1,2\n" * 50, "text/csv", "raw"),
    "script": ("console.log(1);" * 50, "text/javascript", "raw"),
    "text without a type": (text(3), "", "raw"),
}
