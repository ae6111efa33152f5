"""Temperature and calibration error on scores whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from trainer.evaluation.calibration import BINS, calibration_metrics, equal_mass_bins, fit_temperature, undo_temperature


def drawn(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn as softmax of them says."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    return logits, np.array([rng.choice(classes, p=row) for row in softmax(logits, axis=1)])


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_of_overconfident_scores_is_found(factor):
    logits, truth = drawn(6000, 3)
    assert fit_temperature(logits * factor, truth) == pytest.approx(factor, rel=0.08)


@pytest.mark.parametrize("classes", [2, 4])
def test_no_error_at_all_does_not_make_scores_sure(classes):
    """Every image is answered right, some barely: a score of .55 stays far from certain."""
    rng = np.random.default_rng(0)
    truth = np.arange(100) % classes
    logits = np.eye(classes)[truth] * rng.uniform(0.1, 6, 100)[:, None]
    temperature = fit_temperature(logits, truth)
    assert temperature > 0.3
    assert 1 / (1 + np.exp(-np.log(0.55 / 0.45) / temperature)) < 0.7
    alike = fit_temperature(3 * np.eye(classes)[truth], truth)  # then the share of right answers by Laplace's rule
    count = 100 / classes
    assert softmax(3 / alike * np.eye(classes)[0])[0] == pytest.approx((count + 1) / (count + classes), abs=1e-3)


@given(st.floats(0.3, 3), st.integers(2, 4), st.integers(0, 99))
def test_with_many_images_and_some_errors_it_is_the_plain_fit(factor, classes, seed):
    logits, truth = drawn(3000, classes, seed)

    def loss(temperature):
        return -log_softmax(factor * logits / temperature, axis=1)[np.arange(3000), truth].mean()

    plain = minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    assert fit_temperature(factor * logits, truth) == pytest.approx(plain, rel=0.04)


@given(st.integers(2, 12), st.integers(2, 4), st.integers(0, 99))
def test_intervals_end_where_the_figures_do(count, classes, seed):
    """Few images that are all answered wrong, surely: their error is near its highest, with a wide interval."""
    truth = np.random.default_rng(seed).integers(0, classes, count)
    sure = np.random.default_rng(seed).uniform(0.5, 1, count)[:, None]
    scores = np.eye(classes)[(truth + 1) % classes] * sure + (1 - sure) / classes
    figures = calibration_metrics(truth, scores, np.arange(count))
    for name, highest in (("ece", 1), ("brier", 2)):
        assert 0 <= figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"] <= highest


@given(st.floats(0.1, 10), st.integers(2, 4), st.integers(0, 99))
def test_a_temperature_can_be_undone(temperature, classes, seed):
    logits, _ = drawn(20, classes, seed)
    assert undo_temperature(softmax(logits / temperature, axis=1), temperature) == pytest.approx(
        softmax(logits, axis=1), abs=1e-9
    )


def test_calibrated_scores_have_a_small_error_and_shifted_ones_a_large_one():
    logits, truth = drawn(4000, 2)
    good = calibration_metrics(truth, softmax(logits, axis=1), np.arange(4000))
    bad = calibration_metrics(truth, softmax(4 * logits, axis=1), np.arange(4000))
    assert good["ece"]["value"] < 0.025
    assert bad["ece"]["low"] > 0.05
    assert all(good[name]["value"] < bad[name]["low"] for name in ("brier", "nll"))
    assert all(figure["low"] <= figure["value"] <= figure["high"] for part in (good, bad) for figure in part.values())


def test_figures_by_hand():
    truth, scores = np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]])
    figures = calibration_metrics(truth, scores, np.arange(2))
    assert figures["brier"]["value"] == pytest.approx((0.04 + 0.04 + 0.36 + 0.36) / 2)
    assert figures["nll"]["value"] == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert figures["ece"]["value"] == pytest.approx((0.2 + 0.6) / 2)  # a bin each


def test_groups_widen_the_interval():
    logits, truth = drawn(200, 2)
    logits, truth = np.repeat(logits, 5, axis=0), np.repeat(truth, 5)
    alone, grouped = (
        calibration_metrics(truth, softmax(logits, axis=1), groups)["nll"]
        for groups in (np.arange(1000), np.repeat(np.arange(200), 5))
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
