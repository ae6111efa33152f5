"""The whole way, step by step: data -> training -> assessment -> run; and predictions of a run."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from accelerate import Accelerator

from hub_cards.card import write_card
from trainer.assessment import Study, ask, finish, label_indices
from trainer.cxr_model import CxrImageProcessor, RadiographError
from trainer.data.copies import Copies, copies_among
from trainer.data.manifest import Manifest, available_cores, read_manifest
from trainer.data.pixels import data_fingerprint, decode
from trainer.data.public.layout import read_terms
from trainer.data.split import fill_groups, fill_splits, find_leaks, leaking_groups, leaking_pairs
from trainer.environment import describe
from trainer.errors import UsageError, WorkError
from trainer.recipes import Recipe, to_json
from trainer.run import Run
from trainer.tasks import TASKS, Task, choose_labels, is_negative
from trainer.training.bank import remove_bank
from trainer.training.build import balanced_weights, build_model, build_processor, default_processor
from trainer.training.feed import PixelFeed
from trainer.training.inference import best_device
from trainer.training.loop import TrainingData, choose_precision, fit

transformers.utils.logging.disable_progress_bar()  # of loading weights: milliseconds


@dataclass(frozen=True)
class TrainOptions:
    """What `cxr train` is told besides the recipe."""

    data: str
    output: str
    backbone: str | None = None
    pretrained: bool = True
    positive: str | None = None
    resume: bool = False
    strict: bool = False
    report_to: str = "none"
    bank_size: int = 0
    compile: bool = False
    command: tuple[str, ...] = ()


def train(recipe: Recipe, options: TrainOptions) -> Run:
    """Train a recipe on some data, evaluate it and leave a run; a finished run is left as it is.

    Raises:
        UsageError: data, backbone, recipe or output folder cannot be right, or are not those that the run was started with.
        WorkError: the work failed half-way; `resume` goes on.
    """
    run = Run(options.output)
    _check_output(run, options)
    finished, backbone = run.finished, options.backbone or recipe.backbone
    resolved = {**to_json(recipe), "pretrained": options.pretrained, "backbone": _public_name(backbone)}
    _check_recipe(run, {key: value for key, value in resolved.items() if key != "task"})  # the data's own classes change it
    precision = choose_precision(recipe.mixed_precision)
    accelerator = _accelerator(precision, options, run)
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked at the output folder
    processor = build_processor(recipe, backbone) if options.pretrained else default_processor(recipe)
    with accelerator.local_main_process_first():
        study, skipped = prepare(recipe, options, processor, accelerator.print)
    resolved |= {"task": study.task.name, "labels": list(study.task.labels)}
    if accelerator.is_main_process:
        _check_recipe(run, resolved)
        _check_data(run, study.rows)
    if finished:
        if accelerator.is_main_process:
            _leave(run)
        return run
    model = build_model(recipe, study.task.labels, backbone, options.pretrained, _class_weights(recipe, study))
    if accelerator.is_main_process:
        facts = {"processes": accelerator.num_processes, "precision": precision, "compiled": options.compile, "seed": recipe.seed}
        _open_run(run, resolved, {**describe(list(options.command)), **facts, **_describe_data(options, study.rows)}, study, skipped)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("cxr-hub", config={key: str(value) for key, value in to_json(recipe).items()})
    data = TrainingData(study.truth, study.indices("train"), study.indices("validation"))
    feed = PixelFeed(study.images, processor, accelerator.device, recipe)
    progress = fit(accelerator, model, feed, data, recipe, run.checkpoints, options.bank_size)
    accelerator.end_training()  # the other processes have nothing more to do
    if accelerator.is_main_process:
        finish(run, study, processor, progress, model)
    if accelerator.is_local_main_process:
        remove_bank(run.checkpoints / "bank")
    return run


def prepare(recipe: Recipe, options: TrainOptions, processor: CxrImageProcessor, tell: Any) -> tuple[Study, pd.DataFrame]:
    """Data for a training: listed, matched, split, decoded, searched for copies; and the files that could not be read.

    Data without a split gets that of seed 0, whatever the recipe's seed: trainings that differ in their seed are tested on
    the same pictures. (`cxr data split --seed` makes another split.)

    Raises:
        UsageError: the data cannot be trained on, or a split lacks a label.
        WorkError: with `strict`, where a patient or a copy of a picture stands on two sides of the split.
    """
    manifest = read_manifest(options.data)
    if not {"train", ""} & (given := set(manifest.rows["split"])):
        raise UsageError(f"{options.data}: has no train split, only {', '.join(sorted(given))}: give images to learn from")
    task = _match_labels(manifest, TASKS[recipe.task], options.positive)
    rows, images, skipped = decode(manifest.rows, processor)
    if len(skipped):
        tell(f"note: {len(skipped)} files cannot be read and are left out; skipped.csv names them")
    copies = copies_among(images)
    members = fill_groups(rows, copies.places)
    notes = [*manifest.notes, *fill_splits(rows, members), *find_leaks(rows), *copies.note]
    facts, leaking = _across_splits(rows, copies)
    for note in [*notes, *([leaking] if leaking else [])]:
        tell(f"note: {note}")
    if leaking and options.strict:
        raise WorkError(f"--strict: {leaking}; leave one out, or empty its split cell and let cxr data split fill it")
    study = Study(task, rows, label_indices(rows, task), images, facts)
    for split in ("train", "validation", "test"):
        absent = [label for index, label in enumerate(task.labels) if not (study.truth[study.indices(split)] == index).any()]
        if absent:
            raise UsageError(f"{options.data}: the {split} split has no image of {', '.join(absent)}; give more images or another split")
    return study, skipped


def _across_splits(rows: pd.DataFrame, copies: Copies) -> tuple[dict[str, Any], str]:
    """What metrics.json says of the split; and a sentence that names the first two files on two sides of it, or ""."""
    near, torn = leaking_pairs(rows, copies.places), leaking_groups(rows)
    facts = {"near_copies_across_splits": len(near), "groups_across_splits": len(torn), "search_complete": copies.complete}
    if not torn:
        return facts, ""
    one, two = near[0] if near else rows[rows["group"] == torn[0]].drop_duplicates("split").index[:2]
    first = " and ".join(f"{rows['file'][place]} ({rows['split'][place]})" for place in (one, two))
    return facts, f"{len(near)} pairs of near copies and {len(torn)} groups stand on two sides of the split (first: {first})"


def predict(run: Run, files: list[str]) -> Iterator[dict[str, Any]]:
    """One prediction a file, in DESIGN's form; a file that cannot be read gives {"file", "error"} and stops nothing."""
    model, processor = run.load_model()
    model.to(best_device())
    for file in files:
        try:
            radiograph = processor.read(file)
        except (RadiographError, ImportError) as error:
            yield {"file": file, "error": str(error)}
            continue
        answer = ask(model, processor, radiograph.pixels)
        yield {"file": file, **answer, "warnings": [*radiograph.warnings, *answer["warnings"]]}


