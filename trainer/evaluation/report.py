"""A split as a model scores it, and what metrics.json says of it: overall, for each class, within each collection."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor
from trainer.data.labelled import OTHER_DISEASES, LabelledImages
from trainer.evaluation.calibration import calibration_metrics, undo_temperature
from trainer.evaluation.intervals import UNDEFINED, Metric, intervals, proportion
from trainer.evaluation.operating_points import decided
from trainer.inference import PixelBatches, run_model

PREVALENCES = (0.01, 0.05, 0.20)
UNFAMILIAR = 0.5  # the familiarity below which an image is called unlike the training radiographs


class Scored(NamedTuple):
    """A split: manifest rows with group and collection, label indices [N], scores [N, C], familiarity [N] or None."""

    rows: pd.DataFrame
    truth: np.ndarray
    scores: np.ndarray
    familiarity: np.ndarray | None

    @property
    def groups(self) -> np.ndarray:
        """What must stay together, [N]."""
        return self.rows["group"].to_numpy()


def score(
    model: CxrForImageClassification, processor: CxrImageProcessor, labelled: LabelledImages, split: str
) -> Scored:
    """The scores and familiarity of a split by a model `for_inference`, in fp32."""
    indices, has_familiarity = labelled.indices(split), bool(model.config.familiarity)

    def select(output: Any) -> torch.Tensor:
        return torch.cat([output.logits, output.familiarity[:, None]], dim=1) if has_familiarity else output.logits

    inputs = PixelBatches(labelled.images, processor, model.device).eval_batch
    outputs = run_model(model, inputs, indices, title=f"evaluating {split}", select=select).double()
    scores = outputs[:, : len(model.labels)].softmax(dim=1).numpy()
    familiarity = outputs[:, -1].numpy() if has_familiarity else None
    return Scored(labelled.rows.iloc[indices], labelled.truth[indices], scores, familiarity)


def assess(
    model: CxrForImageClassification,
    parts: dict[str, Scored],
    points: list[dict[str, Any]],
    trained: Collection[str] = (),
    prevalences: tuple[float, ...] = PREVALENCES,
) -> dict[str, Any]:
    """metrics.json of splits that a model scored.

    Args:
        points: the model's operating points, chosen on validation.
        trained: the collections that the model learned from.
        prevalences: for predictive values.
    """
    decision, calibration = model.config.operating_point, model.config.calibration
    splits = {name: split_report(part, model.labels, decision, trained) for name, part in parts.items()}
    report: dict[str, Any] = {"schema": 1, "decision": decision, "splits": splits}
    if calibration:
        before = {name: undo_temperature(part.scores, calibration["temperature"]) for name, part in parts.items()}
        calibrated = {name: calibration_change(before[name], part) for name, part in parts.items()}
        report["calibration"] = {**calibration, "splits": calibrated}
    report["operating_points"] = [operating_point(point, parts, model.labels, prevalences) for point in points]
    flagged = {}
    for name, part in parts.items():
        if part.familiarity is not None:
            unfamiliar = proportion(part.familiarity < UNFAMILIAR, part.groups)
            flagged[name] = {"n": len(part.rows), "flagged": unfamiliar}
    if flagged:
        method = "Mahalanobis distance of texture, probabilistic PCA"
        report["familiarity"] = {"method": method, "threshold": UNFAMILIAR, "splits": flagged}
    return report


def split_report(
    part: Scored,
    labels: tuple[str, ...],
    decision: dict[str, Any] | None,
    trained: Collection[str] = (),
    decisions: np.ndarray | None = None,
) -> dict[str, Any]:
    """{"n", "groups", "collections", "metrics", "per_class", "confusion"} of a split, with 95 % intervals.

    Args:
        labels: in the order of the scores.
        decision: the operating point that ships, or None where the highest score decides.
        trained: the collections that the model learned from; the films of others are of hospitals it has not seen.
        decisions: label indices [N], where they are not those of `decision`.
    """
    decisions = decided(part.scores, labels, decision) if decisions is None else decisions
    collections = part.rows["collection"].to_numpy()

    def within(rows: np.ndarray) -> dict[str, Any]:
        truth, groups = part.truth[rows], part.groups[rows]
        report = intervals(truth, decisions[rows], part.scores[rows], groups)
        sizes = np.bincount(truth, minlength=len(labels)).tolist()
        per_class = {label: {"n": sizes[index], **report["per_class"][index]} for index, label in enumerate(labels)}
        return {"n": len(truth), "groups": len(set(groups)), **report, "per_class": per_class}

    parts = {}
    for name in sorted(set(collections) - {""}):
        inside = within(collections == name)
        sizes = {label: metrics["n"] for label, metrics in inside["per_class"].items()}
        counts = {key: inside[key] for key in ("n", "groups", "metrics", "confusion")}
        parts[name] = {**counts, "labels": sizes, "trained": name in trained}
    return {**within(np.ones(len(decisions), bool)), "collections": parts}


def report_other_diseases(
    model: CxrForImageClassification, processor: CxrImageProcessor, labelled: LabelledImages
) -> list[dict[str, Any]]:
    """What a model `for_inference` calls films of diseases that it does not answer, by disease and collection.

    Args:
        labelled: from `load_other_diseases`.

    Returns:
        {"label", "collection", "n", "groups", "called": {label of the model: proportion}} of each.
    """
    part, report = score(model, processor, labelled, OTHER_DISEASES), []
    decisions = decided(part.scores, model.labels, model.config.operating_point)
    kinds = part.rows[["label", "collection"]]
    for label, collection in sorted(set(kinds.itertuples(index=False, name=None))):
        inside = (kinds == [label, collection]).all(axis=1).to_numpy()
        groups = part.groups[inside]
        called = {name: proportion(decisions[inside] == index, groups) for index, name in enumerate(model.labels)}
        counts = {"n": len(groups), "groups": len(set(groups))}
        report.append({"label": label, "collection": collection, **counts, "called": called})
    return report


def calibration_change(before: np.ndarray, part: Scored) -> dict[str, Any]:
    """Calibration metrics of a split by the scores [N, C] `before` a change, and by those that it has now."""
    metrics = [calibration_metrics(part.truth, scores, part.groups) for scores in (before, part.scores)]
    return {"n": len(part.truth), "before": metrics[0], "after": metrics[1]}


def prediction_table(
    parts: dict[str, Scored], labels: tuple[str, ...], decision: dict[str, Any] | None
) -> pd.DataFrame:
    """predictions.csv: `prediction` is the highest score, `decision` what the model answers at the point that ships."""
    tables = []
    for split, part in parts.items():
        table = part.rows[["sha256", "label"]].copy()
        table.insert(1, "split", split)
        table["prediction"] = np.array(labels)[part.scores.argmax(axis=1)]
        table["decision"] = np.array(labels)[decided(part.scores, labels, decision)]
        tables.append(table.assign(**{f"p:{label}": part.scores[:, index] for index, label in enumerate(labels)}))
    return pd.concat(tables)


def operating_point(
    point: dict[str, Any],
    parts: dict[str, Scored],
    labels: tuple[str, ...],
    prevalences: tuple[float, ...] = PREVALENCES,
) -> dict[str, Any]:
    """An operating point with its metrics on validation and, under `on`, on each split; without where it has none."""
    known = parts if point["threshold"] is not None else {}
    on = {name: operating_point_metrics(point, part, labels, prevalences) for name, part in known.items()}
    chosen = {key: on.get("validation", {}).get(key) for key in ("sensitivity", "specificity")}
    return {"split": "validation", **chosen, **point, "on": on}


def operating_point_metrics(
    point: dict[str, Any], part: Scored, labels: tuple[str, ...], prevalences: tuple[float, ...]
) -> dict[str, Any]:
    """Sensitivity, specificity and predictive values, on a split, of a point that has a threshold."""
    index = labels.index(point["label"])
    positive, decided_positive = part.truth == index, part.scores[:, index] >= point["threshold"]
    sensitivity = proportion(decided_positive, part.groups, positive)
    specificity = proportion(~decided_positive, part.groups, ~positive)
    values = [{"prevalence": value, **_predictive_values(sensitivity, specificity, value)} for value in prevalences]
    return {"n": len(positive), "sensitivity": sensitivity, "specificity": specificity, "predictive_values": values}


def _predictive_values(sensitivity: Metric, specificity: Metric, prevalence: float) -> dict[str, Metric]:
    """PPV and NPV at a prevalence; both grow with sensitivity and specificity, so their bounds give bounds."""
    ppv, npv = ({**UNDEFINED, "method": "from the intervals of sensitivity and specificity"} for _ in range(2))
    for key in ("value", "low", "high"):
        hit, cleared = sensitivity[key], specificity[key]
        if hit is not None and cleared is not None:
            ppv[key] = _proportion_of(hit * prevalence, (1 - cleared) * (1 - prevalence))
            npv[key] = _proportion_of(cleared * (1 - prevalence), (1 - hit) * prevalence)
    return {"ppv": ppv, "npv": npv}


def _proportion_of(right: float, wrong: float) -> float | None:
    return right / (right + wrong) if right + wrong else None
