"""From a recipe to a model: backbone with its pre-trained weights, head, and what of it trains."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, PreTrainedConfig

from trainer.cxr_model import CxrConfig, CxrForImageClassification, CxrImageProcessor
from trainer.cxr_model.modeling_cxr import maps_by_stride
from trainer.errors import UsageError, hub_refusal, reason_of
from trainer.recipes import Recipe
from trainer.run import Run, load_run
from trainer.shipped import unpack_shipped

OF_RECIPE = ("features", "pooling", "hidden_sizes", "input_dropout", "dropout", "level")
# where these are equal, a head is kept
OF_HEAD = ("id2label", "features", "pooling", "hidden_sizes", "batch_norm", "views", "strides", "level")
LUNGS = Path(__file__).with_name("lungs.safetensors")  # docs/experiments.md; `make lungs` makes it anew
_TIMM = {"model_type": "timm_wrapper", "do_pooling": False}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "google/mobilenet_v2_1.0_224": {"model_type": "mobilenet_v2", "layer_norm_eps": 0.001, "image_size": 224},
    "microsoft/resnet-50": {"model_type": "resnet"},
    "microsoft/resnet-101": {"model_type": "resnet", "depths": [3, 4, 23, 3]},
    "timm/vgg16.tv_in1k": {**_TIMM, "architecture": "vgg16"},
    "timm/vgg19.tv_in1k": {**_TIMM, "architecture": "vgg19"},
    "timm/densenet201.tv_in1k": {**_TIMM, "architecture": "densenet201"},
    "timm/tf_mobilenetv3_small_100.in1k": {**_TIMM, "architecture": "tf_mobilenetv3_small_100"},
}
UNREACHABLE = (
    "go online once, give a folder that holds it (--backbone DIR), start from a model that ships (--backbone tb) or "
    "from random weights (--no-pretrained)"
)
# Parts of timm's networks that lie behind the feature map: they would only weigh (VGG's are 120 million numbers).
UNUSED = {"vgg": ["timm_model.pre_logits"], "tf_mobilenetv3": ["timm_model.conv_head", "timm_model.norm_head"]}


@dataclass
class Backbone:
    """An encoder, images [B, 3, H, W] -> last hidden state [B, D, h, w], and what came with it."""

    encoder: Any
    normalisation: dict[str, Any] = field(default_factory=dict)  # image_mean and image_std that it was trained with
    projection: nn.Linear | None = None  # its ImageNet classifier, where the recipe uses its probabilities
    run: Run | None = None  # the run whose encoder it is, and that run's whole model
    model: CxrForImageClassification | None = None
    pretrained: bool = True
    feature_size: int = 0  # D
    pooled_size: int = 0  # features of one view after pooling
    map_size: int = 0  # places of a side of its last feature map
    random_state: torch.Tensor = field(default_factory=torch.get_rng_state)  # the head is drawn from here on


def load_backbone(recipe: Recipe, name: str, pretrained: bool) -> Backbone:
    """The backbone of a recipe, tried on one black image of the recipe's size.

    Args:
        name: a Hub id, a folder or the name of a model that ships; of a run, its encoder is taken.
        pretrained: False starts from random weights (for tests and phantoms).

    Raises:
        UsageError: it cannot be reached, is of no known kind, lacks weights, or gives no feature map of such an image.
    """
    if Path(name).is_file():
        raise UsageError(f"backbone {name}: this is a file; give the folder that holds it (--backbone DIR)")
    if not Path(name).exists():
        name = str(unpack_shipped(name) or name)
    torch.manual_seed(recipe.seed)
    logging.getLogger("transformers.modeling_utils").addFilter(_is_error)  # its report lists the unused classifier
    with _explained(f"backbone {name} cannot be loaded", UNREACHABLE):
        backbone = _load_pretrained(name, recipe.features) if pretrained else _make_random(name)
    backbone.feature_size, backbone.pooled_size, backbone.map_size = _sizes(backbone.encoder, recipe, name)
    if recipe.features == "probabilities" and not pretrained:
        backbone.projection = nn.Linear(backbone.feature_size, 1000)
    backbone.random_state = torch.get_rng_state()
    return backbone


def build_processor(recipe: Recipe, normalisation: dict[str, Any] | None = None) -> CxrImageProcessor:
    """The image processor of a recipe: its size and filter, and a backbone's normalisation (without one: to -1..1)."""
    size = {"height": recipe.image_size, "width": recipe.image_size}
    resample = int(Image.Resampling[recipe.resample.upper()])
    return CxrImageProcessor(size=size, resample=resample, adults=recipe.adults, **(normalisation or {}))


