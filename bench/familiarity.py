"""Which familiarity tells radiographs from other images: four methods on two kinds of features of one trained model.

`python bench/familiarity.py RUN --data MANIFEST [--each 130] [--json FILE]`. Fitted on train, threshold at 1 % false
alarms on validation; asked about real test and external radiographs and about images of nine other kinds
(bench/non_radiographs.py, which needs scikit-image). Features are the last feature map's means over the image, or its
texture: how much each varies over the image, as a vector of length 1. `kept` is what the model itself answers.
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

from trainer.cxr_model import read_radiograph
from trainer.data.labelled import LabelledImages, label_indices
from trainer.data.manifest import read_manifest
from trainer.data.pixels import decode
from trainer.evaluation.familiarity import FALSE_ALARMS
from trainer.evaluation.intervals import delong, wilson
from trainer.inference import PixelBatches, for_inference, run_model
from trainer.run import Run
from trainer.tasks import Task

COMPONENTS, NEIGHBOURS, MOST = 56, 10, 2000
Strangeness = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # features [N, D] and logits [N, C] -> [N], higher is stranger


def methods(features: np.ndarray, logits: np.ndarray, truth: np.ndarray) -> dict[str, Strangeness]:
    """Each method, fitted on training features [N, D], logits [N, C] and label indices [N]."""
    mean = features.mean(axis=0)
    _, lengths, axes = np.linalg.svd(features - mean, full_matrices=False)
    axes, spread = axes[:COMPONENTS], lengths[:COMPONENTS] / np.sqrt(len(features))
    outside = (lengths[COMPONENTS:] ** 2).sum() / len(features)

    def inside(found: np.ndarray) -> np.ndarray:
        return (found - mean) @ axes.T

    def residual(found: np.ndarray) -> np.ndarray:
        return np.maximum(((found - mean) ** 2).sum(axis=1) - (inside(found) ** 2).sum(axis=1), 0)

    white = inside(features) / spread
    centres = np.stack([white[truth == label].mean(axis=0) for label in np.unique(truth)])
    within = np.linalg.inv(np.cov((white - centres[np.searchsorted(np.unique(truth), truth)]).T))
    neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(white)
    alpha = logsumexp(logits, axis=1).mean() / np.sqrt(residual(features)).mean()

    def relative(found: np.ndarray, _: np.ndarray) -> np.ndarray:
        place = inside(found) / spread
        gaps = place[:, None, :] - centres
        return np.einsum("nci,ij,ncj->nc", gaps, within, gaps).min(axis=1) - (place**2).sum(axis=1)

    return {
        "Mahalanobis, probabilistic PCA": lambda found, _: (
            ((inside(found) / spread) ** 2).sum(axis=1) + COMPONENTS / 2 * residual(found) / outside
        ),
        "relative Mahalanobis": relative,
        "k nearest neighbours": lambda found, _: neighbours.kneighbors(inside(found) / spread)[0][:, -1],
        "ViM": lambda found, said: alpha * np.sqrt(residual(found)) - logsumexp(said, axis=1),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--each", type=int, default=130, help="images of each other kind (default 130)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    model, processor = Run(options.run).load_model()
    labels = model.labels
    rows, images, _ = decode(read_manifest(options.data).rows, processor)
    labelled = LabelledImages(Task("run", labels, ""), rows, label_indices(rows, Task("run", labels, "")), images)
    model = for_inference(model, processor)

    def everything(output: Any) -> torch.Tensor:
        means, texture = output.feature_map.mean(dim=(2, 3)), model.texture(output.feature_map)
        return torch.cat([output.familiarity[:, None], output.logits, means, texture], dim=1)

    found = {}
    for split in ("train", "validation", "test", "external"):
        indices = np.random.default_rng(0).permutation(labelled.indices(split))[:MOST]
        if len(indices):
            part = run_model(
                model, PixelBatches(images, processor, model.device), indices, title=split, select=everything
            )
            found[split] = part.double().numpy()
            if split == "train":
                truth = labelled.truth[indices]
    pictures = [(kind, make(seed, kind)) for kind in KINDS for seed in range(options.each)]
    grey = torch.from_numpy(np.stack([processor.resize(read_radiograph(picture).pixels) for _, picture in pictures]))
    with torch.inference_mode():
        parts = [everything(model(processor.to_pixel_values(chunk.to(model.device)))).cpu() for chunk in grey.split(64)]
    found["others"] = torch.cat(parts).double().numpy()
    cut, size = 1 + len(labels), model.config.feature_size
    strange = {}
    for kind, columns in (("means", slice(cut, cut + size)), ("texture", slice(cut + size, None))):
        asked: dict[str, Strangeness] = methods(found["train"][:, columns], found["train"][:, 1:cut], truth)
        for name, method in asked.items():
            strange[f"{kind}: {name}"] = {
                split: method(part[:, columns], part[:, 1:cut]) for split, part in found.items()
            }
    strange["kept"] = {split: -part[:, 0] for split, part in found.items()}
    report: dict[str, Any] = {}
    print(f"{len(found['test'])} test radiographs and {len(pictures)} other images; 95 % intervals\n")
    print("| method | AUROC | others flagged | test flagged | external flagged |")
    print("|---|---|---|---|---|")
    for name, values in strange.items():
        threshold = np.quantile(values["validation"], 1 - FALSE_ALARMS)
        other = np.repeat([False, True], [len(values["test"]), len(values["others"])])
        scores = np.concatenate([values["test"], values["others"]])
        area = np.mean(scores[other][:, None] > scores[~other]) + 0.5 * np.mean(
            scores[other][:, None] == scores[~other]
        )
        low, high, _ = delong(other, scores)
        flagged = {split: values[split] > threshold for split in ("others", "test", "external") if split in values}
        report[name] = {
            "auroc": area,
            "low": low,
            "high": high,
            "flagged": {split: float(part.mean()) for split, part in flagged.items()},
        }
        report[name]["by_kind"] = {
            kind: float(np.mean([hit for (of, _), hit in zip(pictures, flagged["others"], strict=True) if of == kind]))
            for kind in KINDS
        }
        cells = []
        for part in flagged.values():
            lower, upper, _ = wilson(part.sum(), len(part))
            cells.append(f"{part.mean():.3f} ({lower:.3f}–{upper:.3f})")
        print(f"| {name} | {area:.4f} ({low:.4f}–{high:.4f}) | {' | '.join(cells)} |")
    write_report(options.json, machine=describe_machine(), run=Path(options.run).name, results=report)


if __name__ == "__main__":
    main()
