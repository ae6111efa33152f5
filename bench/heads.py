"""Which head travels: whitened heads on features that are computed once, at home and in hospitals they have not seen.

`python bench/heads.py tb --data tb.csv --backbone DIR [--features FILE]` computes the features of all splits
(and keeps them in FILE), then fits the recipe's head, and each of its variants, in seconds: other views, strides,
strengths of whitening and ridges. For each: the cross-validated AUROC of training films within the collections that
have several labels, by which to choose; AUROC on test within these, and on external, with 95 % intervals (of several
labels the mean, each against the rest); and, at the threshold that would ship, sensitivity and specificity on external
and false alarms on films without a finding, by collection. The row of the recipe is what `cxr train` fits, without its
lesion head.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import describe_machine, write_report

VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "film alone": {"views": ["film"]},
    "lungs alone": {"views": ["lungs"]},
    "equalised alone": {"views": ["lungs-equalised"]},
    "film and lungs": {"views": ["film", "lungs"]},
    "lungs and equalised": {"views": ["lungs", "lungs-equalised"]},
    "last stride alone": {"strides": [32]},
    "not whitened": {"whitening": 1e9},
    "whitening 0.3": {"whitening": 0.3},
    "whitening 1": {"whitening": 1.0},
    "whitening 3": {"whitening": 3.0},
    "whitening 10": {"whitening": 10.0},
    "ridge 0.1": {"ridge": 0.1},
    "ridge 1": {"ridge": 1.0},
    "ridge 10": {"ridge": 10.0},
}


def compute(recipe: Any, data: str, backbone: str, file: Path | None) -> dict[str, np.ndarray]:
    """Features [N, F] of all readable rows of some data, with their truth, splits, collections and groups."""
    if file and file.exists():
        return dict(np.load(file))
    from trainer.data.labelled import load_for_training
    from trainer.hardware import keep_freed_memory
    from trainer.inference import PixelBatches, for_inference, run_model
    from trainer.tasks import TASKS
    from trainer.training.build import build_model, build_processor, load_backbone

    keep_freed_memory()
    loaded = load_backbone(recipe, backbone, True)
    processor = build_processor(recipe, loaded.normalisation)
    labelled, _ = load_for_training(data, TASKS[recipe.task], processor, None, False, print)
    model = build_model(recipe, labelled.task.labels, loaded)
    encoder = for_inference(model, processor)
    batches = PixelBatches(labelled.images, processor, encoder.device)
    rows = np.arange(len(labelled.rows))
    features = run_model(encoder, batches.eval_batch, rows, title="features", select=lambda out: model.pool(out.maps))
    columns = {name: labelled.rows[name].to_numpy(str) for name in ("split", "collection", "group")}
    found = {"features": features.numpy(), "truth": labelled.truth, "labels": np.array(labelled.task.labels), **columns}
    if file:
        np.savez(file, **found)
    return found


def choose_columns(recipe: Any, changes: dict[str, Any], width: int) -> np.ndarray:
    """Which of the features a variant keeps, bool [F]: views are beside each other, and in them the strides."""
    views, strides = changes.get("views", recipe.views), changes.get("strides", recipe.strides)
    each = width // len(recipe.views)
    of_stride = np.concatenate([np.full(size, stride) for stride, size in zip(recipe.strides, SIZES, strict=True)])
    if len(of_stride) != each:
        raise SystemExit(f"bench/heads.py knows the features of MobileNet-V2 at strides 16 and 32, not {each} a view")
    return np.concatenate([np.isin(of_stride, strides) & (view in views) for view in recipe.views])


SIZES = (3 * 96, 3 * 1280)


def measure(recipe: Any, changes: dict[str, Any], found: dict[str, np.ndarray]) -> dict[str, Any]:
    """One variant: metrics on test and external, and false alarms by collection."""
    from trainer.evaluation.operating_points import choose_operating_points, decided, deciding_point
    from trainer.tasks import is_negative
    from trainer.training.whitened import fit_views, sample_healthy

    labels, truth, split, collection, group = (
        found[name] for name in ("labels", "truth", "split", "collection", "group")
    )
    features = found["features"][:, choose_columns(recipe, changes, found["features"].shape[1])]
    changed = replace(recipe, **{key: value for key, value in changes.items() if key in ("whitening", "ridge")})
    changed = replace(changed, views=list(recipe.views)[: len(changes.get("views", recipe.views))])

    def fit(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        healthy = sample_healthy(truth[rows], collection[rows], tuple(labels), recipe.seed)
        return fit_views(features[rows], truth[rows], collection[rows], healthy, changed, lambda text: None)

    train = np.flatnonzero(split == "train")
    cross_validated = cross_validate(fit, features, truth, collection, group, train)
    weights, bias = fit(train)
    logits = features @ weights.T + bias
    logits = np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    negative = next(index for index, label in enumerate(labels) if is_negative(str(label)))
    ill, validation = truth != negative, split == "validation"
    points = choose_operating_points(
        truth[validation], scores[validation], tuple(labels), recipe.task, collection[validation]
    )
    alarm = decided(scores, tuple(labels), deciding_point(points) if len(labels) == 2 else None) != negative
    several = [name for name in set(collection) if len(set(truth[(collection == name) & (split == "test")])) > 1]
    parts = {"within": (split == "test") & np.isin(collection, several), "external": split == "external"}
    result: dict[str, Any] = {"cross-validated": cross_validated} | {
        name: _auroc(truth[rows], scores[rows], found["group"][rows]) for name, rows in parts.items()
    }
    outside = parts["external"]
    result["sensitivity"], result["specificity"] = alarm[outside & ill].mean(), 1 - alarm[outside & ~ill].mean()
    unseen = np.isin(split, ("test", "external")) & ~ill
    result["alarms"] = {
        str(name): alarm[unseen & (collection == name)].mean() for name in sorted(set(collection[unseen]))
    }
    return result


def cross_validate(
    fit: Any, features: np.ndarray, truth: np.ndarray, collection: np.ndarray, group: np.ndarray, train: np.ndarray
) -> float:
    """Mean AUROC within the collections that have several labels, of heads that have not seen a film's group."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    several = [name for name in sorted(set(collection[train])) if len(set(truth[train][collection[train] == name])) > 1]
    areas = []
    for seed in range(3 if np.isin(collection[train], several).sum() < 1000 else 1):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        scores = np.zeros((len(train), truth.max() + 1))
        cells = [f"{name} {label}" for name, label in zip(collection[train], truth[train], strict=True)]
        for learned, left in folds.split(train, cells, group[train]):
            weights, bias = fit(train[learned])
            logits = features[train[left]] @ weights.T + bias
            scores[left] = np.pad(logits, ((0, 0), (1, 0))) if logits.shape[1] == 1 else logits
        for name in several:
            inside = collection[train] == name
            for label in sorted(set(truth[train][inside])):
                others = np.delete(scores[inside], label, axis=1).max(axis=1)
                areas.append(roc_auc_score(truth[train][inside] == label, scores[inside, label] - others))
    return float(np.mean(areas))


