"""The models' process: where something crashes it, it is started again, and the file that did it is told from the others."""

import multiprocessing
import os
import shutil
import signal
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.commands.predict import predict
from trainer.run import Run

SPACE = Path(__file__).parents[2] / "space"
# A model that loads at once; a file of the name deadly... ends its process, and so does a file `fatal` its start.
PREDICTOR = """
import os
from pathlib import Path
from types import SimpleNamespace
from answer import Answer
LOADED = {}

class Predictor:
    labels = ["Normal", "Tuberculosis"]
    def __init__(self, source):
        if Path(source.model, "fatal").exists():
            os.kill(os.getpid(), 9)
        LOADED[source.task] = self
    def warm(self):
        pass
    def __call__(self, source, name, film):
        if "deadly" in name:
            os.kill(os.getpid(), 9)
        return Answer({"file": name, "size": len(Path(source).read_bytes())})
"""


@pytest.fixture
def worker(monkeypatch):
    """space/worker.py, imported by its bare name as the Space does."""
    monkeypatch.syspath_prepend(str(SPACE))
    import worker

    return worker


@pytest.fixture
def served(worker, monkeypatch, tmp_path):
    """The model of PREDICTOR in a process of its own. The package `spaces` is there, and no ZeroGPU."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "spaces.py").write_text("")
    (package / "predictor.py").write_text(PREDICTOR)
    (package / "torch.py").write_text("get_num_threads = lambda: 2\nset_num_threads = print\n")
    monkeypatch.syspath_prepend(str(package))
    models = worker.Models([worker.ModelSource("tb", str(tmp_path))])
    ((one,), failed) = models.load()
    assert failed == {}
    yield one
    models.close()
    assert not multiprocessing.active_children()


def the_process() -> int:
    """The number of the models' process, when there is one."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if children := multiprocessing.active_children():
            return children[0].pid
        time.sleep(0.05)
    pytest.fail("the models' process was not started again")


def nothing_is_started() -> None:
    """Nobody asks: the process that has just ended is gone soon, and no other takes its place."""
    end = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    assert not multiprocessing.active_children()


def in_flight(pool: ThreadPoolExecutor, served, files) -> tuple[int, list[Future]]:
    """Ask about files, in this order, while the process stands still: none can be answered before all were asked."""
    process = the_process()
    os.kill(process, signal.SIGSTOP)
    os.waitid(os.P_PID, process, os.WSTOPPED)
    asked = []
    for file in files:
        asked.append(pool.submit(lambda file=file: served(str(file)).prediction))
        time.sleep(0.1)
    return process, asked


def test_what_loads_answers_as_the_command_line_does_and_what_does_not_says_why(
    worker, run, film, monkeypatch, tmp_path
):
    monkeypatch.delitem(sys.modules, "predictor", raising=False)
    broken = tmp_path / "broken"
    shutil.copytree(run, broken, ignore=shutil.ignore_patterns("checkpoints"))
    weights = {**load_file(broken / "model.safetensors"), "classifier.bias": torch.tensor([float("nan")])}
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    folders = {"tb": run, "covid": tmp_path / "nothing", "three-class": broken}
    sources = [worker.ModelSource(task, str(folder)) for task, folder in folders.items()]
    labels, failed = worker.load_predictors(sources)
    assert labels == {"tb": ["Normal", "Tuberculosis"]}
    assert list(failed) == ["covid", "three-class"]
    assert "not finite: classifier.bias" in failed["three-class"]
    from predictor import LOADED

    (home,) = predict(Run(run), [str(film)])
    answer = LOADED["tb"](str(film), film.name, film=True)
    assert answer.prediction["scores"] == pytest.approx(home["scores"], abs=1e-4)
    assert answer.film.shape == (answer.size[1], answer.size[0])
    assert LOADED["tb"](b"not a film", "x.png").prediction["file"] == "x.png"


def test_a_file_that_ends_the_process_is_told_and_all_others_are_answered(served, film, tmp_path):
    """Those that were asked at the same time, before and after it, and one that comes while the process starts again."""
    files = [tmp_path / name for name in ("one.png", "deadly.png", "two.png", "three.png", "late.png")]
    for file in files:
        shutil.copyfile(film, file)
    with ThreadPoolExecutor(len(files)) as pool:
        process, asked = in_flight(pool, served, files[:4])
        os.kill(process, signal.SIGCONT)
        while the_process() == process:
            time.sleep(0.05)
        late = pool.submit(lambda: served(str(files[4])).prediction)
        one, deadly, *others = [answer.result(120) for answer in (*asked, late)]
    assert deadly == {"file": "deadly.png", "error": deadly["error"]}
    assert "stopped while it worked on this file and no other" in deadly["error"]
    for file, answer in zip((files[0], *files[2:]), (one, *others), strict=True):
        assert answer == {"file": file.name, "size": file.stat().st_size}


def test_where_the_models_do_not_load_again_all_are_told_and_a_later_request_tries_anew(served, film, tmp_path):
    (tmp_path / "fatal").touch()
    with ThreadPoolExecutor() as pool:
        process, asked = in_flight(pool, served, [film, film])
        os.kill(process, signal.SIGKILL)
        for one in asked:
            assert one.result(120) == {
                "file": film.name,
                "error": "the models cannot be loaded at the moment; try it again later",
            }
    nothing_is_started()
    (tmp_path / "fatal").unlink()
    assert "size" in served(str(film)).prediction
    process = the_process()
    os.kill(process, signal.SIGKILL)  # while nobody asks
    nothing_is_started()
    assert "size" in served(str(film)).prediction


def test_a_start_without_models_is_told(worker, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "torch.py").write_text("import os; os.kill(os.getpid(), 9)")
    models = worker.Models([])
    with pytest.raises(worker.ModelError, match="the process that loads the models ended"):
        models.load()
    models.close()


@pytest.mark.parametrize(("libc", "accepted", "asked"), [("glibc", 1, 3), ("glibc", 0, 3), ("", 1, 0)])
def test_freed_memory_is_kept_up_to_half_a_gigabyte_where_glibc_takes_it(
    libc, accepted, asked, worker, monkeypatch, capsys
):
    calls = []
    allocator = SimpleNamespace(mallopt=lambda *words: calls.append(words) or accepted)
    monkeypatch.setattr(worker.platform, "libc_ver", lambda: (libc, ""))
    monkeypatch.setattr(worker.ctypes, "CDLL", lambda name: allocator)
    worker._keep_memory()
    assert len(calls) == asked
    assert all(limit <= 2**29 for _, limit in calls)
    assert ("refuses the memory thresholds" in capsys.readouterr().err) == (accepted == 0)
