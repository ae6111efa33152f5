"""How each model is trained, as data: the fields of a recipe, and the table in recipes.toml."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from trainer.errors import UsageError


@dataclass(frozen=True)
class Source:
    """Where a recipe comes from, and what it published of its own test split of `n` images: {figure: value}."""

    name: str
    n: int
    figures: dict[str, float]
    url: str | None = None


EXPECTED: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    Source | None: "a Source or None",
}
CHOICES = {
    "features": ("map", "probabilities"),
    "pooling": ("avg", "max", "avg+max+std"),
    "head": ("trained", "whitened"),
    "resample": ("nearest", "bilinear", "bicubic"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine", "exponential"),
    "augment": ("none", "random"),
    "mixed_precision": ("auto", "no", "bf16", "fp16"),
    "batch_norm": ("frozen", "moving"),
    "monitor": ("loss", "auroc", "balanced_accuracy"),
}
VIEWS = ("film", "lungs", "lungs-equalised")
SMALLEST = 32  # pixels of a side: below, the networks' last feature map is less than one place
POSITIVE = (lambda value: value > 0, "a number above 0")
NOT_NEGATIVE = (lambda value: value >= 0, "a number that is not negative")
FRACTION = (lambda value: 0 <= value < 1, "a number between 0 and 1, 1 excluded")
# What a value of the right type must fulfil, and how that is said.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{key: (allowed.__contains__, f"one of {', '.join(allowed)}") for key, allowed in CHOICES.items()},
    **dict.fromkeys(("epochs", "batch_size", "gradient_accumulation", "learning_rate", "whitening", "ridge"), POSITIVE),
    **dict.fromkeys(
        ("patience", "gradient_clip", "weight_decay", "warmup_epochs", "rotate", "augmented_views", "level", "lesions"),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(("input_dropout", "dropout", "translate", "zoom", "intensity"), FRACTION),
    "seed": (lambda value: 0 <= value < 2**63, "a number that is not negative and below 2^63"),
    "image_size": (lambda value: value >= SMALLEST, f"at least {SMALLEST} pixels"),
    "views": (
        lambda value: not value or (value[0] == VIEWS[0] and set(value) <= set(VIEWS)),
        f"a list of {', '.join(VIEWS)}, film first",
    ),
    "strides": (lambda value: min(value, default=1) > 0, "a list of whole numbers above 0"),
    "hidden_sizes": (lambda value: min(value, default=1) > 0, "a list of whole numbers above 0"),
    "unfreeze": (
        lambda value: value in ("all", "none") if isinstance(value, str) else "" not in value,
        "all, none or a list of module names",
    ),
    "class_weights": (
        lambda value: value in ("balanced", "none") if isinstance(value, str) else min(value.values(), default=0) >= 0,
        "balanced, none or {label: weight} with finite weights that are not negative",
    ),
}


@dataclass(frozen=True)
class Recipe:
    """One way to train one model.

    `unfreeze` is `all`, `none` (the head alone trains) or a list of backbone modules. `class_weights` is `balanced`,
    `none` or {label: weight}. An optimiser step sees `batch_size` x `gradient_accumulation` images on each process.
    `augment=random` turns by up to `rotate` degrees, shifts by up to `translate` and zooms by up to `zoom` (shares of
    the image), mirrors half of the images where `flip`, and varies brightness, contrast and gamma by up to
    `intensity`. With `augmented_views` an image is augmented in that many ways and epoch e shows the one of epoch e mod
    that number, so that frozen layers need computing once a view (0: each epoch anew). `learning_rate` falls by
    `schedule`: `cosine` to 0 at the last epoch, `exponential` tenfold every 20 epochs. `batch_norm=moving` lets the
    running statistics of the backbone's unfrozen BatchNorm layers follow the training images; from random weights, all
    unfrozen, they always do. Training stops after `patience` epochs without a better `monitor` on the validation images
    (0: never; with auroc and balanced_accuracy, of equal ones the lower loss is better); the best epoch is kept.

    With `views` the model finds the lungs itself and shows its backbone the film, the crop of the lungs, and that with
    its grey levels stretched, all shrunk to `level` pixels first; `strides` names the maps that are pooled (none: the
    last). With `head=whitened` nothing is trained by epochs: one linear layer is fitted in closed form on the frozen
    features, after the directions in which films without findings differ (within and between collections) are scaled
    down. A smaller `whitening` scales them down more; a larger `ridge` keeps the weights smaller. Where the data has
    boxes around lesions (lesion_boxes.csv), `lesions` adds a lesion head on the view `lungs`, whose scores vary
    `lesions` times as much as those of the linear layer; 0: none. `adults`: it learns from adults and warns of a child.
    """

    name: str
    task: str
    backbone: str
    summary: str
    unfreeze: str | list[str] = "all"
    features: str = "map"
    pooling: str = "avg"
    views: list[str] = field(default_factory=list)
    level: int = 0
    strides: list[int] = field(default_factory=list)
    head: str = "trained"
    whitening: float = 1.0
    ridge: float = 1.0
    lesions: float = 0.0
    adults: bool = False
    hidden_sizes: list[int] = field(default_factory=list)
    input_dropout: float = 0.0
    dropout: float = 0.0
    head_batch_norm: bool = False
    batch_norm: str = "frozen"
    image_size: int = 224
    resample: str = "bilinear"
    augment: str = "none"
    flip: bool = False
    rotate: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0
    intensity: float = 0.0
    augmented_views: int = 0
    class_weights: str | dict[str, float] = "none"
    epochs: int = 20
    patience: int = 5
    monitor: str = "loss"
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
            value = getattr(self, item.name)
            fulfilled, expected = RULES.get(item.name, (lambda value: True, ""))
            try:
                value = _validators()[item.name].validate_python(value)
            except ValidationError as error:
                raise UsageError(f"{item.name}={value}: expected {EXPECTED.get(item.type, expected)}") from error
            if not fulfilled(value):
                raise UsageError(f"{item.name}={value}: expected {expected}")
            object.__setattr__(self, item.name, value)
        if self.head == "whitened" and (self.hidden_sizes or self.features != "map"):
            raise UsageError("head=whitened: expected hidden_sizes=[] and features=map: it is one linear layer")
        if self.strides and not self.views:
            raise UsageError(f'strides={self.strides}: expected views, whose maps are pooled: views=["film"]')


@cache
def _validators() -> dict[str, TypeAdapter[Any]]:
    """Of each field's declared type: whole numbers become floats, floats are finite, nothing else is converted."""
    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return {item.name: TypeAdapter(item.type, config=config) for item in fields(Recipe)}


