"""What gives a label away is told with an interval that holds on noise, however the films are grouped."""

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold

from trainer.evaluation.intervals import cross_validated_auroc
from trainer.evaluation.probe import probe_auroc


def noise(seed: int, patients: int = 100, films: int = 4):
    """Features that a patient's films share and that say nothing of the label."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), films)
    labels = np.array(["a", "b"])[rng.permutation(patients) % 2][groups]
    return rng.normal(0, 1, (patients, 6))[groups] + rng.normal(0, 0.3, (len(groups), 6)), labels, groups


def holds_one_half(seed: int, **size: int) -> bool:
    (row,) = probe_auroc(*noise(seed, **size))
    return row["low"] <= 0.5 <= row["high"]


def test_the_interval_holds_one_half_on_noise():
    assert sum(holds_one_half(seed) for seed in range(40)) >= 35


@pytest.mark.slow
@pytest.mark.parametrize("size", [{}, {"patients": 40, "films": 8}, {"patients": 150, "films": 1}])
def test_the_interval_holds_one_half_in_95_of_100_trials_on_noise(size):
    assert 0.90 <= np.mean([holds_one_half(seed, **size) for seed in range(500)]) <= 0.99


def test_cases_of_few_groups_are_spread_over_the_folds():
    """In groups that a split blind to labels puts into one fold, so that its model would see one class."""
    groups = np.repeat(np.arange(25), 3)
    _, together = next(GroupKFold(5, shuffle=True, random_state=0).split(groups, groups=groups))
    labels = np.where(np.isin(np.arange(75), together), "ill", "well")
    features = np.random.default_rng(0).normal(0, 1, (75, 4)) + 3 * (labels == "ill")[:, None]
    (row,) = probe_auroc(features, labels, groups)
    assert row["auroc"] > 0.95
    assert row["low"] < row["auroc"] <= row["high"] <= 1


def test_a_label_in_too_few_groups_is_left_out():
    features, labels, groups = noise(0, patients=12)
    labels[groups < 4] = "c"
    assert [row["label"] for row in probe_auroc(features, labels, groups) if row["label"] == "c"] == []


def test_scores_are_compared_within_a_fold_alone():
    positive, folds = np.array([True, False] * 20), np.repeat([0, 1], 20)
    scores = positive + 10.0 * folds  # one fold's model scores higher: over both together the AUROC is .75
    found = cross_validated_auroc(positive, scores, folds, np.arange(40))
    assert found["value"] == found["high"] == 1
    assert found["low"] < 0.9  # of no error at all, as wide as so many groups allow
    alone = cross_validated_auroc(positive, scores, np.where(positive, 0, 1), np.arange(40))
    assert alone["value"] is None  # no pair
