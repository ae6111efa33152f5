"""A Hub of one's own, and the command line in a process with a cold cache that is pointed at it."""

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.hub.server import TOKEN, Hub, Line, start


@pytest.fixture(scope="session")
def line(loaded_python, tmp_path_factory) -> Iterator[Line]:
    """The line to the session's Hub."""
    hub, server = start(tmp_path_factory.mktemp("hub"))
    yield Line(hub, loaded_python.port)
    server.should_exit = True


@pytest.fixture
def hub(line, tmp_path) -> Hub:
    """A Hub that holds nothing yet."""
    line.mend()
    line.hub.forget(tmp_path / "hub")
    return line.hub


@pytest.fixture
def cxr(hub, loaded_python, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`cxr` with these words, or python with them; `home`: whose cache; `token`: whether one is set."""

    def process(
        *words: object, token: bool = True, home: str = "home", python: bool = False, offline: bool = False
    ) -> subprocess.CompletedProcess[str]:
        words = words if python else ("-m", "trainer", *words)
        return loaded_python.run(words, tmp_path, tmp_path / home, token=TOKEN if token else "", offline=offline)

    return process
