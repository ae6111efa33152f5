"""From a recipe to a model: backbone with its pre-trained weights, head, and what of it trains."""

import logging
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, PreTrainedConfig

from trainer.cxr_model import CxrConfig, CxrForImageClassification, CxrImageProcessor
from trainer.data.labelled import LabelledImages
from trainer.errors import UsageError
from trainer.recipes import Recipe


def build_processor(recipe: Recipe, backbone: str) -> CxrImageProcessor:
    """The image processor of a recipe: its size and filter, and the normalisation that the backbone was trained with.

    Raises:
        UsageError: the backbone cannot be reached.
    """
    size = {"height": recipe.image_size, "width": recipe.image_size}
    resample = int(Image.Resampling[recipe.resample.upper()])
    try:
        if not Path(backbone).is_dir():
            hf_hub_download(backbone, "config.json")  # offline, one file's retries are waited for and not each file's
        theirs: Any = AutoImageProcessor.from_pretrained(backbone, backend="pil")
    except (OSError, ValueError) as error:
        raise _unreachable(backbone, error) from error
    if hasattr(theirs, "data_config"):  # timm
        mean, std = theirs.data_config["mean"], theirs.data_config["std"]
    else:
        mean, std = theirs.image_mean, theirs.image_std
    return CxrImageProcessor(size=size, resample=resample, image_mean=mean, image_std=std)


def default_processor(recipe: Recipe) -> CxrImageProcessor:
    """The processor of a model that starts from random weights: normalised to -1..1."""
    size = {"height": recipe.image_size, "width": recipe.image_size}
    return CxrImageProcessor(size=size, resample=int(Image.Resampling[recipe.resample.upper()]))


def build_model(
    recipe: Recipe, labels: tuple[str, ...], backbone: str, pretrained: bool, class_weights: list[float] | None
) -> CxrForImageClassification:
    """The model of a recipe, ready to train: weights loaded, frozen parts frozen, seeded head.

    Args:
        recipe: how it is made.
        labels: in the order of the outputs.
        backbone: a Hub id or a folder.
        pretrained: False starts from random weights (for tests and phantoms).
        class_weights: one loss weight a label, or None.

    Raises:
        UsageError: the backbone cannot be reached, its weights are incomplete, or `unfreeze` names no module.
    """
    torch.manual_seed(recipe.seed)
    load = _load_backbone if pretrained else _random_backbone
    source, projection = load(backbone, recipe.features)
    model = CxrForImageClassification(_make_config(recipe, labels, source, projection, class_weights))
    kept = model.backbone.state_dict().keys()
    model.backbone.load_state_dict({name: tensor for name, tensor in source.state_dict().items() if name in kept})
    if projection is not None and model.projection is not None:
        model.projection.load_state_dict(projection.state_dict())
    if not pretrained:
        _initialise(model.backbone)
        model.update_statistics = recipe.unfreeze == "all"
    _freeze(model, recipe.unfreeze)
    return model


def _make_config(
    recipe: Recipe,
    labels: tuple[str, ...],
    source: Any,
    projection: nn.Linear | None,
    class_weights: list[float] | None,
) -> CxrConfig:
    same = ("features", "pooling", "hidden_sizes", "input_dropout", "dropout", "batch_norm")
    return CxrConfig(
        backbone_config=_without_labels(source.config),
        feature_size=_feature_size(source, recipe.image_size),
        drop_modules=_unused(source.config),
        projection_size=projection.out_features if projection is not None else 0,
        class_weights=class_weights,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="single_label_classification",
        **{name: getattr(recipe, name) for name in same},
    )


def class_weights(recipe: Recipe, labelled: LabelledImages) -> list[float] | None:
    """One loss weight a label, in label order; None where all count alike.

    Raises:
        UsageError: the recipe names other labels than the data has.
    """
    if recipe.class_weights == "none":
        return None
    if recipe.class_weights == "balanced":
        train = labelled.truth[labelled.indices("train")]
        return balanced_weights([int((train == index).sum()) for index in range(len(labelled.task.labels))])
    weights = recipe.class_weights
    if not isinstance(weights, dict) or set(weights) != set(labelled.task.labels):
        raise UsageError(f"class_weights: needs one weight for each of {', '.join(labelled.task.labels)}")
    return [float(weights[label]) for label in labelled.task.labels]


def balanced_weights(counts: list[int]) -> list[float]:
    """n / (classes x n_class), as scikit-learn's `balanced`."""
    return [sum(counts) / (len(counts) * count) for count in counts]


