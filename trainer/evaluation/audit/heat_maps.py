"""Where a model's heat maps point, beside an untrained network's and beside maps that have not seen the image.

Pointing game: Zhang et al., Int. J. Comput. Vis. 126 (2018) 1084.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from trainer.cxr_model import CxrForImageClassification, CxrOutput
from trainer.data.annotations import load_lesion_masks
from trainer.data.labelled import LabelledImages
from trainer.evaluation.intervals import bootstrap_interval, proportion
from trainer.evaluation.metrics import weighted_mean
from trainer.inference import PixelBatches, for_inference, run_model

GRID = 112  # maps and findings are compared on this many pixels a side


def audit_heat_maps(
    model: CxrForImageClassification, pixels: PixelBatches, labelled: LabelledImages, data: str, rows: np.ndarray
) -> dict[str, Any] | None:
    """How well heat maps of these `rows`, whose findings are known, point at them; None without rows.

    Returns:
        {"n", "area": mean share of an image that its finding fills, "maps": {name: `pointing`}}.
    """
    if not len(rows):
        return None
    masks = load_lesion_masks(data, labelled.rows.iloc[rows], GRID, GRID)
    lesions = np.stack([masks[number] for number in range(len(rows))])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = for_inference(CxrForImageClassification(model.config), pixels.processor)
    maps = {
        "the model": _heat_maps(model, pixels, rows, labelled.truth),
        **({"its Grad-CAM": _heat_maps(model, pixels, rows, labelled.truth, lesions=False)} if model.lesions else {}),
        "untrained network": _heat_maps(untrained, pixels, rows, labelled.truth),
        **prior_maps(lesions),
    }
    groups = labelled.rows["group"].to_numpy()[rows]
    pointed = {name: pointing(heat, lesions, groups) for name, heat in maps.items()}
    return {"n": len(rows), "area": float(lesions.mean()), "maps": pointed}


def _heat_maps(
    model: CxrForImageClassification,
    pixels: PixelBatches,
    rows: np.ndarray,
    truth: np.ndarray,
    lesions: bool = True,
) -> np.ndarray:
    """The heat map of each image's own label, [N, GRID, GRID]; without `lesions` it is Grad-CAM's."""
    maps = np.zeros((len(rows), GRID, GRID), np.float32)
    for label in np.unique(truth[rows]):

        def select(output: CxrOutput, label: int = int(label)) -> torch.Tensor:
            heat = model.heatmap(output, label, lesions)[:, None]
            return F.interpolate(heat, size=(GRID, GRID), mode="bilinear").flatten(1)

        members = np.flatnonzero(truth[rows] == label)
        heat = run_model(model, pixels.eval_batch, rows[members], title="heat maps", select=select)
        maps[members] = heat.numpy().reshape(-1, GRID, GRID)
    return maps


def pointing(heat: np.ndarray, lesions: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """{"hits", "inside"}: how often a map's highest point lies in a finding, and how much of the map does.

    `heat` [N, H, W] is not negative, an all-zero map is a miss; `lesions` bool [N, H, W] are the findings.
    """
    flat, inside = heat.reshape(len(heat), -1), lesions.reshape(len(lesions), -1)
    total = flat.sum(axis=1)
    hits = inside[np.arange(len(flat)), flat.argmax(axis=1)] & (total > 0)
    within = (flat * inside).sum(axis=1) / np.maximum(total, 1e-12)
    return {"hits": proportion(hits, groups), "inside": bootstrap_interval(weighted_mean(within), groups, 1.0)}


def prior_maps(lesions: np.ndarray) -> dict[str, np.ndarray]:
    """Maps that have not seen the image, [N, H, W]: a bump in its centre; where the other images' findings lie."""
    count, height, width = lesions.shape
    y, x = ((np.arange(size) + 0.5) / size - 0.5 for size in (height, width))
    bump = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.2**2)).astype(np.float32)
    others = lesions.sum(axis=0, dtype=np.float32) - lesions
    return {"centre": np.broadcast_to(bump, lesions.shape), "where findings usually lie": others / max(count - 1, 1)}
