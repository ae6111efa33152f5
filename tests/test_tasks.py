"""Which of two classes is looked for: the one whose name does not say that nothing was found, never the alphabet's choice."""

import pytest

from trainer.errors import UsageError
from trainer.evaluation.operating_points import positive_indices
from trainer.tasks import TASKS, choose_labels


def labels_of(*found: str, positive: str | None = None) -> tuple[str, ...]:
    return choose_labels(TASKS["tb"], found, positive)[0].labels


@pytest.mark.parametrize(
    "healthy",
    ["Normal", "normal", "HEALTHY", "negative", "control", "No finding", "no_findings", "NO-FINDINGS", "clear"],
)
@pytest.mark.parametrize("ill", ["Abnormal", "COVID", "Zoster", "nodule"])
def test_a_class_in_which_nothing_was_found_is_never_the_positive_one(healthy, ill):
    assert labels_of(healthy, ill) == labels_of(ill, healthy) == (healthy, ill)


@pytest.mark.parametrize("pair", [("COVID", "Pneumonia"), ("Normal", "healthy")])
def test_where_the_names_do_not_tell_the_user_is_asked(pair):
    with pytest.raises(UsageError, match=f"--positive.*{pair[0]} or {pair[1]}"):
        labels_of(*pair)
    assert labels_of(*pair, positive=pair[0].upper()) == pair[::-1]


def test_the_users_word_wins():
    assert labels_of("ill", "well", positive="ILL") == ("well", "ill")
    assert labels_of("COVID", "Normal", positive="normal") == ("COVID", "Normal")


def test_labels_are_matched_however_they_are_written():
    task, names = choose_labels(TASKS["tb"], ["TUBERCULOSIS", "_normal "])
    assert task is TASKS["tb"]
    assert names == {"TUBERCULOSIS": "Tuberculosis", "_normal ": "Normal"}


@pytest.mark.parametrize("name", TASKS)
def test_a_tasks_own_labels_keep_their_order(name):
    task = TASKS[name]
    found, names = choose_labels(task, [label.upper() for label in reversed(task.labels)])
    assert found is task
    assert sorted(names.values()) == sorted(task.labels)


def test_of_several_each_is_looked_for_in_which_something_was_found():
    assert positive_indices(("Edema", "No_finding", "Nodule")) == [0, 2]
    assert positive_indices(("Edema", "NORMAL", "Nodule")) == [0, 2]


@pytest.mark.parametrize("name", ["=1+1", "@SUM(1)", "+cmd|' /C calc'!A0", " =HYPERLINK(1)"])
def test_a_class_that_a_spreadsheet_would_run_is_refused(name):
    with pytest.raises(UsageError, match="rename it"):
        choose_labels(TASKS["tb"], ["healthy", name])


def test_classes_that_are_numbers_or_signs_are_names():
    assert choose_labels(TASKS["tb"], ["-1", "+1"], "+1")[0].labels == ("-1", "+1")
    assert choose_labels(TASKS["tb"], ["-ve", "+ve"], "+ve")[0].labels == ("-ve", "+ve")
