"""The served models side by side: our figures with intervals, their sources' figures, curves and confusion matrices."""

import base64
import html
from typing import Any

from facts import figure_text, read_figure
from worker import Served

FIGURES = {
    "confusion-test": "Who was called what, on test",
    "confusion-external": "Who was called what, on external radiographs",
    "thresholds-test": "ROC and precision-recall, on test",
    "reliability-test": "Are its scores probabilities? On test",
    "audit": "What remains when the lungs are hidden",
    "curves": "Training",
}
FIGURED = {
    "AUROC": ("auroc", "macro_auroc"),
    "sensitivity": ("sensitivity",),
    "specificity": ("specificity",),
    "accuracy (argmax)": ("accuracy",),
}
HEAD = ("recipe", "backbone", "split", "n", *FIGURED, "the source's figures, on its own data")


def results_html(predictors: list[Served]) -> str:
    """A table with a row for each model and split, then each model's images."""
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    rows = "".join(_rows(predictor.facts) for predictor in predictors)
    caption = "<caption>Metrics with 95 % intervals</caption>"
    table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return (
        f'<div class="cxr-wide" tabindex="0">{table}</div>{"".join(_pictures(predictor) for predictor in predictors)}'
    )


def _rows(facts: dict[str, Any]) -> str:
    recipe, splits = facts.get("recipe", {}), facts.get("metrics", {}).get("splits", {})
    told, source = "–", recipe.get("source")
    if source:
        told = f"{source['name']}, n = {source['n']}: " + ", ".join(
            f"{key} {value}" for key, value in source["figures"].items()
        )
    rows = ""
    for name in ("test", "external"):
        if name in splits:
            metrics = splits[name]["metrics"]
            figures = [
                figure_text(next((metrics[key] for key in keys if key in metrics), None)) for keys in FIGURED.values()
            ]
            cells = [recipe.get("backbone", ""), name, str(splits[name]["n"]), *figures, told]
            body = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            rows += f'<tr><th scope="row">{html.escape(recipe.get("name", ""))}</th>{body}</tr>'
    return rows


def _pictures(predictor: Served) -> str:
    shown = ""
    for name, title in FIGURES.items():
        if content := read_figure(predictor.source, f"{name}.png"):
            data = base64.b64encode(content).decode()
            image = f'<img src="data:image/png;base64,{data}" alt="{title}">'
            shown += f"<figure>{image}<figcaption>{title}</figcaption></figure>"
    name = html.escape(predictor.facts.get("recipe", {}).get("name", predictor.task))
    return f'<h3>{name}</h3><div class="cxr-figures">{shown}</div>' if shown else ""
