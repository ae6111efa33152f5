"""What a model's own files say about it: metrics, training data, figures; and how metrics and scores are written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from config import ModelSource
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError


def read_facts(source: ModelSource) -> dict[str, Any]:
    """metrics.json, environment.json and recipe.json of a model, by their stem; what it does not carry is absent.

    Raises:
        ValueError: one of them is damaged.
    """
    files = {name: find_file(source, f"{name}.json") for name in ("metrics", "environment", "recipe")}
    facts = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file}
    if damaged := [name for name, content in facts.items() if not isinstance(content, dict)]:
        raise ValueError(f"its {damaged[0]}.json holds no JSON object")
    return facts


def read_figure(source: ModelSource, name: str) -> bytes | None:
    """An image of the model's figures folder, PNG; None where it has none of that name."""
    file = find_file(source, f"figures/{name}.png")
    return file.read_bytes() if file else None


def sensitivity_text(facts: dict[str, Any], decision: dict[str, Any]) -> str:
    """What a decision's threshold did on validation, in words: empty where the model's metrics do not say."""
    for point in facts.get("metrics", {}).get("operating_points", []):
        if (point["name"], point["label"]) == (decision["name"], decision["label"]) and "validation" in point["on"]:
            value = point["on"]["validation"]["sensitivity"]["value"]
            if value is None:
                return ""
            where = f" (it was chosen within {', '.join(point['within'])})" if point.get("within") else ""
            return f"which caught {number_text(value)} of {decision['label']} in validation{where}"
    return ""


def trust_lines(facts: dict[str, Any], label: str) -> list[str]:
    """How often a model was right and wrong about a label, in its own test and elsewhere, in counts, and to whom it
    was adapted; empty where its metrics do not say.

    Hospitals that it has not seen are the external collections of which it learned nothing.
    """
    labels = facts.get("recipe", {}).get("labels", [])
    splits = facts.get("metrics", {}).get("splits", {})
    if label not in labels:
        return []
    places = {"in its own test": [splits.get("test", {})]}
    for part in splits.get("external", {}).get("collections", {}).values():
        seen = part.get("trained", True)
        where = "in other patients of a hospital it knew" if seen else "in hospitals it had never seen"
        places.setdefault(where, []).append(part)
    lines = []
    for where, parts in places.items():
        tables = [np.array(part["confusion"]) for part in parts if "confusion" in part]
        if tables:
            lines.append(f"{where} {_right_and_wrong(np.sum(tables, axis=0), labels.index(label), label)}")
    local = facts.get("metrics", {}).get("adaptation")
    whose = f"adapted by {local['n']} films of one hospital" if local else "not adapted to your hospital"
    return [*lines, f"it was {whose}"] if lines else []


def _right_and_wrong(confusion: np.ndarray, index: int, label: str) -> str:
    """Of counts [C, C], a row a true label: the films of a label that were found, and the others taken for it."""
    of_label, called = confusion[index], confusion[:, index]
    text = [f"it found {of_label[index]} of {of_label.sum()} films of {label}"] if of_label.sum() else []
    others = confusion.sum() - of_label.sum()
    if others:
        text.append(f"took {called.sum() - of_label[index]} of {others} others for it")
    return " and ".join(text)


def metric_text(metric: dict[str, Any] | None) -> str:
    """A metric with its interval."""
    if metric is None or metric["value"] is None:
        return "–"
    value, *interval = (number_text(metric[key]) for key in ("value", "low", "high") if metric[key] is not None)
    return f"{value} ({'–'.join(interval)})" if interval else value


def score_text(score: float) -> str:
    """Two digits; a score is never quite 0 or 1, and is not called so."""
    if not 0.005 <= score < 0.995:
        return ">.99" if score > 0.5 else "<.01"
    return f"{score:.2f}".removeprefix("0")


def number_text(value: float) -> str:
    """Three digits, or as many as it takes not to say 0 or 1 of what is neither; below a millionth an exponent."""
    if 0 < value < 1e-6:
        return f"{value:.0e}"
    digits = 3
    while 0 < value < 1 and float(f"{value:.{digits}f}") in (0, 1):
        digits += 1
    return f"{value:.{digits}f}".removeprefix("0")


def find_file(source: ModelSource, name: str) -> Path | None:
    """A file of a model, from its folder or the Hub; None where there is none of that name."""
    if not source.revision:
        return file if (file := Path(source.model, name)).is_file() else None
    try:
        return Path(hf_hub_download(source.model, name, revision=source.revision))
    except EntryNotFoundError:
        return None
