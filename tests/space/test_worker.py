"""The models' process: where something crashes it, it is started again, and the file that did it is told from the others."""

import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.commands.predict import predict
from trainer.run import Run

# The reader that travels with the model, made to end its process on some files.
DEADLY = """
import os

def read_radiograph(source, _read=read_radiograph):
    if "deadly" in str(source):
        os.kill(os.getpid(), 9)
    return _read(source)
"""


@pytest.fixture(scope="module")
def deadly_run(run, tmp_path_factory) -> Path:
    """A model whose process a file of the name deadly… ends."""
    folder = tmp_path_factory.mktemp("deadly") / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    with (folder / "image_processing_cxr.py").open("a") as code:
        code.write(DEADLY)
    return folder


@pytest.fixture(scope="module")
def broken_run(deadly_run, tmp_path_factory) -> Path:
    """A model with a weight that is not a number."""
    folder = tmp_path_factory.mktemp("broken") / "run"
    shutil.copytree(deadly_run, folder)
    weights = {**load_file(folder / "model.safetensors"), "classifier.bias": torch.tensor([float("nan")])}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def models(deadly_run, broken_run, tmp_path_factory):
    """space/worker.py with one model that loads, and two that do not. The package `spaces` is there, and no ZeroGPU."""
    package = tmp_path_factory.mktemp("package")
    (package / "spaces.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package))
        patch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
        from config import ModelSource
        from worker import Models

        places = {"tb": deadly_run, "covid": tmp_path_factory.mktemp("nothing"), "three-class": broken_run}
        started = Models([ModelSource(task, str(place)) for task, place in places.items()])
        yield started
        started.close()
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
    asked = []
    for file in files:
        asked.append(pool.submit(lambda file=file: served(str(file)).prediction))
        time.sleep(0.1)
    return process, asked


def test_what_loads_answers_as_the_command_line_does_and_what_does_not_says_why(models, run, film):
    (served,), failed = models.load()
    assert list(failed) == ["covid", "three-class"]
    assert "not finite: classifier.bias" in failed["three-class"]
    (home,) = predict(Run(run), [str(film)])
    answer = served(str(film), film=True)
    assert answer.prediction["scores"] == pytest.approx(home["scores"], abs=1e-4)
    assert answer.film.shape == (answer.size[1], answer.size[0])
    assert served(b"not a film", "x.png").prediction["file"] == "x.png"


def test_a_file_that_ends_the_process_is_told_and_all_others_are_answered(models, film, tmp_path):
    """Those that were asked at the same time, before and after it, and one that comes while the process starts again."""
    files = [tmp_path / name for name in ("one.png", "deadly.png", "two.png", "three.png", "late.png")]
    for file in files:
        shutil.copyfile(film, file)
    (served,), _ = models.load()
    before = served(str(film)).prediction
    with ThreadPoolExecutor(len(files)) as pool:
        process, asked = in_flight(pool, served, files[:4])
        os.kill(process, signal.SIGCONT)
        while the_process() == process:
            time.sleep(0.05)
        late = pool.submit(lambda: served(str(files[4])).prediction)
        one, deadly, *others = [answer.result(120) for answer in (*asked, late)]
    assert deadly == {"file": "deadly.png", "error": deadly["error"]}
    for file, answer in zip((files[0], *files[2:]), (one, *others), strict=True):
        assert answer["file"] == file.name
        assert answer["scores"] == pytest.approx(before["scores"], abs=1e-5)
    assert "stopped twice" in deadly["error"]


def test_where_the_models_do_not_load_again_all_are_told_and_a_later_request_tries_anew(models, deadly_run, film):
    (served,), _ = models.load()
    code = (deadly_run / "modeling_cxr.py").read_text()
    (deadly_run / "modeling_cxr.py").write_text(f"{code}\n\nimport os\n\nos.kill(os.getpid(), 9)\n")
    with ThreadPoolExecutor() as pool:
        process, asked = in_flight(pool, served, [film, film])
        os.kill(process, signal.SIGKILL)
        for one in asked:
            assert one.result(120) == {
                "file": film.name,
                "error": "the models cannot be loaded at the moment; try it again later",
            }
    nothing_is_started()
    (deadly_run / "modeling_cxr.py").write_text(code)
    assert "scores" in served(str(film)).prediction
    process = the_process()
    os.kill(process, signal.SIGKILL)  # while nobody asks
    nothing_is_started()
