"""The feature cache: the model of a training without one, and frozen layers computed once."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests.conftest import TINY
from trainer.cxr_model import CxrImageProcessor
from trainer.data.manifest import read_manifest
from trainer.data.pixels import decode
from trainer.recipes import RECIPES, get_recipe
from trainer.tasks import TASKS
from trainer.training.build import build_model, load_backbone
from trainer.training.checkpoint import Checkpoints
from trainer.training.feature_cache import count_views, open_feature_cache
from trainer.training.feed import PixelFeed, TrainingData
from trainer.training.loop import fit
from trainer.training.split_point import find_split_point

PROCESSOR = CxrImageProcessor(size={"height": 32, "width": 32})
BASE = replace(
    get_recipe("tb-resnet50"),
    backbone=str(TINY),
    augment="none",
    image_size=32,
    batch_size=8,
    epochs=5,
    patience=0,
    mixed_precision="no",
)
HEAD = replace(BASE, unfreeze="none", hidden_sizes=[8], head_batch_norm=True, pooling="max")
LAST = replace(BASE, unfreeze=["conv_1x1"])
VIEWS = replace(
    BASE, unfreeze="none", hidden_sizes=[], image_size=64, views=["film", "lungs", "lungs-equalised"], level=32,
    strides=[16, 32], pooling="avg+max+std",
)  # fmt: skip
CUTS = {
    "tb-resnet50": "head",
    "tb-resnet50-last4": "backbone.encoder.stages.3.layers.2",
    "tb-resnet101-last7": "backbone.encoder.stages.3.layers.2",
    "tb-densenet201-last7": "backbone.timm_model.features.denseblock4.denselayer32",
    "tb-mobilenetv2": "head",
    "tb-mobilenetv2-last5": "backbone.conv_1x1",
    "tb-vgg16": "head",
    "three-class-mobilenetv3small": "head",
}


@pytest.fixture(scope="module")
def labelled(phantoms):
    rows, images, _ = decode(read_manifest(phantoms).rows, PROCESSOR)
    order = np.random.default_rng(0).permutation(len(rows))
    return images, TrainingData((rows["label"] == "Tuberculosis").to_numpy(np.int64), order[:32], order[32:])


def made(recipe):
    torch.manual_seed(1)
    return build_model(recipe, TASKS[recipe.task].labels, load_backbone(recipe, recipe.backbone, False))


def fitted(recipe, labelled, folder, feature_cache_bytes):
    images, data = labelled
    calls = []
    model = made(recipe)
    # Adam divides a gradient by its own size: one that is rounding alone would move its weight by a whole step in either
    # direction. In double precision there is next to none.
    model.double()
    shown = max(1, len(recipe.views))
    model.backbone.conv_stem.register_forward_hook(lambda module, given, output: calls.append(len(output) // shown))
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    torch.manual_seed(2)
    progress = fit(
        accelerator,
        model,
        PixelFeed(images, PROCESSOR, accelerator.device, recipe, data),
        folder,
        feature_cache_bytes,
    )
    return model.state_dict(), progress, sum(calls)


@pytest.mark.parametrize("recipe", [HEAD, LAST, VIEWS], ids=["head", "last", "views"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"augment": "random", "rotate": 0.0, "translate": 0.0, "flip": True},
        {"augment": "random", "augmented_views": 3},
    ],
    ids=["none", "flip", "augmented_views"],
)
def test_a_feature_cache_gives_the_model_of_a_training_without_one(recipe, settings, labelled, tmp_path):
    recipe = replace(recipe, **settings)
    without, slow, passes = fitted(recipe, labelled, tmp_path / "without", 0)
    within, quick, passes_once = fitted(recipe, labelled, tmp_path / "with", 10**9)
    assert without.keys() == within.keys()
    for name, tensor in without.items():
        torch.testing.assert_close(
            within[name], tensor, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    for one, two in zip(slow.history, quick.history, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], abs=1e-5)
        assert one["validation_loss"] == pytest.approx(two["validation_loss"], abs=1e-5)
    assert slow.history[0]["train_loss"] != pytest.approx(
        slow.history[-1]["train_loss"], abs=1e-4
    )  # it learned something
    assert passes == 5 * 48
    assert passes_once == 32 * count_views(recipe) + 16 + 2  # each image and view once; two to find where to cut


@pytest.mark.parametrize("name", CUTS)
def test_networks_are_cut_before_what_trains(name):
    recipe = replace(RECIPES[name], image_size=64)
    model = made(recipe)
    values = torch.randn(2, 3, 64, 64)
    trainable, cut, given = find_split_point(model, values)
    assert cut == CUTS[name]
    shared = {id(parameter) for parameter in model.parameters()}
    assert all(id(parameter) in shared for parameter in trainable.parameters())
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trained <= {id(parameter) for parameter in trainable.parameters()}
    with torch.no_grad():
        torch.testing.assert_close(trainable.eval()(given).logits, model.eval()(values).logits)


def test_vgg_is_cut_right_before_its_last_convolution():
    model = made(replace(RECIPES["tb-vgg16"], image_size=64, unfreeze=["timm_model.features.28"]))
    trainable, cut, given = find_split_point(model, torch.randn(2, 3, 64, 64))
    assert cut == "backbone.timm_model.features.28"
    assert given.shape == (2, 512, 4, 4)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in trainable.modules()) == 1


@pytest.mark.parametrize(
    ("name", "module"),
    [("tb-resnet50", "embedder"), ("tb-mobilenetv2", "conv_stem")],
)
def test_pixels_are_not_stored_where_the_first_layer_trains(name, module):
    model = made(replace(RECIPES[name], image_size=64, unfreeze=[module]))
    assert find_split_point(model, torch.randn(2, 3, 64, 64)) is None


def test_what_was_computed_stays_for_a_resumed_training(labelled, tmp_path, monkeypatch):
    images, data = labelled
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    model = made(HEAD)
    feed = PixelFeed(images, PROCESSOR, accelerator.device, HEAD, data)
    shown = []
    plain, augmented = PixelFeed.eval_batch, PixelFeed.augmented
    monkeypatch.setattr(PixelFeed, "eval_batch", lambda self, samples: shown.extend(samples) or plain(self, samples))

    def killed(self, samples, parameters):
        raise KeyboardInterrupt

    monkeypatch.setattr(PixelFeed, "augmented", killed)
    with pytest.raises(KeyboardInterrupt):
        open_feature_cache(accelerator, model, feed, tmp_path / "cache", 10**9)
    assert len(shown) == 2 + len(data.validation)
    monkeypatch.setattr(PixelFeed, "augmented", augmented)
    shown.clear()
    cache = open_feature_cache(accelerator, made(HEAD), feed, tmp_path / "cache", 10**9)
    assert len(shown) == 2  # the validation images were there
    assert torch.isfinite(cache.activations).all()
    other = made(HEAD)
    next(other.backbone.parameters()).data.add_(1)
    shown.clear()
    open_feature_cache(accelerator, other, feed, tmp_path / "cache", 10**9)
    assert len(shown) == 2 + len(data.validation)  # other weights: all of it anew


@pytest.mark.parametrize("changed", ["statistics", "rows", "recipe", "images"])
def test_a_feature_cache_of_something_else_is_begun_anew(changed, labelled, tmp_path, monkeypatch):
    images, data = labelled
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    recipe = replace(HEAD, augment="random", augmented_views=1, rotate=10.0)
    shown = []
    plain = PixelFeed.eval_batch
    monkeypatch.setattr(PixelFeed, "eval_batch", lambda self, samples: shown.extend(samples) or plain(self, samples))

    def opened(model, images, recipe, validation):
        shown.clear()
        feed = PixelFeed(images, PROCESSOR, accelerator.device, recipe, replace(data, validation=validation))
        return open_feature_cache(accelerator, model, feed, tmp_path / "cache", 10**9)

    opened(made(HEAD), images, recipe, data.validation)
    opened(made(HEAD), images, recipe, data.validation)
    assert len(shown) == 2  # it goes on with what is there
    model, validation = made(HEAD), data.validation
    if changed == "statistics":
        model.backbone.conv_stem.first_conv.normalization.running_mean.add_(1)
    elif changed == "rows":
        validation = validation[::-1].copy()
    elif changed == "recipe":
        recipe = replace(recipe, rotate=20.0)
    else:
        images = replace(images, cache=images.cache.with_name("other"))
    cache = opened(model, images, recipe, validation)
    assert len(shown) == 2 + len(validation)
    fresh = PixelFeed(images, PROCESSOR, accelerator.device, recipe, replace(data, validation=validation))
    expected = open_feature_cache(accelerator, model, fresh, tmp_path / "fresh", 10**9)
    torch.testing.assert_close(cache.eval_batch(validation), expected.eval_batch(validation))
    torch.testing.assert_close(cache.training(data.train, 0), expected.training(data.train, 0))


@pytest.mark.parametrize("recipe", [HEAD, LAST], ids=["head", "last"])
@pytest.mark.parametrize("sizes", [(10**9, 0), (0, 10**9)], ids=["cache, then none", "none, then cache"])
def test_a_stopped_training_goes_on_whatever_is_stored_now(recipe, sizes, labelled, tmp_path, monkeypatch):
    recipe = replace(recipe, epochs=2, batch_size=16)
    whole, _, _ = fitted(recipe, labelled, tmp_path / "whole", sizes[0])
    save = Checkpoints.save

    def save_and_stop(self, *given):
        save(self, *given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        fitted(recipe, labelled, tmp_path / "run", sizes[0])
    monkeypatch.setattr(Checkpoints, "save", save)
    (file,) = tmp_path.glob("run/epoch-*/progress.json")
    stopped = json.loads(file.read_text())
    resumed, progress, _ = fitted(recipe, labelled, tmp_path / "run", sizes[1])
    assert progress.epoch == 2
    assert len(progress.history) == 2
    assert progress.cache_seconds > stopped["cache_seconds"] > 0
    for name, tensor in whole.items():
        torch.testing.assert_close(
            resumed[name], tensor, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_too_little_room_is_said_and_trains_without(labelled, tmp_path, capsys):
    images, data = labelled
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    feed = PixelFeed(images, PROCESSOR, accelerator.device, HEAD, data)
    assert open_feature_cache(accelerator, made(HEAD), feed, tmp_path / "cache", 1000) is None
    assert "--feature-cache-gb" in capsys.readouterr().out


def test_views():
    assert count_views(BASE) == 1
    assert count_views(RECIPES["tb-resnet50"]) == 4
    assert count_views(RECIPES["three-class-mobilenetv3small"]) == 2
    assert count_views(RECIPES["tb-finetuned"]) == 0
