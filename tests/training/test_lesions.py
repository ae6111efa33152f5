"""The lesion head: learned from boxes within films, beside a whitened head, shown as the heat map."""

import json

import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from trainer.cli import main
from trainer.cxr_model.lesions_cxr import LesionHead
from trainer.errors import UsageError
from trainer.recipes import get_recipe
from trainer.run import Run
from trainer.training.lesions import GRID, Cells, fit_cells

SIDE, SIZE = 4, 24
SETTINGS = ("lesions=0.5", "image_size=96", "level=48", "strides=[8, 16]")


def films(generator, count: int, look: np.ndarray, lesion: np.ndarray, ill: bool) -> tuple[Cells, np.ndarray]:
    """Films of a collection with a look of its own, and where their lesions are; in the upper half, if anywhere."""
    features = generator.normal(size=(count, SIDE**2, SIZE)) + look
    masks = np.zeros((count, GRID, GRID), bool)
    for number in range(count if ill else 0):
        row, column = generator.integers(SIDE // 2), generator.integers(SIDE)
        features[number, row * SIDE + column] += lesion
        step = GRID // SIDE
        masks[number, row * step : (row + 1) * step, column * step : (column + 1) * step] = True
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(count, 4)
    return Cells(features.astype(np.float32), np.ones((count, SIDE**2), bool), box), masks


def test_a_lesion_is_told_by_its_look_and_place_whatever_the_collection_looks_like():
    generator = np.random.default_rng(0)
    lesion, look = np.zeros(SIZE), np.zeros(SIZE)
    lesion[:4], look[4:8] = 3.0, 9.0
    ill, masks = films(generator, 60, look, lesion, ill=True)
    parts = [films(generator, 20, each, lesion, ill=False)[0] for each in (np.zeros(SIZE), 5 * np.eye(SIZE)[9])]
    healthy = Cells(*(np.concatenate([part.features for part in parts]), np.ones((40, SIDE**2), bool)), parts[0].box)
    names = np.repeat(["one", "other"], 20)
    weights, of_place = fit_cells(ill, masks, healthy, names, get_recipe("tb", ridge=0.1))
    found = ill.features @ weights
    inside = masks[:, :: GRID // SIDE, :: GRID // SIDE].reshape(60, -1)
    assert found[inside].mean() - found[~inside].mean() > 2 * found[~inside].std()
    assert abs(weights[9]) < np.abs(weights[:4]).min() / 3  # what tells healthy collections apart
    assert of_place.reshape(SIDE, SIDE)[: SIDE // 2].min() > of_place.reshape(SIDE, SIDE)[SIDE // 2 :].max()


def test_boxes_too_small_to_learn_from_are_refused():
    generator, names = np.random.default_rng(1), np.repeat("one", 20)
    ill, masks = films(generator, 20, np.zeros(SIZE), np.ones(SIZE), ill=True)
    healthy, _ = films(generator, 20, np.zeros(SIZE), np.ones(SIZE), ill=False)
    masks[:] = False
    masks[:, 50:53, 50:53] = True
    with pytest.raises(UsageError, match=r"no box covers enough.*--set lesions=0"):
        fit_cells(ill, masks, healthy, names, get_recipe("tb"))


def test_cells_outside_of_the_lungs_are_the_lowest():
    head = LesionHead(2, 2)
    torch.nn.init.ones_(head.cell.weight)
    fields = torch.zeros(1, 1, 128, 128)
    fields[..., :64] = 1  # the left half
    cells = head(torch.tensor([[[[1.0, 9], [2, 8]]] * 2]), fields, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert cells.tolist() == [[[2, 2], [4, 2]]]
    assert LesionHead.film_score(cells).item() == pytest.approx(8 / 3)


@pytest.fixture(scope="module")
def run(phantoms, tmp_path_factory) -> Run:
    """A run with a lesion head, of phantoms, whose masks lie beside them."""
    output = tmp_path_factory.mktemp("lesions") / "run"
    words = ["train", "tb", "--data", str(phantoms), "--output", str(output), "--no-pretrained"]
    for setting in SETTINGS:
        words += ["--set", setting]
    assert main([*words, "--backbone", str(SMALL)]) == 0
    return Run(output)


def test_its_map_is_the_heat_map_of_its_label(run, phantoms):
    model, processor = run.load_model()
    assert model.config.lesions == {"label": "Tuberculosis", "cells": 6}
    file = sorted((phantoms / "Tuberculosis").glob("*.png"))[0]
    values = processor(str(file), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        output = model(values)
        linear = model.classify(output.maps)
    assert torch.allclose(output.logits[:, 1] - linear[:, 1], LesionHead.film_score(output.lesions), atol=1e-4)
    shown, other = model.heatmap(output, 1), model.heatmap(output, 0)
    above = output.lesions - output.lesions.min()
    expected = model._on_film(above[:, None], output.box, ["lungs"])
    assert torch.allclose(shown, expected / expected.amax().clamp_min(1e-30), atol=1e-5)
    assert not torch.allclose(shown, other)


def test_onnx_answers_alike(run):
    pytest.importorskip("onnxscript")
    assert main(["export", str(run.path)]) == 0  # refuses a difference


def test_without_boxes_there_is_no_lesion_head(phantoms, tmp_path):
    copy = tmp_path / "copy"
    copy.symlink_to(phantoms)
    words = ["train", "tb", "--data", str(copy), "--output", str(tmp_path / "run"), "--no-pretrained"]
    for setting in SETTINGS:
        words += ["--set", setting]
    assert main([*words, "--backbone", str(SMALL)]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config.get("lesions") is None


def test_without_the_view_of_the_lungs_there_is_no_lesion_head(phantoms, tmp_path):
    words = ["train", "tb", "--data", str(phantoms), "--output", str(tmp_path / "run"), "--no-pretrained"]
    for setting in (*SETTINGS, 'views=["film"]'):
        words += ["--set", setting]
    assert main([*words, "--backbone", str(SMALL)]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text()).get("lesions") is None
