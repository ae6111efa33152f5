"""What twice as many local films would do for a new last layer: a learning curve on parts of those that there are.

The error falls as a power of the number of films: Hestness et al., arXiv:1712.00409; Figueroa et al., BMC Med. Inform.
Decis. Mak. 12 (2012) 8.
"""

from typing import Any

import numpy as np

from trainer.adaptation.fits import Films, fit_head
from trainer.adaptation.report import auroc

SMALLEST, DRAWS = 10, 20
LEAST_ERROR = 1e-3  # of 1 - AUROC: what its logarithm is taken of


def forecast(films: Films) -> dict[str, Any] | None:
    """The mean AUROC, over the labels there are, of last layers fitted on 10, 20, 40 … films, tested on others.

    Returns:
        {"films": [n], "auroc": [mean], "twice": {"films", "auroc"}}, the last by a power law through them; None where
        there are too few films for two points.
    """
    present, rng = np.unique(films.truth), np.random.default_rng(0)
    rarest = int(min((films.truth == index).sum() for index in present))
    sizes = [SMALLEST * 2**step for step in range(12) if SMALLEST * 2**step // len(present) <= 0.7 * rarest]
    draws = {size: [_auroc_of_draw(films, present, size, rng) for _ in range(DRAWS)] for size in sizes}
    means = {size: float(np.nanmean(areas)) for size, areas in draws.items() if np.isfinite(areas).any()}
    if len(means) < 2:
        return None
    errors = np.log(np.maximum(1 - np.array([*means.values()]), LEAST_ERROR))
    power, start = np.polyfit(np.log([*means]), errors, 1)
    twice = 2 * len(films.truth)
    area = 1 - float(np.exp(start + min(power, 0.0) * np.log(twice)))
    return {"films": [*means], "auroc": [*means.values()], "twice": {"films": twice, "auroc": area}}


def _auroc_of_draw(films: Films, present: np.ndarray, size: int, rng: np.random.Generator) -> float:
    """Of a last layer fitted on as many films of each label, on the films of other groups; nan where these lack one."""
    of_label = [rng.permutation(np.flatnonzero(films.truth == index))[: size // len(present)] for index in present]
    learned = np.concatenate(of_label)
    others = films.take(np.flatnonzero(~np.isin(films.groups, films.groups[learned])))
    if len(np.unique(others.truth)) < len(present):
        return float("nan")
    scores, one = fit_head(films.take(learned)).scores(others), np.ones((1, len(others.truth)))
    return float(np.mean([auroc(others, index, scores)(one)[0] for index in present]))
