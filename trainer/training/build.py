"""From a recipe to a model: backbone with its pre-trained weights, head, and what of it trains."""

import logging
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedConfig

from trainer.cxr_model import CxrConfig, CxrForImageClassification, CxrImageProcessor
from trainer.errors import UsageError
from trainer.recipes import Recipe

PIPELINE = {"image-classification": {"impl": "pipeline_cxr.CxrImageClassificationPipeline", "pt": ["AutoModelForImageClassification"]}}


def build_processor(recipe: Recipe, backbone: str) -> CxrImageProcessor:
    """The image processor of a recipe: its size and filter, and the normalisation that the backbone was trained with.

    Raises:
        UsageError: the backbone cannot be reached.
    """
    size = {"height": recipe.image_size, "width": recipe.image_size}
    resample = int(Image.Resampling[recipe.resample.upper()])
    try:
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
    source = _load_backbone(backbone) if pretrained else AutoModel.from_config(_offline_config(backbone, recipe))
    source.config._name_or_path = ""
    config = CxrConfig(
        backbone_config=_without_labels(source.config),
        feature_size=_feature_size(source, recipe.image_size),
        features=recipe.features,
        pooling=recipe.pooling,
        hidden_sizes=recipe.hidden_sizes,
        input_dropout=recipe.input_dropout,
        dropout=recipe.dropout,
        batch_norm=recipe.batch_norm,
        class_weights=class_weights,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="single_label_classification",
        custom_pipelines=PIPELINE,
    )
    model = CxrForImageClassification(config)
    model.backbone.load_state_dict(source.state_dict())
    if not pretrained:
        _initialise(model.backbone)
        model.update_statistics = True
    _freeze(model.backbone, recipe.unfreeze)
    return model


def balanced_weights(counts: list[int]) -> list[float]:
    """n / (classes x n_class), as scikit-learn's `balanced`."""
    return [sum(counts) / (len(counts) * count) for count in counts]


def _load_backbone(backbone: str) -> Any:
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)  # its report lists the unused classifier
    try:
        model, info = AutoModel.from_pretrained(backbone, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreachable(backbone, error) from error
    if info["missing_keys"]:
        raise UsageError(f"backbone {backbone}: its file lacks weights ({', '.join(sorted(info['missing_keys'])[:3])} …): fetch it again")
    return model


def _unreachable(backbone: str, error: Exception) -> UsageError:
    reason = (str(error).splitlines() or [""])[0]
    return UsageError(
        f"backbone {backbone} cannot be loaded ({reason})\n"
        "Give a folder that holds it (--backbone DIR), go online once so that it is cached, "
        "or start from random weights on purpose (--no-pretrained)."
    )


def _offline_config(backbone: str, recipe: Recipe) -> PreTrainedConfig:
    """The architecture without its weights: from the folder or cache where it is there, else the library's own default."""
    if Path(backbone).is_dir():
        return AutoConfig.from_pretrained(backbone)
    kind = ARCHITECTURES.get(backbone)
    if kind is None:
        raise UsageError(f"--no-pretrained knows no architecture for {backbone}; give a folder with its config.json by --backbone")
    settings = dict(kind)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "google/mobilenet_v2_1.0_224": {"model_type": "mobilenet_v2", "layer_norm_eps": 0.001, "image_size": 224}
}


def _without_labels(config: PreTrainedConfig) -> dict[str, Any]:
    """The backbone's configuration without the thousand ImageNet names and without a path."""
    return {key: value for key, value in config.to_dict().items() if key not in ("id2label", "label2id", "_name_or_path", "label_names")}


def _feature_size(backbone: nn.Module, image_size: int) -> int:
    with torch.no_grad():
        output = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
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


def _freeze(backbone: nn.Module, unfreeze: str | list[str]) -> None:
    if unfreeze == "all":
        return
    backbone.requires_grad_(False)
    for name in [] if isinstance(unfreeze, str) else unfreeze:
        try:
            backbone.get_submodule(name).requires_grad_(True)
        except AttributeError as error:
            known = ", ".join(child for child, _ in backbone.named_children())
            raise UsageError(f"unfreeze: the backbone has no module {name!r} (top level: {known})") from error
