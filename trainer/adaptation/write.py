"""The adapted run: a complete copy of the run it comes from, with another threshold, other scores or last layer.

Its metrics on the old test films are those of the new scores and threshold, computed from the original's predictions.
A last layer that is new has no scores for them: its metrics are those of the local films, out of fold. What the
original was lies in `original/`, from which the run is adapted again.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from trainer.adaptation.films import LocalFilms, load_original, original_of
from trainer.adaptation.fits import Change, Films, to_logits
from trainer.adaptation.selection import WIDER, OutOfFold
from trainer.data.phantom import draw_phantom
from trainer.errors import UsageError
from trainer.evaluation import figures
from trainer.evaluation.intervals import widen_intervals
from trainer.evaluation.report import Scored, calibration_change, operating_point, prediction_table, split_report
from trainer.export import native_copy
from trainer.inference import predict_image
from trainer.run import Run

LEFT = ("checkpoints", "onnx", ".*")  # not copied: another model's
KEPT = ("metrics.json", "predictions.csv", "manifest.csv")  # of the original
NAME = "local"  # of the operating point
ADAPTED_CALIBRATION = {"method": "cxr adapt", "temperature": 1.0, "split": "local films"}  # of scores that are changed
LEARNED = {"threshold": "validation", "calibration": "validation", "head": "train"}  # what local films are in it


class Scores(NamedTuple):
    """By split the original's scores [N, C], and the films as the adapted model scores them, with what metrics.json
    says of them.
    """

    before: dict[str, np.ndarray]
    after: dict[str, Scored]
    splits: dict[str, Any]
    points: list[dict[str, Any]]  # operating points


def write_adapted(
    run: Run, output: Path, change: Change, report: dict[str, Any], local: LocalFilms, test: OutOfFold | None
) -> Run:
    """Copy a run and change the model in it; the copy stands at `output` when it is complete.

    Args:
        change: of the original's scores.
        report: what is kept in metrics.json as `adaptation`.
        local: the films, which the run has learned from now.
        test: what their scores are out of fold, needed for a new last layer.

    Raises:
        UsageError: the run lacks the predictions from which its metrics are computed anew.
    """
    if missing := [name for name in KEPT if not original_of(run).has(name)]:
        raise UsageError(f"{run.path}: has no {missing[0]}, from which its metrics would be computed anew")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as place:
        copy = Run(Path(place, "run"))
        shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns(*LEFT))
        _keep_original(copy)
        labels = tuple(local.counts["labels"])
        decision = original_of(copy).read_json("metrics.json")["decision"]
        if report["method"] != "none" and change.threshold is not None:
            decision = {"name": NAME, "label": labels[1], "threshold": change.threshold}
        _change_model(copy, change, decision)
        if change.head is None:
            scores, shown = _of_old_films(copy, change, decision, report), np.exp(local.films.logits)
        else:
            assert test is not None
            scores, shown = _of_local_films(local, test, decision, report), test.scores
        _write_tables(copy, labels, decision, scores.after, local.rows, LEARNED.get(report["method"]))
        _write_metrics(copy, labels, decision, scores, report)
        if "sensitivity" in report["after"]:
            _draw_local(copy, _as_part(local, shown), labels, report)
        copy.write_card()
        copy.path.rename(output)
    return Run(output)


def _of_old_films(run: Run, change: Change, decision: dict[str, Any] | None, report: dict[str, Any]) -> Scores:
    """The films of the original's predictions: their order within a label stays, so its operating points move along."""
    original, labels = original_of(run), tuple(report["labels"])
    before, after = _score_again(original, labels, change)
    trained = original.trained_collections()
    splits = {name: split_report(part, labels, decision, trained) for name, part in after.items()}
    points = original.read_json("metrics.json")["operating_points"]
    if report["method"] == "calibration":
        points = [_moved(point, change) for point in points] if len(labels) == 2 else []
    if decision and decision["name"] == NAME:
        points = [*points, _local_point(decision, after, labels, report)]
    return Scores(before, after, splits, points)


def _of_local_films(
    local: LocalFilms, test: OutOfFold, decision: dict[str, Any] | None, report: dict[str, Any]
) -> Scores:
    """The local films out of fold, with wider intervals: a new last layer has no scores for the old ones."""
    labels, after = tuple(report["labels"]), _as_part(local, test.scores)
    tested = split_report(after, labels, decision, decisions=test.decided.argmax(axis=1))
    point = decision and widen_intervals(_local_point(decision, {"test": after}, labels, report), WIDER)
    points, splits = [point] if point else [], {"test": widen_intervals(tested, test.wider)}
    return Scores({"test": np.exp(local.films.logits)}, {"test": after}, splits, points)


def _as_part(local: LocalFilms, scores: np.ndarray) -> Scored:
    return Scored(local.rows, local.films.truth, scores, None)


def _draw_local(run: Run, part: Scored, labels: tuple[str, ...], report: dict[str, Any]) -> None:
    """figures/local-roc.png: the local films' ROC curve with the thresholds before and after."""
    points = [{"name": when, "label": labels[1], "on": {"local films": report[when]}} for when in ("before", "after")]
    run.write_figure("local-roc", figures.thresholds(part, labels, points, "local films"))


def _keep_original(copy: Run) -> None:
    if not copy.has("original"):
        (copy.path / "original").mkdir()
        for name in KEPT:
            shutil.copy(copy.path / name, copy.path / "original" / name)
        model, _ = copy.load_model()
        head = {name: each for name, each in model.state_dict().items() if name.startswith(("classifier.", "lesions."))}
        save_file(head, copy.path / "original/head.safetensors", metadata={"format": "pt"})