def build_model(
    recipe: Recipe,
    labels: tuple[str, ...],
    backbone: Backbone,
    class_weights: list[float] | None = None,
    log: Callable[[str], None] = print,
    lesions: str | None = None,
) -> CxrForImageClassification:
    """The model of a recipe, ready to train: weights loaded, frozen parts frozen, seeded head.

    The head of a run is kept where it has the same labels and layers. `class_weights`: one loss weight a label;
    `lesions`: the label whose lesions are looked for.

    Raises:
        UsageError: `unfreeze` names no module.
    """
    torch.set_rng_state(backbone.random_state)
    config = _make_config(recipe, labels, backbone, class_weights)
    config.lesions = None if lesions is None else {"label": lesions, "cells": backbone.map_size}
    model = CxrForImageClassification(config)
    kept, weights = model.backbone.state_dict().keys(), backbone.encoder.state_dict()
    model.backbone.load_state_dict({name: tensor for name, tensor in weights.items() if name in kept})
    if backbone.projection is not None and model.projection is not None:
        model.projection.load_state_dict(backbone.projection.state_dict())
    if model.views is not None:
        model.views.network.load_state_dict({name: tensor.float() for name, tensor in load_file(LUNGS).items()})
        model.views.requires_grad_(False)
    old = backbone.model
    if old is not None and all(getattr(old.config, name) == getattr(model.config, name) for name in OF_HEAD):
        model.head.load_state_dict(old.head.state_dict())
        model.classifier.load_state_dict(old.classifier.state_dict())
        log("note: the backbone's run has the same labels: its head is kept, too")
    if not backbone.pretrained:
        _initialise(model.backbone)
    if recipe.head == "whitened":  # its head is fitted to what ships: half as large a file
        model.backbone.half().float()
    from_scratch = not backbone.pretrained and recipe.unfreeze == "all"
    model.update_statistics = from_scratch or recipe.batch_norm == "moving"
    _freeze(model, recipe.unfreeze)
    return model


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


@contextmanager
def _explained(problem: str, cure: str) -> Iterator[None]:
    """Whatever somebody else's files and network raise, as one sentence with its cure."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        reason = hub_refusal(error) or f"{reason_of(error).rstrip('.')}: {cure}"
        raise UsageError(f"{problem}: {reason}") from error


def _read_settings(name: str) -> dict[str, Any]:
    """config.json of a backbone."""
    if Path(name, "recipe.json").exists() and not Path(name, "config.json").exists():
        raise UsageError(f"backbone {name}: this run is not finished; go on with it (cxr train … --resume) first")
    settings: dict[str, Any] = PreTrainedConfig.get_config_dict(name)[0]
    return settings


def _load_pretrained(name: str, features: str) -> Backbone:
    """A backbone with its pre-trained weights, and its classifier where the recipe uses its probabilities."""
    if _read_settings(name).get("model_type") == CxrConfig.model_type:
        return _load_run(name, features)
    kind = AutoModel if features == "map" else AutoModelForImageClassification
    model, info = kind.from_pretrained(name, dtype=torch.float32, output_loading_info=True, trust_remote_code=False)
    encoder = model if features == "map" else model.base_model
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(tuple(_unused(encoder.config))))
    if missing:
        raise UsageError(f"backbone {name}: its file lacks weights ({', '.join(missing[:3])} …): fetch it again")
    theirs = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
    return Backbone(encoder, _normalisation(theirs), None if features == "map" else _class_projection(model, name))


def _normalisation(processor: Any) -> dict[str, Any]:
    """Mean and standard deviation that a backbone's own processor applies."""
    if hasattr(processor, "data_config"):  # timm
        return {"image_mean": processor.data_config["mean"], "image_std": processor.data_config["std"]}
    return {"image_mean": processor.image_mean, "image_std": processor.image_std}


def _load_run(name: str, features: str) -> Backbone:
    """The backbone of a run, by this program's own classes: the code in its folder is not executed."""
    run = load_run(name)
    model, processor = run.load_model()
    if features == "probabilities" and model.projection is None:
        raise UsageError(f"backbone {name}: features=probabilities needs a run that was trained with it")
    projection = model.projection if features == "probabilities" else None
    return Backbone(model.backbone, _normalisation(processor), projection, run, model)


