"""Splits: nobody on two sides, no filled cell moves, the sources' own counts."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.split import (
    PROTECTED,
    SHARES,
    fill_groups,
    fill_splits,
    find_leaks,
    hold_out,
    label_conflicts,
    source_split,
)
from trainer.errors import UsageError


def table(labels, groups=None, hashes=None, collections=None) -> pd.DataFrame:
    count = len(labels)
    hashes = hashes or [f"{index:064x}" for index in range(count)]
    columns = {
        "file": hashes,
        "label": labels,
        "split": "",
        "group": groups or [""] * count,
        "collection": collections or [""] * count,
    }
    return pd.DataFrame({**columns, "sha256": hashes})


def split(rows, seed=0, copies=()) -> list[str]:
    return fill_splits(rows, fill_groups(rows, copies), seed)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30)), min_size=1, max_size=120), st.integers(0, 5))
def test_a_group_and_a_picture_are_on_one_side_only(images, seed):
    rows = table([label for label, _ in images], hashes=[f"{picture:064x}" for _, picture in images])
    split(rows, seed)
    assert (rows.groupby("sha256")["split"].nunique() == 1).all()
    assert (rows.groupby("group")["split"].nunique() == 1).all()
    assert set(rows["split"]) <= set(SHARES)


MANIFESTS = st.lists(  # label, patient, image, split
    st.tuples(
        st.sampled_from("ab"),
        st.integers(0, 12),
        st.integers(0, 40),
        st.sampled_from(["", "", "", "train", "validation", "test", "external"]),
    ),
    min_size=1,
    max_size=60,
)


def manifest_of(images) -> pd.DataFrame:
    labels, patients, pictures, splits = zip(*images, strict=True)
    groups = [f"p{patient}" if patient else "" for patient in patients]
    rows = table(list(labels), groups=groups, hashes=[f"{picture:064x}" for picture in pictures])
    return rows.assign(split=list(splits), file=[f"/{index}" for index in range(len(rows))])


@given(
    MANIFESTS, st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=5), st.integers(0, 3), st.randoms()
)
def test_filled_cells_never_move_and_empty_ones_follow_their_group_whatever_the_order(images, copies, seed, random):
    rows = manifest_of(images)
    copies = [(one % len(rows), two % len(rows)) for one, two in copies]
    given_split = rows["split"].copy()
    order = random.sample(range(len(rows)), len(rows))
    shuffled = rows.iloc[order].reset_index(drop=True)
    split(rows, seed, copies)
    split(shuffled, seed, [(order.index(one), order.index(two)) for one, two in copies])
    assert dict(zip(shuffled["file"], shuffled["split"], strict=True)) == dict(
        zip(rows["file"], rows["split"], strict=True)
    )
    if (given_split != "").all():
        return  # then a split that is wholly missing is taken from train
    filled = given_split != ""
    assert rows["split"][filled].equals(given_split[filled])
    for _, part in rows.groupby("group"):
        known = set(given_split[part.index]) - {""}
        new = set(part["split"][~filled[part.index]])
        assert len(new) <= 1
        if known and new:
            assert new == {next(side for side in PROTECTED if side in known)}


@given(
    st.integers(0, 3), st.integers(60, 150), st.integers(1, 100), st.lists(st.integers(0, 249), min_size=1, max_size=8)
)
def test_adding_images_to_a_manifest_moves_no_old_one(seed, count, more, copied):
    """Also where the new ones are near copies of old ones, and join what stood apart."""
    old = table(["ab"[index % 2] for index in range(count)])
    split(old, seed)
    written = old.drop(columns="group").assign(group=old["group"])
    rows = pd.concat(
        [written, table(["a"] * more, hashes=[f"new{index:061x}" for index in range(more)])], ignore_index=True
    )
    split(rows, seed, [(one % count, count + one % more) for one in copied])
    assert rows["split"][:count].equals(old["split"])
    assert set(rows["split"][count:]) <= set(SHARES)


def test_a_new_image_that_joins_two_sides_goes_to_the_more_protected_and_is_named():
    rows = table(["a"] * 6, groups=["p0", "p1", "p2", "p3", "", "p5"])
    rows["split"] = ["train", "test", "train", "external", "", ""]
    notes = split(rows, copies=[(4, 0), (4, 1), (5, 2)])
    assert rows["split"].tolist() == ["train", "test", "train", "external", "test", "train"]
    assert any("first: " in note and "more than one split" in note for note in notes)
    counts, (leak,) = find_leaks(rows, [(0, 1), (4, 0), (2, 5)])
    assert counts == {"near_copies_across_splits": 2, "groups_across_splits": 1}
    assert "2 pairs of near copies and 1 groups stand on two sides" in leak


def test_shares_are_kept_within_a_hundredth_in_every_label():
    rows = table(["a", "b", "b", "b"] * 8000)
    split(rows)
    for _, part in rows.groupby("label"):
        for name, share in SHARES.items():
            assert abs((part["split"] == name).mean() - share) < 0.01


def test_few_images_still_give_each_class_to_each_split():
    for seed in range(20):
        rows = table(["a"] * 4 + ["b"] * 4)
        split(rows, seed)
        assert (rows.groupby("label")["split"].nunique() == 3).all()


def test_another_seed_gives_another_split():
    first, second = table(["a"] * 100), table(["a"] * 100)
    split(first, 0)
    split(second, 1)
    assert not first["split"].equals(second["split"])


def test_a_copy_joins_two_groups_and_both_go_to_the_more_protected_side():
    rows = table(["a"] * 400, groups=[f"patient-{index}" for index in range(400)])
    split(rows)
    sides = rows["split"].copy()
    train, validation, test = (sides.index[sides == side] for side in ("train", "validation", "test"))
    joined = table(["a"] * 400, groups=[f"patient-{index}" for index in range(400)])
    pairs = [(train[0], test[0]), (train[1], validation[0]), (validation[1], test[1]), (test[2], test[3])]
    notes = split(joined, copies=pairs)
    assert [set(joined["split"][list(pair)]) for pair in pairs] == [{"test"}, {"validation"}, {"test"}, {"test"}]
    assert all(joined["group"][one] == joined["group"][two] for one, two in pairs)
    assert any("4 groups were joined" in note for note in notes)
    assert (joined["split"] != sides).sum() == 3


def test_the_same_picture_joins_its_groups():
    rows = table(["a"] * 4, groups=["p1", "p2", "p3", ""], hashes=["x", "x", "y", "y"])
    fill_groups(rows)
    assert rows["group"][0] == rows["group"][1]
    assert rows["group"][2] == rows["group"][3]
    assert rows["group"][0] != rows["group"][2]


def test_a_missing_split_is_taken_from_train():
    rows = table(["a", "b"] * 1000)
    rows["split"] = ["train"] * 1600 + ["test"] * 400
    notes = split(rows)
    assert "no validation split was given" in notes[0]
    assert (rows["split"] == "test").sum() == 400
    assert 200 < (rows["split"] == "validation").sum() < 280


def test_one_collection_is_held_out():
    rows = table(
        ["a", "b"] * 150, groups=[f"p{index // 2}" for index in range(300)], collections=["x"] * 100 + ["y"] * 200
    )
    part, notes = hold_out(rows, fill_groups(rows, [(0, 150)]), "x", 0)
    assert (part.loc[part["collection"] == "x", "split"] == "external").all()
    assert set(part.loc[part["collection"] == "y", "split"]) == {"train", "validation", "test"}
    assert len(part) == 298  # the patient of 150 stands in x too
    assert any("2 images are left out" in note for note in notes)
    with pytest.raises(UsageError, match="x, y"):
        hold_out(rows, fill_groups(rows), "z", 0)


def test_what_is_external_stays_so_and_draws_its_patients_along():
    rows = table(["a", "b"] * 100, groups=[f"p{index // 2}" for index in range(200)])
    rows.loc[:49, "split"] = "external"
    split(rows, copies=[(0, 150)])
    assert set(rows["split"][:50]) | set(rows["split"][150:152]) == {"external"}
    assert "external" not in set(rows["split"].drop([150, 151])[50:])


def test_the_sources_tb_split_is_by_file_number():
    names = [(f"/d/Normal/Normal-{n}.png", "Normal") for n in range(1, 3501)]
    names += [(f"/d/Tuberculosis/Tuberculosis-{n}.png", "Tuberculosis") for n in range(1, 701)]
    rows = table([label for _, label in names])
    rows["file"] = [file for file, _ in names]
    source_split(rows, "tb")
    assert rows["split"].value_counts().to_dict() == {"train": 2688, "validation": 672, "test": 840}
    assert rows.loc[rows["file"] == "/d/Normal/Normal-2240.png", "split"].item() == "train"
    assert rows.loc[rows["file"] == "/d/Tuberculosis/Tuberculosis-561.png", "split"].item() == "test"
    rows["file"] = "/d/Normal/film.png"
    with pytest.raises(UsageError, match=r"Normal-1\.png"):
        source_split(rows, "tb")


def test_the_sources_covid_split_is_stratified_and_seeded():
    counts = {"COVID": 3616, "Lung_Opacity": 6012, "Normal": 10192, "Viral Pneumonia": 1345}
    names = [(f"/d/{label}/{label}-{n}.png", label) for label, count in counts.items() for n in range(1, count + 1)]
    rows = table([label for _, label in names])
    rows["file"] = [file for file, _ in names]
    shuffled = rows.sample(frac=1, random_state=0)
    source_split(rows, "covid")
    source_split(shuffled, "covid")
    assert rows["split"].value_counts().to_dict() == {"train": 12699, "validation": 4233, "test": 4233}
    assert rows["split"].equals(shuffled["split"].sort_index())
    assert (rows["label"][rows["split"] == "test"] == "COVID").sum() == round(3616 / 5)


def test_the_sources_three_class_split_is_its_folders():
    rows = table(["Covid", "Normal"])
    with pytest.raises(UsageError, match="own folders"):
        source_split(rows, "three-class")


def test_leaks_and_label_conflicts_are_found():
    rows = table(["a", "b", "a"], hashes=["x", "x", "y"])
    fill_groups(rows)
    rows["split"] = ["train", "test", "train"]
    _, (leak,) = find_leaks(rows)
    (conflict,) = label_conflicts(rows)
    assert "1 groups stand on two sides of the split (first: x (train) and x (test))" in leak
    assert "LABEL CONFLICT: 1 images" in conflict
    assert find_leaks(table(["a", "b"]))[1] == label_conflicts(table(["a", "b"])) == []
