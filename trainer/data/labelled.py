"""Labelled and decoded images with a split: what a training and an evaluation start from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from trainer.cxr_model import CxrImageProcessor
from trainer.data.copies import copies_among
from trainer.data.manifest import read_manifest
from trainer.data.pixels import GreyImages, decode, doubts_note
from trainer.data.schema import SPLITS
from trainer.data.split import fill_groups, fill_splits, find_leaks, label_conflicts
from trainer.errors import UsageError, WorkError
from trainer.tasks import Task, choose_labels, is_negative, normalise_label

OTHER_DISEASES = "other diseases"
LEARNED = {"train": "learned from", "validation": "was tuned on"}


@dataclass(frozen=True)
class LabelledImages:
    """Decoded images with labels and a split: row i of `rows` has label index `truth[i]` and image i of `images`."""

    task: Task
    rows: pd.DataFrame
    images: GreyImages
    leaks: dict[str, Any] = field(default_factory=dict)  # for a training: `split` of metrics.json

    @cached_property
    def truth(self) -> np.ndarray:
        """The index of each row's label among the task's labels, int64 [N]."""
        index_of = {label: index for index, label in enumerate(self.task.labels)}
        return self.rows["label"].map(index_of).to_numpy(np.int64)

    def indices(self, split: str) -> np.ndarray:
        """Row numbers of a split."""
        return np.flatnonzero(self.rows["split"] == split)


def load_for_training(
    data: str,
    task: Task,
    processor: CxrImageProcessor,
    positive: str | None,
    strict: bool,
    log: Callable[[str], None],
) -> tuple[LabelledImages, pd.DataFrame]:
    """List, match, decode and split data for a training, and look for copies.

    Data without a split gets that of seed 0, whatever the recipe's seed: trainings that differ in their seed are tested
    on the same images. (`cxr data split --seed` makes another split.)

    Args:
        data: a folder, a manifest or a Hub dataset.
        task: of the recipe; other classes than its labels make a task of their own.
        positive: with two classes of the user's own, the positive one.
        strict: stop where a patient or a copy of an image stands on two sides of the split.
        log: receives what the user should know.

    Returns:
        The images, and the files that could not be read (`file`, `error`).

    Raises:
        UsageError: no such data, no train split, or a split without images of a label.
        WorkError: too many damaged files, or all of a class; with `strict`, a leak.
    """
    manifest = read_manifest(data)
    _log(manifest.notes, log)
    task, notes = _match_labels(manifest.rows, task, positive, data)
    _log(notes, log)
    rows, images, skipped = _decode(manifest.rows, processor, data, log)
    copies = copies_among(images)
    notes = fill_splits(rows, fill_groups(rows, copies.index_pairs))
    counts, leak = find_leaks(rows, copies.index_pairs)
    _log([*notes, *label_conflicts(rows), *copies.note, *leak], log)
    if leak and strict:
        raise WorkError(f"--strict: {leak[0]}; leave one out, or empty its split cell and let cxr data split fill it")
    leaks = {**counts, "search_complete": copies.complete}
    labelled = LabelledImages(task, rows, images, leaks)
    _check_labels(labelled, data)
    return labelled, skipped


def _log(notes: list[str], log: Callable[[str], None]) -> None:
    for note in notes:
        log(f"note: {note}")


def _decode(
    rows: pd.DataFrame, processor: CxrImageProcessor, data: str, log: Callable[[str], None]
) -> tuple[pd.DataFrame, GreyImages, pd.DataFrame]:
    """Decode and name the files that are set aside or seem to be no sound radiographs; refuse to lose a class."""
    readable, images, skipped = decode(rows, processor)
    if lost := sorted(set(rows["label"]) - set(readable["label"])):
        raise WorkError(f"{data}: no file of {', '.join(lost)} can be read (first: {skipped['error'].iloc[0]})")
    if len(skipped):
        _log([f"{len(skipped)} files cannot be read and are set aside: {'; '.join(skipped['error'].head(3))}"], log)
    _log(doubts_note(readable["file"].tolist(), images.warnings()), log)
    return readable, images, skipped


def _check_labels(labelled: LabelledImages, data: str) -> None:
    """Refuse a split without images of a label."""
    for split in ("train", "validation", "test"):
        present = set(labelled.truth[labelled.indices(split)])
        absent = ", ".join(label for index, label in enumerate(labelled.task.labels) if index not in present)
        if absent:
            raise UsageError(f"{data}: the {split} split has no image of {absent}; give more images or another split")


def load_for_model(
    data: str,
    split: str | None,
    labels: tuple[str, ...],
    processor: CxrImageProcessor,
    learned: pd.DataFrame | None,
    log: Callable[[str], None],
    choose: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows,
) -> tuple[LabelledImages, dict[str, int | None]]:
    """A split of some data for a trained model, or all of it where the data has no splits or `split` is None.

    Files that the model trained on or was tuned on (train and validation of its run, by sha256) are no test and are
    left out, except where that very split is asked for.

    Args:
        labels: what the model answers.
        learned: manifest.csv of the model's run, or None.
        log: receives what the user should know.
        choose: takes some of the split's rows before they are decoded.

    Returns:
        The images; and {"skipped": files that cannot be read, "left_out": files left out, None without `learned`}.

    Raises:
        UsageError: no such split, nothing in it that is new to the model, or classes that it does not know.
    """
    manifest = read_manifest(data)
    _log(manifest.notes, log)
    rows, split = _of_split(manifest.rows, split, data)
    if learned is None:
        _log(["the run has no manifest.csv: whether the model learned from these films cannot be told"], log)
        left_out = None
    else:
        rows, left_out = _leave_out_learned(rows, learned, data, split, log)
    task = _known_labels(rows, labels, data)
    fill_groups(rows)
    rows, images, skipped = _decode(choose(rows), processor, data, log)
    counts = {"skipped": len(skipped), "left_out": left_out}
    return LabelledImages(task, rows, images), counts


def _of_split(rows: pd.DataFrame, split: str | None, data: str) -> tuple[pd.DataFrame, str]:
    """The rows of a split, and its name; all of them where the data has no splits or None is asked for."""
    if split not in (None, *SPLITS):
        raise UsageError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if split is None or (rows["split"] == "").all():
        split = split or "external"
        rows["split"] = split
    if split not in set(rows["split"]):
        there = sorted(set(rows["split"]) - {""})
        raise UsageError(f"{data}: has no {split} split, only {', '.join(there)}: give --split {there[0]}")
    return rows[rows["split"] == split].reset_index(drop=True), split


def load_other_diseases(
    data: str,
    labels: tuple[str, ...],
    processor: CxrImageProcessor,
    learned: pd.DataFrame | None,
    log: Callable[[str], None],
) -> LabelledImages:
    """Films of diseases that a model does not answer, to see what it calls them; one split, OTHER_DISEASES.

    Of the data's splits test and external are taken, or all of it where it has none; films that the model learned from
    are left out, and so are the labels that it knows.

    Raises:
        UsageError: no film is left.
    """
    manifest = read_manifest(data)
    _log(manifest.notes, log)
    known = {normalise_label(label) for label in labels}
    labels_are_other = [normalise_label(name) not in known and not is_negative(name) for name in manifest.rows["label"]]
    rows = manifest.rows[
        np.array(labels_are_other) & manifest.rows["split"].isin(("", "test", "external"))
    ].reset_index(drop=True)
    if rows.empty:
        raise UsageError(f"{data}: no film of another disease than {', '.join(labels)} that is in no train split")
    if learned is not None:
        rows, _ = _leave_out_learned(rows, learned, data, OTHER_DISEASES, log)
    fill_groups(rows)
    rows, images, _ = _decode(rows.assign(split=OTHER_DISEASES), processor, data, log)
    task = Task(OTHER_DISEASES, tuple(sorted(set(rows["label"]))))
    return LabelledImages(task, rows, images)


def _leave_out_learned(
    rows: pd.DataFrame, learned: pd.DataFrame, data: str, split: str, log: Callable[[str], None]
) -> tuple[pd.DataFrame, int]:
    """The rows that did not train or tune the model; and how many did."""
    sides = rows["sha256"].map(learned.drop_duplicates("sha256").set_index("sha256")["split"])
    if kept := int((sides == split).sum()) if split in LEARNED else 0:
        _log([f"the model {LEARNED[split]} {kept} of these films: their metrics say nothing of new ones"], log)
    known = sides.isin(set(LEARNED) - {split})
    if known.any():
        first = rows["file"][known].iloc[0]
        note = f"{int(known.sum())} of {len(known)} films trained or tuned this model (first: {first})"
        if known.all():
            other = "give other data or --split train or validation"
            raise UsageError(f"{data}: {note}; none is left to test it on, {other}")
        _log([f"{note} and are left out"], log)
    return rows[~known].reset_index(drop=True), int(known.sum())


def _match_labels(rows: pd.DataFrame, task: Task, positive: str | None, data: str) -> tuple[Task, list[str]]:
    """The task of the data's classes, to whose labels the rows are changed; and what the user should know of it."""
    splits = set(rows["split"])
    if not {"train", ""} & splits:
        raise UsageError(f"{data}: has no train split, only {', '.join(sorted(splits))}: give images to learn from")
    chosen, names = choose_labels(task, rows["label"], positive)
    rows["label"] = rows["label"].map(names)
    if chosen is task:
        return task, []
    of_task = f"those of task {task.name} ({', '.join(task.labels)})"
    classes = ", ".join(chosen.labels)
    notes = [f"the classes ({classes}) are not {of_task}: the recipe trains a classifier of your classes"]
    if len(chosen.labels) == 2:
        negative, positive = chosen.labels
        odd = ", though by its name nothing is found there" if is_negative(positive) else ""
        notes.append(f"{positive} is the positive class, {negative} the negative one{odd}; --positive chooses")
    return chosen, notes


def _known_labels(rows: pd.DataFrame, labels: tuple[str, ...], data: str) -> Task:
    """Match data to a trained model's labels; some of them may be absent from it."""
    known = {normalise_label(label): label for label in labels}
    unknown = sorted({name for name in rows["label"] if normalise_label(name) not in known})
    if unknown:
        cure = "name them as the model does, or leave them out"
        raise UsageError(f"{data}: the model answers {', '.join(labels)}; the data has {', '.join(unknown)}: {cure}")
    rows["label"] = [known[normalise_label(name)] for name in rows["label"]]
    return Task("run", labels)
