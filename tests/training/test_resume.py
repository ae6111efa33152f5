"""Stopped half-way, gone on: nothing is lost and nothing differs."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
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
    return ["train", "tb", "--data", str(data), "--output", str(output), *WORDS, *more]


@pytest.fixture(scope="module")
def whole(phantoms, tmp_path_factory) -> Path:
    """A training that nobody disturbed. Augmentation and dropout are on."""
    output = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run([sys.executable, "-m", "trainer", *command(phantoms, output)], check=True, capture_output=True)
    return output


def test_kill_9_in_the_middle_of_epoch_3_then_resume_gives_the_same_weights(whole, phantoms, tmp_path):
    output = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *command(phantoms, output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "TQDM_MININTERVAL": "0"},  # the progress bar shows every step
    )
    shown = b""
    while not re.search(rb"epoch 3/5: +[2-6]\d%", shown):  # the progress bar says so in the middle of the epoch
        piece = os.read(process.stderr.fileno(), 4096)
        assert piece, f"the training ended before it could be killed: {shown[-500:]!r}"
        shown += piece
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert (output / "checkpoints" / "epoch-0002").is_dir()
    assert not (output / "metrics.json").exists()
    assert main(command(phantoms, output)) == 2  # not without --resume
    subprocess.run(
        [sys.executable, "-m", "trainer", *command(phantoms, output, "--resume")], check=True, capture_output=True
    )
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


@pytest.fixture
def stop_after_one_epoch(monkeypatch):
    """Within it a training is stopped, as by the user, when its first checkpoint is written."""
    save = Checkpoints.save

    def save_and_stop(self, *given):
        save(self, *given)
        raise KeyboardInterrupt

    @contextmanager
    def stopping():
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_and_stop)
            yield

    return stopping


def test_a_reordered_csv_changes_nothing_and_what_was_stored_is_used(
    phantoms, tmp_path, monkeypatch, stop_after_one_epoch
):
    files = sorted(phantoms.rglob("*.png"))
    listed = pd.DataFrame({"file": map(str, files), "label": [file.parent.name for file in files]})
    data = tmp_path / "data.csv"
    listed.to_csv(data, index=False)
    words = ["--set", "unfreeze=none", "--set", "epochs=2", "--set", "augment=none"]
    assert main(command(data, tmp_path / "whole", *words)) == 0
    with stop_after_one_epoch():
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


@pytest.mark.parametrize("damage", ["weights-0001.safetensors", "epoch-0001/optimizer.bin", "epoch-0001/progress.json"])
def test_a_checkpoint_that_cannot_be_read_is_named(damage, phantoms, tmp_path, capsys, stop_after_one_epoch):
    """As of an earlier version, which kept no weights-EPOCH.safetensors, or of a copy that broke off."""
    with stop_after_one_epoch():
        assert main(command(phantoms, tmp_path / "run")) == 130
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


def test_ctrl_c_says_how_to_go_on(phantoms, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *command(phantoms, tmp_path / "run", "--set", "epochs=200")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job would ignore it
    )
    try:
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "--resume" in shown
    assert "Traceback" not in shown


def test_a_full_disk_stops_with_the_cure(phantoms, tmp_path):
    """A file size limit stops the checkpoint as a full disk would."""
    import resource

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    output = tmp_path / "run"
    start = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *command(phantoms, output)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, (done.stderr[-800:], time.time() - start)
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
