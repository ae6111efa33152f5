"""How each model is trained, as data: the fields of a recipe, and the table in recipes.toml."""

import json
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

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
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise UsageError(f"{key}={getattr(self, key)!r}: expected one of {', '.join(allowed)}")
        if isinstance(self.unfreeze, str) and self.unfreeze not in ("all", "none"):
            raise UsageError(f"unfreeze={self.unfreeze!r}: expected all, none or a list of module names")
        if isinstance(self.class_weights, str) and self.class_weights not in ("balanced", "none"):
            raise UsageError(f"class_weights={self.class_weights!r}: expected balanced, none or {{label: weight}}")
        for key in ("image_size", "epochs", "batch_size", "gradient_accumulation", "learning_rate"):
            if getattr(self, key) <= 0:
                raise UsageError(f"{key}={getattr(self, key)}: must be above 0")
        for key in ("patience", "gradient_clip", "weight_decay", "warmup_epochs", "rotate", "views", "seed"):
            if getattr(self, key) < 0:
                raise UsageError(f"{key}={getattr(self, key)}: must not be negative")
        for key in ("input_dropout", "dropout", "translate", "zoom", "intensity"):
            if not 0 <= getattr(self, key) < 1:
                raise UsageError(f"{key}={getattr(self, key)}: must lie between 0 and 1")


def _read_table() -> dict[str, Recipe]:
    tables = tomllib.loads(Path(__file__).with_name("recipes.toml").read_text(encoding="utf-8"))
    shared = tables.pop("shared")

    def resolve(table: dict[str, Any]) -> dict[str, Any]:
        base = resolve(shared[table["extends"]]) if "extends" in table else {}
        return {**base, **{key: value for key, value in table.items() if key != "extends"}}

    recipes = {}
    for name, table in tables.items():
        fields_of = resolve(table)
        figures = fields_of.pop("figures", None)
        source = Source(**fields_of.pop("source"), figures=figures) if figures else None
        recipes[name] = Recipe(name=name, source=source, **fields_of)
    return recipes


RECIPES = _read_table()


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
        UsageError: an unknown field, or a value of another type than the field's.
    """
    changes: dict[str, Any] = {}
    kinds = {item.name: item.type for item in fields(Recipe) if item.name not in ("name", "task", "source", "summary", "note")}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in kinds:
            raise UsageError(f"--set {setting}: expected key=value with key one of {', '.join(kinds)}")
        changes[key] = _parse(key, text, kinds[key])
    return replace(recipe, **changes)


def _parse(key: str, text: str, kind: Any) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and not isinstance(value, str):
        value = text
    expected = {"class_weights": (dict, str), "unfreeze": (list, str), "hidden_sizes": (list,)}.get(key, (kind,))
    if not isinstance(value, expected) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"--set {key}={text}: expected {getattr(kind, '__name__', kind)}")
    return value


def to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as it stands in recipe.json."""
    return asdict(recipe)
