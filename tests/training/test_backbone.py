"""What a training begins from: a run of one's own, and backbones that do not fit."""

import builtins
import json
import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from tests.conftest import QUICK, SESSION, TINY
from trainer.cli import main
from trainer.errors import UsageError
from trainer.recipes import get_recipe
from trainer.run import Run
from trainer.training.build import build_model, build_processor, load_backbone
from trainer.training.loop import check_passes

RECIPE = get_recipe("tb-finetuned", image_size=64)
LABELS = ("Normal", "Tuberculosis")
VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
RESNET = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 16,
    "hidden_sizes": [16, 32],
    "depths": [1, 1],
}


@pytest.fixture(autouse=True)
def _nobody_is_asked(monkeypatch):
    def answer(question: str = "") -> str:
        raise AssertionError(f"a question on stdin: {question}")

    monkeypatch.setattr(builtins, "input", answer)


@pytest.fixture(params=["folder", "Hub id"])
def old(request, run) -> str:
    """A finished run as one names it; the Hub's cache holds the other one."""
    if request.param == "folder":
        return str(run)
    cache = SESSION / "hub" / "models--org--old"
    (cache / "refs").mkdir(parents=True, exist_ok=True)
    (cache / "refs" / "main").write_text("1" * 40)
    shutil.copytree(run, cache / "snapshots" / ("1" * 40), dirs_exist_ok=True)
    return "org/old"


def test_transformers_says_nothing_of_its_own_from_python(run, caplog, monkeypatch):
    """Once a level is set for its logger, it lists all layers as not sharded with every model that is loaded."""
    level = transformers_logging.get_verbosity()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    transformers_logging.set_verbosity_warning()
    try:
        load_backbone(RECIPE, str(run), pretrained=True)
        Run(run).load_model()
    finally:
        transformers_logging.set_verbosity(level)
    assert caplog.records == []


def test_a_run_is_a_backbone_and_its_head_stays_where_the_labels_do(old, run, capsys):
    weights = load_file(run / "model.safetensors")
    backbone = load_backbone(RECIPE, old, pretrained=True)
    for labels, kept in ((LABELS, True), (("Mass", "Normal"), False), (("A", "B", "C"), False)):
        state = build_model(RECIPE, labels, backbone).state_dict()
        assert all(torch.equal(state[name], weights[name]) for name in state if name.startswith("backbone."))
        assert kept == (
            state["classifier.weight"].shape == weights["classifier.weight"].shape
            and torch.equal(state["classifier.weight"], weights["classifier.weight"])
        )
        assert kept == ("its head is kept" in capsys.readouterr().out)
    other = build_model(get_recipe("tb-finetuned", image_size=64, hidden_sizes=[8]), LABELS, backbone)
    assert other.classifier.in_features == 8  # another head is made anew


def test_a_run_gives_its_normalisation_and_its_architecture(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.4, 0.4, 0.4]}))
    backbone = load_backbone(RECIPE, str(copy), pretrained=True)
    assert build_processor(RECIPE, backbone.normalisation).image_mean == [0.4, 0.4, 0.4]
    random = load_backbone(RECIPE, str(copy), pretrained=False)
    assert random.encoder.config.depth_multiplier == 0.35
    assert not random.normalisation
    with pytest.raises(UsageError, match="was trained with it"):
        load_backbone(get_recipe("tb-mobilenetv2", image_size=64), str(copy), pretrained=True)


