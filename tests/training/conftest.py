"""A small training: what the loop is tested with."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from trainer.cxr_model import CxrImageProcessor
from trainer.data.manifest import read_manifest
from trainer.data.pixels import decode
from trainer.recipes import get_recipe
from trainer.training.build import build_model, load_backbone
from trainer.training.feed import PixelFeed, TrainingData

PLAIN = replace(
    get_recipe("tb-finetuned"),
    augment="none",
    input_dropout=0.0,
    image_size=32,
    batch_size=8,
    epochs=2,
    warmup_epochs=0.0,
    mixed_precision="no",
)
PROCESSOR = CxrImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def feed(phantoms) -> PixelFeed:
    rows, images, _ = decode(read_manifest(phantoms).rows, PROCESSOR)
    labels = (rows["label"] == "Tuberculosis").to_numpy(np.int64)
    order = np.random.default_rng(0).permutation(len(rows))
    data = TrainingData(labels, order[:32], order[32:])
    return PixelFeed(images, PROCESSOR, torch.device("cpu"), PLAIN, data)


def small(recipe=PLAIN, **settings):
    recipe = replace(recipe, **settings)
    return build_model(recipe, ("Normal", "Tuberculosis"), load_backbone(recipe, str(TINY), False))


def changed(before, model) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
