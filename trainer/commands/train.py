"""`cxr train`: a recipe on some data, up to a finished run."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.commands.options import DATA, LICENCE, PRIVATE, Commands, add_command, log
from trainer.errors import UsageError, WorkError

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

    from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor
    from trainer.data.annotations import Masks
    from trainer.data.labelled import LabelledImages
    from trainer.recipes import Recipe
    from trainer.run import Run
    from trainer.training.build import Backbone
    from trainer.training.checkpoint import Progress


class TrainOptions(NamedTuple):
    """How a training is run, besides its recipe and its data."""

    backbone: str | None = None  # another than the recipe's: a Hub id, a folder, a run, a model that ships
    pretrained: bool = True  # False starts from random weights
    positive: str | None = None  # with two classes of one's own, the positive one
    strict: bool = False  # stop where a patient or a copy of an image stands on two sides of the split
    resume: bool = False  # go on where a stopped training left the output folder
    feature_cache_gb: float = 8.0  # room for the activations of frozen layers; 0 computes them in each epoch
    compile: bool = False  # compile the network with torch.compile
    report_to: "str | GeneralTracker" = "none"  # or `tensorboard`, `trackio`, or a tracker as accelerate has them
    command: tuple[str, ...] = ()  # the words of the command line, for environment.json


def train(recipe: "Recipe", data: str, output: str, options: TrainOptions | None = None) -> "Run":
    """Train a recipe on some data, evaluate it and leave a run; a finished run is left as it is.

    Research demonstration, not a medical device.

    Args:
        recipe: `get_recipe("tb")`, or one made from another: `get_recipe("tb-finetuned", epochs=3)`.
        data: a folder of class folders, a manifest or a Hub dataset.
        output: the folder of the run.

    Raises:
        UsageError: data, backbone, recipe or output folder cannot be right, or differ from those the run began with.
        WorkError: the work failed half-way; `resume` goes on.
    """
    from trainer.training.environment import describe, describe_training, outline
    from trainer.training.feed import PixelFeed, TrainingData
    from trainer.training.loop import fit
    from trainer.training.whitened import fit_whitened

    options = options or TrainOptions()
    run, accelerator = _open(recipe, output, options)
    seconds: dict[str, float] = {}
    resolved, backbone, processor, labelled, skipped = _load(recipe, data, run, options, accelerator, seconds)
    if run.finished:
        _complete(run, accelerator)
        return run
    model, lesions = _build(recipe, data, labelled, backbone, accelerator)
    if accelerator.is_main_process:
        learned = _count_learned(backbone.run, labelled.rows, options.strict)
        facts = {**describe(options.command), **describe_training(data, labelled, accelerator)}
        facts |= {"compiled": options.compile, "tested_on_backbone_data": learned, "seconds": seconds}
        _begin_run(run, resolved, facts, labelled, skipped)
    del backbone  # its weights are the model's now
    accelerator.print(outline(labelled, model, accelerator, recipe.mixed_precision), flush=True)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("cxr-hub", config={key: str(value) for key, value in resolved.items()})
    feed = PixelFeed(labelled.images, processor, accelerator.device, recipe, TrainingData.of(labelled))
    if recipe.head == "whitened":
        progress = fit_whitened(accelerator, model, feed, labelled, lesions, run.checkpoints)
    else:
        progress = fit(accelerator, model, feed, run.checkpoints, int(options.feature_cache_gb * 1e9))
    accelerator.end_training()  # the other processes have nothing more to do
    if accelerator.is_main_process:
        _finish(run, labelled, processor, progress, model)
    return run


def _open(recipe: "Recipe", output: str, options: TrainOptions) -> "tuple[Run, Accelerator]":
    """The run, whose folder is free or to be resumed, and the devices."""
    from trainer.run import Run
    from trainer.training.environment import make_accelerator

    run = Run(output)
    _check_output(run, options.resume)
    begun = run.read_json("environment.json") if run.has("environment.json") else {}
    wanted = recipe.mixed_precision if recipe.mixed_precision != "auto" else begun.get("precision", "auto")
    accelerator = make_accelerator(wanted, run.checkpoints, options.report_to, options.compile)
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked at the output folder
    return run, accelerator


def _load(
    recipe: "Recipe",
    data: str,
    run: "Run",
    options: TrainOptions,
    accelerator: "Accelerator",
    seconds: dict[str, float],
) -> tuple[dict[str, Any], "Backbone", "CxrImageProcessor", "LabelledImages", "pd.DataFrame"]:
    """Load what a training needs; `seconds` gets the time that decoding took.

    Returns:
        The content of recipe.json, the backbone, the processor, the data, and a table of files that cannot be read.

    Raises:
        UsageError: the run in the output folder was started with another recipe or other data.
    """
    from dataclasses import asdict

    from trainer.data.labelled import load_for_training
    from trainer.tasks import TASKS
    from trainer.training.build import build_processor, load_backbone
    from trainer.training.environment import timed

    name = options.backbone or recipe.backbone
    known_as = Path(name).resolve().name if Path(name).is_dir() else name  # no path is published
    resolved = {**asdict(recipe), "pretrained": options.pretrained, "backbone": known_as}
    _check_recipe(run, {key: value for key, value in resolved.items() if key != "task"})  # own classes change it
    backbone = load_backbone(recipe, name, options.pretrained)
    processor = build_processor(recipe, backbone.normalisation)
    with timed(seconds, "decode"), accelerator.local_main_process_first():
        task, show = TASKS[recipe.task], accelerator.print
        labelled, skipped = load_for_training(data, task, processor, options.positive, options.strict, show)
    resolved |= {"task": labelled.task.name, "labels": list(labelled.task.labels)}
    if accelerator.is_main_process:
        _check_recipe(run, resolved)
        _check_data(run, labelled.rows)
    return resolved, backbone, processor, labelled, skipped


def _build(
    recipe: "Recipe", data: str, labelled: "LabelledImages", backbone: "Backbone", accelerator: "Accelerator"
) -> "tuple[CxrForImageClassification, Masks]":
    """The model, and where the lesions are that it learns from."""
    from trainer.training.build import build_model
    from trainer.training.feed import class_weights
    from trainer.training.lesions import training_lesions
    from trainer.training.loop import check_passes

    looks = recipe.lesions and recipe.head == "whitened" and "lungs" in recipe.views
    label, lesions = training_lesions(data, labelled) if looks else (None, {})
    weights = class_weights(recipe, labelled)
    model = build_model(recipe, labelled.task.labels, backbone, weights, accelerator.print, label)
    check_passes(recipe, model, len(labelled.indices("train")), accelerator.num_processes)
    return model, lesions


def _check_output(run: "Run", resume: bool) -> None:
    """Refuse to write over something."""
    if not run.path.exists() or (run.path.is_dir() and not any(run.path.iterdir())):
        return
    if not run.path.is_dir() or not run.has("recipe.json"):
        raise UsageError(f"--output {run.path}: exists and is not a run; give a new folder")
    if not resume:
        state = "a finished run: give" if run.finished else "a run that was stopped: go on with --resume, or give"
        raise UsageError(f"--output {run.path}: holds {state} another folder")


def _check_recipe(run: "Run", resolved: dict[str, Any]) -> None:
    """Refuse to go on with another recipe than a run was started with."""
    from trainer.recipes import upgrade

    started = upgrade(run.read_json("recipe.json")) if run.has("recipe.json") else resolved
    changed = [key for key in resolved if started.get(key) != resolved[key]]
    if changed:
        problem = f"--resume: {', '.join(changed)} differ from the recipe this run was started with"
        raise UsageError(f"{problem}; give the same, or a new --output")


def _check_data(run: "Run", rows: "pd.DataFrame") -> None:
    """Refuse to go on with other files, labels, splits or groups than a run was started with."""
    from trainer.data.pixels import data_fingerprint

    known = run.read_json("environment.json")["data_fingerprint"] if run.has("environment.json") else None
    if known in (None, data_fingerprint(rows)):
        return
    started = run.read_table("manifest.csv")
    files = [set(table["sha256"]) for table in (started, rows)]
    changed = ["files"] if files[0] != files[1] else []
    for column in ("label", "split"):
        cells = [set(zip(table["sha256"], table[column], strict=True)) for table in (started, rows)]
        if any(sha256 in files[0] & files[1] for sha256, _ in cells[0] ^ cells[1]):
            changed.append(f"{column}s")
    problem = f"the data is not that this run was started with ({', '.join(changed) or 'groups'} differ)"
    raise UsageError(f"--resume: {problem}; give the same, or a new --output")


def _count_learned(run: "Run | None", rows: "pd.DataFrame", strict: bool) -> int:
    """How many images that test this training the run of its backbone trained or was tuned on."""
    manifest = run.manifest() if run else None
    if manifest is None:
        return 0
    learned = manifest["sha256"][manifest["split"].isin(("train", "validation"))]
    count = int((rows["split"].isin(("test", "external")) & rows["sha256"].isin(learned)).sum())
    if count:
        leak = f"{count} test images trained or tuned the backbone's run: the metrics will be too high; keep its split"
        if strict:
            raise WorkError(f"--strict: {leak}")
        log(f"note: {leak}")
    return count


def _complete(run: "Run", accelerator: "Accelerator") -> None:
    """Nothing is left to train; a card is missing where the run was killed between its metrics and its card."""
    if accelerator.is_main_process:
        log(f"{run.path} is finished already")
        if not run.has("README.md"):
            run.write_card()


def _begin_run(
    run: "Run", resolved: dict[str, Any], facts: dict[str, Any], labelled: "LabelledImages", skipped: "pd.DataFrame"
) -> None:
    """Write what is known before training, where it is not there."""
    if not run.has("recipe.json"):
        run.write_json("recipe.json", resolved)
    if run.has("environment.json"):
        known = run.read_json("environment.json")
        before = known.get("seconds", {}).get("decode", 0.0)
        run.write_json("environment.json", {**known, "seconds": {"decode": before + facts["seconds"]["decode"]}})
        return
    run.write_manifest(labelled.rows)
    if len(skipped):
        run.write_table("skipped.csv", skipped)
    run.write_json("environment.json", {**facts, "seed": resolved["seed"]})


def _finish(
    run: "Run",
    labelled: "LabelledImages",
    processor: "CxrImageProcessor",
    progress: "Progress",
    model: "CxrForImageClassification",
) -> None:
    """Finish the run; write and print what took how long, the earlier parts of a resumed training included."""
    from trainer.finish import finish
    from trainer.training.environment import timed

    epochs = sum(row["seconds"] for row in progress.history)
    seconds = {"cache": progress.cache_seconds, "epochs": epochs}
    with timed(seconds, "evaluation"):
        finish(run, labelled, processor, progress, model)
    facts = run.read_json("environment.json")
    seconds = {part: round(taken, 1) for part, taken in {**facts["seconds"], **seconds}.items()}
    run.write_json("environment.json", {**facts, "seconds": seconds})
    parts = ", ".join(f"{part} {taken:g} s" for part, taken in seconds.items())
    print(f"took {sum(seconds.values()):.0f} s: {parts}")


def add_parser(commands: Commands) -> None:
    """cxr train"""
    example = "cxr train tb --data my-films.csv --output runs/tb --set whitening=1"
    parser = add_command(commands, "train", "train a recipe on some data", DATA, LICENCE, PRIVATE, example=example)
    add = parser.add_argument
    add("recipe", help="its name; see cxr recipes")
    add("--output", required=True, metavar="RUN", help="the folder to leave the run in")
    backbone_help = "another than the recipe's: a Hub id, a folder, a run to go on from, or a model that ships (tb)"
    add("--backbone", metavar="ID_OR_DIR", help=backbone_help)
    add("--no-pretrained", action="store_false", dest="pretrained", help="random weights at the start, no download")
    add(
        "--positive", metavar="LABEL", help="of two own classes the positive one (default: not the one called normal …)"
    )
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a field of the recipe: epochs=3")
    add(
        "--strict", action="store_true", help="stop (exit 1) where a patient or a copy stands on two sides of the split"
    )
    add("--resume", action="store_true", help="go on where a stopped training left RUN")
    cache_help = "room for activations of frozen layers, computed once, in RUN while it trains (default 8; 0: none)"
    add("--feature-cache-gb", type=float, default=8.0, metavar="GB", help=cache_help)
    add("--compile", action="store_true", help="use torch.compile: minutes at the start, worth it on a GPU")
    add("--push-to-hub", metavar="ORG/NAME", help="publish the finished run there, as cxr push does; needs --licence")
    add("--report-to", choices=("none", "tensorboard", "trackio"), default="none", help="also log to a tracker")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Train, print the metrics, and publish where asked."""
    from trainer.commands.publish import check_target, push
    from trainer.commands.tables import metrics_text
    from trainer.recipes import get_recipe, override

    recipe = override(get_recipe(options.recipe), options.set)
    if options.push_to_hub:
        check_target(options.push_to_hub, options.licence, options.private)
    settings = {name: getattr(options, name) for name in TrainOptions._fields}
    run = train(recipe, options.data, options.output, TrainOptions(**settings))
    if int(os.environ.get("RANK", "0")) == 0:
        print(metrics_text(run.read_json("metrics.json")))
        print(f"run: {run.path}   (its card: {run.path / 'README.md'})")
        if options.push_to_hub:
            push(run, options.push_to_hub, options.licence, options.private)
    return 0
