"""Stopped half-way, gone on: nothing is lost and nothing differs."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from trainer.cli import main

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
    subprocess.run([sys.executable, "-m", "trainer", *command(phantoms, output, "--resume")], check=True, capture_output=True)
    first, second = load_file(whole / "model.safetensors"), load_file(output / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    drop_seconds = lambda text: [line.rsplit(",", 1)[0] for line in text.splitlines()]  # noqa: E731
    assert drop_seconds((whole / "history.csv").read_text()) == drop_seconds((output / "history.csv").read_text())
    assert (whole / "predictions.csv").read_text() == (output / "predictions.csv").read_text()


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(whole, phantoms, tmp_path):
    from trainer.training.checkpoint import Checkpoints

    folder = tmp_path / "checkpoints"
    (folder / "epoch-0002").mkdir(parents=True)
    (folder / "writing").mkdir()
    (folder / "writing" / "model.safetensors").write_bytes(b"half")
    assert Checkpoints(folder).newest() == folder / "epoch-0002"


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
        [sys.executable, "-m", "trainer", *command(phantoms, output)], preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, (done.stderr[-800:], time.time() - start)
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
