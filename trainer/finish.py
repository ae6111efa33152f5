"""From the best weights to a finished run: what is fitted, scores, metrics, card."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor
from trainer.data.labelled import LabelledImages
from trainer.data.phantom import FINDINGS, draw_phantom
from trainer.evaluation import figures
from trainer.evaluation.calibration import fit_temperature
from trainer.evaluation.familiarity import fit_familiarity, mean_thumbnail
from trainer.evaluation.operating_points import choose_operating_points, deciding_point
from trainer.evaluation.report import Scored, assess, prediction_table, score
from trainer.export import native_copy
from trainer.files import atomic_write
from trainer.inference import PixelBatches, for_inference, predict_image, run_model
from trainer.run import Run
from trainer.training.checkpoint import Checkpoints, Progress

FAMILIARITY_SAMPLE = 250  # training radiographs: more change nothing, bench/familiarity.py --sample


def finish(
    run: Run,
    labelled: LabelledImages,
    processor: CxrImageProcessor,
    progress: Progress,
    model: CxrForImageClassification,
) -> None:
    """Fit what a decision needs, score the splits and write the run; metrics.json and the card come last.

    Args:
        processor: as in training; what is fitted on training images is added.
        model: gives the configuration; the best weights come from the checkpoint.
    """
    run.write_table("history.csv", pd.DataFrame(progress.history))
    run.write_figure("curves", figures.curves(progress.history, progress.best_epoch))
    best = CxrForImageClassification(model.config)
    best.load_state_dict(Checkpoints(run.checkpoints).load_best(progress))
    points, validation = fit_decisions(best.eval(), processor, labelled)
    run.write_model(best.to(memory_format=torch.contiguous_format), processor)
    best, processor = run.load_model()
    if native := native_copy(best, processor):
        run.write_model(*native, folder="native")
    drawn = next((label for label in reversed(best.labels) if label in FINDINGS), "Normal")
    example = write_example(run, best, processor, drawn)
    best = for_inference(best, processor)
    others = [split for split in ("test", "external") if len(labelled.indices(split))]
    parts = {"validation": validation, **{split: score(best, processor, labelled, split) for split in others}}
    trained = set(labelled.rows["collection"].iloc[labelled.indices("train")])
    metrics = assess(best, parts, points, trained)
    for split, part in parts.items():
        run.write_figure(f"confusion-{split}", figures.confusion(metrics["splits"][split], best.labels, split))
        thresholds = figures.thresholds(part, best.labels, metrics["operating_points"], split)
        run.write_figure(f"thresholds-{split}", thresholds)
        reliability = figures.reliability(part, best.config.calibration["temperature"], split)
        run.write_figure(f"reliability-{split}", reliability)
    run.write_table("predictions.csv", prediction_table(parts, best.labels, metrics["decision"]))
    run.write_json("metrics.json", {**metrics, "split": labelled.leaks, "example": example})
    run.write_card()


def fit_decisions(
    model: CxrForImageClassification, processor: CxrImageProcessor, labelled: LabelledImages
) -> tuple[list[dict[str, Any]], Scored]:
    """Fit what a decision needs besides the weights, and put it where it is applied.

    On validation: the temperature (into the last layer), the operating points (the first of two labels decides), the
    threshold of familiarity. On a sample of training radiographs: their texture and their thumbnail.

    Returns:
        The operating points, and validation as the fitted model scores it.
    """
    labels, validation = labelled.task.labels, labelled.indices("validation")
    sample = np.random.default_rng(0).permutation(labelled.indices("train"))[:FAMILIARITY_SAMPLE]
    folded = for_inference(model, processor)
    pixels = PixelBatches(labelled.images, processor, folded.device)

    def texture(output: Any) -> torch.Tensor:
        return model.texture(output.feature_map)

    def logits_and_texture(output: Any) -> torch.Tensor:
        return torch.cat([output.logits, texture(output)], dim=1)

    outputs = run_model(folded, pixels.eval_batch, validation, title="calibrating", select=logits_and_texture)
    logits, textures = outputs[:, : len(labels)].double(), outputs[:, len(labels) :]
    rows, truth = labelled.rows.iloc[validation], labelled.truth[validation]
    temperature = fit_temperature(logits.numpy(), truth)
    with torch.no_grad():
        for layer in (model.classifier, model.lesions):
            for parameter in layer.parameters() if layer is not None else ():
                parameter.div_(temperature)
    model.config.calibration = {"method": "temperature scaling", "temperature": temperature, "split": "validation"}
    scores = (logits / temperature).softmax(dim=1).numpy()
    points = choose_operating_points(truth, scores, labels, labelled.task.name, rows["collection"].to_numpy())
    deciding = deciding_point(points)
    if len(labels) == 2 and deciding:
        model.config.operating_point = {key: deciding[key] for key in ("name", "label", "threshold")}
    train_textures = run_model(folded, pixels.eval_batch, sample, title="familiarity", select=texture)
    familiarity = fit_familiarity(model, train_textures.numpy(), textures)
    processor.mean_thumbnail = mean_thumbnail(labelled.images.batch(sample).numpy())
    return points, Scored(rows, truth, scores, familiarity)


def write_example(
    run: Run, model: CxrForImageClassification, processor: CxrImageProcessor, label: str, seed: int = 0, blur: float = 0
) -> dict[str, Any]:
    """A phantom for the card, figures/example.png, and its scores: no radiograph of anybody is published."""
    pixels = draw_phantom(label, np.random.default_rng(seed), blur).pixels
    with atomic_write(run.path / "figures" / "example.png") as file:
        Image.fromarray(pixels).save(file, "PNG")
    scores = predict_image(model, processor, pixels)["scores"]
    return {"drawn": label, "seed": seed, "blur": blur, "scores": scores}
