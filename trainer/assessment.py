"""From trained weights to a finished run, and a run's figures on other data."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from hub_cards.card import write_card
from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor
from trainer.data.manifest import Manifest, read_manifest
from trainer.data.pixels import GreyImages, decode
from trainer.data.split import fill_groups
from trainer.errors import UsageError
from trainer.evaluation import figures
from trainer.evaluation.calibration import fit_temperature, undo_temperature
from trainer.evaluation.points import PREVALENCES, SCREENING, choose_points, looked_for
from trainer.evaluation.report import Scored, assess
from trainer.run import Run
from trainer.tasks import Task, plain
from trainer.training.checkpoint import Checkpoints, Progress
from trainer.training.feed import Pixels
from trainer.training.fused import fuse
from trainer.training.inference import best_device, predict_logits

REPORTED = ("validation", "test", "external")


@dataclass(frozen=True)
class Study:
    """Data that is ready: matched labels, a split, decoded images."""

    task: Task
    rows: pd.DataFrame
    truth: np.ndarray
    images: GreyImages

    def indices(self, split: str) -> np.ndarray:
        """Rows of a split."""
        return np.flatnonzero(self.rows["split"] == split)


def finish(run: Run, study: Study, processor: CxrImageProcessor, progress: Progress, model: CxrForImageClassification) -> None:
    """From the best weights to a finished run: calibrated model, predictions, figures, metrics, and last of all the card."""
    history = pd.DataFrame(progress.history)
    run.write_table("history.csv", history.astype({"epoch": int}))
    run.write_figure("curves", figures.curves(progress.history, progress.best_epoch))
    best = CxrForImageClassification(model.config)
    best.load_state_dict(Checkpoints(run.checkpoints).load_best(progress))
    points = calibrate(best.eval(), processor, study)
    run.write_model(best, processor)
    best, processor = run.load_model()
    parts = {split: score(best, processor, study, split) for split in REPORTED if len(study.indices(split))}
    metrics = assess(parts, study.task.labels, best.config.calibration, points)
    for split, part in parts.items():
        _draw(run, metrics, split, part, study.task.labels)
    run.write_table(
        "predictions.csv", pd.concat([_prediction_table(rows, scores, study.task.labels) for rows, _, scores in parts.values()])
    )
    run.write_json("metrics.json", metrics)
    write_card(run.path)


def calibrate(model: CxrForImageClassification, processor: CxrImageProcessor, study: Study) -> list[dict[str, Any]]:
    """Fit what is fitted on validation, and put it into the model: the temperature in its last layer, the point that decides.

    Returns:
        The operating points.
    """
    indices, labels = study.indices("validation"), study.task.labels
    logits = _logits(model, processor, study, indices, "calibrating").double()
    truth = study.truth[indices]
    temperature = fit_temperature(logits.numpy(), truth)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.div_(temperature)
    model.config.calibration = {"method": "temperature scaling", "temperature": temperature, "split": "validation"}
    points = choose_points(truth, (logits / temperature).softmax(dim=1).numpy(), labels, study.task.name)
    deciding = next((point for point in points if point["name"] == SCREENING), None)
    if len(labels) == 2 and deciding and deciding["threshold"] is not None:
        model.config.operating_point = {key: deciding[key] for key in ("name", "label", "threshold")}
    return points


def score(model: CxrForImageClassification, processor: CxrImageProcessor, study: Study, split: str) -> Scored:
    """Rows, label indices [N] and scores float64 [N, C] of a split, computed in fp32."""
    indices = study.indices(split)
    logits = _logits(model, processor, study, indices, f"evaluating {split}")
    return study.rows.iloc[indices], study.truth[indices], logits.double().softmax(dim=1).numpy()


def evaluate(run: Run, data: str, split: str, prevalences: tuple[float, ...] = PREVALENCES) -> dict[str, Any]:
    """Figures of a run on a split of some data, or on all of it where the data has no splits. Never writes into the run.

    Raises:
        UsageError: no such split, or classes that the model does not know.
    """
    model, processor = run.load_model()
    labels = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    manifest = read_manifest(data)
    if (manifest.rows["split"] == "").all():
        manifest.rows["split"] = split
    manifest.rows = manifest.rows[manifest.rows["split"] == split].reset_index(drop=True)
    if manifest.rows.empty:
        raise UsageError(f"{data}: has no {split} split")
    task = _known_labels(manifest, labels)
    fill_groups(manifest.rows)
    rows, images, skipped = decode(manifest.rows, processor)
    study = Study(task, rows, label_indices(rows, task), images)
    points = run.read_json("metrics.json").get("operating_points", []) if run.has("metrics.json") else []
    report = assess({split: score(model, processor, study, split)}, labels, model.config.calibration, points, prevalences)
    return {**report, "skipped": len(skipped)}


def label_indices(rows: pd.DataFrame, task: Task) -> np.ndarray:
    """The place of each row's label among the task's, [N]."""
    places = {label: index for index, label in enumerate(task.labels)}
    return rows["label"].map(places).to_numpy(np.int64)


def _logits(model: CxrForImageClassification, processor: CxrImageProcessor, study: Study, indices: np.ndarray, title: str) -> torch.Tensor:
    fuse(model.to(best_device(), memory_format=torch.channels_last))
    return predict_logits(model, Pixels(study.images, processor, model.device), indices, title=title)


def _draw(run: Run, metrics: dict[str, Any], split: str, part: Scored, labels: tuple[str, ...]) -> None:
    _, truth, scores = part
    run.write_figure(f"confusion-{split}", figures.confusion(metrics["splits"][split], labels, split))
    run.write_figure(
        f"thresholds-{split}", figures.thresholds(truth, scores, labels, looked_for(labels), metrics["operating_points"], split)
    )
    raw = undo_temperature(scores, metrics["calibration"]["temperature"])
    run.write_figure(f"reliability-{split}", figures.reliability(truth, raw, scores, split))


def _known_labels(manifest: Manifest, labels: tuple[str, ...]) -> Task:
    """Match data to a trained model's labels; some of them may be absent from it."""
    known = {plain(label): label for label in labels}
    unknown = sorted({name for name in manifest.rows["label"] if plain(name) not in known})
    if unknown:
        raise UsageError(f"the model answers {', '.join(labels)}; the data has {', '.join(unknown)}")
    manifest.rows["label"] = [known[plain(name)] for name in manifest.rows["label"]]
    return Task("run", labels, "")


def _prediction_table(rows: pd.DataFrame, scores: np.ndarray, labels: tuple[str, ...]) -> pd.DataFrame:
    table = rows[["sha256", "split", "label"]].assign(prediction=[labels[index] for index in scores.argmax(axis=1)])
    for index, label in enumerate(labels):
        table[f"p:{label}"] = scores[:, index]
    return table