def _check_output(run: Run, options: TrainOptions) -> None:
    """Refuse to write over something."""
    if not run.path.exists() or (run.path.is_dir() and not any(run.path.iterdir())):
        return
    if not run.path.is_dir() or not run.has("recipe.json"):
        raise UsageError(f"--output {run.path}: exists and is not a run; give a new folder")
    if not options.resume:
        state = "holds a finished run" if run.finished else "holds a run that was stopped; go on with --resume"
        raise UsageError(f"--output {run.path}: {state}, or give another folder")


def _check_recipe(run: Run, resolved: dict[str, Any]) -> None:
    """Refuse to go on with another recipe than a run was started with."""
    started = run.read_json("recipe.json") if run.has("recipe.json") else resolved
    changed = [key for key in resolved if started.get(key) != resolved[key]]
    if changed:
        raise UsageError(
            f"--resume: {', '.join(changed)} differ from the recipe this run was started with; give the same, or a new --output"
        )


def _check_data(run: Run, rows: pd.DataFrame) -> None:
    """Refuse to go on with other data than a run was started with: other files, labels, splits or groups."""
    if not run.has("environment.json") or run.read_json("environment.json")["data_fingerprint"] == data_fingerprint(rows):
        return
    started = pd.read_csv(run.path / "manifest.csv", dtype=str, keep_default_na=False)
    common = set(started["sha256"]) & set(rows["sha256"])

    def found(table: pd.DataFrame, column: str) -> set[tuple[str, str]]:
        return {pair for pair in zip(table["sha256"], table[column], strict=True) if pair[0] in common}

    changed = ["files"] if common != set(started["sha256"]) | set(rows["sha256"]) else []
    changed += [f"{column}s" for column in ("label", "split") if found(started, column) != found(rows, column)]
    raise UsageError(
        f"--resume: the data is not that this run was started with ({', '.join(changed) or 'groups'} differ); "
        "give the same, or a new --output"
    )


