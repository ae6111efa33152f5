"""The adapted run: a complete copy of the run it comes from, with another threshold and other scores.

Its metrics on the old test films are those of the new scores and threshold, computed from the run's own predictions;
what they were stands under `before`.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.adaptation.fits import Change, to_margin
from trainer.errors import UsageError
from trainer.evaluation import figures
from trainer.evaluation.operating_points import decided
from trainer.evaluation.report import PREVALENCES, Scored, operating_point_metrics, split_report
from trainer.export import native_copy
from trainer.run import Run

LEFT = ("checkpoints", "onnx", ".*")  # not copied: another model's
NAME = "local"  # of the operating point


def write_adapted(run: Run, output: Path, change: Change, report: dict[str, Any]) -> Run:
    """Copy a run and change the model in it; the copy stands at `output` when it is complete.

    Args:
        change: of the original's scores, where `run` is an adapted one.
        report: what is kept in metrics.json as `adaptation`.

    Raises:
        UsageError: the run lacks the predictions from which its metrics are computed anew.
    """
    missing = [name for name in ("predictions.csv", "manifest.csv", "metrics.json") if not run.has(name)]
    if missing:
        raise UsageError(f"{run.path}: has no {missing[0]}, from which its metrics would be computed anew")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as place:
        copy = Run(Path(place, "run"))
        shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns(*LEFT))
        for stale in (*copy.path.glob("figures/reliability-*.png"), *copy.path.glob("figures/thresholds-*.png")):
            stale.unlink()
        old = copy.read_json("metrics.json")
        change = _from_now(change, old.get("adaptation"))
        before = old.get("before", {"decision": old["decision"], "splits": _metrics_of(old)})
        label = copy.read_json("recipe.json")["labels"][1]
        decision = {"name": NAME, "label": label, "threshold": change.threshold}
        decision = before["decision"] if report["method"] == "none" else decision
        _change_model(copy, change, decision)
        _change_metrics(copy, change, decision, {**old, "adaptation": report, "before": before})
        copy.write_card()
        copy.path.rename(output)
    return Run(output)


def _from_now(change: Change, made: dict[str, Any] | None) -> Change:
    """A change of the original's scores as one of the scores of a run that was `made` from it."""
    if not made:
        return change
    slope = change.slope / made["slope"]
    return Change(change.threshold, slope, change.intercept - made["intercept"] * slope)


def _metrics_of(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: {key: part[key] for key in ("n", "metrics")} for name, part in metrics["splits"].items()}


def _change_model(run: Run, change: Change, decision: dict[str, Any] | None) -> None:
    model, processor = run.load_model()
    with torch.no_grad():
        for layer in (model.classifier, model.lesions):
            for parameter in layer.parameters() if layer is not None else ():
                parameter.mul_(change.slope)
        model.classifier.bias.add_(change.intercept)
    model.config.operating_point = decision
    run.write_model(model, processor)
    if run.has("native") and (native := native_copy(model, processor)):
        run.write_model(*native, folder="native")


def _change_metrics(run: Run, change: Change, decision: dict[str, Any] | None, old: dict[str, Any]) -> None:
    labels = tuple(run.read_json("recipe.json")["labels"])
    predictions, manifest = run.predictions(), run.manifest()
    assert manifest is not None
    scores = change.scores(to_margin(predictions[f"p:{labels[1]}"].to_numpy()))
    both = np.stack([1 - scores, scores], axis=1)
    predictions = predictions.assign(**{f"p:{label}": both[:, index] for index, label in enumerate(labels)})
    predictions["prediction"] = np.array(labels)[both.argmax(axis=1)]
    predictions["decision"] = np.array(labels)[decided(both, labels, decision)]
    trained = set(manifest["collection"][manifest["split"] == "train"])
    of_film = manifest.drop_duplicates(["sha256", "split"])[["sha256", "split", "group", "collection"]]
    rows = predictions[["sha256", "split", "label"]].merge(of_film, how="left").fillna({"group": "", "collection": ""})
    parts = {}
    for split in old["splits"]:
        inside = (predictions["split"] == split).to_numpy()
        truth = rows["label"][inside].map({label: index for index, label in enumerate(labels)}).to_numpy(np.int64)
        parts[split] = Scored(rows[inside], truth, both[inside], None)
    splits = {split: split_report(part, labels, decision, trained) for split, part in parts.items()}
    points = [_moved(point, change) for point in old["operating_points"] if point["name"] != NAME]
    if decision and decision["name"] == NAME:
        points.append(_local_point(decision, parts, labels, old["adaptation"]))
    for split, part in splits.items():
        run.write_figure(f"confusion-{split}", figures.confusion(part, labels, split))
        run.write_figure(f"thresholds-{split}", figures.thresholds(parts[split], labels, points, split))
    run.write_table("predictions.csv", predictions)
    new = {"decision": decision, "splits": splits, "operating_points": points}
    run.write_json("metrics.json", {**old, **new})


def _moved(point: dict[str, Any], change: Change) -> dict[str, Any]:
    """An operating point of the old scores, on the scale of the new ones."""
    threshold = point["threshold"]
    return point if threshold is None else {**point, "threshold": change.changed(threshold)}


def _local_point(
    decision: dict[str, Any], parts: dict[str, Scored], labels: tuple[str, ...], report: dict[str, Any]
) -> dict[str, Any]:
    on = {name: operating_point_metrics(decision, part, labels, PREVALENCES) for name, part in parts.items()}
    chosen = {key: on["validation"][key] if "validation" in on else None for key in ("sensitivity", "specificity")}
    counts = {"cases": report["labels"][labels[1]], "controls": report["labels"][labels[0]], "within": [], "also": []}
    return {"split": "local films", **chosen, **decision, "aim": f"{report['aim']}, on local films", **counts, "on": on}
