"""Which change local films justify: the simplest that is not clearly worse, by repeated cross-validation by groups.

Clearly worse: by more than one standard error (Breiman et al., Classification and Regression Trees (1984) 78). Nothing
of a tested film is in what tests it. Errors and intervals of what is cross-validated are widened, as the folds' fits
share films: Nadeau and Bengio, Mach. Learn. 52 (2003) 239.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from trainer.adaptation.fits import Change, Films, fit_calibration, fit_head, fit_threshold
from trainer.evaluation.intervals import Metric, Z, bootstrap, wilson
from trainer.evaluation.metrics import Statistic, weighted_mean
from trainer.evaluation.operating_points import Aim

FOLDS, REPEATS = 5, 10
MANY = 2000  # films that are tested in all repeats together, from 2 repeats on: of many films few are enough
WIDER = float(np.sqrt(1 + FOLDS / (FOLDS - 1)))
SIMPLER = {"calibration": ("none",), "head": ("none", "calibration")}  # than which it must be better
SENTENCES = {
    "none": "your films do not justify changing the model",
    "threshold": "another threshold, the scores as they are",
    "calibration": "slope and intercepts of the scores, and with two labels another threshold",
    "head": "another last layer, and all that follows from it",
}


@dataclass(frozen=True)
class OutOfFold:
    """Of each film, means over the repeats: its scores [N, C], how often each label was decided [N, C], its log-loss
    and Brier score [N]; and how much wider than a bootstrap's an interval is.
    """

    scores: np.ndarray
    decided: np.ndarray
    losses: np.ndarray
    squares: np.ndarray
    wider: float


def methods(labels: int) -> list[str]:
    """What can be changed of a model with so many labels, the least first."""
    return [name for name in SENTENCES if labels == 2 or name != "threshold"]


def fit(films: Films, method: str, aim: Aim, known: Change, prevalence: float | None = None) -> Change:
    """The change that a method makes; `known` is the model as it is, `aim` what a threshold is for."""
    if method == "none":
        return known
    fits = {"calibration": fit_calibration, "head": fit_head}
    change = fits[method](films, prevalence) if method in fits else known
    if known.threshold is None:
        return change
    scores = change.scores(films)
    if method == "head":  # it knows these films: its threshold is for those it does not know
        for learned, tested in _partition(films, seed=0):
            scores[tested] = fit_head(films.take(learned), prevalence).scores(films.take(tested))
    return replace(change, threshold=fit_threshold(films.positive, scores[:, 1], aim))


def _partition(films: Films, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """FOLDS times the rows to learn from and those to test, groups together."""
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of fewer groups of a label than folds: with two of them every fit learns both
        warnings.simplefilter("ignore", UserWarning)
        return list(splitter.split(films.logits, films.truth, films.groups))


def out_of_fold(films: Films, method: str, aim: Aim, known: Change, seed: int = 0) -> OutOfFold:
    """What a method's fits on other films say of each film, in several partitions into FOLDS."""
    count, labels = films.logits.shape
    repeats, wider = (1, 1.0) if method == "none" else (min(REPEATS, max(2, MANY // count)), WIDER)
    scores, decided = np.zeros((repeats, count, labels)), np.zeros((repeats, count, labels))
    for repeat in range(repeats):
        for learned, tested in _partition(films, seed + repeat):
            change, part = fit(films.take(learned), method, aim, known), films.take(tested)
            scores[repeat, tested] = change.scores(part)
            decided[repeat, tested] = np.eye(labels)[change.decide(scores[repeat, tested])]
    truth = np.eye(labels)[films.truth]
    losses = -np.log((scores * truth).sum(axis=2).clip(1e-12)).mean(axis=0)
    squares = ((scores - truth) ** 2).sum(axis=2).mean(axis=0) / (2 if labels == 2 else 1)
    return OutOfFold(scores.mean(axis=0), decided.mean(axis=0), losses, squares, wider)


def choose(films: Films, aim: Aim, tests: dict[str, OutOfFold]) -> tuple[str, str]:
    """The method that the films justify, and why, in words."""
    method, reason = "none", "no change makes its scores clearly better"
    if "threshold" in tests:
        method, reason = _choose_threshold(films, aim, tests)
    for name, simpler in SIMPLER.items():
        if name in tests and all(_is_better(films, tests[name], tests[other]) for other in simpler):
            method, reason = (
                name,
                "it makes the scores better by more than one standard error (likelihood, out of fold)",
            )
    return method, reason


def _is_better(films: Films, test: OutOfFold, other: OutOfFold) -> bool:
    """Whether films are more likely by a test's scores than by another's, by more than one standard error."""
    gain = interval(other.losses - test.losses, films.groups, WIDER)
    return bool(gain["value"] > _error(gain))


def _error(metric: Metric) -> float:
    """The standard error that an interval of 95 % has."""
    return float((metric["high"] - metric["low"]) / (2 * Z))


def _choose_threshold(films: Films, aim: Aim, tests: dict[str, OutOfFold]) -> tuple[str, str]:
    main, other = ("specificity", "sensitivity") if aim.specificity else ("sensitivity", "specificity")
    goal, reached = getattr(aim, main), rate(films, tests["none"], main)
    if reached["value"] + _error(reached) < goal:
        return (
            "threshold",
            f"the {main} of the threshold that there is lies more than one standard error below {goal:g}",
        )
    index = int(other == "sensitivity")
    among = films.truth == index
    gained = tests["threshold"].decided[among, index] - tests["none"].decided[among, index]
    if interval(gained, films.groups[among], WIDER)["low"] > 0:
        return "threshold", f"another threshold has a clearly higher {other}"
    return (
        "none",
        "the threshold that there is lies within one standard error of the aim or above, and no change is better",
    )


def rate(films: Films, test: OutOfFold, name: str) -> Metric:
    """Of two labels sensitivity or specificity, with its interval."""
    return recall(films, test, int(name == "sensitivity"))


def recall(films: Films, test: OutOfFold, index: int, inside: np.ndarray | bool = True) -> Metric:
    """The proportion of a label's films, of those `inside` bool [N], that were found: no narrower than Wilson's."""
    among = (films.truth == index) & inside
    metric = interval(test.decided[among, index], films.groups[among], test.wider)
    least = wilson(metric["value"], len(np.unique(films.groups[among])))
    low, high = min(metric["low"], least["low"]), max(metric["high"], least["high"])
    return {**metric, "low": max(0.0, low), "high": min(1.0, high)}


def interval(values: np.ndarray, groups: np.ndarray, wider: float) -> Metric:
    """The mean of values [N] with a bootstrap interval over groups, so many times wider."""
    return statistic_interval(weighted_mean(values), groups, wider)


def statistic_interval(statistic: Statistic, groups: np.ndarray, wider: float) -> Metric:
    """A statistic of weights with a bootstrap interval over groups [N], so many times wider."""
    value = float(statistic(np.ones((1, len(groups))))[0])
    half = wider * Z * float(np.nanstd(bootstrap(statistic, groups)))
    method = "bootstrap over groups" if wider == 1 else "cross-validated, bootstrap over groups, Nadeau and Bengio"
    return {"value": value, "low": value - half, "high": value + half, "method": method}
