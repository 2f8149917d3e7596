"""Routes that answer with one document: health, metrics, statistics, the API's description."""

from typing import Final

from eventmesh_trio.app.calls import Call
from eventmesh_trio.app.mesh import Mesh
from eventmesh_trio.app.observability import CONTENT_TYPE
from eventmesh_trio.app.openapi import openapi_document
from eventmesh_trio.errors import OverloadedError

__all__ = ["health", "livez", "metrics", "openapi", "readyz", "stats"]

_RETRY_SECONDS: Final = 5.0


async def livez(_: Mesh, call: Call) -> None:
    """The event loop answers: that is all that is asked here."""
    await call.send_json({"status": "alive"})


async def readyz(mesh: Mesh, call: Call) -> None:
    """Fails from the first moment of a drain, so that a load balancer looks elsewhere."""
    if mesh.is_draining:  # not `Admission.require_serving`: a probe is no stream that was refused
        raise OverloadedError("the server is going away", retry_after_seconds=_RETRY_SECONDS)
    await call.send_json({"status": "ready"})


async def health(mesh: Mesh, call: Call) -> None:
    await call.send_json(mesh.health())


async def stats(mesh: Mesh, call: Call) -> None:
    await call.send_json(await mesh.stats())


async def metrics(mesh: Mesh, call: Call) -> None:
    body = await mesh.metrics.render()
    await call.exchange.send_response(200, call.fields((b"content-type", CONTENT_TYPE)), body)


async def openapi(_: Mesh, call: Call) -> None:
    await call.send_json(openapi_document(call.routes))
