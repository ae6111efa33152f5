"""Every source recipe end to end, from the command line to a stranger's process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data.phantom import write_phantoms
from trainer.recipes import RECIPES
from trainer.tasks import TASKS

SOURCES = [recipe.name for recipe in RECIPES.values() if recipe.source]
STRANGER = """
import sys, json, torch
from transformers import AutoModelForImageClassification, pipeline
run, image = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(run, trust_remote_code=True)
answer = pipeline("image-classification", model=run, trust_remote_code=True, top_k=None)(image)
assert not any(name.split(".")[0] in ("trainer", "hub_cards") for name in sys.modules)
print(json.dumps({entry["label"]: entry["score"] for entry in answer}))
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    for task in TASKS:
        write_phantoms(folder / task, task, 72, seed=3)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_two_epochs_then_a_clean_process(name, drawn, tmp_path):
    run = tmp_path / "run"
    data = drawn / RECIPES[name].task
    words = [
        sys.executable,
        "-m",
        "trainer",
        "train",
        name,
        "--data",
        str(data),
        "--output",
        str(run),
        "--no-pretrained",
    ]
    done = subprocess.run([*words, "--set", "epochs=2"], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((run / "history.csv").read_text().splitlines()) == 3
    assert json.loads((run / "metrics.json").read_text())["splits"]["test"]["n"] > 0
    assert not (run / "checkpoints" / "feature-cache").exists()
    assert (run / "model.safetensors").stat().st_size < (90 if "vgg" in name else 180) * 10**6
    picture = str(next(data.rglob("*.png")))
    words = [sys.executable, "-c", STRANGER, str(run), picture]
    stranger = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert stranger.returncode == 0, stranger.stderr[-3000:]
    theirs = json.loads(stranger.stdout)
    words = [sys.executable, "-m", "trainer", "predict", str(run), picture, "--json"]
    ours = json.loads(subprocess.run(words, capture_output=True, text=True, timeout=600, check=True).stdout)
    assert ours["scores"] == pytest.approx(theirs, abs=1e-4)