def _make_random(name: str) -> Backbone:
    """The architecture alone: from the folder where it is one, else from the table."""
    if Path(name).is_dir():
        settings = _read_settings(name)
        own = settings.get("model_type") == CxrConfig.model_type
        config = (
            CxrConfig(**settings).backbone_config if own else AutoConfig.from_pretrained(name, trust_remote_code=False)
        )
    elif name in ARCHITECTURES:
        settings = dict(ARCHITECTURES[name])
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    else:
        cure = "give a folder with its config.json by --backbone"
        raise UsageError(f"--no-pretrained knows no architecture for {name}; {cure}")
    return Backbone(AutoModel.from_config(config), pretrained=False)


def _class_projection(model: nn.Module, name: str) -> nn.Linear:
    """The ImageNet classifier of a model; a background class, which TensorFlow's models put first, is dropped."""
    linear = getattr(model, "classifier", None)
    if not isinstance(linear, nn.Linear):
        raise UsageError(f"backbone {name}: features=probabilities needs a model whose classifier is one linear layer")
    background = int(linear.out_features == 1001)
    projection = nn.Linear(linear.in_features, linear.out_features - background)
    projection.load_state_dict({name: tensor[background:] for name, tensor in linear.state_dict().items()})
    return projection


def _sizes(encoder: Any, recipe: Recipe, name: str) -> tuple[int, int, int]:
    """Of a black image: channels of its last feature map, features of one view after pooling, places of a side."""
    side = recipe.image_size
    own = getattr(encoder.config, "image_size", side)
    cure = "give a convolutional one of 3 channels, as microsoft/resnet-50"
    cure += "" if own == side else f", or the size that it was made for: --set image_size={own}"
    with torch.no_grad(), _explained(f"backbone {name} gives no feature map of an image of 3 x {side} x {side}", cure):
        output = encoder.eval()(torch.zeros(1, 3, side, side), output_hidden_states=bool(recipe.strides))
        shape = output.last_hidden_state.shape
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ValueError(f"its output is {list(shape)}, not [B, D, h, w]")
    maps = maps_by_stride(output, side)
    if absent := sorted(set(recipe.strides) - set(maps)):
        raise UsageError(
            f"strides={recipe.strides}: backbone {name} has no map of stride {absent[0]}, only {sorted(maps)}"
        )
    channels = [maps[stride].shape[1] for stride in recipe.strides or [max(maps)]]
    return int(shape[1]), sum(channels) * len(recipe.pooling.split("+")), int(shape[2])


def _make_config(
    recipe: Recipe, labels: tuple[str, ...], backbone: Backbone, class_weights: list[float] | None
) -> CxrConfig:
    return CxrConfig(
        backbone_config=_without_labels(backbone.encoder.config),
        feature_size=backbone.feature_size,
        drop_modules=_unused(backbone.encoder.config),
        projection_size=backbone.projection.out_features if backbone.projection is not None else 0,
        batch_norm=recipe.head_batch_norm,
        views=recipe.views or None,
        strides=recipe.strides or None,
        pooled_size=backbone.pooled_size,
        view_mean=backbone.normalisation.get("image_mean"),
        view_std=backbone.normalisation.get("image_std"),
        class_weights=class_weights,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="single_label_classification",
        **{name: getattr(recipe, name) for name in OF_RECIPE},
    )


def _unused(config: PreTrainedConfig) -> list[str]:
    architecture = getattr(config, "architecture", "")
    return next((parts for prefix, parts in UNUSED.items() if architecture.startswith(prefix)), [])


def _without_labels(config: PreTrainedConfig) -> dict[str, Any]:
    """The backbone's configuration without the thousand ImageNet names and without a path."""
    names = ("id2label", "label2id", "_name_or_path", "num_classes", "pretrained_cfg", "num_labels")
    settings = {key: value for key, value in config.to_dict().items() if key not in names}
    if "label_names" in settings:  # timm's: where it is absent, transformers fills in ImageNet's
        settings |= {"label_names": ["unused"], "num_classes": 1, "do_pooling": False}
    return settings


def _initialise(backbone: nn.Module) -> None:
    """He initialisation (arXiv:1502.01852): transformers' own small constant suits fine-tuning only."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _freeze(model: CxrForImageClassification, unfreeze: str | list[str]) -> None:
    """Freeze backbone and projection but for what `unfreeze` names."""
    if unfreeze == "all":
        return
    for part in (model.backbone, model.projection):
        if part is not None:
            part.requires_grad_(False)
    for name in [] if isinstance(unfreeze, str) else unfreeze:
        owner = model if name == "projection" else model.backbone
        try:
            owner.get_submodule(name).requires_grad_(True)
        except AttributeError as error:
            known = ", ".join(child for child, _ in model.backbone.named_children())
            raise UsageError(f"unfreeze: the backbone has no module {name!r} (top level: {known})") from error
