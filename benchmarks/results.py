"""What was measured, kept: a comparison's outcome with where, when and how it was taken."""

from pathlib import Path

import attrs
import msgspec

from benchmarks.environment import ROOT
from benchmarks.machine import Machine
from benchmarks.outcome import Options, Outcome

__all__ = ["QUICK_RESULTS", "RESULTS", "Record", "read_all", "read_record", "write_record"]

RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = RESULTS / "quick"
"""Not under version control, and read by no report: a quick run is too short to be quoted."""


@attrs.frozen
class Record:
    """One comparison as it was run. ``title`` and ``about`` are those of its module then."""

    title: str
    about: str
    taken_at: str  # RFC 3339, UTC
    seconds: float  # that all of it took
    options: Options
    machine: Machine
    outcome: Outcome


def write_record(record: Record, folder: Path) -> Path:
    """Write ``NAME.json``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.outcome.name}.json"
    text = msgspec.json.format(msgspec.json.encode(record), indent=1)
    partial = path.with_suffix(".part")
    partial.write_bytes(text + b"\n")
    partial.replace(path)
    return path


def read_record(path: Path) -> Record:
    """Raises msgspec.ValidationError where the file is of another shape."""
    return msgspec.json.decode(path.read_bytes(), type=Record)


def read_all(folder: Path = RESULTS) -> dict[str, Record]:
    """All records of a folder, by name."""
    return {path.stem: read_record(path) for path in sorted(folder.glob("*.json"))}
