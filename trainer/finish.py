"""From the best weights to a finished run: what is fitted, scores, metrics, card."""

import io
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor
from trainer.data.labelled import LabelledImages
from trainer.data.phantom import FINDINGS, draw_phantom
from trainer.evaluation import figures
from trainer.evaluation.calibration import fit_temperature, undo_temperature
from trainer.evaluation.familiarity import fit_familiarity, mean_thumbnail
from trainer.evaluation.operating_points import SCREENING, choose_operating_points, decided, positive_indices
from trainer.evaluation.report import assess
from trainer.evaluation.scoring import Scored, score
from trainer.export import native_copy
from trainer.files import write_bytes
from trainer.inference import PixelBatches, for_inference, predict_image, run_model
from trainer.run import Run
from trainer.training.checkpoint import Checkpoints, Progress

REPORTED = ("validation", "test", "external")
FAMILIARITY_SAMPLE, THUMBNAIL_SAMPLE = 2000, 500  # most training radiographs that these are fitted on


def finish(
    run: Run,
    labelled: LabelledImages,
    processor: CxrImageProcessor,
    progress: Progress,
    model: CxrForImageClassification,
) -> None:
    """Fit what a decision needs, score the splits and write the run; metrics.json and the card come last.

    Args:
        run: where the training left its checkpoints.
        labelled: the data it was trained on.
        processor: as in training; what is fitted on training images is added.
        progress: of the finished training.
        model: gives the configuration; the best weights come from the checkpoint.
    """
    history = pd.DataFrame(progress.history)
    run.write_table("history.csv", history.astype({"epoch": int}))
    run.write_figure("curves", figures.curves(progress.history, progress.best_epoch))
    best = CxrForImageClassification(model.config)
    best.load_state_dict(Checkpoints(run.checkpoints).load_best(progress))
    points = fit_decisions(best.eval(), processor, labelled)
    run.write_model(best.to(memory_format=torch.contiguous_format), processor)
    best, processor = run.load_model()
    if native := native_copy(best, processor):
        run.write_native(*native)
    parts = {split: score(best, processor, labelled, split) for split in REPORTED if len(labelled.indices(split))}
    metrics = assess(parts, labelled.task.labels, best.config.operating_point, best.config.calibration, points)
    for split, part in parts.items():
        _draw(run, metrics, split, part, labelled.task.labels)
    run.write_table(
        "predictions.csv",
        pd.concat([_prediction_table(part, labelled.task.labels, metrics["decision"]) for part in parts.values()]),
    )
    example = _example(run, best, processor, labelled.task.labels)
    run.write_json("metrics.json", {**metrics, "split": labelled.leaks, "example": example})
    run.write_card()


def fit_decisions(
    model: CxrForImageClassification, processor: CxrImageProcessor, labelled: LabelledImages
) -> list[dict[str, Any]]:
    """Fit what a decision needs besides the weights, and put it where it is applied.

    On validation: the temperature (into the last layer), the operating points (the first of two labels decides), the
    threshold of familiarity. On training radiographs: their texture and their thumbnail.

    Returns:
        The operating points.
    """
    labels, validation = labelled.task.labels, labelled.indices("validation")
    train = np.random.default_rng(0).permutation(labelled.indices("train"))[:FAMILIARITY_SAMPLE]

    folded = for_inference(model, processor)
    pixels = PixelBatches(labelled.images, processor, folded.device)

    def texture(output: Any) -> torch.Tensor:
        return model.texture(output.feature_map)

    def logits_and_texture(output: Any) -> torch.Tensor:
        return torch.cat([output.logits, texture(output)], dim=1)

    outputs = run_model(folded, pixels, validation, title="calibrating", select=logits_and_texture).double()
    logits, textures, truth = outputs[:, : len(labels)], outputs[:, len(labels) :], labelled.truth[validation]
    temperature = fit_temperature(logits.numpy(), truth)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.div_(temperature)
    model.config.calibration = {"method": "temperature scaling", "temperature": temperature, "split": "validation"}
    scores = (logits / temperature).softmax(dim=1).numpy()
    collections = labelled.rows["collection"].to_numpy()[validation]
    points = choose_operating_points(truth, scores, labels, labelled.task.name, collections)
    deciding = next((point for point in points if point["name"] == SCREENING), None)
    if len(labels) == 2 and deciding and deciding["threshold"] is not None:
        model.config.operating_point = {key: deciding[key] for key in ("name", "label", "threshold")}
    train_textures = run_model(folded, pixels, train, title="familiarity", select=texture)
    fit_familiarity(model, train_textures.numpy(), textures.numpy())
    processor.mean_thumbnail = mean_thumbnail(labelled.images.batch(train[:THUMBNAIL_SAMPLE]).numpy())
    return points


def _example(
    run: Run, model: CxrForImageClassification, processor: CxrImageProcessor, labels: tuple[str, ...]
) -> dict[str, Any]:
    """A phantom for the card, figures/example.png, and what the model says of it: no radiograph of anybody is
    published.
    """
    drawn = next((label for label in reversed(labels) if label in FINDINGS), "Normal")
    pixels = draw_phantom(drawn, np.random.default_rng(0)).pixels
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    write_bytes(run.path / "figures" / "example.png", stream.getvalue())
    return {"drawn": drawn, "scores": predict_image(model, processor, pixels)["scores"]}


def _draw(run: Run, metrics: dict[str, Any], split: str, part: Scored, labels: tuple[str, ...]) -> None:
    truth, scores = part.truth, part.scores
    run.write_figure(f"confusion-{split}", figures.confusion(metrics["splits"][split], labels, split))
    run.write_figure(
        f"thresholds-{split}",
        figures.thresholds(truth, scores, labels, positive_indices(labels), metrics["operating_points"], split),
    )
    raw = undo_temperature(scores, metrics["calibration"]["temperature"])
    run.write_figure(f"reliability-{split}", figures.reliability(truth, raw, scores, split))


def _prediction_table(part: Scored, labels: tuple[str, ...], decision: dict[str, Any] | None) -> pd.DataFrame:
    """`prediction` is the highest score, `decision` what the model answers at the threshold that ships."""
    found = {"prediction": part.scores.argmax(axis=1), "decision": decided(part.scores, labels, decision)}
    table = part.rows[["sha256", "split", "label"]].assign(
        **{name: np.array(labels)[indices] for name, indices in found.items()}
    )
    for index, label in enumerate(labels):
        table[f"p:{label}"] = part.scores[:, index]
    return table
