"""Paired tests against their textbooks, and in words by `cxr compare`."""

import numpy as np
import pytest
from scipy.stats import binom

from trainer.evaluation.paired import compare_answers, compare_aurocs, verdict


def test_mcnemar_by_hand():
    one = np.array([True] * 90 + [True] * 8 + [False] * 2)
    other = np.array([True] * 90 + [False] * 8 + [True] * 2)
    assert compare_answers(one, other)["p"] == pytest.approx(2 * binom.cdf(2, 10, 0.5))
    assert compare_answers(one, one)["p"] == 1


def test_delong_has_its_level_and_finds_a_difference():
    rng = np.random.default_rng(0)
    positive = np.repeat([True, False], [60, 90])
    below = 0
    for _ in range(300):
        shared = rng.normal(0, 1, 150) + positive
        below += compare_aurocs(positive, shared + rng.normal(0, 1, 150), shared + rng.normal(0, 1, 150))["p"] < 0.05
    assert 0.02 < below / 300 < 0.09
    found = compare_aurocs(positive, rng.normal(0, 1, 150) + 3 * positive, rng.normal(0, 1, 150))
    assert found["p"] < 1e-6
    assert verdict(found, ("a", "b")).endswith("a is better")
    assert compare_aurocs(positive, positive * 1.0, positive * 2.0)["p"] == 1
    assert verdict(compare_aurocs(positive, positive * 1.0, positive * 2.0), ("a", "b")).endswith("not distinguishable")