def _load_backbone(backbone: str, features: str) -> tuple[Any, nn.Linear | None]:
    """A backbone with its pre-trained weights, and its classifier where the recipe uses its probabilities."""
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)  # its report lists the unused classifier
    kind = AutoModel if features == "map" else AutoModelForImageClassification
    try:
        model, info = kind.from_pretrained(backbone, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreachable(backbone, error) from error
    source = model if features == "map" else model.base_model
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(tuple(_unused(source.config))))
    if missing:
        raise UsageError(f"backbone {backbone}: its file lacks weights ({', '.join(missing[:3])} …): fetch it again")
    return source, None if features == "map" else _class_projection(model, backbone)


def _class_projection(model: nn.Module, backbone: str) -> nn.Linear:
    """The ImageNet classifier of a model; a background class, which TensorFlow's models put first, is dropped."""
    linear = getattr(model, "classifier", None)
    if not isinstance(linear, nn.Linear):
        raise UsageError(
            f"backbone {backbone}: features=probabilities needs a model whose classifier is one linear layer"
        )
    background = int(linear.out_features == 1001)
    projection = nn.Linear(linear.in_features, linear.out_features - background)
    projection.load_state_dict({name: tensor[background:] for name, tensor in linear.state_dict().items()})
    return projection


def _random_backbone(backbone: str, features: str) -> tuple[Any, nn.Linear | None]:
    source = AutoModel.from_config(_offline_config(backbone))
    return source, None if features == "map" else nn.Linear(_feature_size(source, 64), 1000)


def _unreachable(backbone: str, error: Exception) -> UsageError:
    reason = (str(error).splitlines() or [""])[0]
    return UsageError(
        f"backbone {backbone} cannot be loaded ({reason})\n"
        "Give a folder that holds it (--backbone DIR), go online once so that it is cached, "
        "or start from random weights on purpose (--no-pretrained)."
    )


def _offline_config(backbone: str) -> PreTrainedConfig:
    """The architecture without its weights: from the folder where it is one, else from the table below."""
    if Path(backbone).is_dir():
        try:
            return AutoConfig.from_pretrained(backbone)
        except (OSError, ValueError, KeyError) as error:
            raise _unreachable(backbone, error) from error
    if backbone not in ARCHITECTURES:
        raise UsageError(
            f"--no-pretrained knows no architecture for {backbone}; give a folder with its config.json by --backbone"
        )
    settings = dict(ARCHITECTURES[backbone])
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def _timm(architecture: str) -> dict[str, Any]:
    return {"model_type": "timm_wrapper", "architecture": architecture, "do_pooling": False}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "google/mobilenet_v2_1.0_224": {"model_type": "mobilenet_v2", "layer_norm_eps": 0.001, "image_size": 224},
    "microsoft/resnet-50": {"model_type": "resnet"},
    "microsoft/resnet-101": {"model_type": "resnet", "depths": [3, 4, 23, 3]},
    "timm/vgg16.tv_in1k": _timm("vgg16"),
    "timm/vgg19.tv_in1k": _timm("vgg19"),
    "timm/densenet201.tv_in1k": _timm("densenet201"),
    "timm/tf_mobilenetv3_small_100.in1k": _timm("tf_mobilenetv3_small_100"),
}
# Parts of timm's networks that lie behind the feature map: they would only weigh (VGG's are 120 million numbers).
UNUSED = {"vgg": ["timm_model.pre_logits"], "tf_mobilenetv3": ["timm_model.conv_head", "timm_model.norm_head"]}


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


def _feature_size(backbone: nn.Module, image_size: int) -> int:
    try:
        with torch.no_grad():
            output = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"this backbone takes no images of 3 channels and {image_size} pixels ({reason}); another one is named by "
            "--backbone, another size by --set image_size=N"
        ) from error
    if output.last_hidden_state.ndim != 4:
        raise UsageError("this backbone gives no feature map [B, D, h, w]: only convolutional ones are supported")
    return int(output.last_hidden_state.shape[1])


def _initialise(backbone: nn.Module) -> None:
    """He initialisation (arXiv:1502.01852): transformers' own small constant suits fine-tuning only."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _freeze(model: CxrForImageClassification, unfreeze: str | list[str]) -> None:
    if unfreeze == "all":
        return
    frozen = [part for part in (model.backbone, model.projection) if part is not None]
    for part in frozen:
        part.requires_grad_(False)
    for name in [] if isinstance(unfreeze, str) else unfreeze:
        owner = model if name == "projection" else model.backbone
        try:
            owner.get_submodule(name).requires_grad_(True)
        except AttributeError as error:
            known = ", ".join(child for child, _ in model.backbone.named_children())
            raise UsageError(f"unfreeze: the backbone has no module {name!r} (top level: {known})") from error