def _read_table() -> dict[str, Recipe]:
    tables = tomllib.loads(Path(__file__).with_name("recipes.toml").read_text(encoding="utf-8"))
    shared = tables.pop("shared")

    def resolve(table: dict[str, Any]) -> dict[str, Any]:
        base = resolve(shared[table["extends"]]) if "extends" in table else {}
        return {**base, **{key: value for key, value in table.items() if key != "extends"}}

    recipes = {}
    for name, table in tables.items():
        values = resolve(table)
        figures, source = values.pop("figures", None), values.pop("source", None)
        recipes[name] = Recipe(name=name, source=Source(**source, figures=figures) if figures else None, **values)
    return recipes


RECIPES = _read_table()


def get_recipe(name: str, **changes: Any) -> Recipe:
    """The recipe of that name, with some fields changed: `get_recipe("tb-finetuned", epochs=3)`.

    Raises:
        UsageError: there is none; the message lists them.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return replace(RECIPES[name], **changes)


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """Apply `key=value` strings to a recipe; values are JSON, or plain text.

    Raises:
        UsageError: an unknown field, or a value that the field cannot have; the message says what is expected.
    """
    fixed = ("name", "task", "source", "summary", "note")
    kinds = {item.name: item.type for item in fields(Recipe) if item.name not in fixed}
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in kinds:
            raise UsageError(f"--set {setting}: expected key=value with key one of {', '.join(kinds)}")
        changes[key] = _parse(text, kinds[key])
    return replace(recipe, **changes)


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe.json of any version with the fields of today: `batch_norm` was once what `head_batch_norm` is, and
    `views` what `augmented_views` is.
    """
    if "head_batch_norm" not in values:
        values = {**values, "head_batch_norm": values.get("batch_norm", False), "batch_norm": "frozen"}
    if "augmented_views" not in values:
        values = {**values, "augmented_views": values.get("views", 0), "views": []}
    return {**asdict(Recipe("", "", "", "")), **values}  # a field that was not there yet has its default


def _parse(text: str, kind: Any) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # also of numbers or nesting without end
        return text
    return text if kind is str and not isinstance(value, str) else value
