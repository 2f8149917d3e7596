"""``eventmesh crawl`` from within: what signals do while a server does not answer."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventmesh_trio.app import crawling
from eventmesh_trio.app.config import Config
from eventmesh_trio.errors import ConnectionBroken


class _Deaf:
    """A crawl whose server takes requests to cancel it, and says nothing any more."""

    def __init__(self, answer_seconds: float) -> None:
        self.answer_seconds = answer_seconds
        self.asked = 0

    def __aiter__(self) -> "_Deaf":
        return self

    async def __anext__(self) -> Any:
        await trio.sleep_forever()

    async def cancel(self) -> None:
        self.asked += 1
        await trio.sleep(self.answer_seconds)
        raise ConnectionBroken("no answer")


@pytest.mark.parametrize("answer_seconds", [30.0, 0.0])
async def test_a_second_ctrl_c_ends_a_crawl_that_its_server_does_not_cancel(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    autojump_clock: MockClock,
    capsys: pytest.CaptureFixture[str],
    answer_seconds: float,
) -> None:
    deaf = _Deaf(answer_seconds)

    @asynccontextmanager
    async def opening(*_: object) -> AsyncIterator[_Deaf]:
        yield deaf

    monkeypatch.setattr(crawling, "_crawl_there", opening)
    running = partial(
        crawling.run_crawl,
        Config(),
        ["http://e.org/"],
        server="http://h.test",
        output=tmp_path / "out",
        style="ndjson",
        concurrency=None,
    )
    codes: list[int] = []

    async def crawl() -> None:
        codes.append(await running())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crawl)
            await wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGINT)
            await wait_all_tasks_blocked(0.01)
            assert (deaf.asked, codes) == (1, [])
            signal.raise_signal(signal.SIGINT)
    assert codes == [130]
    assert ("not cancelled yet: no answer" in capsys.readouterr().err) is (answer_seconds == 0)
