"""One extraction process: jobs in on stdin, answers out on stdout, words for people on stderr.

Started as ``python -m eventmesh_trio.pipeline.workers.worker`` by
`eventmesh_trio.pipeline.workers.process`; what goes to and fro is that of
`eventmesh_trio.pipeline.workers.messages`.

A worker outlives nothing: it ends at end of file on stdin, at once when its parent is gone even in
the middle of a job, and when a job takes longer than it may. (``PR_SET_PDEATHSIG`` would not do:
the kernel sends it when the *thread* that forked ends, and that is a short-lived one of trio's.)
"""

import contextlib
import gc
import logging
import os
import resource
import select
import signal
import sys
import threading
from typing import BinaryIO, Final

import msgspec

from eventmesh_trio.errors import UnsupportedContent
from eventmesh_trio.pipeline.extract import extract_page
from eventmesh_trio.pipeline.workers.messages import HEADER, Answer, ExtractJob

__all__ = ["main", "serve"]

ALARM_GRACE_SECONDS: Final = 1.0
"""How long after the parent would have killed it a worker ends by itself."""

logger = logging.getLogger("eventmesh_trio.pipeline.workers.worker")


def serve(jobs: BinaryIO, answers: BinaryIO, job_seconds: float) -> None:
    """Answer jobs until end of file. Returns early after running out of memory."""
    decoder = msgspec.msgpack.Decoder(list[ExtractJob])
    encoder = msgspec.msgpack.Encoder()
    while header := jobs.read(HEADER.size):
        if len(header) < HEADER.size:
            return
        (length,) = HEADER.unpack(header)
        frame = jobs.read(length)
        if len(frame) < length:
            return
        for job in decoder.decode(frame):
            signal.setitimer(signal.ITIMER_REAL, job_seconds + ALARM_GRACE_SECONDS)
            answer = _answer(job)
            payload = encoder.encode([answer])
            answers.write(HEADER.pack(len(payload)) + payload)
            answers.flush()
            signal.setitimer(signal.ITIMER_REAL, 0)
            if answer.failure == "memory":
                return  # what is left of the heap is not to be trusted


def _answer(job: ExtractJob) -> Answer:
    try:
        extraction = extract_page(
            job.body,
            job.url,
            charset=job.charset,
            content_type=job.content_type,
            mode=job.mode,
            max_text_chars=job.max_text_chars,
        )
    except UnsupportedContent as error:
        return Answer(job.job_id, None, "unsupported", error.message)
    except MemoryError:
        return Answer(
            job.job_id, None, "memory", "the page needs more memory than a worker may use"
        )
    except Exception:
        # This process is the boundary: a page that finds a bug of ours must not take the worker.
        logger.exception("extraction failed for %s", job.url)
        return Answer(job.job_id, None, "error", "the page could not be read")
    return Answer(job.job_id, extraction)


def _die_with_parent() -> None:
    """End the process when the other end of stdin is closed, whatever the main thread does."""
    poll = select.poll()
    poll.register(0, 0)  # no events asked for: only a hang-up or an error wakes it
    poll.poll()
    if sys.platform == "linux":
        os._exit(0)
    # Elsewhere a hang-up may be told before what was written has been read: let the reader finish.


def main() -> None:
    """The process's entry: ``MEMORY_BYTES JOB_SECONDS`` as arguments."""
    # Ctrl-C goes to the whole foreground group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    memory_bytes, job_seconds = int(sys.argv[1]), float(sys.argv[2])
    # Frames get a descriptor of their own: a stray print must not end up between them.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s"
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What is alive now stays alive: to look through it again and again took 3 % of a page's time.
    gc.collect()
    gc.freeze()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with contextlib.suppress(BrokenPipeError):  # the parent has given this worker up
        serve(sys.stdin.buffer, answers, job_seconds)
    sys.stdout.flush()
    os._exit(0)  # the buffered writer may still hold bytes for a reader that is gone


if __name__ == "__main__":
    main()
