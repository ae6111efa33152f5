"""From trained weights to a finished run, and a run's figures on other data."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hub_cards.card import write_card
from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor
from trainer.data.manifest import Manifest, read_manifest
from trainer.data.phantom import FINDINGS, draw_phantom
from trainer.data.pixels import GreyImages, decode
from trainer.data.split import fill_groups
from trainer.errors import UsageError
from trainer.evaluation import figures
from trainer.evaluation.calibration import fit_temperature, undo_temperature
from trainer.evaluation.familiarity import fit_familiarity, usual_chest
from trainer.evaluation.points import PREVALENCES, SCREENING, choose_points, decided, looked_for
from trainer.evaluation.report import Scored, assess
from trainer.export import native_copy
from trainer.files import write_bytes
from trainer.run import Run
from trainer.tasks import Task, plain
from trainer.training.checkpoint import Checkpoints, Progress
from trainer.training.feed import Pixels
from trainer.training.fused import fuse
from trainer.training.inference import best_device, run_over

REPORTED = ("validation", "test", "external")
LEARNED = {"train": "learned from", "validation": "was tuned on"}
FAMILIAR, OUTLINED = 2000, 500  # most training radiographs that familiarity and the usual outline are fitted on


@dataclass(frozen=True)
class Study:
    """Data that is ready: matched labels, a split, decoded images; `split` is what a training's metrics.json says of leaks."""

    task: Task
    rows: pd.DataFrame
    truth: np.ndarray
    images: GreyImages
    split: dict[str, Any] = field(default_factory=dict)

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
    points = fit_decisions(best.eval(), processor, study)
    run.write_model(best.to(memory_format=torch.contiguous_format), processor)
    best, processor = run.load_model()
    if native := native_copy(best, processor):
        run.write_native(*native)
    parts = {split: score(best, processor, study, split) for split in REPORTED if len(study.indices(split))}
    metrics = assess(parts, study.task.labels, best.config.operating_point, best.config.calibration, points)
    for split, part in parts.items():
        _draw(run, metrics, split, part, study.task.labels)
    run.write_table(
        "predictions.csv", pd.concat([_prediction_table(part, study.task.labels, metrics["decision"]) for part in parts.values()])
    )
    run.write_json("metrics.json", {**metrics, "split": study.split, "example": _example(run, best, processor, study.task.labels)})
    write_card(run.path)


def fit_decisions(model: CxrForImageClassification, processor: CxrImageProcessor, study: Study) -> list[dict[str, Any]]:
    """Fit what a decision needs besides the weights, and put it where it is applied.

    On validation: the temperature (into the last layer), the operating points (the first of two labels decides), the
    threshold of familiarity. On training radiographs: their texture and their outline.

    Returns:
        The operating points.
    """
    labels, validation = study.task.labels, study.indices("validation")
    train = np.random.default_rng(0).permutation(study.indices("train"))[:FAMILIAR]

    def texture(output: Any) -> torch.Tensor:
        return model.texture(output.feature_map)

    found = _run(
        model, processor, study, validation, "calibrating", lambda output: torch.cat([output.logits, texture(output)], dim=1)
    ).double()
    logits, textures, truth = found[:, : len(labels)], found[:, len(labels) :], study.truth[validation]
    temperature = fit_temperature(logits.numpy(), truth)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.div_(temperature)
    model.config.calibration = {"method": "temperature scaling", "temperature": temperature, "split": "validation"}
    scores, collections = (logits / temperature).softmax(dim=1).numpy(), study.rows["collection"].to_numpy()[validation]
    points = choose_points(truth, scores, labels, study.task.name, collections)
    deciding = next((point for point in points if point["name"] == SCREENING), None)
    if len(labels) == 2 and deciding and deciding["threshold"] is not None:
        model.config.operating_point = {key: deciding[key] for key in ("name", "label", "threshold")}
    fit_familiarity(model, _run(model, processor, study, train, "what is familiar", texture).numpy(), textures.numpy())
    processor.usual_chest = usual_chest(study.images.batch(train[:OUTLINED]).numpy())
    return points


def score(model: CxrForImageClassification, processor: CxrImageProcessor, study: Study, split: str) -> Scored:
    """A split as the model scores it, in fp32."""
    indices, known = study.indices(split), bool(model.config.familiarity)

    def both(output: Any) -> torch.Tensor:
        return torch.cat([output.logits, output.familiarity[:, None]], dim=1) if known else output.logits

    found = _run(model, processor, study, indices, f"evaluating {split}", both).double()
    scores = found[:, : len(study.task.labels)].softmax(dim=1).numpy()
    return Scored(study.rows.iloc[indices], study.truth[indices], scores, found[:, -1].numpy() if known else None)


def evaluate(run: Run, data: str, split: str, prevalences: tuple[float, ...] = PREVALENCES) -> dict[str, Any]:
    """Figures of a run on a split of some data, or on all of it where the data has no splits. Never writes into the run.

    Returns:
        As metrics.json, with `skipped` and `left_out`, as `open_study` counts them.

    Raises:
        UsageError: no such split, nothing in it that is new to the model, or classes that it does not know.
    """
    model, processor = run.load_model()
    study, skipped, left_out = open_study(run, model, processor, data, split)
    points = run.read_json("metrics.json").get("operating_points", []) if run.has("metrics.json") else []
    scored = {split: score(model, processor, study, split)}
    report = assess(scored, study.task.labels, model.config.operating_point, model.config.calibration, points, prevalences)
    return {**report, "skipped": skipped, "left_out": left_out}


