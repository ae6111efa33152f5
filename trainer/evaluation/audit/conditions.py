"""The conditions of the shortcut audit, lungs hidden, nothing but the lungs, all sources equally sharp; its verdict.

Hidden lungs: Maguolo and Nanni, Inf. Fusion 76 (2021) 1.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from hub_cards.formatting import format_metric, format_number
from trainer.cxr_model import CxrForImageClassification
from trainer.data.annotations import Masks, load_lung_masks
from trainer.data.check import inspect_files
from trainer.data.labelled import LabelledImages
from trainer.evaluation.intervals import intervals
from trainer.evaluation.operating_points import decided
from trainer.evaluation.probe import WARN, probe_auroc
from trainer.inference import PixelBatches, run_model

MARGIN = 0.03  # what is added around a lung mask, of the side
PROBE_FIELDS = ("n", "positives", "auroc", "low", "high", "method")
CONDITIONS = ("as they are", "lungs hidden", "only lungs", "resolution matched")
CHANCE = 0.6  # an interval whose lower end is at or below this may be guessing


def audit_conditions(
    model: CxrForImageClassification, pixels: PixelBatches, labelled: LabelledImages, data: str, rows: np.ndarray
) -> dict[str, Any]:
    """What a model answers to these `rows` under each condition, and how well its features tell the collections.

    Returns:
        {"n", "groups", "lung_masks": images with a mask of their own, "level": pixels a side after resolution matching,
        "conditions": {name: metrics with intervals}, "collections": a list of probes}.
    """
    table, labels, images = labelled.rows.iloc[rows], labelled.task.labels, labelled.images
    lungs, mean = load_lung_masks(data, labelled.rows, images.height, images.width), images.mean(rows)
    sides = [min(info.width, info.height) for info in inspect_files(list(table["file"])) if not info.error]
    level = min(images.height // 2, images.width // 2, *sides)
    changes: tuple[Callable[[torch.Tensor, np.ndarray], torch.Tensor], ...] = (
        lambda grey, _: grey,
        partial(occlude, lungs=lungs, keep_lungs=False, usual=mean),
        partial(occlude, lungs=lungs, keep_lungs=True, usual=mean),
        lambda grey, _: match_resolution(grey, level),
    )
    conditions, features, pair = {}, [], _WithLungsOf(model)

    def logits_and_features(output: Any) -> torch.Tensor:
        return torch.cat([output.logits, output.feature_map.mean(dim=(2, 3))], dim=1)

    for name, change in zip(CONDITIONS, changes, strict=True):

        def inputs(samples: np.ndarray, change: Any = change) -> torch.Tensor:
            grey = pixels.grey(samples)
            return torch.cat([pixels.processor.to_pixel_values(each) for each in (change(grey, samples), grey)], dim=1)

        outputs = run_model(pair, inputs, rows, title=name, select=logits_and_features).double()
        scores = outputs[:, : len(labels)].softmax(dim=1).numpy()
        decisions = decided(scores, labels, model.config.operating_point)
        conditions[name] = intervals(labelled.truth[rows], decisions, scores, table["group"].to_numpy())["metrics"]
        features.append(outputs[:, len(labels) :].numpy())
    return {
        "n": len(rows),
        "groups": table["group"].nunique(),
        "lung_masks": len(set(lungs) & set(rows)),
        "level": level,
        "conditions": conditions,
        "collections": _probe_collections(features[0], table),
    }


class _WithLungsOf(nn.Module):
    """A model on changed images that looks for the lungs in the images as they were: pixel values [B, 2 x 3, H, W]."""

    def __init__(self, model: CxrForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, values: torch.Tensor) -> Any:
        changed, untouched = values.chunk(2, dim=1)
        return self.model(changed, lungs_of=untouched)


def _probe_collections(features: np.ndarray, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """How well features [N, D] tell the collections of one label apart: what differs between them is not the label."""
    probes = []
    for label in sorted(set(rows["label"])):
        inside = (rows["label"] == label).to_numpy()
        collections, groups = (rows[inside][name].to_numpy() for name in ("collection", "group"))
        for row in probe_auroc(features[inside], collections, groups):
            probes.append({"among": label, "collection": row["label"], **{key: row[key] for key in PROBE_FIELDS}})
    return probes


def verdict(conditions: dict[str, Any], collections: Sequence[dict[str, Any]] = ()) -> dict[str, str]:
    """What the metrics by condition and the probes of collections mean: {"code", "text"}.

    The codes are `shortcut`, `doubtful`, `lungs` and `nothing`.
    """
    name = "auroc" if "auroc" in conditions[CONDITIONS[0]] else "macro_auroc"
    whole, hidden, only = (conditions[condition][name] for condition in CONDITIONS[:3])
    if whole["low"] is None or hidden["low"] is None:
        return {"code": "nothing", "text": "One class alone: nothing can be said of what tells the classes apart."}
    if whole["low"] <= CHANCE:
        text = f"This model hardly tells these images apart: AUROC {format_metric(whole)}. No verdict."
        return {"code": "nothing", "text": text}
    if hidden["low"] > WARN or (hidden["low"] > CHANCE >= (only["low"] or 0)):
        code, verb, reading = "shortcut", "still reaches", "it reads the source, not the disease."
    elif hidden["low"] > CHANCE:
        code, verb, reading = "doubtful", "reaches", "part of its answer comes from outside of them."
    elif hidden["high"] > WARN:
        code, verb, reading = "doubtful", "reaches", "too few images for a verdict."
    else:
        code, verb, reading = "lungs", "falls to", "what it reads lies within them."
        worst = max(collections, key=lambda row: row["low"], default=None)
        if worst and worst["low"] > WARN:
            look = f"{worst['collection']} among {worst['among']} with AUROC {format_number(worst['auroc'])}"
            reading += f" That may still be a source's look: its features tell {look}."
    auroc = f"{format_metric(hidden)} (with them {format_metric(whole)}, with nothing else {format_metric(only)})"
    return {"code": code, "text": f"With its lungs hidden this model {verb} AUROC {auroc}: {reading}"}


def occlude(
    grey: torch.Tensor, samples: np.ndarray, lungs: Masks, keep_lungs: bool, usual: torch.Tensor
) -> torch.Tensor:
    """Hide the lungs of images uint8 [B, H, W], or all but the lungs, behind the mean image `usual` uint8 [H, W].

    Rows without a mask in `lungs` have the `central_area`.
    """
    central = central_area(*grey.shape[1:])
    areas = [widen(lungs[row], box=not keep_lungs) if row in lungs else central for row in samples]
    hidden = torch.from_numpy(np.stack(areas) != keep_lungs).to(grey.device)
    return torch.where(hidden, usual.to(grey.device), grey)


def match_resolution(grey: torch.Tensor, side: int) -> torch.Tensor:
    """Shrink images uint8 [B, H, W] to `side` pixels and enlarge them again: no source is sharper than another."""
    small = F.interpolate(grey[:, None].float(), size=(side, side), mode="area")
    return F.interpolate(small, size=grey.shape[1:], mode="bilinear").round().to(torch.uint8)[:, 0]


def central_area(height: int, width: int) -> np.ndarray:
    """A rounded box that holds the lungs of most frontal chest radiographs and leaves the corners free, bool [H, W]."""
    y, x = ((np.arange(size) + 0.5) / size for size in (height, width))
    return ((y[:, None] - 0.48) / 0.46) ** 4 + ((x - 0.5) / 0.47) ** 4 < 1


def widen(lungs: np.ndarray, box: bool) -> np.ndarray:
    """A lung mask bool [H, W] with a margin; or the upright box around it, which tells nothing of the lungs' form."""
    reach = max(1, round(MARGIN * max(lungs.shape)))
    wide = F.max_pool2d(torch.from_numpy(lungs)[None].float(), 2 * reach + 1, stride=1, padding=reach)[0].numpy() > 0
    if box and wide.any():
        rows, columns = (np.flatnonzero(wide.any(axis=axis)) for axis in (1, 0))
        wide[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return wide
