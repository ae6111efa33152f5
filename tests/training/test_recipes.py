"""Every recipe of the table: what it is made of, what a step changes, what its source published."""

import json
import math
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.conftest import TINY
from trainer.data.labelled import load_for_training
from trainer.data.manifest import read_manifest
from trainer.data.pixels import decode
from trainer.errors import UsageError
from trainer.recipes import RECIPES, Recipe, get_recipe, override
from trainer.tasks import TASKS
from trainer.training.build import ARCHITECTURES, Backbone, build_model, build_processor, load_backbone
from trainer.training.feed import PixelFeed, TrainingData
from trainer.training.loop import make_optimizer, train_epoch

SOURCES = [recipe for recipe in RECIPES.values() if recipe.source]
HEADS = {
    "tb": ["Dropout", "Linear", "ReLU", "Dropout"],
    "tb-mobilenetv2": ["Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout"],
    "covid": ["Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout"],
    "three-class": ["Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout"],
}
MEGABYTES = {
    "tb-vgg16": 62,
    "tb-vgg19": 90,
    "three-class-mobilenetv3small": 5,
    "tb-densenet201": 80,
    "tb-resnet50": 100,
}
# backbone tensors that a step may change, by timm's or transformers' own names
UNFROZEN = {
    "tb-resnet50-last4": {
        f"encoder.stages.3.layers.2.layer.2.{name}"
        for name in ("convolution.weight", "normalization.weight", "normalization.bias")
    },
    "tb-resnet101-last7": {
        f"encoder.stages.3.layers.2.layer.{layer}.{name}"
        for layer in (1, 2)
        for name in ("convolution.weight", "normalization.weight", "normalization.bias")
    },
    "tb-densenet201-last7": {
        f"timm_model.features.{name}"
        for name in (
            "denseblock4.denselayer32.conv1.weight",
            "denseblock4.denselayer32.norm2.weight",
            "denseblock4.denselayer32.norm2.bias",
            "denseblock4.denselayer32.conv2.weight",
            "norm5.weight",
            "norm5.bias",
        )
    },
    "tb-mobilenetv2-last5": {
        f"conv_1x1.{name}" for name in ("convolution.weight", "normalization.weight", "normalization.bias")
    },
}


@cache
def random_backbone(name: str, features: str) -> Backbone:
    """Of random weights, shared by the recipes that have it: no model changes it."""
    recipe = next(one for one in SOURCES if (one.backbone, one.features) == (name, features))
    with pytest.MonkeyPatch.context() as patch:
        if "vgg" in name:  # its head is dropped: an eighth of it does
            patch.setitem(ARCHITECTURES, name, {**ARCHITECTURES[name], "model_args": {"mlp_ratio": 0.125}})
        return load_backbone(replace(recipe, image_size=64), name, False)


def made(recipe: Recipe):
    return build_model(recipe, TASKS[recipe.task].labels, random_backbone(recipe.backbone, recipe.features))


def _settle(model, pixels: torch.Tensor) -> None:
    """Let the statistics fit the data, as a pre-trained network's do: else a random one passes no gradient on."""
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model.backbone(pixels)
    model.backbone.eval()


def test_the_table_holds_the_sources_fourteen_and_two_of_our_own_for_each_task():
    assert len(SOURCES) == 14
    own = {*TASKS, *(f"{task}-finetuned" for task in TASKS)}
    assert set(RECIPES) - {recipe.name for recipe in SOURCES} == own
    assert {task: sum(recipe.task == task for recipe in SOURCES) for task in TASKS} == {
        "tb": 10,
        "covid": 3,
        "three-class": 1,
    }


def test_published_figures_are_those_of_the_sources():
    assert RECIPES["tb-vgg16"].source.figures["accuracy"] == 0.9952
    assert RECIPES["tb-mobilenetv2-last5"].source.figures["auroc"] == 0.99600
    assert "auroc" not in RECIPES["tb-resnet50"].source.figures  # not published
    assert RECIPES["covid-vgg19"].source.figures["sensitivity Viral Pneumonia"] == 0.955
    assert RECIPES["three-class-mobilenetv3small"].source.figures["accuracy"] == 0.9399
    for recipe in SOURCES:
        assert recipe.source.n == {"tb": 840, "covid": 4233, "three-class": 1563}[recipe.task]
        assert all(0.8 < value <= 1 for value in recipe.source.figures.values())


