"""Which familiarity tells radiographs from other images: four methods on two kinds of features of one trained model.

`python bench/familiarity.py RUN --data MANIFEST [--each 130] [--sample 250 500 1000 2000] [--json FILE]`. Fitted on
train, threshold at 1 % false alarms on validation; tested on test and external radiographs and on images of nine other
kinds (bench/non_radiographs.py, which needs scikit-image). Features are the last feature map's means over the image, or
its texture: how much each varies over the image, as a vector of length 1. `kept` is what the model itself answers.

With --sample instead: the trainer's own fit on so many training radiographs, five random samples of each size.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import describe_machine, write_report
from non_radiographs import KINDS, make
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors

from hub_cards.formatting import format_metric
from trainer.cxr_model import read_radiograph
from trainer.data.labelled import LabelledImages
from trainer.data.manifest import read_manifest
from trainer.data.pixels import decode
from trainer.evaluation.familiarity import FALSE_ALARMS, fit_familiarity
from trainer.evaluation.intervals import bootstrap, percentile_interval, wilson
from trainer.evaluation.metrics import weighted_auroc
from trainer.inference import PixelBatches, for_inference, run_model
from trainer.run import Run
from trainer.tasks import Task

COMPONENTS, NEIGHBOURS, MOST, DRAWS = 56, 10, 2000, 5
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of features [N, D] and logits [N, C]: [N]
Splits = dict[str, np.ndarray]  # train, validation, test, external, and others: the images that are no radiographs


def methods(features: np.ndarray, logits: np.ndarray, truth: np.ndarray) -> dict[str, Distance]:
    """Each method, fitted on training features [N, D], logits [N, C] and label indices [N]."""
    mean = features.mean(axis=0)
    _, lengths, axes = np.linalg.svd(features - mean, full_matrices=False)
    axes, spread = axes[:COMPONENTS], lengths[:COMPONENTS] / np.sqrt(len(features))
    outside = (lengths[COMPONENTS:] ** 2).sum() / len(features)

    def inside(rows: np.ndarray) -> np.ndarray:
        return (rows - mean) @ axes.T

    def residual(rows: np.ndarray) -> np.ndarray:
        return np.maximum(((rows - mean) ** 2).sum(axis=1) - (inside(rows) ** 2).sum(axis=1), 0)

    white = inside(features) / spread
    centres = np.stack([white[truth == label].mean(axis=0) for label in np.unique(truth)])
    within = np.linalg.inv(np.cov((white - centres[np.searchsorted(np.unique(truth), truth)]).T))
    neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(white)
    alpha = logsumexp(logits, axis=1).mean() / np.sqrt(residual(features)).mean()

    def relative(rows: np.ndarray, _: np.ndarray) -> np.ndarray:
        place = inside(rows) / spread
        gaps = place[:, None, :] - centres
        return np.einsum("nci,ij,ncj->nc", gaps, within, gaps).min(axis=1) - (place**2).sum(axis=1)

    return {
        "Mahalanobis, probabilistic PCA": lambda rows, _: (
            ((inside(rows) / spread) ** 2).sum(axis=1) + COMPONENTS / 2 * residual(rows) / outside
        ),
        "relative Mahalanobis": relative,
        "k nearest neighbours": lambda rows, _: neighbours.kneighbors(inside(rows) / spread)[0][:, -1],
        "ViM": lambda rows, answers: alpha * np.sqrt(residual(rows)) - logsumexp(answers, axis=1),
    }


def collect(run: Run, data: str, each: int) -> tuple[Any, Splits, np.ndarray, list[str]]:
    """The run's model; familiarity, logits, means and textures side by side; labels of train; the others' kinds."""
    model, processor = run.load_model()
    task = Task("run", model.labels)
    rows, images, _ = decode(read_manifest(data).rows, processor)
    labelled = LabelledImages(task, rows, images)
    model = for_inference(model, processor)
    pixels = PixelBatches(images, processor, model.device)

    def everything(output: Any) -> torch.Tensor:
        means, texture = output.feature_map.mean(dim=(2, 3)), model.texture(output.feature_map)
        return torch.cat([output.familiarity[:, None], output.logits, means, texture], dim=1)

    splits, truth = {}, np.empty(0, int)
    for split in ("train", "validation", "test", "external"):
        indices = np.random.default_rng(0).permutation(labelled.indices(split))[:MOST]
        if len(indices):
            splits[split] = (
                run_model(model, pixels.eval_batch, indices, title=split, select=everything).double().numpy()
            )
            truth = labelled.truth[indices] if split == "train" else truth
    kinds = [kind for kind in KINDS for _ in range(each)]
    others = [make(number % each, kind) for number, kind in enumerate(kinds)]
    grey = torch.from_numpy(np.stack([processor.resize(read_radiograph(image).pixels) for image in others]))
    with torch.inference_mode():
        parts = [everything(model(processor.to_pixel_values(chunk.to(model.device)))).cpu() for chunk in grey.split(64)]
    splits["others"] = torch.cat(parts).double().numpy()
    return model, splits, truth, kinds


def measure(distances: Splits) -> dict[str, Any]:
    """AUROC of others against test, and the proportion of each split beyond validation's threshold."""
    others = np.repeat([False, True], [len(distances["test"]), len(distances["others"])])
    scores = np.concatenate([distances["test"], distances["others"]])
    threshold = np.quantile(distances["validation"], 1 - FALSE_ALARMS)
    beyond = {split: distances[split] > threshold for split in ("others", "test", "external") if split in distances}
    draws = bootstrap(lambda weights: weighted_auroc(others, scores, weights), np.arange(len(scores)))
    value = float(weighted_auroc(others, scores, np.ones((1, len(scores))))[0])
    return {"auroc": percentile_interval(value, draws, "bootstrap", len(distances["others"])), "beyond": beyond}


