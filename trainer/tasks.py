"""The questions that can be asked of one frontal chest radiograph, and how folder names are matched to their labels."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from trainer.errors import UsageError


@dataclass(frozen=True)
class Task:
    """A question and its answers, in the order of the model's outputs."""

    name: str
    labels: tuple[str, ...]


TASKS = {
    "tb": Task("tb", ("Normal", "Tuberculosis")),
    "covid": Task("covid", ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")),
    "three-class": Task("three-class", ("Covid", "Normal", "Pneumonia")),
}
NEGATIVE = {"normal", "normals", "healthy", "health", "negative", "neg", "control", "controls"}
NEGATIVE |= {"nofinding", "nofindings", "clear", "none", "unremarkable"}

FORMULA = re.compile(r"\s*([=@]|[+-].*[(|!])")  # what a spreadsheet runs; -1 and +ve are names


def normalise_label(name: str) -> str:
    """A label without case, space, `_` and `-`: what two names must share to be the same label."""
    return "".join(character for character in name.casefold() if character not in " _-")


def is_negative(label: str) -> bool:
    """Whether a label's name says that nothing was found: `Normal`, `no_findings`, …; it is never positive."""
    return normalise_label(label) in NEGATIVE


def choose_labels(task: Task, classes: Iterable[str], positive: str | None = None) -> tuple[Task, dict[str, str]]:
    """Match the class names of some data to a task.

    Args:
        task: the task of the recipe.
        classes: the class names in the data.
        positive: with two classes of the user's own, the one that is looked for, which comes second; by default the
            other one than the negative.

    Returns:
        The task, or one made of the data's own classes where those are not the task's; and {class name: label}.

    Raises:
        UsageError: fewer than two classes, one that is a formula, classes of the task that are missing, a `positive`
            that is no class, or none where both classes or neither `is_negative`.
    """
    keys = {name: normalise_label(name) for name in sorted(set(classes))}
    names, known = list(keys), {normalise_label(label): label for label in task.labels}
    if set(keys.values()) == set(known):
        if positive is not None and normalise_label(positive) != normalise_label(task.labels[-1]):
            fixed = f"the labels of task {task.name} are fixed: {', '.join(task.labels)}"
            raise UsageError(f"--positive {positive}: {fixed}")
        return task, {name: known[key] for name, key in keys.items()}
    if formulas := [name for name in names if FORMULA.match(name)]:
        raise UsageError(f"a class named {formulas[0]}: a spreadsheet would run it as a formula; rename it")
    if len(set(keys.values())) != len(names):
        raise UsageError(f"two classes have the same name but for case, space, '_' or '-': {', '.join(names)}")
    if names and set(keys.values()) < set(known):
        missing = ", ".join(label for key, label in known.items() if key not in keys.values())
        raise UsageError(f"no image of {missing}: task {task.name} needs {', '.join(task.labels)}")
    if len(names) < 2:
        raise UsageError(f"a classifier needs at least two classes, found: {', '.join(names) or 'none'}")
    if positive is not None or len(names) == 2:
        names = _put_last(names, _positive_of(names) if positive is None else positive)
    return Task("own", tuple(names)), {name: name for name in names}


def _positive_of(names: list[str]) -> str:
    candidates = [name for name in names if not is_negative(name)]
    if len(candidates) != 1:
        pair = " or ".join(names)
        raise UsageError(f"--positive: say which of the two classes is looked for, {pair}: their names do not tell")
    return candidates[0]


def _put_last(names: list[str], positive: str) -> list[str]:
    match = [name for name in names if normalise_label(name) == normalise_label(positive)]
    if len(names) != 2 or not match:
        raise UsageError(f"--positive {positive}: needs two classes, one of them this; found {', '.join(names)}")
    return [name for name in names if name not in match] + match