@pytest.mark.parametrize("recipe", sorted(SOURCES, key=lambda recipe: recipe.backbone), ids=lambda recipe: recipe.name)
def test_exactly_the_named_tensors_change_in_a_step(recipe, phantoms):
    recipe = replace(recipe, image_size=64, batch_size=8, augment="none", mixed_precision="no")
    processor = build_processor(recipe)
    rows, images, _ = decode(read_manifest(phantoms).rows, processor)
    labels = np.where(np.arange(len(rows)) % 3 == 0, 1, 0)  # uneven, so that no gradient cancels out
    data = TrainingData(labels, np.arange(8), np.arange(8, 16))
    model = made(recipe)
    if model.projection is not None:
        model.projection.weight.data.mul_(50)  # random ones give a softmax too flat to learn from
    _settle(model, processor.to_pixel_values(images.batch(np.arange(16))))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
    train_epoch(
        accelerator,
        prepared,
        optimizer,
        PixelFeed(images, processor, accelerator.device, recipe, data),
        epoch=0,
    )
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    head = {name for name in before if name.startswith(("head.", "classifier."))}
    projection = {"projection.weight", "projection.bias"} if recipe.name == "tb-mobilenetv2-last5" else set()
    assert changed == head | projection | {f"backbone.{name}" for name in UNFROZEN.get(recipe.name, set())}
    kinds = [type(layer).__name__ for layer in model.head]
    assert kinds == HEADS["tb-mobilenetv2" if recipe.features == "probabilities" else recipe.task]
    no_parameter_is_carried_along_unused(model.requires_grad_(True), MEGABYTES.get(recipe.name, 200))


def no_parameter_is_carried_along_unused(model, megabytes: int) -> None:
    model.zero_grad()
    model.eval()(torch.rand(2, 3, 64, 64)).logits.sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) < megabytes * 2**20


def test_class_weights_of_a_source_can_be_replaced():
    recipe = override(
        get_recipe("tb-vgg16"), ['class_weights={"Normal": 1, "Tuberculosis": 2}', "augment=none", "hidden_sizes=[32]"]
    )
    assert recipe.class_weights == {"Normal": 1, "Tuberculosis": 2}
    assert recipe.hidden_sizes == [32]
    assert recipe.source == get_recipe("tb-vgg16").source


