"""Stopped half-way, gone on: nothing is lost and nothing differs."""

import os
import re
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from tests.forks import Forked
from trainer.cli import main
from trainer.training.checkpoint import Checkpoints
from trainer.training.feed import PixelFeed

WORDS = (
    "--no-pretrained",
    "--backbone",
    str(TINY),
    "--set",
    "image_size=48",
    "--set",
    "epochs=5",
    "--set",
    "patience=0",
    "--set",
    "batch_size=4",
    "--set",
    "mixed_precision=no",
)


def command(data: Path, output: Path, *more: str) -> list[str]:
    return ["train", "tb-finetuned", "--data", str(data), "--output", str(output), *WORDS, *more]


@pytest.fixture(scope="module")
def whole(phantoms, loaded_python, tmp_path_factory) -> Path:
    """A training that nobody disturbed. Augmentation and dropout are on."""
    output = tmp_path_factory.mktemp("whole") / "run"
    loaded_python.run(["-m", "trainer", *command(phantoms, output)], output.parent).check_returncode()
    return output


def until(process: Forked, file: Path, pattern: str) -> None:
    """Wait until what a training says shows it."""
    end = time.monotonic() + 120
    while not re.search(pattern, file.read_text()):
        assert time.monotonic() < end, file.read_text()[-500:]
        assert Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z", file.read_text()
        time.sleep(0.005)


def test_kill_9_in_the_middle_of_epoch_3_then_resume_gives_the_same_weights(whole, phantoms, loaded_python, tmp_path):
    output = tmp_path / "run"
    process = loaded_python.start(["-m", "trainer", *command(phantoms, output)], tmp_path)
    until(process, process.said[1], r"training: +(4[4-9]|5[0-6])%")  # the bar of all epochs, in the middle of this one
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    assert (output / "checkpoints" / "epoch-0002").is_dir()
    assert not (output / "metrics.json").exists()
    assert main(command(phantoms, output)) == 2  # not without --resume
    loaded_python.run(["-m", "trainer", *command(phantoms, output, "--resume")], tmp_path).check_returncode()
    first, second = load_file(whole / "model.safetensors"), load_file(output / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    drop_seconds = lambda text: [line.rsplit(",", 1)[0] for line in text.splitlines()]  # noqa: E731
    assert drop_seconds((whole / "history.csv").read_text()) == drop_seconds((output / "history.csv").read_text())
    assert (whole / "predictions.csv").read_text() == (output / "predictions.csv").read_text()


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / "epoch-0002").mkdir(parents=True)
    (folder / "writing").mkdir()
    (folder / "writing" / "optimizer.bin").write_bytes(b"half")
    (folder / "weights-0003.safetensors").write_bytes(b"half")
    assert Checkpoints(folder).newest() == folder / "epoch-0002"


@contextmanager
def stopping_after_one_epoch():
    """Within it a training is stopped, as by the user, when its first checkpoint is written."""
    save = Checkpoints.save

    def save_and_stop(self, *state):
        save(self, *state)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        yield


def test_a_reordered_csv_changes_nothing_and_what_was_stored_is_used(phantoms, tmp_path, monkeypatch):
    files = sorted(phantoms.rglob("*.png"))
    listed = pd.DataFrame({"file": map(str, files), "label": [file.parent.name for file in files]})
    data = tmp_path / "data.csv"
    listed.to_csv(data, index=False)
    words = ["--set", "unfreeze=none", "--set", "epochs=2", "--set", "augment=none"]
    assert main(command(data, tmp_path / "whole", *words)) == 0
    with stopping_after_one_epoch():
        assert main(command(data, tmp_path / "run", *words)) == 130
    listed.sample(frac=1, random_state=3).to_csv(data, index=False)
    shown = []
    for name in ("eval_batch", "augmented"):
        given = getattr(PixelFeed, name)
        monkeypatch.setattr(
            PixelFeed,
            name,
            lambda self, samples, *parameters, given=given: shown.extend(samples) or given(self, samples, *parameters),
        )
    assert main(command(data, tmp_path / "run", *words, "--resume")) == 0
    assert len(shown) == 2  # to find where to cut
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "whole" / "predictions.csv").read_text() == (tmp_path / "run" / "predictions.csv").read_text()


@pytest.fixture(scope="module")
def stopped(phantoms, tmp_path_factory) -> Path:
    """A run that was stopped after its first epoch."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with stopping_after_one_epoch():
        assert main(command(phantoms, run)) == 130
    return run


@pytest.mark.parametrize("damage", ["weights-0001.safetensors", "epoch-0001/optimizer.bin", "epoch-0001/progress.json"])
def test_a_checkpoint_that_cannot_be_read_is_named(damage, phantoms, stopped, tmp_path, capsys):
    """As of an earlier version, which kept no weights-EPOCH.safetensors, or of a copy that broke off."""
    shutil.copytree(stopped, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / damage
    content = file.read_bytes()
    file.unlink()
    for half in (None, b"", content[: len(content) // 2]):
        if half is not None:
            file.write_bytes(half)
        capsys.readouterr()
        assert main(command(phantoms, tmp_path / "run", "--resume")) == 1
        said = capsys.readouterr().err
        assert "epoch-0001 cannot be read" in said
        assert "give a new --output" in said


def test_ctrl_c_says_how_to_go_on(phantoms, loaded_python, tmp_path):
    words = command(phantoms, tmp_path / "run", "--set", "epochs=200")
    process = loaded_python.start(["-m", "trainer", *words], tmp_path)
    until(process, process.said[0], "(?m)^epoch")
    os.kill(process.pid, signal.SIGINT)
    done = process.wait()
    assert done.returncode == 130
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_stops_with_the_cure(phantoms, loaded_python, tmp_path):
    """A file size limit stops the checkpoint as a full disk would."""
    done = loaded_python.run(["-m", "trainer", *command(phantoms, tmp_path / "run")], tmp_path, file_size=400_000)
    assert done.returncode == 1, done.stderr[-800:]
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
