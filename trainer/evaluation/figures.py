"""Pictures of a training and of its results."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

BLUE, ORANGE = "#1f5fa8", "#d9731a"


def curves(history: list[dict[str, float]], best_epoch: int) -> Figure:
    """Loss and validation accuracy by epoch; the kept epoch is marked."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [row["train_loss"] for row in history], color=BLUE, marker="o", ms=3, label="train (class-weighted)")
    loss.plot(epochs, [row["validation_loss"] for row in history], color=ORANGE, marker="o", ms=3, label="validation")
    accuracy.plot(epochs, [row["validation_accuracy"] for row in history], color=ORANGE, marker="o", ms=3, label="validation")
    for axes, title in ((loss, "Cross-entropy"), (accuracy, "Accuracy")):
        axes.axvline(best_epoch, color="0.6", lw=1, ls="--", label=f"kept: epoch {best_epoch}")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    return figure


def confusion(report: dict[str, Any], labels: tuple[str, ...], split: str) -> Figure:
    """The confusion matrix of a split, as counts and as shares of each true class."""
    counts = np.asarray(report["confusion"])
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    figure.suptitle(f"{split}, n = {report['n']}")
    for axes, values, title, form in zip(
        figure.subplots(1, 2), (counts, shares), ("counts", "share of the true class"), ("{:d}", "{:.3f}"), strict=True
    ):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=title, xlabel="predicted", ylabel="true")
        axes.set_xticks(range(len(labels)), labels, rotation=25, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, form.format(value), ha="center", va="center", color="white" if shares[row, column] > 0.5 else "black")
    return figure
