"""Point figures against scikit-learn and by hand; intervals against simulation and against each other."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, roc_auc_score

from trainer.evaluation import figures
from trainer.evaluation.intervals import intervals, wilson
from trainer.evaluation.metrics import weighted_metrics
from trainer.evaluation.operating_points import decided
from trainer.evaluation.report import Scored, split_report

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
    report = intervals(truth, predicted, scores, np.arange(200))
    metrics = {name: metric["value"] for name, metric in report["metrics"].items()}
    assert metrics["accuracy"] == (truth == scores.argmax(1)).mean() != (truth == predicted).mean()
    assert metrics["balanced_accuracy"] == balanced_accuracy_score(truth, predicted)
    for index, row in enumerate(report["per_class"]):
        expected = {
            "auroc": roc_auc_score(truth == index, scores[:, index]),
            "sensitivity": (predicted == index)[truth == index].mean(),
            "specificity": (predicted != index)[truth != index].mean(),
            "precision": (truth == index)[predicted == index].mean(),
            "f1": f1_score(truth == index, predicted == index),
        }
        assert {name: metric["value"] for name, metric in row.items()} == pytest.approx(expected)
    if classes == 2:
        assert metrics["f1"] == pytest.approx(f1_score(truth, predicted))
    else:
        assert metrics["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert report["confusion"] == confusion_matrix(truth, predicted).tolist()


@pytest.mark.parametrize("groups", [np.arange(5), np.arange(5) // 2])
def test_what_is_undefined_is_none(groups):
    report = intervals(np.zeros(5, int), np.array([0, 0, 0, 0, 1]), np.tile([0.9, 0.1], (5, 1)), groups)
    values = {name: metric["value"] for name, metric in report["metrics"].items()}
    expected = dict.fromkeys(("balanced_accuracy", "sensitivity", "f1", "auroc"), None)
    assert values == {"accuracy": 1, "specificity": 0.8, "precision": 0, **expected}
    assert report["metrics"]["auroc"] == {"value": None, "low": None, "high": None, "method": None}
    assert report["per_class"][0]["sensitivity"]["value"] == 0.8


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
        labels, answers = truth[picked], decisions[picked]
        assert fast["accuracy"][row] == pytest.approx((labels == scores[picked].argmax(axis=1)).mean())
        assert fast["balanced_accuracy"][row] == pytest.approx(balanced_accuracy_score(labels, answers))
        assert fast["macro_f1"][row] == pytest.approx(f1_score(labels, answers, average="macro", zero_division=0))
        for index in range(classes):
            area = roc_auc_score(labels == index, scores[picked][:, index])
            assert fast["auroc"][row, index] == pytest.approx(area)
            assert fast["specificity"][row, index] == pytest.approx((answers != index)[labels != index].mean())


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
    metric = wilson(0.95, 100)
    assert {key: round(metric[key], 4) for key in ("value", "low", "high")} == {
        "value": 0.95,
        "low": 0.8882,
        "high": 0.9785,
    }
    assert metric["method"] == "Wilson"


def auroc_of(truth, scores):
    return intervals(truth, scores.argmax(1), scores, np.arange(len(truth)))["metrics"]["auroc"]


def test_the_interval_of_an_auroc_covers_it():
    true_area = np.mean(
        [
            roc_auc_score(*(part if not i else part[:, 1] for i, part in enumerate(sample(4000, 2, seed))))
            for seed in range(20)
        ]
    )
    metrics = [auroc_of(*sample(80, 2, seed)) for seed in range(100, 250)]
    assert np.mean([metric["low"] <= true_area <= metric["high"] for metric in metrics]) > 0.90


def test_a_perfect_auroc_still_has_a_width():
    scores = np.arange(30) / 30
    metric = auroc_of(np.array([0] * 20 + [1] * 10), np.stack([1 - scores, scores], axis=1))
    assert metric["value"] == metric["high"] == 1
    assert 0.6 < metric["low"] < 0.75
    assert metric["method"] == "Wilson on groups"


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
