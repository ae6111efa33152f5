"""Configuration of a chest X-ray classifier. Research demonstration, not a medical device."""

import re
from typing import Any

from .versions_cxr import LOWEST  # noqa: F401  checks the versions

# isort: split
from transformers import AutoConfig, PreTrainedConfig, __version__

LARGEST = 100_000  # of any whole number in a configuration
ITEMS = 200  # of a list
LIMITS = {"depths": 200, "layers": 200, "level": 2048}  # lower ones, of fields whose names end so
CXR_VERSION = 2  # 2: views of the film
POOLINGS = ("avg", "max", "avg+max+std")
VIEWS = ("film", "lungs", "lungs-equalised")


class CxrConfig(PreTrainedConfig):
    """Everything that is needed to rebuild a `CxrForImageClassification`.

    Raises:
        ValueError: a `features` or `pooling` that does not exist, or a format newer than this code.
    """

    model_type = "cxr"
    keys_to_ignore_at_inference = ["familiarity", "feature_map", "maps", "lungs", "box", "lesions"]  # noqa: RUF012  transformers' own convention

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None  # a transformers vision backbone
    feature_size: int = 1280  # channels D of its last feature map
    drop_modules: list[str] | None = None  # dotted names of backbone parts that are never used: they have no weights
    features: str = "map"  # `probabilities`: classify the softmax of a projection to `projection_size` classes instead
    projection_size: int = 0
    pooling: str = "avg"  # over the feature map; or `max`, or `avg+max+std`, one after the other
    views: list[str] | None = None  # what of the film the backbone is shown, `film` first; None: the film as it stands
    level: int = 0  # pixels of a side to which views are shrunk first, so that all are equally sharp; 0: as they are
    view_mean: list[float] | None = None  # image_mean and image_std of the backbone: views are made of grey
    view_std: list[float] | None = None
    strides: list[int] | None = None  # with views: pool the last map of each of these strides; None: the last alone
    pooled_size: int = 0  # features of one view after pooling, where there are views
    lesions: dict[str, Any] | None = None  # {"label", "cells"}: looks for lesions in so many cells a side of `lungs`
    hidden_sizes: list[int] | None = None  # the head's hidden layers, with ReLU
    input_dropout: float = 0.0  # before the head
    dropout: float = 0.0  # after each hidden layer
    batch_norm: bool = False  # after each hidden ReLU
    class_weights: list[float] | None = None  # one loss weight a label, in label order
    operating_point: dict[str, Any] | None = None  # {"name", "label", "threshold"}: the decision; None: the argmax
    calibration: dict[str, Any] | None = None  # a record of the temperature in the last layer; `forward` never reads it
    familiarity: dict[str, Any] | None = None  # {"components", "outside", "threshold"}, as `add_familiarity` takes them
    cxr_version: int = CXR_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the fields and build the backbone's configuration."""
        if self.cxr_version > CXR_VERSION:
            raise ValueError(f"the model has format {self.cxr_version}, this code up to {CXR_VERSION}: update cxr-hub")
        if self.features not in ("map", "probabilities") or self.pooling not in POOLINGS:
            raise ValueError(f"features={self.features!r}, pooling={self.pooling!r}: no such features or pooling")
        if self.views is not None and (self.views[:1] != ["film"] or not set(self.views) <= set(VIEWS)):
            raise ValueError(f"views={self.views!r}: expected some of {', '.join(VIEWS)}, film first")
        if self.lesions is not None and "lungs" not in (self.views or []):
            raise ValueError("lesions: they are looked for in the view `lungs`, which is not among the views")
        sizes = {"hidden_sizes": self.hidden_sizes, "num_labels": kwargs.get("num_labels"), "level": self.level}
        _check_sizes("config", {**sizes, "backbone_config": self.backbone_config})
        if not isinstance(self.backbone_config, PreTrainedConfig):
            settings = dict(self.backbone_config or {"model_type": "mobilenet_v2"})
            kind = settings.pop("model_type", None)
            try:
                self.backbone_config = AutoConfig.for_model(kind).from_dict(settings)
            except (KeyError, ValueError) as error:
                reason = str(error).splitlines()[0][:100]
                raise ValueError(f"transformers {__version__} makes no backbone {kind!r}: {reason}") from error
        super().__post_init__(**kwargs)


def _check_sizes(name: str, value: Any) -> None:
    """Refuse numbers that no network has, and a timm architecture that names another place than timm."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_sizes(f"{name}.{key}", item)
    elif isinstance(value, list):
        if len(value) > ITEMS:
            raise ValueError(f"{name}: {len(value):,} numbers: no network is as large")
        for item in value:
            _check_sizes(name, item)
    elif isinstance(value, int) and abs(value) > next((LIMITS[end] for end in LIMITS if name.endswith(end)), LARGEST):
        raise ValueError(f"{name}={value}: no network is as large")
    elif name.endswith(".architecture") and not re.fullmatch(r"\w[\w.]*", str(value)):
        raise ValueError(f"{name}={value}: not the name of an architecture of timm")