def open_study(
    run: Run,
    model: CxrForImageClassification,
    processor: CxrImageProcessor,
    data: str,
    split: str,
    choose: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows,
) -> tuple[Study, int, int | None]:
    """A split of some data, or all of it where the data has no splits, for a trained model.

    Files that the run trained on or was tuned on (its train and validation splits, by sha256) are no test and are left
    out, except where that very split is asked for.

    Args:
        choose: takes some of the split's rows before they are decoded.

    Returns:
        The study, how many files cannot be read, and how many were left out (None: the run has no manifest to tell).

    Raises:
        UsageError: no such split, nothing in it that is new to the model, or classes that it does not know.
    """
    labels = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    manifest = read_manifest(data)
    if (manifest.rows["split"] == "").all():
        manifest.rows["split"] = split
    manifest.rows = manifest.rows[manifest.rows["split"] == split].reset_index(drop=True)
    if manifest.rows.empty:
        raise UsageError(f"{data}: has no {split} split")
    left_out = _leave_out_learned(run, manifest, data, split)
    task = _known_labels(manifest, labels)
    fill_groups(manifest.rows)
    rows, images, skipped = decode(choose(manifest.rows), processor)
    for note in manifest.notes:
        print(f"note: {note}", file=sys.stderr)
    return Study(task, rows, label_indices(rows, task), images), len(skipped), left_out


def _leave_out_learned(run: Run, manifest: Manifest, data: str, split: str) -> int | None:
    if not run.has("manifest.csv"):
        manifest.notes.append(f"{run.path} has no manifest.csv: whether the model learned from these films cannot be told")
        return None
    learned = pd.read_csv(run.path / "manifest.csv", dtype=str).set_index("sha256")["split"]
    sides = manifest.rows["sha256"].map(learned[~learned.index.duplicated()])
    known = sides.isin(set(LEARNED) - {split})
    if kept := int((sides == split).sum()) if split in LEARNED else 0:
        manifest.notes.append(f"the model {LEARNED[split]} {kept} of these films: their figures say nothing of new ones")
    if known.any():
        told = f"{int(known.sum())} of {len(known)} films trained or tuned this model (first: {manifest.rows['file'][known].iloc[0]})"
        if known.all():
            raise UsageError(f"{data}: {told}; none is left to test it on, give other data or --split train or validation")
        manifest.notes.append(f"{told} and are left out")
    manifest.rows = manifest.rows[~known].reset_index(drop=True)
    return int(known.sum())


def ask(model: CxrForImageClassification, processor: CxrImageProcessor, pixels: np.ndarray) -> dict[str, Any]:
    """What a model decides on one picture uint8 [H, W] of any size."""
    grey = torch.from_numpy(processor.resize(pixels).copy()).unsqueeze(0).to(model.device)
    with torch.inference_mode():
        (answer,) = model.decide(model(processor.to_pixel_values(grey)))
    return answer


def label_indices(rows: pd.DataFrame, task: Task) -> np.ndarray:
    """The place of each row's label among the task's, [N]."""
    places = {label: index for index, label in enumerate(task.labels)}
    return rows["label"].map(places).to_numpy(np.int64)


def _run(
    model: CxrForImageClassification,
    processor: CxrImageProcessor,
    study: Study,
    indices: np.ndarray,
    title: str,
    pick: Callable[[Any], torch.Tensor],
) -> torch.Tensor:
    fuse(model.to(best_device(), memory_format=torch.channels_last))
    return run_over(model, Pixels(study.images, processor, model.device), indices, title=title, pick=pick)


def _example(run: Run, model: CxrForImageClassification, processor: CxrImageProcessor, labels: tuple[str, ...]) -> dict[str, Any]:
    """A phantom for the card, figures/example.png, and what the model says of it: no radiograph of anybody is published."""
    drawn = next((label for label in reversed(labels) if label in FINDINGS), "Normal")
    pixels = draw_phantom(drawn, np.random.default_rng(0)).pixels
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    write_bytes(run.path / "figures" / "example.png", stream.getvalue())
    return {"drawn": drawn, "scores": ask(model, processor, pixels)["scores"]}


def _draw(run: Run, metrics: dict[str, Any], split: str, part: Scored, labels: tuple[str, ...]) -> None:
    truth, scores = part.truth, part.scores
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


def _prediction_table(part: Scored, labels: tuple[str, ...], decision: dict[str, Any] | None) -> pd.DataFrame:
    """`prediction` is the highest score, `decision` what the model answers at the threshold that ships."""
    found = {"prediction": part.scores.argmax(axis=1), "decision": decided(part.scores, labels, decision)}
    table = part.rows[["sha256", "split", "label"]].assign(**{name: np.array(labels)[indices] for name, indices in found.items()})
    for index, label in enumerate(labels):
        table[f"p:{label}"] = part.scores[:, index]
    return table
