"""Measure, keep and show: all comparisons, or those that are named.

``python -m benchmarks [NAME...] [--quick] [--check] [--rounds N]`` runs each with all its peers,
prints its tables and writes ``benchmarks/results/NAME.json``. With ``--quick`` each takes under a
minute; such figures are written to ``benchmarks/results/quick``, never over the others, and no
report is made of them. Otherwise what is kept is then rendered to the pages below ``docs`` and to
the table in the README; ``--report`` does that alone.

Exit codes: 0 all was measured; 1 with ``--check``, a demand is missed, or a peer was, beside whom
something may be asked; 2 wrong usage; 3 a comparison could not be run (the others were, and are
kept), or a plot could not be drawn.
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol, cast

from benchmarks.environment import ROOT, importing, install
from benchmarks.machine import describe
from benchmarks.outcome import Options, Outcome
from benchmarks.report import ORDER, PAGES, write
from benchmarks.results import QUICK_RESULTS, RESULTS, Record, read_all, write_record
from benchmarks.tables import case_text, demand_text

MEASURED, FELL_SHORT, NOT_RUN = 0, 1, 3
TERMINATED: Final = 128 + signal.SIGTERM


class Comparison(Protocol):
    """What the module of a comparison has (`benchmarks.outcome`)."""

    TITLE: str
    ABOUT: str

    def compare(self, options: Options) -> Outcome: ...


def run(name: str, options: Options) -> Record:
    """One comparison, from its import on; raises whatever it raises."""
    comparison = cast(Comparison, importlib.import_module(f"benchmarks.{name}"))
    load, cores = os.getloadavg()[0], os.sched_getaffinity(0)
    taken_at, began = datetime.now(UTC), time.monotonic()
    try:
        outcome = comparison.compare(options)
    finally:
        os.sched_setaffinity(0, cores)  # a comparison puts its driver on one core
    return Record(
        title=comparison.TITLE,
        about=comparison.ABOUT,
        taken_at=taken_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        seconds=round(time.monotonic() - began, 1),
        options=options,
        machine=describe(load),
        outcome=outcome,
    )


def show(record: Record) -> None:
    machine, outcome = record.machine, record.outcome
    print(f"\n=== {record.title}")
    print(
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, Linux {machine.kernel}, "
        f"Python {machine.python}, load {machine.load} before the start; {record.seconds:.0f} s"
    )
    show_outcome(outcome)


def show_outcome(outcome: Outcome) -> None:
    for case in outcome.cases:
        print(f"\n{case_text(case)}")
    print()
    for demand in outcome.demands:
        print(demand_text(demand))
    for peer, reason in outcome.missing.items():
        print(f"missing: {peer}: {reason}")
    sys.stdout.flush()


def heed_termination() -> None:
    """Let SIGTERM unwind like Ctrl-C: whoever ends us early must not leave servers behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def part_parser(description: str | None) -> argparse.ArgumentParser:
    """For a module whose comparison can be taken in part: nothing of that is kept."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="in under a minute")
    parser.add_argument("--rounds", type=positive, metavar="N", help="of each case")
    return parser


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    # Not choices=: with nargs="*" the Python of some distributions then refuses an empty list.
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ORDER)}")
    parser.add_argument("--quick", action="store_true", help="each in under a minute")
    parser.add_argument("--check", action="store_true", help="exit 1 where a demand is missed")
    parser.add_argument("--rounds", type=positive, metavar="N", help="of each case")
    parser.add_argument("--report", action="store_true", help="render what is kept, no more")
    parsed = parser.parse_args(arguments)
    unknown = [name for name in parsed.names if name not in ORDER]
    if unknown:
        parser.error(f"no such comparison: {', '.join(unknown)}; there are {', '.join(ORDER)}")
    if parsed.report and (parsed.names or parsed.quick or parsed.check or parsed.rounds):
        parser.error("--report measures nothing: it goes with nothing else")
    return parsed


def report() -> int:
    """Render all that is kept; returns the exit code."""
    write(read_all())
    paths = sorted(RESULTS.glob("*.json"))
    python = install()
    reason = importing(python, ("matplotlib",))
    if reason is not None:
        print(f"the plots are as they were: {reason}", file=sys.stderr)
        return NOT_RUN
    folder = ROOT / PAGES
    for plot in folder.glob("*.svg"):
        plot.unlink()
    command = [python, "-m", "benchmarks.plots", str(folder), *map(str, paths)]
    return NOT_RUN if subprocess.run(command, cwd=ROOT, check=False).returncode else MEASURED


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parse_arguments(arguments)
    heed_termination()
    if parsed.report:
        return report()
    options = Options(quick=parsed.quick, rounds=parsed.rounds)
    records: list[Record] = []
    failed: list[str] = []
    for name in parsed.names or ORDER:
        try:
            record = run(name, options)
        except Exception:  # one comparison must not cost the others
            traceback.print_exc()
            failed.append(name)
            continue
        show(record)
        print(f"written: {write_record(record, QUICK_RESULTS if options.quick else RESULTS)}")
        records.append(record)
    reported = report() if records and not options.quick else MEASURED
    missed = sum(not demand.is_met for record in records for demand in record.outcome.demands)
    if missed:
        print(f"\n{missed} demands are missed")
    absent = [record.outcome.name for record in records if record.outcome.missing]
    if absent:
        print(f"not checked beside every peer, for some were missing: {', '.join(absent)}")
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
        return NOT_RUN
    return FELL_SHORT if parsed.check and (missed or absent) else reported


def alone(name: str) -> int:
    """What ``python -m benchmarks.NAME [OPTION...]`` does: the same as ``python -m benchmarks``."""
    return main([name, *sys.argv[1:]])
