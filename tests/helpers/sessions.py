"""What a server says of its sessions, in a word."""

from tests.helpers.raw import get_json
from tests.helpers.servers import ServerProcess

__all__ = ["live_runs", "subscribers"]

LIVE = ("running", "paused", "cancelling")


def live_runs(server: ServerProcess) -> list[str]:
    """The ids of all runs whose summary is still to come."""
    return [
        run["request_id"]
        for entry in get_json(server.address, "/sessions")["sessions"]
        for run in entry["runs"]
        if run["state"] in LIVE
    ]


def subscribers(server: ServerProcess) -> int:
    """How many readers are attached to anything."""
    return sum(entry["subscribers"] for entry in get_json(server.address, "/sessions")["sessions"])
