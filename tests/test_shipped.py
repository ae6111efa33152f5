"""The models that ship: their files hold what they say, nobody's radiograph is among them, and they answer."""

import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from trainer import get_recipe, load_run, predict
from trainer.cli import main
from trainer.cxr_model import CxrImageProcessor
from trainer.data.phantom import draw_phantom
from trainer.inference import predict_image
from trainer.shipped import MODELS
from trainer.tasks import TASKS
from trainer.training.build import load_backbone

SCHEMA = Path(__file__).parents[1] / "trainer" / "evaluation" / "metrics.schema.json"
SPLITS = ("validation", "test", "external")
STRANGER = """
import json, sys, torch
from transformers import AutoModelForImageClassification, pipeline
run, image = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(run, trust_remote_code=True)
assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
answer = pipeline("image-classification", model=run, trust_remote_code=True, top_k=None)(image)
assert not any(name.split(".")[0] in ("trainer", "hub_cards") for name in sys.modules)
print(json.dumps({entry["label"]: entry["score"] for entry in answer}))
"""


@pytest.fixture(scope="module", params=TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def shipped(task):
    return load_run(task)


@pytest.fixture(scope="module")
def model(shipped):
    return shipped.load_model()


def test_weights_are_small_and_those_of_the_card(task):
    weights = (MODELS / task / "model.safetensors").read_bytes()
    assert len(weights) <= 6e6
    assert sha256(weights).hexdigest() in (MODELS / task / "README.md").read_text()


def test_no_code_ships_twice(task):
    assert not list((MODELS / task).rglob("*.py"))


def test_no_radiograph_and_no_file_name_ships(task):
    pictures = {file.stem for file in (MODELS / task).rglob("*.png")}
    kinds = ("confusion", "thresholds", "reliability")
    assert pictures <= {"audit", "curves", "example", *(f"{kind}-{split}" for kind in kinds for split in SPLITS)}
    for file in (MODELS / task).rglob("*"):
        if file.suffix in (".json", ".csv", ".md"):
            text = file.read_text()
            assert not re.search(r"\w\.(jpe?g|dcm|tiff?)\b", text.replace("radiograph.png", "")), file
            assert not re.search(r"(?<![\w/:.<)])/\w+/\w|\.\./", text), file  # a path
    drawn = Image.open(MODELS / task / "figures" / "example.png")
    said = json.loads((MODELS / task / "metrics.json").read_text())["example"]
    again = draw_phantom(said["drawn"], np.random.default_rng(said["seed"]), said["blur"]).pixels
    assert np.array_equal(np.asarray(drawn), again)


def test_the_metrics_are_what_the_schema_says_and_hold_a_hospital_never_seen(shipped):
    metrics = shipped.read_json("metrics.json")
    jsonschema.validate(metrics, json.loads(SCHEMA.read_text()))
    assert any(not part["trained"] for part in metrics["splits"]["external"]["collections"].values())
    assert metrics["audit"]["other_diseases"]


def test_weights_that_halves_hold_are_loaded_in_full(task, model):
    stored = load_file(MODELS / task / "model.safetensors")
    halves = {name for name, tensor in stored.items() if tensor.dtype == torch.float16}
    assert halves > {name for name in stored if name.startswith("backbone.") and name.endswith(".weight")}
    assert {tensor.dtype for tensor in model[0].parameters()} == {torch.float32}


def test_it_answers_its_phantom_as_its_card_says(shipped, model):
    example = shipped.read_json("metrics.json")["example"]
    pixels = draw_phantom(example["drawn"], np.random.default_rng(example["seed"]), example["blur"]).pixels
    answer = predict_image(*model, pixels)
    assert answer["scores"] == pytest.approx(example["scores"], abs=1e-3)
    assert answer["warnings"] == []


def test_what_is_no_chest_is_called_so(model):
    rng, grey = np.random.default_rng(0), Image.new("L", (400, 400), 30)
    draw = ImageDraw.Draw(grey)
    for number in range(12):
        draw.rectangle((10, 10 + 32 * number, 390, 24 + 32 * number), fill=20 * number)
    hand = Image.new("L", (400, 400), 0)
    for number in range(5):
        ImageDraw.Draw(hand).line((200, 380, 60 + 70 * number, 40), fill=200, width=40)
    for pixels in (rng.integers(0, 256, (300, 300), np.uint8), np.asarray(grey), np.asarray(hand)):
        warnings = predict_image(*model, pixels)["warnings"]
        assert {"no-lungs", "unfamiliar"} & set(warnings), warnings


def test_a_stranger_loads_it_and_gets_the_same(shipped, tmp_path):
    picture = tmp_path / "film.png"
    Image.fromarray(draw_phantom("Normal", np.random.default_rng(3)).pixels).save(picture)
    words = [sys.executable, "-c", STRANGER, str(shipped.path), str(picture)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (ours,) = predict(shipped, [str(picture)])
    assert json.loads(done.stdout) == pytest.approx(ours["scores"], abs=1e-4)


def test_the_command_line_knows_them_by_their_task(tmp_path, capsys, monkeypatch):
    picture = tmp_path / "film.png"
    Image.fromarray(draw_phantom("Normal", np.random.default_rng(3)).pixels).save(picture)
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "tb", str(picture), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["scores"]) == set(TASKS["tb"].labels)
    (tmp_path / "tb").mkdir()  # a folder of that name is meant before a model that ships
    assert main(["predict", "tb", str(picture)]) == 2
    assert "no model can be loaded" in capsys.readouterr().err


def test_a_training_goes_on_from_it_by_its_name(task, shipped, model):
    backbone = load_backbone(get_recipe(task), task, pretrained=True)
    ours, theirs = model[0].backbone.state_dict(), backbone.encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_model_that_ships_is_never_written_to(task, shipped):
    assert MODELS not in shipped.path.parents
    assert isinstance(CxrImageProcessor.from_pretrained(shipped.path), CxrImageProcessor)
