"""`cxr audit`: are the lungs what a model reads? Asked by hiding them, by levelling the sources, and of its heat maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from hub_cards.card import write_card
from hub_cards.figures import headline, show_figure, show_number
from trainer.assessment import Study, open_study
from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor, CxrOutput
from trainer.data.check import look_at
from trainer.data.marks import lesion_marks, lung_marks
from trainer.data.pixels import GreyImages
from trainer.evaluation import figures
from trainer.evaluation.audit import CONDITIONS, ChangedPixels, Levelling, Occlusion, pointing, prior_maps
from trainer.evaluation.intervals import intervals
from trainer.evaluation.points import decided
from trainer.evaluation.shortcuts import WARN, tell_apart
from trainer.run import Run
from trainer.training.feed import Pixels
from trainer.training.fused import fuse
from trainer.training.inference import best_device, run_over

CHANCE = 0.6  # the lower end of an interval at or below this is not told from guessing
TOLD = ("n", "positives", "auroc", "low", "high", "method")
GRID = 112  # maps and findings are compared on so many pixels a side


def audit(run: Run, data: str, split: str, most: int, keep: bool) -> dict[str, Any]:
    """Ask a model about pictures without their lungs, with nothing else, and with their resolution levelled.

    Args:
        run: the model's.
        data: a folder or a manifest; all of it is `split` where it names none.
        most: how many pictures are asked about, drawn at random; and of how many with a known finding the heat map is looked at.
        keep: write the answer into the run's metrics.json, its card and figures/audit.png.

    Returns:
        {"split", "left_out", "n", "groups", "lung_masks", "level", "conditions", "collections", "heat_maps", "verdict"}: `conditions`
        holds figures with intervals, `collections` how well the model's features tell the sources of one label apart,
        `lung_masks` counts pictures with a mask of their own (the others have a central area hidden), `level` is in pixels.

    Raises:
        UsageError: no such split, nothing in it that is new to the model, or classes that it does not know.
    """
    model, processor = run.load_model()
    fuse(model.to(best_device(), memory_format=torch.channels_last))
    study, _, left_out = open_study(run, model, processor, data, split, lambda rows: _choose(data, rows, most))
    report = {"split": split, "left_out": left_out, **_conditions(model, processor, study, data)}
    report["heat_maps"] = _heat_maps(model, processor, study, data)
    report["verdict"] = verdict(report["conditions"], report["collections"])
    if keep:
        run.write_figure("audit", figures.audit(report, headline(report["conditions"][CONDITIONS[0]])))
        run.write_json("metrics.json", {**run.read_json("metrics.json"), "audit": report})
        write_card(run.path)
    return report


def verdict(conditions: dict[str, Any], collections: Sequence[dict[str, Any]] = ()) -> dict[str, str]:
    """What the figures mean: {"code", "text"}; the codes are `shortcut`, `doubtful`, `lungs` and `nothing`.

    Args:
        conditions: figures with intervals by condition.
        collections: how well features tell the sources; hidden lungs say nothing of a source's look inside the lungs.
    """
    name = auroc_name(conditions)
    whole, hidden, only = (conditions[condition][name] for condition in CONDITIONS[:3])
    if whole["low"] is None or hidden["low"] is None:
        return {"code": "nothing", "text": "One class alone: nothing can be said of what tells the classes apart."}
    without = f"AUROC {show_figure(hidden)} (with them {show_figure(whole)}, with nothing else {show_figure(only)})"
    if whole["low"] <= CHANCE:
        return {"code": "nothing", "text": f"This model hardly tells these pictures apart: AUROC {show_figure(whole)}. No verdict."}
    if hidden["low"] > WARN or (hidden["low"] > CHANCE >= (only["low"] or 0)):
        return {
            "code": "shortcut",
            "text": f"With its lungs hidden this model still reaches {without}: it reads the source, not the disease.",
        }
    if hidden["low"] > CHANCE or hidden["high"] > WARN:
        reason = "part of its answer comes from outside of them" if hidden["low"] > CHANCE else "too few pictures for a verdict"
        return {"code": "doubtful", "text": f"With its lungs hidden this model reaches {without}: {reason}."}
    told = max(collections, key=lambda row: row["low"], default={"low": 0})
    look = f"{told['collection']} among {told['among']} with AUROC {show_number(told['auroc'])}" if told["low"] > WARN else ""
    look = f" That may still be a source's look: its features tell {look}." if look else ""
    return {"code": "lungs", "text": f"With its lungs hidden this model falls to {without}: what it reads lies within them.{look}"}


def auroc_name(conditions: dict[str, Any]) -> str:
    """Of two labels the AUROC, of more the mean of each against the others."""
    return "auroc" if "auroc" in conditions[CONDITIONS[0]] else "macro_auroc"


def _choose(data: str, rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """A random part of the rows, marked `asked`, and of those whose finding is known another, marked `pointed`."""
    order = np.random.default_rng(0).permutation(len(rows))
    known = lesion_marks(data, rows, 1, 1)
    parts = {"asked": order[:most], "pointed": np.array([row for row in order if row in known][:most], int)}
    chosen = rows.assign(**{name: np.isin(np.arange(len(rows)), part) for name, part in parts.items()})
    return chosen[chosen["asked"] | chosen["pointed"]].reset_index(drop=True)


def _conditions(model: CxrForImageClassification, processor: CxrImageProcessor, study: Study, data: str) -> dict[str, Any]:
    chosen = np.flatnonzero(study.rows["asked"])
    rows, truth, labels = study.rows.iloc[chosen], study.truth[chosen], study.task.labels
    lungs = lung_marks(data, study.rows, study.images.height, study.images.width)
    level = _level(list(rows["file"]), study.images)
    given = (study.images, processor, model.device)
    usual = study.images.mean(chosen)
    changes = (Occlusion(lungs, False, usual), Occlusion(lungs, True, usual), Levelling(level))
    changed = [ChangedPixels(*given, change) for change in changes]
    found = {
        name: run_over(model, feed, chosen, title=name, pick=_logits_and_features).double()
        for name, feed in zip(CONDITIONS, (Pixels(*given), *changed), strict=True)
    }
    conditions = {}
    for name, answers in found.items():
        scores = answers[:, : len(labels)].softmax(dim=1).numpy()
        decisions = decided(scores, labels, model.config.operating_point)
        conditions[name] = intervals(truth, decisions, scores, rows["group"].to_numpy())["metrics"]
    return {
        "n": len(chosen),
        "groups": rows["group"].nunique(),
        "lung_masks": len(set(lungs) & set(chosen)),
        "level": level,
        "conditions": conditions,
        "collections": _collections(found[CONDITIONS[0]][:, len(labels) :].numpy(), rows),
    }


def _level(files: list[str], images: GreyImages) -> int:
    """Half the side that the model sees, or less where a file has less."""
    sides = [min(look.width, look.height) for look in look_at(files) if not look.error]
    return min(images.height // 2, images.width // 2, *sides)


def _collections(features: np.ndarray, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """How well features [N, D] tell the collections of one label apart: what differs between them is not the label."""
    found = []
    for label in sorted(set(rows["label"])):
        inside = (rows["label"] == label).to_numpy()
        part = rows[inside]
        told = tell_apart(features[inside], part["collection"].to_numpy(), part["group"].to_numpy())
        found += [{"among": label, "collection": row["label"], **{key: row[key] for key in TOLD}} for row in told]
    return found


def _heat_maps(model: CxrForImageClassification, processor: CxrImageProcessor, study: Study, data: str) -> dict[str, Any] | None:
    """Where the model's heat map, an untrained network's and two priors point, on pictures whose finding is known."""
    chosen = np.flatnonzero(study.rows["pointed"])
    if not len(chosen):
        return None
    drawn = lesion_marks(data, study.rows.iloc[chosen], GRID, GRID)
    marks, groups = np.stack([drawn[place] for place in range(len(chosen))]), study.rows["group"].to_numpy()[chosen]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = CxrForImageClassification(model.config).to(model.device).eval()
    pixels = Pixels(study.images, processor, model.device)
    networks = {"the model": model, "untrained network": untrained}
    maps = {**{name: _maps(network, pixels, chosen, study.truth) for name, network in networks.items()}, **prior_maps(marks)}
    return {"n": len(chosen), "area": float(marks.mean()), "maps": {name: pointing(found, marks, groups) for name, found in maps.items()}}


def _maps(model: CxrForImageClassification, pixels: Pixels, chosen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The heat map of each picture's own label, [N, GRID, GRID]."""
    found = np.zeros((len(chosen), GRID, GRID), np.float32)
    for label in np.unique(truth[chosen]):

        def pick(output: CxrOutput, label: int = int(label)) -> torch.Tensor:
            return F.interpolate(model.heatmap(output, label)[:, None], size=(GRID, GRID), mode="bilinear").flatten(1)

        places = np.flatnonzero(truth[chosen] == label)
        found[places] = run_over(model, pixels, chosen[places], title="heat maps", pick=pick).numpy().reshape(-1, GRID, GRID)
    return found


def _logits_and_features(output: CxrOutput) -> torch.Tensor:
    assert output.logits is not None and output.feature_map is not None  # noqa: PT018  a model gives both
    return torch.cat([output.logits, output.feature_map.mean(dim=(2, 3))], dim=1)
