import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.split import SHARES, fill_groups, fill_splits, find_leaks


def table(labels, groups=None, hashes=None) -> pd.DataFrame:
    count = len(labels)
    hashes = hashes or [f"{index:064x}" for index in range(count)]
    rows = pd.DataFrame({"file": hashes, "label": labels, "split": "", "group": groups or [""] * count, "collection": "", "sha256": hashes})
    fill_groups(rows)
    return rows


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30)), min_size=1, max_size=120), st.integers(0, 5))
def test_a_group_and_a_picture_are_on_one_side_only(images, seed):
    rows = table([label for label, _ in images], hashes=[f"{picture:064x}" for _, picture in images])
    fill_splits(rows, seed)
    assert (rows.groupby("sha256")["split"].nunique() == 1).all()
    assert (rows.groupby("group")["split"].nunique() == 1).all()
    assert set(rows["split"]) <= set(SHARES)


@given(st.integers(0, 1000))
def test_the_split_is_stratified_and_a_function_of_the_seed_alone(seed):
    rows = table(["a"] * 300 + ["b"] * 100)
    shuffled = rows.sample(frac=1, random_state=1)
    fill_splits(rows, seed)
    fill_splits(shuffled, seed)
    assert rows["split"].equals(shuffled["split"].sort_index())
    for label, count in (("a", 300), ("b", 100)):
        for split, share in SHARES.items():
            assert abs(((rows["label"] == label) & (rows["split"] == split)).sum() - share * count) <= 1


def test_another_seed_gives_another_split():
    first, second = table(["a"] * 100), table(["a"] * 100)
    fill_splits(first, 0)
    fill_splits(second, 1)
    assert not first["split"].equals(second["split"])


def test_a_copy_joins_two_groups():
    rows = table(["a"] * 4, groups=["p1", "p2", "p3", ""], hashes=["x", "x", "y", "y"])
    assert rows["group"][0] == rows["group"][1]
    assert rows["group"][2] == rows["group"][3]
    assert rows["group"][0] != rows["group"][2]


def test_a_missing_split_is_taken_from_train():
    rows = table(["a", "b"] * 100)
    rows["split"] = ["train"] * 160 + ["test"] * 40
    notes = fill_splits(rows, 0)
    assert "no validation split was given" in notes[0]
    assert (rows["split"] == "test").sum() == 40
    assert (rows["split"] == "validation").sum() == 24


def test_leaks_and_label_conflicts_are_found():
    rows = table(["a", "b", "a"], hashes=["x", "x", "y"])
    rows["split"] = ["train", "test", "train"]
    leak, conflict = find_leaks(rows)
    assert "LEAK: 1 groups" in leak
    assert "LABEL CONFLICT: 1 pictures" in conflict
    assert find_leaks(table(["a", "b"])) == []
