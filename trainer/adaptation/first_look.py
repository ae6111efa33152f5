"""A hospital's films without labels beside what a model knows: is this hospital like it?"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor, RadiographError
from trainer.data.pixels import DECODE
from trainer.errors import WorkError
from trainer.evaluation.intervals import proportion
from trainer.inference import for_inference, predict_image
from trainer.run import Run

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def first_look(run: Run, files: Sequence[str]) -> dict[str, Any]:
    """What a run says of films without labels, and what they are.

    Args:
        run: a run with a model.
        files: radiographs; each counts for itself.

    Returns:
        Counts `n`, `learned` (films that trained or tuned the model), `decisions` and `warnings`, and `skipped`, why
        files cannot be read; proportions `unfamiliar` and `no_lungs`; quantiles of `scores`, of `pixels` (the shorter
        side) and of `grey` (a film's median, 0..1). `known` has scores and familiarity of the run's own splits.

    Raises:
        WorkError: no file can be read.
        UsageError: no model can be loaded.
    """
    model, processor = run.load_model()
    model, films, errors = for_inference(model, processor), [], []
    for file in tqdm(files, desc="looking at the films", unit="film", leave=False):
        try:
            films.append(_look_at(file, model, processor))
        except (RadiographError, ImportError) as error:
            errors.append(str(error))
    if not films:
        raise WorkError(f"none of {len(files)} files can be read (first: {errors[0]})")
    manifest = run.manifest()
    learned = set() if manifest is None else set(manifest["sha256"][manifest["split"].isin(("train", "validation"))])

    def share(code: str) -> dict[str, Any]:
        return proportion(np.array([code in film["warnings"] for film in films]), np.arange(len(films)))

    return {
        "n": len(films),
        "skipped": errors,
        "learned": sum(film["sha256"] in learned for film in films),
        "decisions": dict(Counter(film["label"] for film in films)),
        "warnings": dict(Counter(code for film in films for code in film["warnings"])),
        "unfamiliar": share("unfamiliar"),
        "no_lungs": share("no-lungs"),
        "scores": {label: _quantiles([film["scores"][label] for film in films]) for label in model.labels},
        "pixels": _quantiles([film["side"] for film in films]),
        "grey": _quantiles([film["grey"] for film in films]),
        "known": _known(run, model.labels),
    }


def _look_at(file: str, model: CxrForImageClassification, processor: CxrImageProcessor) -> dict[str, Any]:
    radiograph = processor.read(file, DECODE)
    answer, pixels = predict_image(model, processor, radiograph.pixels), radiograph.pixels
    facts = {"side": min(pixels.shape), "grey": float(np.median(pixels[::4, ::4])) / 255}
    facts["sha256"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return {**answer, **facts, "warnings": {*radiograph.warnings, *answer["warnings"]}}


def _known(run: Run, labels: Sequence[str]) -> dict[str, Any]:
    """Of each split of a run how many films were called unfamiliar, and the quantiles of its scores."""
    flagged = run.read_json("metrics.json").get("familiarity", {}).get("splits", {}) if run.has("metrics.json") else {}
    known: dict[str, Any] = {name: {"unfamiliar": part["flagged"]} for name, part in flagged.items()}
    if run.has("predictions.csv"):
        for name, rows in run.predictions().groupby("split"):
            scores = {label: _quantiles(rows[f"p:{label}"]) for label in labels}
            known.setdefault(str(name), {})["scores"] = scores
    return known


def _quantiles(values: Any) -> list[float]:
    return [float(value) for value in np.quantile(np.asarray(values, float), QUANTILES)]


def verdict(report: dict[str, Any]) -> str:
    """Whether the films are like those of the model's own validation, in words: by how many are called unfamiliar."""
    own = report["known"].get("validation", {}).get("unfamiliar")
    if own is None:
        return "the run does not say how familiar its own films are"
    if report["unfamiliar"]["low"] > own["high"]:
        return "UNLIKE what the model knows: trust its answers less, and adapt it by labelled films"
    return "by their texture like what the model knows; whether its answers hold, only labelled films tell"
