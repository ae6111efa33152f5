"""Figures of a training and of its results."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, roc_curve

from trainer.evaluation.calibration import equal_mass_bins, undo_temperature
from trainer.evaluation.operating_points import positive_indices
from trainer.evaluation.report import Scored

BLUE, ORANGE = "#1f5fa8", "#d9731a"
REFERENCE: dict[str, Any] = {"color": "0.6", "lw": 1, "ls": "--"}  # a line to compare with


def curves(history: list[dict[str, float]], best_epoch: int) -> Figure:
    """Loss and the validation metrics of `history` by epoch; the kept epoch is marked in each."""
    table = pd.DataFrame(history)
    names = [name.removeprefix("validation_") for name in map(str, table) if name.startswith("validation_")]
    figure = Figure(figsize=(4.5 * len(names), 3.6), layout="constrained")
    panels = figure.subplots(1, len(names))
    panels[0].plot(table["epoch"], table["train_loss"], color=BLUE, marker="o", ms=3, label="train (class-weighted)")
    titles = {"loss": "Cross-entropy", "auroc": "AUROC"}
    for axes, name in zip(panels, names, strict=True):
        axes.plot(table["epoch"], table[f"validation_{name}"], color=ORANGE, marker="o", ms=3, label="validation")
        axes.axvline(best_epoch, label=f"kept: epoch {best_epoch}", **REFERENCE)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _finish(axes, titles.get(name, name.replace("_", " ").capitalize()), "epoch")
    return figure


def confusion(report: dict[str, Any], labels: tuple[str, ...], split: str) -> Figure:
    """The confusion matrix of a split at the decision that ships, as counts and as proportions of each true class."""
    counts = np.asarray(report["confusion"])
    rows = counts.sum(axis=1, keepdims=True)
    proportions = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    figure.suptitle(f"{split}, n = {report['n']}")
    panels = ((counts, "d", "counts"), (proportions, ".3f", "proportion of the true class"))
    for axes, (values, form, title) in zip(figure.subplots(1, 2), panels, strict=True):
        display = ConfusionMatrixDisplay(values, display_labels=list(map(_as_text, labels)))
        display.plot(ax=axes, cmap="Blues", values_format=form, xticks_rotation=25, colorbar=False)
        axes.set(title=title, xlabel="decided", ylabel="true")
    return figure


def reliability(part: Scored, temperature: float, split: str) -> Figure:
    """How often the answer was right by its score, before and after calibration, in bins of equal mass."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    lowest, raw = 1 / part.scores.shape[1], undo_temperature(part.scores, temperature)
    axes.plot([lowest, 1], [lowest, 1], label="as sure as right", **REFERENCE)
    for values, colour, label in ((raw, ORANGE, "before calibration"), (part.scores, BLUE, "after")):
        answers = pd.DataFrame({"confidence": values.max(axis=1), "right": values.argmax(axis=1) == part.truth})
        means = answers.groupby(equal_mass_bins(answers["confidence"].to_numpy())).mean()
        axes.plot(means["confidence"], means["right"], color=colour, marker="o", ms=4, label=label)
    _finish(axes, f"Reliability, {split}, n = {len(part.truth)}", "highest score", "proportion of right answers")
    return figure


def thresholds(part: Scored, labels: tuple[str, ...], points: list[dict[str, Any]], split: str) -> Figure:
    """ROC curves of the labels that are looked for, with their operating points."""
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for index in positive_indices(labels):
        positive = part.truth == index
        if positive.all() or not positive.any():
            continue
        rates = roc_curve(positive, part.scores[:, index])[:2]
        (line,) = axes.plot(*rates, label=f"{_as_text(labels[index])} (n = {positive.sum()})")
        for point in points:
            if point["label"] == labels[index] and split in point["on"]:
                metrics = point["on"][split]
                position = 1 - metrics["specificity"]["value"], metrics["sensitivity"]["value"]
                axes.plot(*position, "o", color=line.get_color(), ms=5)
                names = ", ".join([point["name"], *point.get("also", [])])
                axes.annotate(names, position, fontsize=7, xytext=(5, -8), textcoords="offset points")
    axes.plot([0, 1], [0, 1], **REFERENCE)
    _finish(axes, f"ROC, {split}, n = {len(part.truth)}", "1 - specificity", "sensitivity")
    return figure


def _as_text(label: str) -> str:
    """A label that matplotlib does not take for a formula."""
    return label.replace("$", r"\$")


def _finish(axes: Axes, title: str, xlabel: str = "", ylabel: str = "") -> None:
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
