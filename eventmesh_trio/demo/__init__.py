"""The demo: a small web site of our own, and a crawl of it through the public HTTP API.

`site` serves the pages that `bundle` reads from ``pages/``; `command` starts it, a server and a
client, all in one nursery; `display` shows what comes in.
"""
