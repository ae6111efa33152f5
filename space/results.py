"""The served models' metrics with intervals, training data, citations and figures, as HTML."""

from typing import Any

import pandas as pd
from facts import metric_text, number_text, read_figure
from images import data_address
from view import render
from worker import Served

METRICS = {
    "auroc": "AUROC",
    "macro_auroc": "AUROC (mean)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy (argmax)",
}
COMPARED = ("auroc", "sensitivity", "specificity", "accuracy")  # the first: of more labels than two their mean
FIGURES = {
    "thresholds-test": "ROC, on test",
    "reliability-test": "Are its scores probabilities? On test",
}
SPLITS = ("test", "external")
LEFT, WIDTH = 160, 380  # of the plot's scale from 0 to 1, in units of its view box


def facts_html(model: Served) -> str:
    """How well a model did on whom, and its training data with licence and citation."""
    splits = _splits(model)
    names = _names(splits)
    rows = [
        {"split": name, "n": part["n"], "cells": [metric_text(part["metrics"].get(metric)) for metric in names]}
        for name, part in splits.items()
    ]
    source = model.source
    return render(
        "facts.html",
        rows=rows,
        names=[METRICS[name] for name in names],
        sets=model.facts.get("environment", {}).get("data_sources", []),
        card=f"https://huggingface.co/{source.model}/tree/{source.revision}" if source.revision else "",
        name=source.model,
    )


def results_html(model: Served) -> str:
    """Which recipe it is, its facts, its audit in a sentence and its figures."""
    recipe, metrics, splits = model.facts.get("recipe", {}), model.facts.get("metrics", {}), _splits(model)
    labels = recipe.get("labels", [])
    figures = [(title, read_figure(model.source, name)) for name, title in FIGURES.items()]
    return render(
        "results.html",
        name=", ".join(recipe[key] for key in ("name", "backbone") if recipe.get(key)) or model.task,
        facts=facts_html(model),
        audit=metrics.get("audit", {}).get("verdict", {}).get("text"),
        rows=_plot_rows(splits),
        labels=labels,
        confusions=[_confusion(name, part, labels) for name, part in splits.items() if labels],
        ticks=[{"x": _place(value / 4), "text": number_text(value / 4)[:3]} for value in range(5)],
        figures=[{"title": title, "address": data_address(content)} for title, content in figures if content],
    )


def results_table(models: list[Served]) -> pd.DataFrame:
    """A row a model and split: n and the metrics with their 95 % intervals, as text."""
    rows = []
    for model in models:
        name = model.facts.get("recipe", {}).get("name", model.task)
        for split, part in _splits(model).items():
            metrics = {"auroc": part["metrics"].get("macro_auroc"), **part["metrics"]}
            values = {METRICS[metric]: metric_text(metrics.get(metric)) for metric in COMPARED}
            rows.append({"model": name, "split": split, "n": part["n"], **values})
    return pd.DataFrame(rows)


def _confusion(split: str, part: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Counts, a row a true label; the more of its films, the darker a cell."""
    rows = [
        {"label": label, "cells": [{"count": count, "shade": round(45 * count / max(sum(row), 1))} for count in row]}
        for label, row in zip(labels, part["confusion"], strict=True)
    ]
    return {"split": split, "n": part["n"], "rows": rows}


def _splits(model: Served) -> dict[str, Any]:
    splits = model.facts.get("metrics", {}).get("splits", {})
    return {name: splits[name] for name in SPLITS if name in splits}


def _names(splits: dict[str, Any]) -> list[str]:
    return [name for name in METRICS if any(name in part["metrics"] for part in splits.values())]


def _plot_rows(splits: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a metric, with a mark for each split: where its value and its interval lie."""
    rows = []
    for name in _names(splits):
        marks = []
        for split, part in splits.items():
            metric = part["metrics"].get(name)
            if metric and metric["value"] is not None and metric["low"] is not None:
                places = {key: _place(metric[key]) for key in ("value", "low", "high")}
                text = f"{METRICS[name]}, {split}: {metric_text(metric)}"
                marks.append({"split": split, "y": 16 + 14 * SPLITS.index(split), "text": text, **places})
        rows.append({"name": METRICS[name], "marks": marks})
    return rows


def _place(value: float) -> float:
    return round(LEFT + WIDTH * value, 1)
