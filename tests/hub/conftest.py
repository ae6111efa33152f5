"""A Hub of one's own, and the command line in a process with a cold cache that is pointed at it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub.server import TOKEN, Hub, start


@pytest.fixture
def hub(tmp_path) -> Iterator[Hub]:
    served, server = start(tmp_path / "hub")
    yield served
    server.should_exit = True


@pytest.fixture
def cxr(hub, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def process(
        *words: object, token: bool = True, home: str = "home", python: bool = False, offline: bool = False
    ) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment = {**kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / home), "HF_HUB_DISABLE_XET": "1"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        if offline:
            environment["HF_HUB_OFFLINE"] = "1"
        if token:
            environment["HF_TOKEN"] = TOKEN
        command = [sys.executable, *map(str, words)] if python else [sys.executable, "-m", "trainer", *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, env=environment, cwd=tmp_path
        )

    return process
