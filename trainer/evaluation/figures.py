"""Images of a training and of its results."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from hub_cards.formatting import figure_name, format_number
from trainer.evaluation.calibration import equal_mass_bins

BLUE, ORANGE = "#1f5fa8", "#d9731a"


def curves(history: list[dict[str, float]], best_epoch: int) -> Figure:
    """Loss and validation accuracy by epoch; the kept epoch is marked."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(
        epochs, [row["train_loss"] for row in history], color=BLUE, marker="o", ms=3, label="train (class-weighted)"
    )
    loss.plot(epochs, [row["validation_loss"] for row in history], color=ORANGE, marker="o", ms=3, label="validation")
    accuracy.plot(
        epochs, [row["validation_accuracy"] for row in history], color=ORANGE, marker="o", ms=3, label="validation"
    )
    for axes, title in ((loss, "Cross-entropy"), (accuracy, "Accuracy")):
        axes.axvline(best_epoch, color="0.6", lw=1, ls="--", label=f"kept: epoch {best_epoch}")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    return figure


def confusion(report: dict[str, Any], labels: tuple[str, ...], split: str) -> Figure:
    """The confusion matrix of a split at the decision that ships, as counts and as shares of each true class."""
    counts = np.asarray(report["confusion"])
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    figure.suptitle(f"{split}, n = {report['n']}")
    forms: tuple[Callable[[Any], str], ...] = (str, format_number)
    for axes, values, title, form in zip(
        figure.subplots(1, 2), (counts, shares), ("counts", "share of the true class"), forms, strict=True
    ):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=title, xlabel="decided", ylabel="true")
        axes.set_xticks(range(len(labels)), labels, rotation=25, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        for (row, column), value in np.ndenumerate(values):
            axes.text(
                column,
                row,
                form(value),
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.5 else "black",
            )
    return figure


def reliability(truth: np.ndarray, raw: np.ndarray, scores: np.ndarray, split: str) -> Figure:
    """How often the answer was right by its score, before and after calibration, in bins of equal mass."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    lowest = 1 / scores.shape[1]
    axes.plot([lowest, 1], [lowest, 1], color="0.6", lw=1, ls="--", label="as sure as right")
    for found, colour, title in ((raw, ORANGE, "before calibration"), (scores, BLUE, "after")):
        confidence, right = found.max(axis=1), found.argmax(axis=1) == truth
        bins = equal_mass_bins(confidence)
        places = [bins == place for place in range(bins.max() + 1)]
        sure, share = ([values[place].mean() for place in places] for values in (confidence, right))
        axes.plot(sure, share, color=colour, marker="o", ms=4, label=title)
    axes.set(title=f"Reliability, {split}, n = {len(truth)}", xlabel="highest score", ylabel="share of right answers")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure


def thresholds(
    truth: np.ndarray,
    scores: np.ndarray,
    labels: tuple[str, ...],
    indices: list[int],
    points: list[dict[str, Any]],
    split: str,
) -> Figure:
    """ROC and precision-recall curves of the labels that are looked for, with the operating points on them."""
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    figure.suptitle(f"{split}, n = {len(truth)}")
    roc, recall = figure.subplots(1, 2)
    for index in indices:
        positive = truth == index
        if positive.all() or not positive.any():
            continue
        rise = roc_curve(positive, scores[:, index])
        precision, found, _ = precision_recall_curve(positive, scores[:, index])
        (line,) = roc.plot(rise[0], rise[1], label=f"{labels[index]} (n = {positive.sum()})")
        recall.plot(found, precision, color=line.get_color())
        for point in points:
            if point["label"] == labels[index] and split in point["on"]:
                _mark_operating_point(roc, point, split, line.get_color())
    roc.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
    roc.set(title="ROC", xlabel="1 - specificity", ylabel="sensitivity")
    recall.set(
        title="Precision and recall",
        xlabel="recall (sensitivity)",
        ylabel="precision at this split's prevalence",
        ylim=(0, 1.02),
    )
    for axes in (roc, recall):
        axes.grid(alpha=0.25)
    roc.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _mark_operating_point(roc: Any, point: dict[str, Any], split: str, colour: Any) -> None:
    metrics = point["on"][split]
    position = 1 - metrics["specificity"]["value"], metrics["sensitivity"]["value"]
    roc.plot(*position, "o", color=colour, ms=5)
    name = ", ".join([point["name"], *point.get("also", [])])
    roc.annotate(name, position, fontsize=7, xytext=(5, -8), textcoords="offset points")


def audit(report: dict[str, Any], keys: tuple[str, ...]) -> Figure:
    """Some figures of an audit under its conditions, with intervals."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axes = figure.subplots()
    names = list(report["conditions"])
    for offset, key, colour in zip(
        np.linspace(-0.27, 0.27, len(keys)), keys, (BLUE, ORANGE, "0.4", "#3a923a"), strict=False
    ):
        for place, condition in enumerate(names):
            found = report["conditions"][condition][key]
            if found["value"] is not None:
                axes.plot([found["low"], found["high"]], [place + offset] * 2, color=colour, lw=2)
                axes.plot(
                    found["value"],
                    place + offset,
                    "o",
                    color=colour,
                    ms=5,
                    label=figure_name(key) if not place else None,
                )
    axes.axvline(0.5, color="0.6", lw=1, ls="--")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(title=f"Shortcut audit, {report['split']}, n = {report['n']}", xlim=(0, 1.02))
    axes.grid(alpha=0.25, axis="x")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    return figure
