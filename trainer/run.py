"""The run: the folder a training leaves, which is a complete Hub model repository."""

import math
import os
import secrets
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UsageError, WorkError, hub_errors
from trainer.files import atomic_write, read_json, write_json, write_table, write_text, writing_errors
from trainer.shipped import unpack_shipped

if TYPE_CHECKING:
    import pandas as pd

MAX_CONFIGURATION = 2**20  # bytes


class Run:
    """A run folder by its path; nothing is read or written until asked."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        """Never published."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """True where metrics.json holds the figures of the test split."""
        try:
            return "test" in self.read_json("metrics.json")["splits"]
        except (FileNotFoundError, KeyError):
            return False

    def has(self, name: str) -> bool:
        """True where the run holds this file."""
        return (self.path / name).exists()

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of one of the run's JSON files, each an object; see `files.read_json`."""
        content = read_json(self.path / name)
        if not isinstance(content, dict):
            raise WorkError(f"{self.path / name} is damaged: it holds no JSON object")
        return content

    def read_table(self, name: str) -> "pd.DataFrame":
        """One of the run's CSV files; text stays text."""
        import pandas as pd

        table = pd.read_csv(self.path / name, dtype=str, keep_default_na=False)
        return table.astype({column: float for column in map(str, table) if column.startswith("p:")})

    def metrics(self, split: str = "test") -> "pd.DataFrame":
        """The metrics of a split: a row each, columns value, low, high (95 % interval), method."""
        import pandas as pd

        return pd.DataFrame(self.read_json("metrics.json")["splits"][split]["metrics"]).T

    def manifest(self) -> "pd.DataFrame | None":
        """manifest.csv: sha256, label, split, group, collection; None where the run has none."""
        return self.read_table("manifest.csv") if self.has("manifest.csv") else None

    def trained_collections(self) -> set[str]:
        """The collections that the model learned from, as its manifest has them."""
        manifest = self.manifest()
        return set() if manifest is None else set(manifest["collection"][manifest["split"] == "train"])

    def predictions(self) -> "pd.DataFrame":
        """predictions.csv: a row an image, with its label, prediction, decision and scores."""
        return self.read_table("predictions.csv")

    def threshold_note(self) -> list[str]:
        """A warning if the weights have changed since `cxr adapt` chose the threshold; else empty."""
        adaptation = self.read_json("metrics.json").get("adaptation", {}) if self.has("metrics.json") else {}
        known = adaptation.get("weights")
        if known is None or known == self.weights_hash():
            return []
        return [f"{self.path}: its threshold and scores were adapted for other weights: adapt it again (cxr adapt)"]

    def weights_hash(self) -> str:
        """The sha256 of model.safetensors."""
        return sha256((self.path / "model.safetensors").read_bytes()).hexdigest()

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file into the run."""
        write_json(self.path / name, content)

    def write_table(self, name: str, table: "pd.DataFrame") -> None:
        """Write a CSV into the run."""
        write_table(self.path / name, table)

    def write_figure(self, name: str, figure: Any) -> None:
        """Write figures/NAME.png; no date or software in it."""
        with atomic_write(self.path / "figures" / f"{name}.png") as file:
            figure.savefig(file, dpi=120, format="png", metadata={"Software": None})

    def write_card(self) -> None:
        """Write README.md from the run's files, and .eval_results/test.yaml where its data came from the Hub.

        Raises:
            FileNotFoundError: the run lacks a file that the card needs.
            ValueError: one of these files lacks what a card must say.
        """
        from hub_cards.card import render_card, render_eval_results

        write_text(self.path / "README.md", render_card(self.path))
        if results := render_eval_results(self.path):
            write_text(self.path / ".eval_results/test.yaml", results)

    def write_manifest(self, rows: "pd.DataFrame") -> None:
        """Write manifest.csv as it may be published: no file names, groups under salted names."""
        salt = secrets.token_bytes(16)
        names = {group: sha256(salt + group.encode()).hexdigest()[:12] for group in sorted(set(rows["group"]))}
        self.write_table(
            "manifest.csv",
            rows.assign(group=rows["group"].map(names))[["sha256", "label", "split", "group", "collection"]],
        )

    def write_model(self, model: Any, processor: Any, folder: str = ".") -> None:
        """Write the weights, both configurations, and the code that travels with them, where there is any.

        What half precision holds exactly is stored so; loaded it has the precision of the configuration again.
        """
        with writing_errors(self.path), tempfile.TemporaryDirectory(dir=self.path, prefix=".model-") as temporary:
            model.save_pretrained(temporary, state_dict=_smallest(model.state_dict()))
            processor.save_pretrained(temporary)
            (self.path / folder).mkdir(exist_ok=True)
            for file in Path(temporary).iterdir():
                os.replace(file, self.path / folder / file.name)

    def load_model(self) -> tuple[Any, Any]:
        """The model in eval mode and its processor, by the trainer's own classes: the run's code is not executed.

        Raises:
            UsageError: the folder holds no model, or weights that are not this model's.
        """
        if not self.path.is_dir():  # a name would be looked for on the Hub
            raise UsageError(f"{self.path}: no such folder; of a model on the Hub: hf download ID --local-dir RUN")
        try:
            for file in ("config.json", "preprocessor_config.json"):
                if self.has(file) and (self.path / file).stat().st_size > MAX_CONFIGURATION:
                    raise ValueError(f"{file} is larger than any configuration")
                if self.has(file) and "--" in str(self.read_json(file).get("auto_map")):
                    raise ValueError(f"{file} names code of another repository")
            if not self.has("model.safetensors"):
                raise ValueError("it holds no model.safetensors")
            from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor

            model = CxrForImageClassification.from_pretrained(self.path).eval()
            processor = CxrImageProcessor.from_pretrained(self.path)
            known = self.read_json("recipe.json").get("labels") if self.has("recipe.json") else None
            if known and tuple(known) != model.labels:
                raise ValueError(f"recipe.json names the labels {known}, config.json {list(model.labels)}")
            _check_answer(model, processor)
        except Exception as error:  # whatever a damaged or tampered file makes of it
            reason = str(error).strip()[:300] or type(error).__name__
            raise UsageError(f"{self.path}: no model can be loaded from here ({reason})") from error
        return model, processor


def _check_answer(model: Any, processor: Any) -> None:
    """Refuse, with ValueError, a model that gives no scores for a test image, a slope of greys, or whose threshold or
    temperature cannot be: first by what needs no pass through it.
    """
    import torch
    from PIL import Image

    try:
        threshold = (model.config.operating_point or {"threshold": 0.5})["threshold"]
        temperature = (model.config.calibration or {"temperature": 1.0})["temperature"]
        values = processor(Image.linear_gradient("L"), return_tensors="pt")["pixel_values"]
        if not (0 <= threshold <= 1 and 0 < temperature < math.inf and values.isfinite().all()):
            raise ValueError("its threshold, temperature or pixel values are no such numbers")
        with torch.inference_mode():
            (answer,) = model.decide(model(values))
        if not all(0 <= score <= 1 for score in answer["scores"].values()):
            raise ValueError(f"its scores are {answer['scores']}")
    except Exception as error:  # whatever sizes, means and numbers that do not belong together make of it
        raise ValueError(f"it cannot classify a test image: {error or type(error).__name__}") from error


def _smallest(weights: dict[str, Any]) -> dict[str, Any]:
    """Tensors by name, in half precision where nothing is lost by it."""

    def smaller(tensor: Any) -> Any:
        half = tensor.half() if tensor.is_floating_point() else tensor
        return half if (half.to(tensor.dtype) == tensor).all() else tensor

    return {name: smaller(tensor) for name, tensor in weights.items()}


def load_run(reference: str | Path, hub: bool = True) -> Run:
    """A run by its folder, by the name of a model that ships (`tb`), or by its Hub id `org/name[@revision]`: the last
    two are read from a cache. Without `hub` nothing is looked for there.

    Raises:
        UsageError: there is no such folder, and no such repository that this account may read.
        WorkError: the Hub cannot be reached, or went away half-way; or the cache cannot be written.
    """
    reference = str(reference)
    if Path(reference).is_dir():
        return Run(reference)
    if folder := unpack_shipped(reference):
        return Run(folder)
    if not hub:
        return Run(reference)
    from huggingface_hub import snapshot_download

    name, _, revision = reference.partition("@")
    with hub_errors(f"{reference}: no such folder here; on the Hub", unreadable=UsageError):
        return Run(snapshot_download(name, revision=revision or None))
