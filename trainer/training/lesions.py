"""The lesion head: from boxes around lesions, what a cell of the lungs with one in it looks like.

Cells inside of lesions are told from cells of the lungs outside of them in the same films, so that what all of a
collection looks like cancels; how cells of films without a finding differ is unlearned, as in `training.whitened`.
Besides its look a cell has its place: some are more often ill than others.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from trainer.cxr_model import CxrForImageClassification
from trainer.cxr_model.lesions_cxr import WITHIN, LesionHead
from trainer.cxr_model.lungs_cxr import resample
from trainer.data.annotations import Masks, load_lesion_masks
from trainer.data.labelled import LabelledImages
from trainer.errors import UsageError
from trainer.recipes import Recipe
from trainer.training.whitening import fit_whitening

GRID = 112  # pixels of a side of the films' lesion masks
MOSTLY, HARDLY = 0.5, 0.1  # proportions of a cell that lesions cover: it is one; it is none, however small they are
FILMS = 60  # films without a finding of a collection whose cells are looked at


@dataclass(frozen=True)
class Cells:
    """Of some films: the cells' features [N, n x n, D], which of them are lung [N, n x n], and the box [N, 4]."""

    features: np.ndarray
    lung: np.ndarray
    box: torch.Tensor

    @classmethod
    def of(cls, outputs: torch.Tensor, cells: int) -> "Cells":
        """From what `select_cells` gave."""
        lung, box, features = outputs.split([cells**2, 4, outputs.shape[1] - cells**2 - 4], dim=1)
        return cls(features.unflatten(1, (cells**2, -1)).numpy(), lung.numpy() > WITHIN, box)


def select_cells(model: CxrForImageClassification, output: Any) -> torch.Tensor:
    """One row per film with what `Cells.of` needs: how much of each cell is lung, the box, the cells' features."""
    of_lungs = output.maps[-1][:, model.config.views.index("lungs")]
    lung = resample(output.lungs[:, None].float(), output.box.float(), of_lungs.shape[-1])
    return torch.cat([lung.flatten(1), output.box.float(), of_lungs.float().permute(0, 2, 3, 1).flatten(1)], dim=1)


def training_lesions(data: str, labelled: LabelledImages) -> tuple[str | None, Masks]:
    """The label that most training films with known lesions have, and where lesions are in these: bool [GRID, GRID] by
    row number. None where no lesion is known.
    """
    rows = labelled.rows.iloc[labelled.indices("train")]
    masks = load_lesion_masks(data, rows.reset_index(drop=True), GRID, GRID)
    by_row = {int(rows.index[number]): mask for number, mask in sorted(masks.items())}
    if not by_row:
        return None, {}
    label = Counter(labelled.truth[list(by_row)].tolist()).most_common(1)[0][0]
    return labelled.task.labels[label], {row: mask for row, mask in by_row.items() if labelled.truth[row] == label}


def fit_lesions(
    model: CxrForImageClassification,
    compute: Callable[[np.ndarray], torch.Tensor],
    lesions: Masks,
    healthy: np.ndarray,
    collections: np.ndarray,
    logits: torch.Tensor,
    recipe: Recipe,
) -> None:
    """Fit the lesion head of a model whose other head is fitted: among films without a finding, its scores are made to
    vary `recipe.lesions` times as much as those of the other head.

    Args:
        compute: what `select_cells` takes of the model's outputs for some rows.
        lesions: as `training_lesions` gives them.
        healthy: rows of films without a finding, of `collections` [M] and with `logits` [M, C] of the other head.
    """
    head, sought = model.lesions, model.config.lesions
    assert head is not None
    films, well = (Cells.of(compute(rows), sought["cells"]) for rows in (np.array(list(lesions)), healthy))
    weights, of_place = fit_cells(films, np.stack(list(lesions.values())), well, collections, recipe)
    scores, index = film_scores(well, weights, of_place), model.labels.index(sought["label"])
    others = [number for number in range(len(model.labels)) if number != index]
    margin = (logits[:, index] - logits[:, others].logsumexp(dim=1)).numpy()
    means, spreads = zip(*(_by_collection(values, collections) for values in (scores, margin)), strict=True)
    scale = recipe.lesions * spreads[1] / spreads[0] if spreads[0] else 0.0  # a backbone whose features are all alike
    with torch.no_grad():
        head.cell.weight.copy_(torch.from_numpy(scale * weights)[None, :, None, None])
        head.place.copy_(torch.from_numpy(scale * (of_place - means[0])).unflatten(0, (sought["cells"], -1)))


def _by_collection(values: np.ndarray, collections: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of values [N] within collections, of which each counts alike."""
    parts = [values[collections == name] for name in sorted(set(collections))]
    return float(np.mean([part.mean() for part in parts])), float(np.mean([part.var() for part in parts]) ** 0.5)


def fit_cells(
    films: Cells, masks: np.ndarray, healthy: Cells, collections: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """What tells a cell with a lesion: the weights of its features [D], and a bias for each place [n x n].

    Args:
        films: of films with known lesions; their `masks` bool [N, GRID, GRID] show where.
        healthy: of films without a finding, of `collections` [M].
    """
    side = round(films.lung.shape[1] ** 0.5)
    covered = resample(torch.from_numpy(masks)[:, None].float(), films.box, side).flatten(1).numpy()
    covered = np.where(films.lung, covered, 0)
    most = np.minimum(covered.max(axis=1, keepdims=True), MOSTLY)  # of a small lesion, the cell that holds most of it
    ill, well = (covered >= most) & (covered > HARDLY), films.lung & (covered == 0)
    usual = ill.mean(axis=0)
    log_odds = np.log((usual + 0.02) / (1.02 - usual))  # of a lesion at each place
    inputs, places, truth = [], [], []
    for features, inside, outside in zip(films.features, ill, well, strict=True):
        if inside.any() and outside.any():
            middle = (features[inside].mean(axis=0) + features[outside].mean(axis=0)) / 2
            inputs += [features[inside] - middle, features[outside] - middle]
            places += [log_odds[inside], log_odds[outside]]
            truth += [np.ones(inside.sum()), np.zeros(outside.sum())]
    if not inputs:
        cure = "larger boxes are needed, or none (--set lesions=0)"
        raise UsageError(f"lesions={recipe.lesions}: no box covers enough of the lungs to learn from: {cure}")
    cells, looks = np.concatenate(inputs), healthy.features[healthy.lung]
    mean, std = looks.mean(axis=0), cells.std(axis=0) + 1e-3
    names = np.repeat(collections, healthy.lung.sum(axis=1))
    transform, size = fit_whitening((looks - mean) / std, names, recipe.whitening), cells.shape[1]
    loud = np.sqrt(size)  # so that the ridge hardly holds the place's weight small
    inputs = [transform(cells / std), loud * np.concatenate(places)[:, None]]
    model = LogisticRegression(C=1 / (size * recipe.ridge), max_iter=1000, class_weight="balanced")
    model.fit(np.concatenate(inputs, axis=1), np.concatenate(truth))
    *weights, of_place = model.coef_[0]
    weights = transform(np.array(weights)[None])[0] / std
    return weights.astype(np.float32), (of_place * loud * log_odds).astype(np.float32)


def film_scores(films: Cells, weights: np.ndarray, of_place: np.ndarray) -> np.ndarray:
    """The films' scores [N], without a bias."""
    cells = films.features @ weights + of_place
    cells = np.where(films.lung, cells, cells.min(axis=1, keepdims=True))
    return LesionHead.film_score(torch.from_numpy(cells)).numpy()