def _change_model(run: Run, change: Change, decision: dict[str, Any] | None) -> None:
    model, processor = load_original(run)
    bias, head = change.intercepts, change.head
    if model.classifier.out_features == 1:
        bias, head = np.diff(bias), None if head is None else np.diff(head, axis=0)
    with torch.no_grad():
        for layer in (model.classifier, model.lesions):
            for parameter in layer.parameters() if layer is not None else ():
                parameter.mul_(change.slope)
        model.classifier.bias.add_(torch.from_numpy(bias))
        if head is not None:
            model.classifier.weight.add_(torch.from_numpy(head))
    kept = change.slope == 1 and not change.intercepts.any() and change.head is None
    old = original_of(run).read_json("metrics.json")["calibration"]
    known = {key: old[key] for key in ADAPTED_CALIBRATION}
    model.config.calibration = known if kept else ADAPTED_CALIBRATION  # `cxr evaluate` undoes its temperature
    model.config.operating_point = decision
    run.write_model(model, processor)
    if run.has("native") and (native := native_copy(model, processor)):
        run.write_model(*native, folder="native")


def _score_again(
    original: Run, labels: tuple[str, ...], change: Change
) -> tuple[dict[str, np.ndarray], dict[str, Scored]]:
    """The scores of each split of the original, and the splits by the changed scores."""
    predictions, manifest = original.predictions(), original.read_table("manifest.csv")
    of_film = manifest.drop_duplicates(["sha256", "split"])[["sha256", "split", "group", "collection"]]
    rows = predictions[["sha256", "split", "label"]].merge(of_film, how="left").fillna({"group": "", "collection": ""})
    truth = rows["label"].map({label: index for index, label in enumerate(labels)}).to_numpy(np.int64)
    old = predictions[[f"p:{label}" for label in labels]].to_numpy()
    new = change.scores(Films(to_logits(old), truth, rows["group"].to_numpy(), np.zeros((len(rows), 0))))
    splits = {split: (rows["split"] == split).to_numpy() for split in dict.fromkeys(rows["split"])}
    after = {name: Scored(rows[inside], truth[inside], new[inside], None) for name, inside in splits.items()}
    return {name: old[inside] for name, inside in splits.items()}, after


def _example(run: Run, example: dict[str, Any]) -> dict[str, Any]:
    """The phantom of the card, and the adapted model's scores for it."""
    rng = np.random.default_rng(example["seed"])
    pixels = draw_phantom(example["drawn"], rng, example.get("blur", 0)).pixels
    return {**example, "scores": predict_image(*run.load_model(), pixels)["scores"]}


def _write_tables(
    run: Run,
    labels: tuple[str, ...],
    decision: dict[str, Any] | None,
    parts: dict[str, Scored],
    local: pd.DataFrame,
    learned: str | None,
) -> None:
    """predictions.csv of the scores as they are now, and manifest.csv, where the run has learned from local films."""
    run.write_table("predictions.csv", prediction_table(parts, labels, decision))
    if learned:
        known = original_of(run).read_table("manifest.csv")
        run.write_manifest(local.assign(split=learned))
        added = run.read_table("manifest.csv")
        run.write_table("manifest.csv", pd.concat([added, known[~known["sha256"].isin(added["sha256"])]]))


def _write_metrics(
    run: Run, labels: tuple[str, ...], decision: dict[str, Any] | None, scores: Scores, report: dict[str, Any]
) -> None:
    """metrics.json, and the figures of its splits in place of the original's."""
    old = original_of(run).read_json("metrics.json")
    if report["method"] == "head":
        old.pop("audit", None)  # it is of another head
    calibrated = {name: calibration_change(scores.before[name], part) for name, part in scores.after.items()}
    summary = {name: {key: part[key] for key in ("n", "metrics")} for name, part in old["splits"].items()}
    metrics = {
        **old,
        "decision": decision,
        "splits": scores.splits,
        "operating_points": scores.points,
        "calibration": {**old["calibration"], "splits": calibrated},
        "adaptation": {**report, "weights": run.weights_hash()},
        **({"example": _example(run, old["example"])} if "example" in old else {}),  # runs of before have none
        "before": {"decision": old["decision"], "splits": summary},
    }
    for stale in run.path.glob("figures/*-*.png"):
        stale.unlink()
    for name, part in scores.after.items():
        run.write_figure(f"confusion-{name}", figures.confusion(scores.splits[name], labels, name))
        run.write_figure(f"thresholds-{name}", figures.thresholds(part, labels, scores.points, name))
    run.write_json("metrics.json", metrics)


def _moved(point: dict[str, Any], change: Change) -> dict[str, Any]:
    """An operating point of the old scores, on the scale of the new ones: it decides the same."""
    threshold = point["threshold"]
    return point if threshold is None else {**point, "threshold": change.changed(threshold)}


def _local_point(
    decision: dict[str, Any], parts: dict[str, Scored], labels: tuple[str, ...], report: dict[str, Any]
) -> dict[str, Any]:
    """The threshold that local films chose, as an operating point."""
    counts = {"cases": report["labels"][labels[1]], "controls": report["labels"][labels[0]], "within": [], "also": []}
    aim = f"{report['aim']}, on local films"
    return operating_point({"split": "local films", **decision, "aim": aim, **counts}, parts, labels)
