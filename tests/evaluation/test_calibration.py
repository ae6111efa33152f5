"""Temperature and calibration error on scores whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from trainer.evaluation.calibration import BINS, calibration_figures, equal_mass_bins, fit_temperature, undo_temperature


def drawn(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn as softmax of them says."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    return logits, np.array([rng.choice(classes, p=row) for row in softmax(logits, axis=1)])


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_of_overconfident_scores_is_found(factor):
    logits, truth = drawn(6000, 3)
    assert fit_temperature(logits * factor, truth) == pytest.approx(factor, rel=0.08)


@given(st.floats(0.1, 10), st.integers(2, 4), st.integers(0, 99))
def test_a_temperature_can_be_undone(temperature, classes, seed):
    logits, _ = drawn(20, classes, seed)
    assert undo_temperature(softmax(logits / temperature, axis=1), temperature) == pytest.approx(softmax(logits, axis=1), abs=1e-9)


def test_calibrated_scores_have_a_small_error_and_shifted_ones_a_large_one():
    logits, truth = drawn(4000, 2)
    good = calibration_figures(truth, softmax(logits, axis=1), np.arange(4000))
    bad = calibration_figures(truth, softmax(4 * logits, axis=1), np.arange(4000))
    assert good["ece"]["value"] < 0.025
    assert bad["ece"]["low"] > 0.05
    assert all(good[name]["value"] < bad[name]["low"] for name in ("brier", "nll"))
    assert all(figure["low"] <= figure["value"] <= figure["high"] for part in (good, bad) for figure in part.values())


def test_figures_by_hand():
    truth, scores = np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]])
    figures = calibration_figures(truth, scores, np.arange(2))
    assert figures["brier"]["value"] == pytest.approx((0.04 + 0.04 + 0.36 + 0.36) / 2)
    assert figures["nll"]["value"] == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert figures["ece"]["value"] == pytest.approx((0.2 + 0.6) / 2)  # a bin each


def test_groups_widen_the_interval():
    logits, truth = drawn(200, 2)
    logits, truth = np.repeat(logits, 5, axis=0), np.repeat(truth, 5)
    alone, grouped = (
        calibration_figures(truth, softmax(logits, axis=1), groups)["nll"] for groups in (np.arange(1000), np.repeat(np.arange(200), 5))
    )
    assert grouped["high"] - grouped["low"] > 1.7 * (alone["high"] - alone["low"])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_bins_are_of_equal_mass_and_ties_stay_together(values):
    values = np.array(values)
    bins = equal_mass_bins(values)
    assert bins.max() < BINS
    assert sorted(set(bins)) == list(range(bins.max() + 1))
    for value in set(values):
        assert len(set(bins[values == value])) == 1
    if len(set(values)) == len(values) >= 2 * BINS:
        assert np.bincount(bins).max() <= -(-len(values) // BINS) + 1
