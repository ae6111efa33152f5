"""A Hub of one's own, and the command line in a process with a cold cache that is pointed at it."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.hub.forks import SECONDS, LoadedPython
from tests.hub.server import TOKEN, Hub, Line, start


@pytest.fixture(scope="session")
def line(tmp_path_factory) -> Iterator[Line]:
    """The line to the session's Hub."""
    hub, server = start(tmp_path_factory.mktemp("hub"))
    yield Line(hub)
    server.should_exit = True


@pytest.fixture
def hub(line, tmp_path) -> Hub:
    """A Hub that holds nothing yet."""
    line.mend()
    line.hub.forget(tmp_path / "hub")
    return line.hub


@pytest.fixture(scope="session")
def loaded_python(line, tmp_path_factory) -> Iterator[LoadedPython]:
    python = LoadedPython(tmp_path_factory.mktemp("python") / "process", line.hub.endpoint)
    yield python
    python.close()


@pytest.fixture
def cxr(hub, loaded_python, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`cxr` with these words, or python with them; `home`: whose cache; `token`: whether one is set."""

    def process(
        *words: object, token: bool = True, home: str = "home", python: bool = False, offline: bool = False
    ) -> subprocess.CompletedProcess[str]:
        texts = [*([] if python else ["-m", "trainer"]), *map(str, words)]
        secret = TOKEN if token else ""
        if not offline:
            return loaded_python.run(texts, tmp_path / home, tmp_path, secret)
        environment = {**loaded_python.environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / home)}
        return subprocess.run(
            [sys.executable, *texts],
            **{"capture_output": True, "text": True, "timeout": SECONDS, "check": False},
            **{"env": environment, "cwd": tmp_path},
        )

    return process
