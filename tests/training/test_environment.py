"""What a training says before it begins and after it ends."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator

from trainer import hardware
from trainer.commands.train import TrainOptions, _begin_run, _open
from trainer.data.labelled import LabelledImages
from trainer.data.pixels import GreyImages
from trainer.recipes import get_recipe
from trainer.run import Run
from trainer.tasks import TASKS
from trainer.training import environment
from trainer.training.environment import describe, outline


def test_the_outline_counts_images_and_what_trains(monkeypatch):
    monkeypatch.setattr(hardware, "bf16_on_cpu", lambda: (False, "CPU of kind avx2"))
    truth = np.array([0, 0, 0, 1, 1, 0, 1])
    splits = ["train", "train", "train", "train", "validation", "test", "test"]
    labels = np.array(TASKS["tb"].labels)[truth]
    rows = pd.DataFrame({"label": labels, "split": splits})
    images = GreyImages(range(500_000), 4, 5, Path("cache") / "abc")
    model = torch.nn.Sequential(torch.nn.Linear(100, 10), torch.nn.Linear(10, 2))
    model[0].requires_grad_(False)
    text = outline(LabelledImages(TASKS["tb"], rows, images), model, Accelerator(cpu=True), "auto")
    assert re.search(r"^device: cpu, .*\d threads; processes: 1$", text, re.MULTILINE)
    assert "precision: fp32 (CPU of kind avx2)" in text
    table = [line.split() for line in text.splitlines()]
    assert ["images", "train", "validation", "test"] in table
    assert ["Normal", "3", "0", "1"] in table
    assert ["Tuberculosis", "1", "1", "1"] in table
    assert "parameters: 22 of 1,032 train" in text
    assert "decoded: 500,000 images, 10.0 MB in cache" in text


def test_the_command_can_be_pasted():
    assert describe(["train", "tb", "--data", "/home/me/my films"])["command"] == "cxr train tb --data 'my films'"


def test_a_finished_run_knows_what_took_how_long(run):
    seconds = json.loads((run / "environment.json").read_text())["seconds"]
    assert list(seconds) == ["decode", "cache", "epochs", "evaluation"]
    assert min(seconds.values()) >= 0
    assert seconds["epochs"] == pytest.approx(pd.read_csv(run / "history.csv")["seconds"].sum(), abs=0.1)


def test_a_resumed_training_keeps_the_precision_that_it_began_with(tmp_path, monkeypatch):
    """`auto` measures, and may come to another answer on a busy machine."""
    Run(tmp_path).write_json("recipe.json", {})
    Run(tmp_path).write_json("environment.json", {"precision": "no"})
    measured = {"auto": ("bf16", "measured")}
    monkeypatch.setattr(environment, "choose_precision", lambda asked: measured.get(asked, (asked, "asked for")))
    _, accelerator = _open(get_recipe("tb-finetuned"), str(tmp_path), TrainOptions(resume=True))
    assert accelerator.mixed_precision == "no"


def test_a_resumed_training_adds_its_seconds(tmp_path):
    run = Run(tmp_path)
    for name, content in (("recipe.json", {}), ("environment.json", {"seed": 1, "seconds": {"decode": 3.0}})):
        run.write_json(name, content)
    _begin_run(run, {}, {"seed": 2, "seconds": {"decode": 0.5}}, None, None)
    assert run.read_json("environment.json") == {"seed": 1, "seconds": {"decode": 3.5}}