def _leave(run: Run) -> None:
    """Say that nothing is left to train."""
    print(f"{run.path} is finished already", file=sys.stderr)
    if not run.has("README.md"):  # killed between the figures and the card
        write_card(run.path)


def _accelerator(precision: str, options: TrainOptions, run: Run) -> Accelerator:
    log_with = None if options.report_to == "none" else options.report_to
    if log_with and not find_spec(log_with):
        raise UsageError(f"--report-to {log_with}: it is not installed; pip install {log_with}")
    on_cpu = best_device().type == "cpu"  # said aloud, or several processes on a CPU would not find each other
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if on_cpu and processes > 1:  # launchers give each process one thread, whatever the machine has
        torch.set_num_threads(max(1, available_cores() // processes))
    backend = "inductor" if options.compile else None
    return Accelerator(cpu=on_cpu, mixed_precision=precision, log_with=log_with, project_dir=str(run.checkpoints), dynamo_backend=backend)


def _describe_data(options: TrainOptions, rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "data_fingerprint": data_fingerprint(rows),
        "dataset": None if Path(options.data).expanduser().exists() else options.data.partition("@")[0],
        "data_sources": read_terms(rows["file"]),
    }


def _open_run(run: Run, resolved: dict[str, Any], environment: dict[str, Any], study: Study, skipped: pd.DataFrame) -> None:
    """Write what is known before training, where it is not there."""
    if not run.has("recipe.json"):
        run.write_json("recipe.json", resolved)
    if run.has("environment.json"):
        return
    run.write_manifest(study.rows)
    if len(skipped):
        run.write_table("skipped.csv", skipped)
    run.write_json("environment.json", environment)


def _match_labels(manifest: Manifest, task: Task, positive: str | None) -> Task:
    found, names = choose_labels(task, manifest.rows["label"], positive)
    manifest.rows["label"] = manifest.rows["label"].map(names)
    if found is not task:
        manifest.notes.append(
            f"the classes ({', '.join(found.labels)}) are not those of task {task.name} ({', '.join(task.labels)}): "
            "the recipe trains a classifier of your classes"
        )
        if len(found.labels) == 2:
            other, chosen = found.labels
            odd = ", though by its name nothing is found there" if is_negative(chosen) else ""
            manifest.notes.append(f"{chosen} is the positive class, {other} the negative one{odd}; --positive chooses")
    return found


def _class_weights(recipe: Recipe, study: Study) -> list[float] | None:
    if recipe.class_weights == "none":
        return None
    if recipe.class_weights == "balanced":
        train = study.truth[study.indices("train")]
        return balanced_weights([int((train == index).sum()) for index in range(len(study.task.labels))])
    weights = recipe.class_weights
    if not isinstance(weights, dict) or set(weights) != set(study.task.labels):
        raise UsageError(f"class_weights: needs one weight for each of {', '.join(study.task.labels)}")
    return [float(weights[label]) for label in study.task.labels]


def _public_name(backbone: str) -> str:
    """A Hub id as it is; a folder by its last name, for no path is published."""
    return Path(backbone).resolve().name if Path(backbone).is_dir() else backbone
