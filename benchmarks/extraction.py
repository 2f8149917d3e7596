"""Quality and speed of extraction: ours beside other extractors, same pages, same run.

``python -m benchmarks.extraction FOLDER [--source sh] [--rounds 5] [--quick] [--json FILE]``

``FOLDER`` holds pages (``<id>.html`` or ``<id>.html.gz``) and, beside each, ``<id>.json`` with what
is true of it: ``url``, ``text``, and ``title``, ``author``, ``date``, ``source``, ``page_type``
where they are known. Every extractor runs in a process of its own, all on one core, in turns of
a few pages each; pages/s are of CPU time, medians of the rounds with their spread. We take part
twice: with everything (text, Markdown, links, images, metadata) and with the text alone.
``quality_score`` is compared with the real F1 of each page: the rank correlation is Spearman's.

As one comparison of several (``python -m benchmarks extraction``) the pages are those of
``extraction/dev`` in the folder that ``EVENTMESH_SHARED`` names, or ``../shared``.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks.accuracy import is_right, overlap, text_score
from benchmarks.environment import ENVIRONMENT, ROOT, importing, install
from benchmarks.outcome import Case, Demand, Figure, Options, Outcome
from benchmarks.peers.extractors import Answer, read_folder
from benchmarks.quality import FIELDS, Report, confidence, field_accuracy, groups_of
from benchmarks.ratios import ratio

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
TITLE = "Extraction: pages a second, and how well they are read"
ABOUT = """\
Pages of known content, read by every extractor in a process of its own, all on one core and in
turns of 20 pages. Pages a second are of processor time. We take part twice: with everything (text,
Markdown, links, images, metadata) and with the text alone. F1 is of runs of four words, the means
of precision and of recall over the pages of a source. A title, an author or a date is right if it
says the same as what the page's truth says; the shares are of the pages whose truth has one.
"""
ROUNDS = 5
QUICK_EVERY = 8
"""With ``--quick``, one page in so many."""
TEXT_DEMANDS = {
    "sh": (0.970, 0.42),
    "wcxb article": (0.960, None),
    "wcxb forum": (0.80, None),
    "all": (0.865, None),
}
"""What is asked of the F1 of a group of pages, and of the share that is read exactly."""
TIMES_AS_FAST = 10.0
TURN_PAGES = 20
"""That one extractor reads before it is the next one's turn: seconds, for all of them. A virtual
machine is half as fast in one minute as in the next, and the ratios would be of minutes."""
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
    name: str, python: str, folder: Path, source: str | None, core: int | None, every: int = 1
) -> Iterator[Runner]:
    """Start an extractor, and wait until it has read its pages."""
    command = [python, "-m", "benchmarks.peers.extractors", name, str(folder.resolve())]
    process = subprocess.Popen(
        [*command, str(every), *([source] if source else [])],
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


def take_rounds(
    runners: Sequence[Runner], truths: Sequence[Answer], rounds: int, warm_up: int = WARM_UP
) -> dict[str, Report]:
    """All extractors in turn, round by round, after some that do not count."""
    rates: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for number in range(-warm_up, rounds):
        seconds = dict.fromkeys(rates, 0.0)
        for turn, start in enumerate(range(0, len(truths), TURN_PAGES), number):
            # Whoever follows a heavy one must not always be the same.
            first = turn % len(runners)
            for runner in (*runners[first:], *runners[:first]):
                taken = runner.ask(f"{start} {start + TURN_PAGES}")["seconds"]
                seconds[runner.name] += taken
        if number >= 0:
            for name, whole in seconds.items():
                rates[name].append(len(truths) / whole)
    reports = {}
    for runner in runners:
        found = runner.ask("answers")
        answers = found["answers"]
        overlaps = {t["id"]: overlap(t["text"], answers[t["id"]].get("text") or "") for t in truths}
        reports[runner.name] = Report(
            runner.name, answers, found["failures"], tuple(rates[runner.name]), overlaps
        )
    return reports


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


def measure(
    folder: Path,
    rounds: int,
    *,
    source: str | None = None,
    every: int = 1,
    environment: Path | None = ENVIRONMENT,
) -> tuple[list[Answer], dict[str, Report], dict[str, str]]:
    """The truths of the pages, what each extractor made of them, and why some did not take part.

    Args:
      source: only the pages of that one.
      every: one page in so many.
      environment: that of the peers; None: without them.
    """
    truths = [truth for truth, _ in read_folder(folder, source, every)]
    if not truths:
        raise FileNotFoundError(f"no pages in {folder}")
    interpreters = {OURS: sys.executable, OUR_TEXT: sys.executable}
    missing = {}
    if environment is not None:
        python = install(environment)
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
    with ExitStack() as stack:
        runners = [
            stack.enter_context(running(name, python, folder, source, core, every))
            for name, python in interpreters.items()
        ]
        return truths, take_rounds(runners, truths, rounds), missing


def compare(options: Options) -> Outcome:
    """All extractors over the shared pages. Raises FileNotFoundError where these are not here."""
    shared = Path(os.environ.get("EVENTMESH_SHARED") or ROOT.parent / "shared")
    truths, reports, missing = measure(
        shared / "extraction" / "dev",
        options.rounds or (1 if options.quick else ROUNDS),
        every=QUICK_EVERY if options.quick else 1,
    )
    cases = cases_of(reports, truths)
    return Outcome("extraction", tuple(cases), tuple(demands(reports, truths, cases[0])), missing)


def cases_of(reports: Mapping[str, Report], truths: Sequence[Answer]) -> list[Case]:
    """Speed first, then F1 by group, then the fields of the metadata."""
    cases = [
        Case(
            "speed, one core",
            "pages/s",
            tuple(Figure(report.name, report.rates) for report in reports.values()),
        )
    ]
    for group, ids in groups_of(truths).items():
        figures = []
        for report in reports.values():
            score = text_score([report.overlaps[page] for page in ids])
            details = {"precision": score.precision, "recall": score.recall, "exact": score.exact}
            figures.append(Figure(report.name, (score.f1,), details))
        cases.append(Case(f"text, {group}, {len(ids)} pages", "F1", tuple(figures)))
    for field in FIELDS:
        count = sum(bool(truth.get(field)) for truth in truths)
        figures = [
            Figure(report.name, (field_accuracy(report, truths, field)[0],))
            for report in reports.values()
            if any(answer.get(field) for answer in report.answers.values())
        ]
        cases.append(Case(f"metadata, {field} of {count} pages", "share right", tuple(figures)))
    return cases


def demands(
    reports: Mapping[str, Report], truths: Sequence[Answer], speed: Case
) -> Iterator[Demand]:
    """What is asked of speed, of F1, and of the metadata."""
    for mine, theirs in ((OURS, "trafilatura, metadata"), (OUR_TEXT, "trafilatura")):
        ours, rival = speed.figure(mine), speed.figure(theirs)
        if ours is not None and rival is not None:
            found = ratio(ours, rival)
            text = f"pages/s, {'everything' if mine == OURS else 'text alone'}: ours to {theirs}"
            yield Demand(text, TIMES_AS_FAST, found.of_medians, found.low, found.high)
    groups = groups_of(truths)
    for group, (least, exact) in TEXT_DEMANDS.items():
        if group in groups:
            score = text_score([reports[OURS].overlaps[page] for page in groups[group]])
            yield Demand(f"F1, {group}", least, score.f1)
            if exact is not None:
                yield Demand(f"read exactly, {group}", exact, score.exact)
    best = reports.get("trafilatura, metadata")
    if best is not None:
        for field in FIELDS:
            asked, right = (field_accuracy(r, truths, field)[0] for r in (best, reports[OURS]))
            yield Demand(f"the share of {field}s that trafilatura has right", asked, right)


def main() -> None:
    arguments = parse_arguments()
    print(f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} before the start")
    truths, reports, missing = measure(
        arguments.folder,
        1 if arguments.quick else arguments.rounds,
        source=arguments.source,
        environment=None if arguments.ours else arguments.environment,
    )
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
