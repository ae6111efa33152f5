"""How each model is trained, as data. `cxr recipes` prints this table, `--set key=value` changes any field of a row."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from types import UnionType
from typing import Any, get_args, get_origin

from trainer.errors import UsageError

CHOICES = {
    "features": ("map", "probabilities"),
    "pooling": ("avg", "max"),
    "resample": ("nearest", "bilinear", "bicubic"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine", "exponential"),
    "augment": ("none", "random"),
    "mixed_precision": ("auto", "no", "bf16", "fp16"),
}

EXPECTED: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    "unfreeze": "all, none or a list of module names",
    "class_weights": "balanced, none or {label: weight} with finite weights that are not negative",
    "hidden_sizes": "a list of whole numbers above 0",
    "source": "a Source or None",
}
SMALLEST = 32  # pixels of a side: below, the networks' last feature map is less than one place


@dataclass(frozen=True)
class Source:
    """Where a recipe comes from, and what it published of its own test split of `n` images: {figure: value}."""

    name: str
    n: int
    figures: dict[str, float]
    url: str | None = None


@dataclass(frozen=True)
class Recipe:
    """One way to train one model.

    `unfreeze` is `all`, `none` (the head alone trains) or a list of backbone modules. `class_weights` is `balanced`,
    `none` or {label: weight}. An optimiser step sees `batch_size` x `gradient_accumulation` images on each process.
    `augment=random` turns by up to `rotate` degrees, shifts by up to `translate` and zooms by up to `zoom` (shares of the
    picture), mirrors half of the images where `flip`, and varies brightness, contrast and gamma by up to `intensity`.
    With `views` an image is augmented in that many ways and epoch e shows the one of epoch e mod views, so that frozen
    layers need computing once a view (0: each epoch anew).
    `learning_rate` falls by `schedule`: `cosine` to 0 at the last epoch, `exponential` tenfold every 20 epochs.
    Training stops after `patience` epochs without a lower validation loss (0: never); the best epoch is kept.
    """

    name: str
    task: str
    backbone: str
    summary: str
    unfreeze: str | list[str] = "all"
    features: str = "map"
    pooling: str = "avg"
    hidden_sizes: list[int] = field(default_factory=list)
    input_dropout: float = 0.0
    dropout: float = 0.0
    batch_norm: bool = False
    image_size: int = 224
    resample: str = "bilinear"
    augment: str = "none"
    flip: bool = False
    rotate: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0
    intensity: float = 0.0
    views: int = 0
    class_weights: str | dict[str, float] = "none"
    epochs: int = 20
    patience: int = 5
    batch_size: int = 32
    gradient_accumulation: int = 1
    gradient_clip: float = 0.0
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    mixed_precision: str = "auto"
    seed: int = 0
    note: str = ""
    source: Source | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            try:
                object.__setattr__(self, item.name, _cast(getattr(self, item.name), item.type))
            except (TypeError, OverflowError) as error:
                raise self._wrong(item.name, EXPECTED.get(item.name) or EXPECTED[item.type]) from error
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise self._wrong(key, f"one of {', '.join(allowed)}")
        if self.unfreeze not in ("all", "none") and (isinstance(self.unfreeze, str) or "" in self.unfreeze):
            raise self._wrong("unfreeze", EXPECTED["unfreeze"])
        weights = self.class_weights
        if weights not in ("balanced", "none") and (isinstance(weights, str) or any(weight < 0 for weight in weights.values())):
            raise self._wrong("class_weights", EXPECTED["class_weights"])
        if any(size < 1 for size in self.hidden_sizes):
            raise self._wrong("hidden_sizes", EXPECTED["hidden_sizes"])
        if self.image_size < SMALLEST:
            raise self._wrong("image_size", f"at least {SMALLEST} pixels")
        if self.seed >= 2**63:
            raise self._wrong("seed", "below 2^63")
        for key in ("epochs", "batch_size", "gradient_accumulation", "learning_rate"):
            if getattr(self, key) <= 0:
                raise self._wrong(key, "a number above 0")
        for key in ("patience", "gradient_clip", "weight_decay", "warmup_epochs", "rotate", "views", "seed"):
            if getattr(self, key) < 0:
                raise self._wrong(key, "a number that is not negative")
        for key in ("input_dropout", "dropout", "translate", "zoom", "intensity"):
            if not 0 <= getattr(self, key) < 1:
                raise self._wrong(key, "a number of at least 0 and below 1")

    def _wrong(self, key: str, expected: str) -> UsageError:
        return UsageError(f"{key}={getattr(self, key)}: expected {expected}")


def _cast(value: Any, kind: Any) -> Any:
    """A value as a field's declared type: whole numbers become floats, and floats are finite.

    Raises:
        TypeError: it is of another type, or holds something of another type.
        OverflowError: a whole number is too large for a float.
    """
    if get_origin(kind) is UnionType:
        kind = next((part for part in get_args(kind) if type(value) is (get_origin(part) or part)), None)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not (get_origin(kind) or kind) or (kind is float and not isfinite(value)):
        raise TypeError
    if isinstance(value, list):
        return [_cast(item, get_args(kind)[0]) for item in value]
    if isinstance(value, dict):
        names, items = get_args(kind)
        return {_cast(name, names): _cast(item, items) for name, item in value.items()}
    return value


def _recommended(task: str) -> Recipe:
    return Recipe(
        name=task,
        task=task,
        backbone="google/mobilenet_v2_1.0_224",
        summary="recommended: MobileNet-V2, all layers fine-tuned, one linear layer on the pooled map",
        augment="random",
        rotate=10.0,
        translate=0.05,
        zoom=0.1,
        intensity=0.2,
        class_weights="balanced",
        input_dropout=0.2,
        epochs={"tb": 12, "covid": 6, "three-class": 4}[task],  # about as many steps each: the sets differ in size
        optimizer="adamw",
        learning_rate=3e-4,
        weight_decay=0.01,
        schedule="cosine",
        warmup_epochs=0.5,
        gradient_clip=1.0,
    )


SOURCE_A, SOURCE_B = "Xray_classification (Keras 2.7)", "Lung X-Ray Classification (TensorFlow 2.17)"
TEXT_AUGMENTS = "The source's text augments, its code did not: --set augment=none gives the code's behaviour."
LAST_LAYERS = (
    "The source set its last layers trainable after compiling and so most probably trained the head alone; here they train, from the start."
)
BINARY = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auroc")
FOUR = ("accuracy", "sensitivity COVID", "sensitivity Normal", "sensitivity Lung_Opacity", "sensitivity Viral Pneumonia", "macro_f1")


def _tb(name: str, backbone: str, summary: str, figures: tuple[float, ...], **changes: Any) -> Recipe:
    """A recipe of source A for TB: a frozen backbone under a small head."""
    settings: dict[str, Any] = {
        "hidden_sizes": [128],
        "unfreeze": "none",
        "input_dropout": 0.25,
        "dropout": 0.25,
        "augment": "random",
        "rotate": 36.0,
        "translate": 0.1,
        "views": 4,
        "class_weights": {"Normal": 0.384, "Tuberculosis": 1.92},
        "note": TEXT_AUGMENTS,
        **changes,
    }
    published = Source(SOURCE_A, 840, dict(zip(BINARY, figures, strict=False)))
    return Recipe(name=name, task="tb", backbone=backbone, summary=summary, source=published, **settings)


def _tb_last(name: str, backbone: str, summary: str, figures: tuple[float, ...], unfreeze: list[str], **changes: Any) -> Recipe:
    """Its fine-tuned variant: the last layers train too, for ten epochs more."""
    return _tb(name, backbone, summary, figures, unfreeze=unfreeze, epochs=30, note=f"{TEXT_AUGMENTS} {LAST_LAYERS}", **changes)


def _covid(name: str, backbone: str, summary: str, figures: tuple[float, ...]) -> Recipe:
    """A recipe of source A for the four classes."""
    return Recipe(
        name=name,
        task="covid",
        backbone=backbone,
        summary=summary,
        unfreeze="none",
        hidden_sizes=[256, 128],
        dropout=0.25,
        class_weights="balanced",
        learning_rate=0.002,
        schedule="exponential",
        source=Source(SOURCE_A, 4233, dict(zip(FOUR, figures, strict=True))),
    )


RESNET50, RESNET101, MOBILENET_V2 = "microsoft/resnet-50", "microsoft/resnet-101", "google/mobilenet_v2_1.0_224"
VGG16, VGG19, DENSENET201 = "timm/vgg16.tv_in1k", "timm/vgg19.tv_in1k", "timm/densenet201.tv_in1k"
LAST_BLOCK = "encoder.stages.3.layers.2.layer"
DENSE = "timm_model.features"
ON_PROBABILITIES: dict[str, Any] = {"features": "probabilities", "hidden_sizes": [256, 128]}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        _recommended("tb"),
        _recommended("covid"),
        _recommended("three-class"),
        _tb("tb-resnet50", RESNET50, "ResNet-50, head only", (0.9893, 0.9786, 0.9914, 0.958, 0.968)),
        _tb_last(
            "tb-resnet50-last4",
            RESNET50,
            "ResNet-50, head and last convolution",
            (0.9952, 0.9857, 0.9971, 0.986, 0.986, 0.99981),
            [f"{LAST_BLOCK}.2"],
        ),
        _tb("tb-resnet101", RESNET101, "ResNet-101, head only", (0.9905, 0.9786, 0.9929, 0.965, 0.972, 0.99945)),
        _tb_last(
            "tb-resnet101-last7",
            RESNET101,
            "ResNet-101, head and last two convolutions",
            (0.9917, 0.9786, 0.9943, 0.972, 0.975, 0.99970),
            [f"{LAST_BLOCK}.1", f"{LAST_BLOCK}.2"],
        ),
        _tb("tb-vgg16", VGG16, "VGG-16, head only", (0.9952, 0.9929, 0.9957, 0.979, 0.986, 0.99983)),
        _tb("tb-vgg19", VGG19, "VGG-19, head only", (0.9905, 0.9429, 1.0, 1.0, 0.971, 0.99954)),
        _tb("tb-densenet201", DENSENET201, "DenseNet-201, head only", (0.9940, 0.9929, 0.9943, 0.972, 0.982, 0.99985)),
        _tb_last(
            "tb-densenet201-last7",
            DENSENET201,
            "DenseNet-201, head and last dense layer",
            (0.9917, 1.0, 0.9900, 0.952, 0.976, 0.99991),
            [f"{DENSE}.denseblock4.denselayer32.{part}" for part in ("conv1", "norm2", "conv2")] + [f"{DENSE}.norm5"],
        ),
        _tb(
            "tb-mobilenetv2",
            MOBILENET_V2,
            "MobileNet-V2, head on its ImageNet probabilities",
            (0.9798, 0.9357, 0.9886, 0.942, 0.939, 0.99603),
            **ON_PROBABILITIES,
        ),
        _tb_last(
            "tb-mobilenetv2-last5",
            MOBILENET_V2,
            "MobileNet-V2, head on its ImageNet probabilities, last convolution and classifier",
            (0.9798, 0.9500, 0.9857, 0.930, 0.940, 0.99600),
            ["conv_1x1", "projection"],
            **ON_PROBABILITIES,
        ),
        _covid("covid-resnet50", RESNET50, "ResNet-50, head only", (0.9272, 0.945, 0.950, 0.871, 0.959, 0.933)),
        _covid("covid-resnet101", RESNET101, "ResNet-101, head only", (0.9213, 0.946, 0.932, 0.877, 0.970, 0.928)),
        _covid("covid-vgg19", VGG19, "VGG-19, head only", (0.9069, 0.928, 0.900, 0.895, 0.955, 0.917)),
        Recipe(
            name="three-class-mobilenetv3small",
            task="three-class",
            backbone="timm/tf_mobilenetv3_small_100.in1k",
            summary="MobileNet-V3-small, head only, max pooling",
            unfreeze="none",
            pooling="max",
            hidden_sizes=[256],
            batch_norm=True,
            dropout=0.2,
            resample="nearest",
            augment="random",
            flip=True,
            epochs=30,
            patience=0,
            batch_size=64,
            source=Source(
                SOURCE_B,
                1563,
                {"accuracy": 0.9399, "sensitivity Covid": 0.947, "sensitivity Normal": 0.921, "sensitivity Pneumonia": 0.953},
            ),
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UsageError: there is none; the message lists them.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """Apply `key=value` strings to a recipe; values are JSON, or plain text.

    Raises:
        UsageError: an unknown field, or a value that the field cannot have; the message says what is expected.
    """
    changes: dict[str, Any] = {}
    kinds = {item.name: item.type for item in fields(Recipe) if item.name not in ("name", "task", "source", "summary", "note")}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in kinds:
            raise UsageError(f"--set {setting}: expected key=value with key one of {', '.join(kinds)}")
        changes[key] = _parse(text, kinds[key])
    return replace(recipe, **changes)


def _parse(text: str, kind: Any) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # also of numbers or nesting without end
        return text
    return text if kind is str and not isinstance(value, str) else value


def to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as it stands in recipe.json."""
    return asdict(recipe)
