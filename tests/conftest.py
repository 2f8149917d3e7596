"""What holds for all tests: properties that come again, and nothing that is left behind."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.helpers.leftovers import Leftovers, Suite

# A busy machine must not fail a property; and a failure must come again at the next run.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

_SUITE = pytest.StashKey[Suite]()
_LEFT = pytest.StashKey[Leftovers]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell gives its background jobs an ignored SIGINT, and programs that tests start inherit
    # that; one that is handled is not inherited.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Where that is set, each of the hundreds of servers and commands that tests start compiles all
    # of ours anew, which is 40 % of what it does until it is ready.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    config.stash[_SUITE] = Suite.begin()


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up before all other fixtures of a module, and so torn down after them."""
    suite = request.config.stash[_SUITE]
    before = suite.leftovers()
    yield
    if left := suite.left_since(before):
        pytest.fail(f"{request.node.nodeid} left behind {left}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _own_data_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test keeps documents where the user of this machine keeps his."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After every fixture, those of the whole session too: now nothing at all may be there."""
    suite = session.config.stash[_SUITE]
    left = session.config.stash[_LEFT] = suite.left_since(Leftovers())
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if left := config.stash.get(_LEFT, None):
        terminalreporter.section("left behind by the suite")
        terminalreporter.line(f"{left}", red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _SUITE in config.stash:
        config.stash[_SUITE].end()
