"""Point figures against scikit-learn and by hand; intervals against simulation and against each other."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, roc_auc_score

from trainer.evaluation import figures
from trainer.evaluation.intervals import RESAMPLES, delong, intervals, weighted_metrics, wilson
from trainer.evaluation.metrics import classification_metrics
from trainer.evaluation.operating_points import decided
from trainer.evaluation.report import split_report
from trainer.evaluation.scoring import Scored

LABELS = ("a", "b", "c", "d")


def sample(count: int, classes: int, seed: int = 0, strength: float = 1.5):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    logits = rng.standard_normal((count, classes)) + strength * np.eye(classes)[truth]
    scores = np.exp(logits)
    return truth, scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 4])
def test_point_figures_are_scikit_learns(classes):
    truth, scores = sample(200, classes)
    predicted = decided(scores, LABELS[:classes], {"label": LABELS[1], "threshold": 0.2})
    found = classification_metrics(truth, predicted, scores)
    assert found["metrics"]["accuracy"] == (truth == scores.argmax(1)).mean() != (truth == predicted).mean()
    assert found["metrics"]["balanced_accuracy"] == balanced_accuracy_score(truth, predicted)
    for index, row in enumerate(found["per_class"]):
        assert row["auroc"] == roc_auc_score(truth == index, scores[:, index])
        assert row["sensitivity"] == pytest.approx(
            ((predicted == index) & (truth == index)).sum() / (truth == index).sum()
        )
        assert row["specificity"] == pytest.approx(
            ((predicted != index) & (truth != index)).sum() / (truth != index).sum()
        )
    if classes == 2:
        assert found["metrics"]["f1"] == pytest.approx(f1_score(truth, predicted))
    else:
        assert found["metrics"]["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found["confusion"] == confusion_matrix(truth, predicted).tolist()


def test_what_is_undefined_is_none():
    found = classification_metrics(np.zeros(5, int), np.zeros(5, int), np.tile([0.9, 0.1], (5, 1)))
    assert found["metrics"]["accuracy"] == 1
    assert found["metrics"]["auroc"] is None
    assert found["metrics"]["sensitivity"] is None
    assert found["metrics"]["balanced_accuracy"] is None
    with_interval = intervals(np.zeros(5, int), np.zeros(5, int), np.tile([0.9, 0.1], (5, 1)), np.arange(5))
    assert with_interval["metrics"]["auroc"] == {"value": None, "low": None, "high": None, "method": None}
    assert with_interval["metrics"]["accuracy"]["method"] == "Wilson"


@given(st.integers(10, 60), st.integers(2, 4), st.integers(0, 50))
def test_the_fast_resampled_figures_equal_the_slow_ones(count, classes, seed):
    truth, scores = sample(count, classes, seed)
    scores = scores.round(1)  # ties
    decisions = decided(scores, LABELS[:classes], {"label": LABELS[1], "threshold": 0.3})
    weights = np.random.default_rng(seed).integers(0, 3, (2, count)).astype(float)
    fast = weighted_metrics(truth, decisions, scores, np.vstack([np.ones(count), weights]))
    for row, repeat in enumerate([np.ones(count, int), *weights.astype(int)]):
        picked = np.repeat(np.arange(count), repeat)
        if len(set(truth[picked])) < classes:
            continue
        slow = classification_metrics(truth[picked], decisions[picked], scores[picked])
        assert fast["accuracy"][row] == pytest.approx(slow["metrics"]["accuracy"])
        assert fast["balanced_accuracy"][row] == pytest.approx(slow["metrics"]["balanced_accuracy"])
        for index, figures_of in enumerate(slow["per_class"]):
            for name, value in figures_of.items():
                assert value is None or fast[name][row, index] == pytest.approx(value)


@pytest.mark.parametrize("groups", [np.arange(300), np.arange(300) // 3])
def test_intervals_are_of_the_decision_and_accuracy_alone_of_the_highest_score(groups):
    truth, scores = sample(300, 2)
    at_half, lower = (
        intervals(truth, (scores[:, 1] >= threshold).astype(int), scores, groups)["metrics"] for threshold in (0.5, 0.1)
    )
    assert lower["accuracy"] == at_half["accuracy"]
    assert lower["auroc"] == at_half["auroc"]
    assert lower["sensitivity"]["low"] > at_half["sensitivity"]["high"]
    assert lower["specificity"]["high"] < at_half["specificity"]["low"]
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in lower.values())


def test_wilson_by_hand():
    low, high, method = wilson(95, 100)
    assert (round(low, 4), round(high, 4), method) == (0.8882, 0.9785, "Wilson")


def test_delong_agrees_with_the_bootstrap_and_covers():
    truth, scores = sample(300, 2)
    low, high, _ = delong(truth == 1, scores[:, 1])
    resampled = weighted_metrics(
        truth,
        scores.argmax(1),
        scores,
        np.random.default_rng(0).multinomial(300, np.full(300, 1 / 300), size=RESAMPLES).astype(float),
    )
    assert (low, high) == pytest.approx(np.percentile(resampled["auroc"][:, 1], [2.5, 97.5]), abs=0.012)
    true_area = np.mean(
        [
            roc_auc_score(*(part if not i else part[:, 1] for i, part in enumerate(sample(4000, 2, seed))))
            for seed in range(20)
        ]
    )
    inside = 0
    for seed in range(100, 300):
        truth, scores = sample(80, 2, seed)
        low, high, _ = delong(truth == 1, scores[:, 1])
        inside += low <= true_area <= high
    assert inside / 200 > 0.90


def test_a_perfect_auroc_still_has_a_width():
    low, high, method = delong(np.array([False] * 20 + [True] * 10), np.arange(30) / 30)
    assert high == 1
    assert 0.6 < low < 0.75
    assert "smaller class" in method


def test_groups_widen_the_interval():
    truth, scores = sample(60, 2)
    truth, scores = np.repeat(truth, 5), np.repeat(scores, 5, axis=0)  # every patient five times
    alone = intervals(truth, scores.argmax(1), scores, np.arange(300))["metrics"]["accuracy"]
    grouped = intervals(truth, scores.argmax(1), scores, np.repeat(np.arange(60), 5))["metrics"]["accuracy"]
    assert grouped["method"] == "cluster bootstrap"
    assert grouped["high"] - grouped["low"] > 1.7 * (alone["high"] - alone["low"])
    assert grouped["low"] <= grouped["value"] <= grouped["high"]


def test_no_error_at_all_still_leaves_a_width():
    truth = np.array([0] * 30 + [1] * 10)
    scores = np.eye(2)[truth] * 0.8 + 0.1
    for groups in (np.arange(40), np.arange(40) // 2):
        for figure in intervals(truth, truth, scores, groups)["metrics"].values():
            assert figure["value"] == figure["high"] == 1
            assert figure["low"] < 0.95


def test_always_the_same_answer_still_leaves_a_width():
    """Each draw then has a balanced accuracy of one half."""
    truth, scores = np.array([0] * 30 + [1] * 12), np.tile([0.9, 0.1], (42, 1))
    figure = intervals(truth, scores.argmax(1), scores, np.arange(42))["metrics"]["balanced_accuracy"]
    assert figure["value"] == 0.5
    assert figure["low"] < 0.35
    assert figure["high"] > 0.65


def test_a_report_by_collection():
    truth, scores = sample(90, 3)
    rows = pd.DataFrame({"group": np.arange(90).astype(str), "collection": ["north", "south", ""] * 30})
    report = split_report(Scored(rows, truth, scores, None), ("a", "b", "c"), None)
    assert report["n"] == report["groups"] == 90
    assert set(report["collections"]) == {"north", "south"}
    north = report["collections"]["north"]
    assert north["n"] == 30
    assert sum(north["labels"].values()) == 30
    inside = rows["collection"] == "north"
    assert north["metrics"]["accuracy"]["value"] == (scores[inside].argmax(1) == truth[inside]).mean()
    assert set(report["metrics"]) == {"accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"}


def test_pictures_are_drawn(tmp_path):
    truth, scores = sample(40, 2)
    rows = pd.DataFrame({"group": np.arange(40).astype(str), "collection": ""})
    report = split_report(Scored(rows, truth, scores, None), ("Normal", "Tuberculosis"), None)
    history = [{"epoch": 1, "train_loss": 0.7, "validation_loss": 0.6, "validation_accuracy": 0.6}] * 2
    for name, figure in (
        ("a", figures.curves(history, 1)),
        ("b", figures.confusion(report, ("Normal", "Tuberculosis"), "test")),
    ):
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    texts = {text.get_text() for axes in figures.confusion(report, ("N", "T"), "test").axes for text in axes.texts}
    assert {str(count) for row in report["confusion"] for count in row} <= texts
