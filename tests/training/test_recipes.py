"""Every recipe of the table: what it is made of, what a step changes, what its source published."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from trainer.data.manifest import read_manifest
from trainer.data.pixels import decode
from trainer.recipes import RECIPES, Recipe, get_recipe, override
from trainer.tasks import TASKS
from trainer.training.build import build_model, default_processor
from trainer.training.feed import PixelFeed
from trainer.training.loop import TrainingData, make_optimizer, train_epoch

SOURCES = [recipe for recipe in RECIPES.values() if recipe.source]
HEADS = {
    "tb": ["Dropout", "Linear", "ReLU", "Dropout"],
    "tb-mobilenetv2": ["Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout"],
    "covid": ["Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout"],
    "three-class": ["Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout"],
}
# backbone tensors that a step may change, by timm's or transformers' own names
UNFROZEN = {
    "tb-resnet50-last4": {
        f"encoder.stages.3.layers.2.layer.2.{name}" for name in ("convolution.weight", "normalization.weight", "normalization.bias")
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
    "tb-mobilenetv2-last5": {f"conv_1x1.{name}" for name in ("convolution.weight", "normalization.weight", "normalization.bias")},
}


def made(recipe: Recipe):
    return build_model(recipe, TASKS[recipe.task].labels, recipe.backbone, pretrained=False, class_weights=None)


def _settle(model, pixels: torch.Tensor) -> None:
    """Let the statistics fit the data, as a pre-trained network's do: else a random one passes no gradient on."""
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model.backbone(pixels)
    model.backbone.eval()


def test_the_table_holds_the_sources_fourteen_and_three_of_our_own():
    assert len(SOURCES) == 14
    assert set(RECIPES) - {recipe.name for recipe in SOURCES} == {"tb", "covid", "three-class"}
    assert {task: sum(recipe.task == task for recipe in SOURCES) for task in TASKS} == {"tb": 10, "covid": 3, "three-class": 1}


def test_published_figures_are_those_of_the_sources():
    assert RECIPES["tb-vgg16"].source.figures["accuracy"] == 0.9952
    assert RECIPES["tb-mobilenetv2-last5"].source.figures["auroc"] == 0.99600
    assert "auroc" not in RECIPES["tb-resnet50"].source.figures  # not published
    assert RECIPES["covid-vgg19"].source.figures["sensitivity Viral Pneumonia"] == 0.955
    assert RECIPES["three-class-mobilenetv3small"].source.figures["accuracy"] == 0.9399
    for recipe in SOURCES:
        assert recipe.source.n == {"tb": 840, "covid": 4233, "three-class": 1563}[recipe.task]
        assert all(0.8 < value <= 1 for value in recipe.source.figures.values())


@pytest.mark.parametrize("recipe", SOURCES, ids=lambda recipe: recipe.name)
def test_exactly_the_named_tensors_change_in_a_step(recipe, phantoms):
    recipe = replace(recipe, image_size=64, batch_size=8, augment="none", mixed_precision="no")
    processor = default_processor(recipe)
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
    train_epoch(accelerator, prepared, optimizer, PixelFeed(images, processor, accelerator.device, recipe), data, recipe, epoch=0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    head = {name for name in before if name.startswith(("head.", "classifier."))}
    projection = {"projection.weight", "projection.bias"} if recipe.name == "tb-mobilenetv2-last5" else set()
    assert changed == head | projection | {f"backbone.{name}" for name in UNFROZEN.get(recipe.name, set())}
    kinds = [type(layer).__name__ for layer in model.head]
    assert kinds == HEADS["tb-mobilenetv2" if recipe.features == "probabilities" else recipe.task]


@pytest.mark.parametrize("name", ["tb-vgg16", "tb-vgg19", "three-class-mobilenetv3small", "tb-densenet201", "tb-resnet50"])
def test_no_parameter_is_carried_along_unused(name):
    model = made(replace(RECIPES[name], image_size=64)).requires_grad_(True)
    model.eval()(torch.rand(2, 3, 64, 64)).logits.sum().backward()
    unused = [parameter for parameter, value in model.named_parameters() if value.grad is None]
    assert unused == []
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert (
        size < {"tb-vgg16": 62, "tb-vgg19": 90, "three-class-mobilenetv3small": 5, "tb-densenet201": 80, "tb-resnet50": 100}[name] * 2**20
    )


def test_class_weights_of_a_source_can_be_replaced():
    recipe = override(get_recipe("tb-vgg16"), ['class_weights={"Normal": 1, "Tuberculosis": 2}', "augment=none", "hidden_sizes=[32]"])
    assert recipe.class_weights == {"Normal": 1, "Tuberculosis": 2}
    assert recipe.hidden_sizes == [32]
    assert recipe.source == get_recipe("tb-vgg16").source


def test_the_probabilities_of_a_pretrained_classifier_are_kept(tmp_path):
    """MobileNet-V2 as TensorFlow publishes it has a background class first: the head sits on the other thousand."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(depth_multiplier=0.35, finegrained_output=False, id2label={index: str(index) for index in range(1001)})
    theirs = MobileNetV2ForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    model = build_model(get_recipe("tb-mobilenetv2"), ("Normal", "Tuberculosis"), str(tmp_path), pretrained=True, class_weights=None).eval()
    pixels = torch.rand(2, 3, 224, 224)
    seen = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(pixels)
    assert torch.allclose(seen[0], theirs(pixels).logits[:, 1:].softmax(-1), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in model.projection.parameters())