def test_training_goes_on_from_a_run_and_counts_what_it_has_seen(run, phantoms, tmp_path, capsys):
    """The sides change: what trained the old run tests the new one."""
    sides = pd.read_csv(run / "manifest.csv").set_index("sha256")["split"]
    listed = pd.DataFrame({"file": sorted(map(str, phantoms.rglob("*.png")))})
    listed["label"] = [Path(file).parent.name for file in listed["file"]]
    listed["split"] = [("train", "test", "validation", "test", "train")[index % 5] for index in range(len(listed))]
    listed.to_csv(tmp_path / "data.csv", index=False)
    words = ["train", "tb-finetuned", "--data", str(tmp_path / "data.csv"), "--output", str(tmp_path / "new")]
    words += ["--backbone", str(run), *QUICK[3:], "--set", "epochs=1"]
    assert main([*words, "--strict"]) == 1
    assert "trained or tuned the backbone's run" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(words) == 0
    table = pd.read_csv(tmp_path / "new" / "manifest.csv")
    known = (table["split"] == "test") & table["sha256"].map(sides).isin(("train", "validation"))
    assert f"{known.sum()} test images trained or tuned the backbone's run" in capsys.readouterr().err
    environment = json.loads((tmp_path / "new" / "environment.json").read_text())
    assert environment["tested_on_backbone_data"] == known.sum() > 0
    assert f"**{known.sum()} test images**" in (tmp_path / "new" / "README.md").read_text()
    recipe = json.loads((tmp_path / "new" / "recipe.json").read_text())
    assert (recipe["backbone"], recipe["pretrained"]) == (run.name, True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({**RESNET, "num_channels": 1}, "3 channels"),
        ({"model_type": "vit", "image_size": 224, **VIT}, "convolutional one"),
        ({"model_type": "vit", "image_size": 64, **VIT}, "not [B, D, h, w]"),
        ({"model_type": "convnext", "image_size": 224, "num_channels": 4}, "3 channels"),
        ({"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}, "no feature map"),
        ({"model_type": "clip"}, "no feature map"),
        ({"model_type": "resnt"}, "resnt"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}, "custom code"),
        ({**RESNET, "hidden_act": "no-such"}, "cannot be loaded"),
        ({}, "cannot be loaded"),
        ("{", "cannot be loaded"),
        (None, "config.json"),
    ],
    ids=[
        "1 channel",
        "size",
        "no map",
        "4 channels",
        "text",
        "clip",
        "unknown",
        "code",
        "field",
        "empty",
        "cut",
        "none",
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_backbone_that_does_not_fit_is_one_sentence_before_any_work(config, said, pretrained, tmp_path, capsys):
    folder = tmp_path / "backbone"
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    words = [
        "train",
        "tb",
        "--data",
        "nowhere",
        "--output",
        str(tmp_path / "run"),
        "--backbone",
        str(folder),
        *QUICK[3:],
    ]
    assert main(words if pretrained else [*words, "--no-pretrained"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"cxr: backbone {folder} ")
    assert len(message.splitlines()) == 1
    assert "--" in message or "convolutional" in message
    assert pretrained or said in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [[], ["--no-pretrained"]])
def test_a_file_is_no_backbone_and_neither_is_an_empty_word(more, capsys):
    words = ["train", "tb-finetuned", "--data", "nowhere", "--output", "nowhere-run", *more, "--backbone"]
    assert main([*words, str(TINY / "config.json")]) == 2
    assert "config.json: this is a file; give the folder that holds it" in capsys.readouterr().err
    assert main([*words, ""]) == 2  # not the recipe's own without a word
    assert "is a variable of the shell not set?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["org/nothing", "runs/of/mine", "my backbone"])
@pytest.mark.parametrize("more", [[], ["--no-pretrained"]])
def test_a_backbone_that_is_nowhere_is_named_with_the_cure(name, more, capsys):
    assert (
        main(["train", "tb-finetuned", "--data", "nowhere", "--output", "nowhere-run", "--backbone", name, *more]) == 2
    )
    message = capsys.readouterr().err
    assert name in message
    assert "--backbone" in message


def test_a_run_that_was_stopped_is_no_backbone(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "config.json"))
    with pytest.raises(UsageError, match=r"is not finished.*--resume"):
        load_backbone(RECIPE, str(tmp_path / "run"), pretrained=True)


@pytest.mark.parametrize(
    ("settings", "images", "processes", "said"),
    [
        ({"batch_size": 1, "hidden_sizes": [8], "head_batch_norm": True}, 40, 1, "--set batch_size=2"),
        ({"batch_size": 1}, 40, 1, "--set batch_size=2"),  # from random weights BatchNorm's statistics train
        ({"batch_size": 1, "unfreeze": "none"}, 40, 1, None),
        ({"batch_size": 2}, 41, 1, None),  # the last image joins the step before
        ({"batch_size": 8}, 1, 1, "give more images"),
        ({"gradient_accumulation": 64}, 40, 1, "--set gradient_accumulation=20"),
        ({"gradient_accumulation": 64, "unfreeze": "none"}, 40, 1, "--set gradient_accumulation=40"),
        ({"gradient_accumulation": 64, "unfreeze": "none"}, 40, 3, "--set gradient_accumulation=13"),
        ({"gradient_accumulation": 20}, 40, 1, None),
        ({"unfreeze": "none"}, 3, 8, "fewer processes"),
    ],
)
def test_a_pass_without_enough_images_is_refused_with_the_number_that_works(settings, images, processes, said):
    recipe = get_recipe("tb-finetuned", **{"image_size": 64, "batch_size": 8, **settings})
    model = build_model(recipe, LABELS, load_backbone(recipe, str(TINY), False))
    if said is None:
        check_passes(recipe, model, images, processes)
        return
    with pytest.raises(UsageError, match=said):
        check_passes(recipe, model, images, processes)
    if "gradient_accumulation=" in said:
        fitting = get_recipe(
            "tb-finetuned", **{**settings, "batch_size": 8, "gradient_accumulation": int(said.split("=")[1])}
        )
        check_passes(fitting, model, images, processes)


def test_too_many_passes_leave_no_folder_behind(phantoms, tmp_path, capsys):
    words = ["train", "tb-finetuned", "--data", str(phantoms), "--output", str(tmp_path / "run"), *QUICK]
    assert main([*words, "--set", "gradient_accumulation=64"]) == 2
    assert "gradient_accumulation=64, 35 training images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
