"""Which change local films justify: the simplest that is not clearly worse, by repeated cross-validation by groups.

Nothing of a tested film is in what tests it. Intervals of what is cross-validated are widened, as the folds' fits
share films: Nadeau and Bengio, Mach. Learn. 52 (2003) 239.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from trainer.adaptation.fits import Change, fit_calibration, fit_threshold
from trainer.evaluation.intervals import Metric, Z, bootstrap, wilson
from trainer.evaluation.metrics import weighted_mean
from trainer.evaluation.operating_points import Aim

FOLDS, REPEATS = 5, 10
WIDER = float(np.sqrt(1 + FOLDS / (FOLDS - 1)))
SENTENCES = {
    "none": "your films do not justify changing the model",
    "threshold": "another threshold, the scores as they are",
    "calibration": "another threshold, and slope and intercept of the scores",
}


@dataclass(frozen=True)
class Films:
    """Local films: margins float [N], which are positive, bool [N], and what must stay together, [N]."""

    margins: np.ndarray
    positive: np.ndarray
    groups: np.ndarray

    def take(self, rows: np.ndarray) -> "Films":
        """Some of them."""
        return Films(self.margins[rows], self.positive[rows], self.groups[rows])


@dataclass(frozen=True)
class OutOfFold:
    """Of each film, means over the repeats: its score, whether it was called positive, its log-loss and Brier score;
    and how much wider than a bootstrap's an interval is.
    """

    scores: np.ndarray
    called: np.ndarray
    losses: np.ndarray
    squares: np.ndarray
    wider: float


def fit(films: Films, method: str, aim: Aim, known: Change, prevalence: float | None = None) -> Change:
    """The change that a method makes: "none", "threshold" or "calibration"; `known` is the model as it is."""
    if method == "none":
        return known
    change = known if method == "threshold" else fit_calibration(films.margins, films.positive, prevalence)
    return change.with_threshold(fit_threshold(films.positive, change.scores(films.margins), aim))


def out_of_fold(films: Films, method: str, aim: Aim, known: Change, seed: int = 0) -> OutOfFold:
    """What a method's fits on other films say of each film, in REPEATS partitions into FOLDS."""
    repeats, wider = (1, 1.0) if method == "none" else (REPEATS, WIDER)
    scores, called = np.zeros((repeats, len(films.margins))), np.zeros((repeats, len(films.margins)))
    for repeat in range(repeats):
        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed + repeat)
        with warnings.catch_warnings():  # of fewer groups of a label than folds: every fit has both labels all the same
            warnings.simplefilter("ignore", UserWarning)
            partition = list(splitter.split(films.margins, films.positive, films.groups))
        for learned, tested in partition:
            change = fit(films.take(learned), method, aim, known)
            scores[repeat, tested] = change.scores(films.margins[tested])
            called[repeat, tested] = scores[repeat, tested] >= change.threshold
    truth = films.positive.astype(float)
    losses = -np.log(np.where(films.positive, scores, 1 - scores).clip(1e-12)).mean(axis=0)
    squares = ((scores - truth) ** 2).mean(axis=0)
    return OutOfFold(scores.mean(axis=0), called.mean(axis=0), losses, squares, wider)


def choose(films: Films, aim: Aim, tests: dict[str, OutOfFold]) -> tuple[str, str]:
    """The method that the films justify, and why, in words."""
    method, reason = "none", "the threshold that there is keeps the aim, and none that these films choose does better"
    main, other = ("specificity", "sensitivity") if aim.specificity else ("sensitivity", "specificity")
    goal = getattr(aim, main)
    now, gained = rate(films, tests["none"], main), difference(films, tests, other)
    if now["high"] < goal:
        method, reason = "threshold", f"the {main} of the threshold that there is lies below {goal:g}"
    elif gained["low"] > 0:
        method, reason = "threshold", f"another threshold has a clearly higher {other}"
    better = interval(tests["none"].losses - tests["calibration"].losses, films.groups, WIDER)
    if better["low"] > 0:
        method, reason = "calibration", "slope and intercept make the scores clearly better (out-of-fold likelihood)"
    return method, reason


def rate(films: Films, test: OutOfFold, name: str) -> Metric:
    """Sensitivity or specificity, with its interval."""
    among = films.positive if name == "sensitivity" else ~films.positive
    right = test.called if name == "sensitivity" else 1 - test.called
    return interval(right[among], films.groups[among], test.wider, 1.0)


def difference(films: Films, tests: dict[str, OutOfFold], name: str) -> Metric:
    """How much higher a rate is at the threshold that local films choose."""
    among = films.positive if name == "sensitivity" else ~films.positive
    sign = 1 if name == "sensitivity" else -1
    gained = sign * (tests["threshold"].called - tests["none"].called)
    return interval(gained[among], films.groups[among], WIDER)


def interval(values: np.ndarray, groups: np.ndarray, wider: float, highest: float | None = None) -> Metric:
    """The mean of values [N] with a bootstrap interval over groups, so many times wider.

    `highest`: of proportions, whose interval is no narrower than Wilson's, and ends there and at 0.
    """
    value = float(values.mean())
    half = wider * Z * float(bootstrap(weighted_mean(values), groups).std())
    method = "bootstrap over groups" if wider == 1 else "cross-validated, bootstrap over groups, Nadeau and Bengio"
    metric = {"value": value, "low": value - half, "high": value + half, "method": method}
    if highest is not None:
        least = wilson(value, len(np.unique(groups)))
        low, high = min(metric["low"], least["low"]), max(metric["high"], least["high"])
        metric |= {"low": max(0.0, low), "high": min(highest, high)}
    return metric
