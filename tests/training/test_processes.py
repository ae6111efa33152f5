"""Several processes train the model of one process with the summed batch."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import TINY

# frozen backbone, no dropout, fp32, 32 training images: nothing but the number of processes differs
WORDS = [
    "--no-pretrained",
    "--backbone",
    str(TINY),
    "--set",
    "unfreeze=none",
    "--set",
    "input_dropout=0",
    "--set",
    "mixed_precision=no",
]
WORDS += ["--set", "image_size=48", "--set", "epochs=3", "--set", "learning_rate=0.01", "--set", "hidden_sizes=[16]"]
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "-m"]


@pytest.fixture(scope="module")
def manifest(phantoms, tmp_path_factory) -> Path:
    files = sorted(phantoms.rglob("*.png"))
    splits = [("train", "train", "validation", "train", "train", "test")[index % 6] for index in range(len(files))]
    path = tmp_path_factory.mktemp("manifest") / "data.csv"
    pd.DataFrame({"file": map(str, files), "label": [file.parent.name for file in files], "split": splits}).to_csv(
        path, index=False
    )
    assert splits.count("train") == 32
    return path


@pytest.mark.parametrize("by", ["fork", pytest.param("accelerate launch", marks=pytest.mark.slow)])
def test_two_processes_reach_the_losses_of_one_with_twice_the_batch(by, manifest, loaded_python, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train = ["trainer", "train", "tb-finetuned", "--data", str(manifest), *WORDS]
    loaded_python.run(["-m", *train, "--output", one, "--set", "batch_size=8"], tmp_path).check_returncode()
    together = [*train, "--output", str(two), "--set", "batch_size=4"]
    if by == "fork":
        done = loaded_python.run(["-m", *together], tmp_path, processes=2)
    else:
        done = subprocess.run([*LAUNCH, *together], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    columns = ["train_loss", "validation_loss", "validation_accuracy"]
    first, second = (pd.read_csv(run / "history.csv")[columns] for run in (one, two))
    assert (first - second).abs().to_numpy().max() < 1e-5
    assert first["train_loss"].iloc[-1] < first["train_loss"].iloc[0]
    scores = [pd.read_csv(run / "predictions.csv")["p:Tuberculosis"] for run in (one, two)]
    assert (scores[0] - scores[1]).abs().max() < 1e-5
    assert not (one / "native").exists()  # transformers' own class has no head like this one
    assert "native" not in (one / "README.md").read_text()
    assert (done.stdout + done.stderr).count("research demonstration".capitalize()) == 1  # one process speaks
    assert [done.stdout.count(start) for start in ("\nparameters: ", "\nexpected: ", "\ntook ")] == [1, 1, 1]
