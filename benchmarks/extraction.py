"""Quality and speed of extraction: ours beside other extractors, same pages, same run.

``python -m benchmarks.extraction FOLDER [--source sh] [--rounds 5] [--quick] [--json FILE]``

``FOLDER`` holds pages (``<id>.html`` or ``<id>.html.gz``) and, beside each, ``<id>.json`` with what
is true of it: ``url``, ``text``, and ``title``, ``author``, ``date``, ``source``, ``page_type``
where they are known. Every extractor runs in a process of its own, all on one core, in turn,
round by round; pages/s are of CPU time, medians of the rounds with their spread. We take part
twice: with everything (text, Markdown, links, images, metadata) and with the text alone.
``quality_score`` is compared with the real F1 of each page: the rank correlation is Spearman's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from benchmarks.accuracy import Overlap, is_right, overlap, rank_correlation, text_score
from benchmarks.environment import ENVIRONMENT, ROOT, importing, install
from benchmarks.peers.extractors import Answer, read_folder

OURS = "eventmesh_trio"
OUR_TEXT = "eventmesh_trio, text alone"
PEERS = {
    "trafilatura": "trafilatura",
    "trafilatura, fast": "trafilatura",
    "trafilatura, metadata": "trafilatura",
    "readability-lxml": "readability",
    "resiliparse": "resiliparse",
}
"""Name to the module that must be there."""
FIELDS = ("title", "author", "date")
ROUNDS = 5
WARM_UP = 1
"""Rounds before those that count: the first fills caches of names and of compiled patterns."""


@attrs.frozen
class Runner:
    """An extractor in its process."""

    name: str
    process: subprocess.Popen[str]

    def ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if what:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def running(
    name: str, python: str, folder: Path, source: str | None, core: int | None
) -> Iterator[Runner]:
    """Start an extractor, and wait until it has read its pages."""
    command = [python, "-m", "benchmarks.peers.extractors", name, str(folder.resolve())]
    process = subprocess.Popen(
        command + ([source] if source else []),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # some warn about every other page
        text=True,
    )
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        runner = Runner(name, process)
        runner.ask("")
        yield runner
    finally:
        process.kill()
        process.communicate()


@attrs.frozen
class Report:
    """What one extractor made of the pages."""

    name: str
    answers: Mapping[str, Answer]
    failures: Mapping[str, str]
    rates: tuple[float, ...]  # pages/s of each round
    overlaps: Mapping[str, Overlap]

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def groups_of(truths: Sequence[Answer]) -> dict[str, list[str]]:
    """Ids by source, by kind of page, and by the halves of hosts: tuned on one, tested on both."""
    groups: dict[str, list[str]] = defaultdict(list)
    for truth in truths:
        source, kind = truth.get("source") or "pages", truth.get("page_type")
        names = {source, f"{source} {kind}" if kind else source, f"{half_of(truth)} hosts", "all"}
        for name in names:
            groups[name].append(truth["id"])
    # A source of one kind needs no second line for it.
    lines: dict[str, list[str]] = {}
    for name in sorted(groups, key=lambda name: (name == "all", name.endswith(" hosts"), name)):
        if groups[name] not in lines.values() or name == "all":
            lines[name] = groups[name]
    return lines


def half_of(truth: Answer) -> str:
    """``even`` or ``odd``: which half of the hosts a page belongs to."""
    host = urlsplit(truth.get("url") or truth["id"]).hostname or truth["id"]
    return ("even", "odd")[zlib.crc32(host.encode()) & 1]


def take_rounds(
    runners: Sequence[Runner], truths: Sequence[Answer], rounds: int
) -> dict[str, Report]:
    """All extractors in turn, round by round, after one that does not count."""
    rates: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for number in range(-min(WARM_UP, rounds - 1), rounds):
        turn = number % len(runners)  # whoever follows a heavy one must not always be the same
        for runner in (*runners[turn:], *runners[:turn]):
            seconds = runner.ask("round")["seconds"]
            if number >= 0:
                rates[runner.name].append(len(truths) / seconds)
    reports = {}
    for runner in runners:
        found = runner.ask("answers")
        answers = found["answers"]
        overlaps = {t["id"]: overlap(t["text"], answers[t["id"]].get("text") or "") for t in truths}
        reports[runner.name] = Report(
            runner.name, answers, found["failures"], tuple(rates[runner.name]), overlaps
        )
    return reports


def field_accuracy(report: Report, truths: Sequence[Answer], field: str) -> tuple[float, int]:
    """The share of pages whose field was found, of those that have it; and how many these are."""
    known = [truth for truth in truths if truth.get(field)]
    right = [is_right(field, t[field], report.answers[t["id"]].get(field)) for t in known]
    return (statistics.fmean(right) if right else 0.0), len(known)


def confidence(report: Report, ids: Sequence[str]) -> float:
    """The rank correlation of ``quality_score`` with the F1 of each page."""
    return rank_correlation(
        [(report.answers[page].get("quality", 0), report.overlaps[page].f1) for page in ids]
    )


def show_text(reports: Mapping[str, Report], groups: Mapping[str, Sequence[str]]) -> None:
    for name, ids in groups.items():
        print(f"\n{name}, {len(ids)} pages")
        print(f"  {'':28} {'F1':>6} {'precision':>10} {'recall':>7} {'exact':>6}")
        for report in reports.values():
            score = text_score([report.overlaps[page] for page in ids])
            print(f"  {report.name:28} {score.f1:6.3f} {score.precision:10.3f} "
                  f"{score.recall:7.3f} {score.exact:6.3f}")  # fmt: skip


def show_fields(reports: Mapping[str, Report], truths: Sequence[Answer]) -> None:
    counts = {field: sum(bool(truth.get(field)) for truth in truths) for field in FIELDS}
    print("\nmetadata " + ", ".join(f"{name} of {count}" for name, count in counts.items()))
    for report in reports.values():
        given = [any(a.get(name) for a in report.answers.values()) for name in FIELDS]
        if any(given):
            shares = (
                f"{field_accuracy(report, truths, name)[0]:6.3f}" if is_given else f"{'-':>6}"
                for name, is_given in zip(FIELDS, given, strict=True)
            )
            print(f"  {report.name:28} " + " ".join(shares))


def show_speed(reports: Mapping[str, Report]) -> None:
    mine = [reports[name] for name in (OURS, OUR_TEXT) if name in reports]
    print(f"\n{'pages/s of one core':30} {'median':>8} {'low - high':>17} {'everything':>11} "
          f"{'text alone':>11}")  # fmt: skip
    for report in reports.values():
        spread = f"{min(report.rates):,.1f} - {max(report.rates):,.1f}"
        ratios = "" if report in mine else "".join(f"{m.rate / report.rate:10.2f}x" for m in mine)
        print(f"  {report.name:28} {report.rate:8,.1f} {spread:>17} {ratios}")


def show_confidence(report: Report, groups: Mapping[str, Sequence[str]]) -> None:
    print("\nquality_score and F1, rank correlation")
    for name, ids in groups.items():
        print(f"  {name:28} {confidence(report, ids):6.3f}  of {len(ids)}")
    pages = sorted(report.overlaps, key=lambda page: report.answers[page].get("quality", 0))
    print("  from the least confident tenth of the pages to the most: score, mean F1")
    for i in range(10):
        tenth = pages[len(pages) * i // 10 : len(pages) * (i + 1) // 10]
        if tenth:
            score = statistics.fmean(report.answers[page].get("quality", 0) for page in tenth)
            f1 = statistics.fmean(report.overlaps[page].f1 for page in tenth)
            print(f"  {score:34.0f} {f1:7.3f}")


def as_json(report: Report, truths: Sequence[Answer]) -> dict[str, Any]:
    pages = {
        truth["id"]: {
            "f1": report.overlaps[truth["id"]].f1,
            "quality": report.answers[truth["id"]].get("quality"),
            **{
                field: is_right(field, truth[field], report.answers[truth["id"]].get(field))
                for field in FIELDS
                if truth.get(field)
            },
        }
        for truth in truths
    }
    return {"rates": report.rates, "failures": dict(report.failures), "pages": pages}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", help="only the pages of one source")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="one round: does it run at all?")
    parser.add_argument("--ours", action="store_true", help="without the peers")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="of the peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    truths = [truth for truth, _ in read_folder(arguments.folder, arguments.source)]
    if not truths:
        sys.exit(f"no pages in {arguments.folder}")
    interpreters = {OURS: sys.executable, OUR_TEXT: sys.executable}
    missing = {}
    if not arguments.ours:
        python = install(arguments.environment)
        for name, module in PEERS.items():
            reason = importing(python, (module,))
            if reason is None:
                interpreters[name] = python
            else:
                missing[name] = reason
    cores = sorted(os.sched_getaffinity(0))
    core = cores[0] if len(cores) > 1 else None
    if core is not None:
        os.sched_setaffinity(0, {cores[-1]})
    print(f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} before the start")
    with ExitStack() as stack:
        runners = [
            stack.enter_context(running(name, python, arguments.folder, arguments.source, core))
            for name, python in interpreters.items()
        ]
        reports = take_rounds(runners, truths, 1 if arguments.quick else arguments.rounds)
    groups = groups_of(truths)
    show_text(reports, groups)
    show_fields(reports, truths)
    show_speed(reports)
    show_confidence(reports[OURS], groups)
    for report in reports.values():
        for page, failure in report.failures.items():
            print(f"raised: {report.name}: {page}: {failure}")
    for name, reason in missing.items():
        print(f"missing: {name}: {reason}")
    if arguments.json:
        found = {name: as_json(report, truths) for name, report in reports.items()}
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
