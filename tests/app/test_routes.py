"""The route table: canonical paths, aliases, parameters, methods."""

import pytest

from eventmesh_trio.app.dispatch import ROUTES
from eventmesh_trio.app.openapi import openapi_document
from eventmesh_trio.errors import MethodNotAllowed, NotFoundError


@pytest.mark.parametrize(
    ("alias", "canonical"),
    [
        ("/api/v1/crawl/stream", "/crawl/stream"),
        ("/api/v1/stream/crawl", "/crawl/stream"),
        ("/api/v1/crawl/sse", "/crawl/sse"),
        ("/api/v1/sse/crawl", "/crawl/sse"),
        ("/api/v1/crawl/sse/stream", "/crawl/sse/stream"),
        ("/api/v1/crawl/ws", "/crawl/ws"),
        ("/api/v1/deepsearch/stream", "/deepsearch/stream"),
        ("/api/v1/stream/deepsearch", "/deepsearch/stream"),
        ("/api/v1/sessions", "/sessions"),
        ("/health", "/healthz"),
        ("/crawl/stream/", "/crawl/stream"),
    ],
)
def test_an_alias_is_its_canonical_route(alias, canonical):
    assert ROUTES.match(alias).route.path == canonical


def test_a_parameter_stands_for_one_segment():
    assert ROUTES.match("/sessions/s-1/pause").parameters == {"id": "s-1"}
    with pytest.raises(NotFoundError):
        ROUTES.match("/sessions/a/b/pause")


@pytest.mark.parametrize(
    "path", ["/", "/crawl", "/crawl/streams", "/api/v1", "/API/v1/sessions", "*"]
)
def test_what_is_not_there_is_not_found(path):
    with pytest.raises(NotFoundError):
        ROUTES.match(path)


def test_another_method_is_told_what_is_allowed():
    found = ROUTES.match("/crawl/stream")
    with pytest.raises(MethodNotAllowed) as caught:
        found.handler("DELETE")
    assert caught.value.allow == "POST, GET, HEAD, OPTIONS"
    assert found.handler("HEAD") is found.handler("GET")


def test_the_description_names_every_path_and_resolves_its_references():
    document = openapi_document(ROUTES)
    assert set(document["paths"]) == {path for route in ROUTES.routes for path in route.paths}
    schemas = document["components"]["schemas"]

    def references(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "$ref":
                    yield value
                else:
                    yield from references(value)
        elif isinstance(node, list):
            for item in node:
                yield from references(item)

    found = set(references(document))
    assert {"#/components/schemas/CrawlRequest", "#/components/schemas/Summary"} <= found
    assert all(reference.rpartition("/")[2] in schemas for reference in found)