def compare_methods(model: Any, splits: Splits, truth: np.ndarray, kinds: list[str]) -> dict[str, Any]:
    """Print a row a method."""
    cut, size = 1 + len(model.labels), model.config.feature_size
    distances: dict[str, Splits] = {}
    for kind, columns in (("means", slice(cut, cut + size)), ("texture", slice(cut + size, None))):
        fitted = methods(splits["train"][:, columns], splits["train"][:, 1:cut], truth)
        for name, method in fitted.items():
            distances[f"{kind}: {name}"] = {
                key: method(part[:, columns], part[:, 1:cut]) for key, part in splits.items()
            }
    distances["kept"] = {key: -part[:, 0] for key, part in splits.items()}
    results = {}
    print(
        "95 % intervals\n\n| method | AUROC | others flagged | test flagged | external flagged |\n|---|---|---|---|---|"
    )
    for name, by_split in distances.items():
        result = measure(by_split)
        beyond, cells = result.pop("beyond"), []
        for part in beyond.values():
            cells.append(format_metric(wilson(part.mean(), len(part))))
        print(f"| {name} | {format_metric(result['auroc'])} | {' | '.join(cells)} |")
        by_kind = {kind: float(beyond["others"][np.array(kinds) == kind].mean()) for kind in KINDS}
        flagged = {split: float(part.mean()) for split, part in beyond.items()}
        results[name] = {**result, "flagged": flagged, "by_kind": by_kind}
    return results


def compare_samples(model: Any, splits: Splits, sizes: list[int]) -> dict[str, Any]:
    """Print a row a size of the training sample: the mean over the draws, and the lowest and the highest."""
    textures = {key: torch.from_numpy(part[:, -model.config.feature_size :]) for key, part in splits.items()}
    results = {}
    print(f"mean of {DRAWS} samples (lowest–highest)\n")
    print("margin: the first percentile of the others' distances, in thresholds\n")
    print("| training radiographs | AUROC | margin | others flagged | test flagged | external flagged |")
    print("|---|---|---|---|---|---|")
    for size in sorted({min(size, len(splits["train"])) for size in sizes}):
        draws = []
        for seed in range(DRAWS):
            drawn = np.random.default_rng(seed).permutation(len(splits["train"]))[:size]
            fit_familiarity(model, splits["train"][drawn, -model.config.feature_size :], textures["validation"])
            distances = {
                key: model.mahalanobis_distance(part.to(model.device)).cpu().numpy() for key, part in textures.items()
            }
            result = measure(distances)
            flagged = {key: part.mean() for key, part in result["beyond"].items()}
            margin = np.quantile(distances["others"], 0.01) / np.quantile(distances["validation"], 1 - FALSE_ALARMS)
            draws.append({"AUROC": result["auroc"]["value"], "margin": margin, **flagged})
        values = {key: [float(draw[key]) for draw in draws] for key in draws[0]}
        cells = [f"{np.mean(part):.4f} ({min(part):.4f}–{max(part):.4f})" for part in values.values()]
        print(f"| {size} | {' | '.join(cells)} |")
        results[str(size)] = values
    return results


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--each", type=int, default=130, help="images of each other kind (default 130)")
    parser.add_argument(
        "--sample", type=int, nargs="+", metavar="N", help="compare fits on so many training radiographs"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    run = Run(options.run)
    model, splits, truth, kinds = collect(run, options.data, options.each)
    print(f"{len(splits['test'])} test radiographs and {len(kinds)} other images; ", end="")
    if options.sample:
        results = compare_samples(model, splits, options.sample)
    else:
        results = compare_methods(model, splits, truth, kinds)
    write_report(options.json, machine=describe_machine(), run=run.path.name, results=results)


if __name__ == "__main__":
    main()