def _auroc(truth: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    from trainer.evaluation.intervals import intervals

    metrics = intervals(truth, scores.argmax(axis=1), scores, groups)["metrics"]
    return {"auroc": metrics.get("auroc") or metrics["macro_auroc"], "balanced_accuracy": metrics["balanced_accuracy"]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default="google/mobilenet_v2_1.0_224", help="a Hub id or a folder")
    parser.add_argument(
        "--features", type=Path, metavar="FILE.npz", help="keep the features here, or take them from here"
    )
    parser.add_argument("--level", type=int, help="another level than the recipe's")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    from hub_cards.formatting import format_metric
    from trainer.recipes import get_recipe

    recipe = get_recipe(options.recipe, **({} if options.level is None else {"level": options.level}))
    found = compute(recipe, options.data, options.backbone, options.features)
    results = {}
    print(
        "| head | cross-validated AUROC | within test AUROC | external AUROC | external balanced accuracy | "
        "sensitivity, specificity | alarms |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, changes in VARIANTS.items():
        if not set(changes.get("views", [])) <= set(recipe.views):
            continue
        results[name] = row = measure(recipe, changes, found)
        areas = [format_metric(row[part]["auroc"]) for part in ("within", "external")]
        balanced = format_metric(row["external"]["balanced_accuracy"])
        alarms = ", ".join(f"{collection} {value:.2f}" for collection, value in row["alarms"].items())
        rates = f"{row['sensitivity']:.2f}, {row['specificity']:.2f}"
        print(
            f"| {name} | {row['cross-validated']:.3f} | {' | '.join(areas)} | {balanced} | {rates} | {alarms} |",
            flush=True,
        )
    write_report(options.json, machine=describe_machine(), recipe=recipe.name, results=results)


if __name__ == "__main__":
    main()