def test_the_probabilities_of_a_pretrained_classifier_are_kept(tmp_path):
    """MobileNet-V2 as TensorFlow publishes it has a background class first: the head sits on the other thousand."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification, MobileNetV2ImageProcessor

    config = MobileNetV2Config(
        depth_multiplier=0.35, finegrained_output=False, id2label={index: str(index) for index in range(1001)}
    )
    theirs = MobileNetV2ForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    MobileNetV2ImageProcessor().save_pretrained(tmp_path)
    recipe = get_recipe("tb-mobilenetv2")
    model = build_model(recipe, ("Normal", "Tuberculosis"), load_backbone(recipe, str(tmp_path), True)).eval()
    pixels = torch.rand(2, 3, 224, 224)
    seen = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(pixels)
    assert torch.allclose(seen[0], theirs(pixels).logits[:, 1:].softmax(-1), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in model.projection.parameters())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = {item.name: item.type for item in fields(Recipe)}
SETTABLE = sorted(set(FIELDS) - {"name", "task", "source", "summary", "note"})


def _has_declared_types(recipe: Recipe) -> bool:
    for name, kind in FIELDS.items():
        value = getattr(recipe, name)
        TypeAdapter(kind, config={"strict": True, "arbitrary_types_allowed": True}).validate_python(value)
        if kind is float and not (type(value) is float and math.isfinite(value)):
            return False
    weights = recipe.class_weights.values() if isinstance(recipe.class_weights, dict) else []
    return all(type(weight) is float and 0 <= weight < math.inf for weight in weights)


@settings(max_examples=300)
@given(
    st.sampled_from(SETTABLE),
    JSON | st.sampled_from([10**400, -(10**400), math.nan, math.inf, [True], [1.5], {"Normal": math.nan}]),
)
def test_any_value_of_any_field_gives_a_recipe_or_says_what_is_expected(name, value):
    for change in (
        lambda: override(get_recipe("tb-finetuned"), [f"{name}={json.dumps(value)}"]),
        lambda: replace(get_recipe("tb-finetuned"), **{name: value}),
    ):
        said, changed = "", get_recipe("tb-finetuned")
        try:
            changed = change()
        except UsageError as error:
            said = str(error)
        assert not said or (said.startswith(f"{name}=") and ": expected " in said)
        assert _has_declared_types(changed)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        *(
            (f"{name}={value}", "a finite number")
            for name, kind in FIELDS.items()
            if kind is float
            for value in ("NaN", "Infinity", "-Infinity", "1e999")
        ),
        ("image_size=1", "at least 32 pixels"),
        ("image_size=31", "at least 32 pixels"),
        ("image_size=64.0", "a whole number"),
        *(
            (f"hidden_sizes={value}", "a list of whole numbers above 0")
            for value in ('["a"]', "[0]", "[-3]", "[true]", "[1.5]", "8")
        ),
        *((f"unfreeze={value}", "a list of module names") for value in ("[1]", '[""]', "some", "null")),
        *(
            (f"class_weights={value}", "finite weights that are not negative")
            for value in ('{"Normal": "a"}', '{"Normal": NaN}', '{"Normal": -1}', '{"Normal": true}', "[1, 2]", "heavy")
        ),
        ("flip=1", "true or false"),
        ("seed=-1", "not negative"),
        ("seed=" + "9" * 30, "below 2^63"),
        ("epochs=" + "9" * 5000, "a whole number"),
        ("hidden_sizes=" + "[" * 100_000, "a list of whole numbers above 0"),
    ],
    ids=lambda text: text[:40],
)
def test_a_value_that_a_field_cannot_have_is_refused(setting, expected):
    with pytest.raises(UsageError) as refused:
        override(get_recipe("tb-finetuned"), [setting])
    assert str(refused.value).startswith(f"{setting.partition('=')[0]}=")
    assert expected in str(refused.value)


def test_trainings_that_differ_in_their_seed_are_tested_on_the_same_pictures(phantoms):
    recipes = [override(get_recipe("tb-finetuned"), ["image_size=64", f"seed={seed}"]) for seed in (0, 1, 2)]
    splits = [
        load_for_training(str(phantoms), TASKS["tb"], build_processor(recipe), None, False, print)[0]
        .rows["split"]
        .tolist()
        for recipe in recipes
    ]
    assert splits[0] == splits[1] == splits[2]
    assert set(splits[0]) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"views": ["lungs"]}, "views=.*film first"),
        ({"views": ["film", "border"]}, "views=.*lungs-equalised"),
        ({"strides": [0]}, "strides=.*above 0"),
        ({"head": "closed"}, "head=closed.*whitened"),
        ({"whitening": 0.0}, "whitening=0.*above 0"),
        ({"level": -1}, "level=-1.*not negative"),
        ({"hidden_sizes": [8]}, "head=whitened.*one linear layer"),
        ({"features": "probabilities"}, "head=whitened.*features=map"),
        ({"views": []}, r"strides=\[16, 32\]: expected views"),
    ],
)
def test_views_and_heads_that_do_not_exist_are_refused(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        get_recipe("tb", **settings)


def test_a_stride_that_a_backbone_does_not_have_is_named():
    recipe = get_recipe("tb", strides=[4, 64], image_size=64)
    with pytest.raises(UsageError, match=r"no map of stride 64, only \[.*16, 32\]"):
        load_backbone(recipe, str(TINY), False)
