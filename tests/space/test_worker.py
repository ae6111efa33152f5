"""The models' process: what crashes in it is told, and it is started again."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from trainer import workflow
from trainer.run import Run


@pytest.fixture
def models(monkeypatch, run, tmp_path):
    """space/worker.py with one model that loads and one that does not."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
    from models import ModelSource
    from worker import Models

    started = Models([ModelSource("tb", str(run)), ModelSource("covid", str(tmp_path))])
    yield started
    started.close()
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_is_replaced_and_those_that_wait_are_told(models, run, film):
    (served,), failed = models.load()
    assert list(failed) == ["covid"]
    (home,) = workflow.predict(Run(run), [str(film)])
    answer = served(str(film), film=True)
    assert answer.prediction["scores"] == pytest.approx(home["scores"], abs=1e-4)
    assert answer.film.shape == (answer.size[1], answer.size[0])
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGSTOP)  # so that the question is certain to wait
    told = []
    waiting = threading.Thread(target=lambda: told.append(served(str(film)).prediction))
    waiting.start()
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    waiting.join(60)
    assert told == [{"file": film.name, "error": told[0]["error"]}]
    assert "stopped" in told[0]["error"]
    end = time.monotonic() + 60
    while "error" in (after := served(str(film)).prediction) and time.monotonic() < end:
        time.sleep(0.2)
    assert after["scores"] == pytest.approx(home["scores"], abs=1e-4)
    assert served(b"not a film", "x.png").prediction["file"] == "x.png"
