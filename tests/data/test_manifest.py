import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.manifest import list_unlabelled, read_columns, read_manifest
from trainer.errors import UsageError
from trainer.hardware import available_cores


def counts(rows: pd.DataFrame, column: str) -> dict[str, int]:
    return rows[column].value_counts().to_dict()


def test_class_folders(phantoms):
    rows = read_manifest(phantoms).rows
    assert counts(rows, "label") == {"Normal": 24, "Tuberculosis": 24}
    assert set(rows["split"]) == {""}
    assert rows["sha256"].str.fullmatch(r"[0-9a-f]{64}").all()


def test_split_folders_upper_case_suffixes_nested_folders_and_bare_dicom(phantoms, tmp_path, dicom_of, film):
    import numpy as np
    from PIL import Image

    for split in ("train", "val", "Test"):
        shutil.copytree(phantoms / "Normal", tmp_path / split / "Normal" / "batch 1")
        shutil.copytree(phantoms / "Tuberculosis", tmp_path / split / "Tuberculosis")
    first = next((tmp_path / "train" / "Tuberculosis").iterdir())
    first.rename(first.with_suffix(".PNG"))
    grey = np.asarray(Image.open(film))
    dicom_of(grey, bits=8).save_as(tmp_path / "train" / "Normal" / "1.2.840.113", enforce_file_format=True)
    (tmp_path / "train" / "Normal" / "notes.txt").write_text("read me")
    masks = tmp_path / "train" / "Normal" / "masks"
    shutil.copytree(phantoms / "Normal", masks)
    manifest = read_manifest(tmp_path)
    assert counts(manifest.rows, "split") == {"train": 49, "validation": 48, "test": 48}
    assert manifest.rows["file"].str.endswith("1.2.840.113").sum() == 1
    assert not manifest.rows["file"].str.contains("/masks/").any()
    assert any("notes.txt" in note for note in manifest.notes)


def test_split_folders_without_train(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "test")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "list.txt").touch()
    rows = read_manifest(tmp_path).rows
    assert counts(rows, "label") == {"Normal": 24, "Tuberculosis": 24}
    assert set(rows["split"]) == {"test"}
    shutil.copytree(phantoms / "Normal", tmp_path / "external" / "Normal")
    shutil.copytree(phantoms / "Normal", tmp_path / "testing" / "Normal")
    assert counts(read_manifest(tmp_path).rows, "split") == {"test": 72, "external": 24}
    (tmp_path / "Normal").mkdir()
    assert "test" in set(read_manifest(tmp_path).rows["label"])  # beside a class it is a class, too


def test_classes_named_as_splits_are_classes(phantoms, tmp_path):
    shutil.copytree(phantoms / "Normal", tmp_path / "external")
    shutil.copytree(phantoms / "Tuberculosis", tmp_path / "dev")
    assert counts(read_manifest(tmp_path).rows, "label") == {"external": 24, "dev": 24}


def test_a_metadata_csv_beside_the_folders_gives_patients_but_no_labels(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "data")
    metadata = tmp_path / "data" / "metadata.csv"
    metadata.write_text(
        "file_name,label,patient_id\nNormal/phantom-00000.png,tuberculosis,p7\nNormal/phantom-00001.png,NORMAL,p8\n"
    )
    manifest = read_manifest(tmp_path / "data")
    assert counts(manifest.rows, "label") == {"Normal": 24, "Tuberculosis": 24}
    assert sorted(set(manifest.rows["group"])) == ["", "p7", "p8"]
    assert manifest.rows.loc[manifest.rows["group"] == "p7", "file"].item().endswith("Normal/phantom-00000.png")
    assert any("patient_id taken" in note for note in manifest.notes)
    assert any("1 labels are not those of the folders" in note for note in manifest.notes)
    metadata.write_text("name,finding\nNormal/phantom-00000.png,none\n")
    assert any("no column file_name" in note for note in read_manifest(tmp_path / "data").notes)


def write_csv(tmp_path, phantoms, **columns):
    files = [f"../{phantoms.name}/{file.parent.name}/{file.name}" for file in sorted(phantoms.rglob("*.png"))[:4]]
    folder = phantoms.parent / tmp_path.name
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame({"file": files, "label": ["a", "a", "b", "b"], **columns})
    table.to_csv(folder / "list.csv", index=False)
    return folder / "list.csv"


def test_a_csv_gives_split_group_and_collection(tmp_path, phantoms):
    path = write_csv(
        tmp_path,
        phantoms,
        split=["train", "val", "test", "external"],
        group=["g1", "g2", "g3", "g4"],
        collection="here",
    )
    rows = read_manifest(path).rows.sort_values("file")
    assert rows["split"].tolist() == ["train", "validation", "test", "external"]
    assert rows["group"].tolist() == ["g1", "g2", "g3", "g4"]
    assert set(rows["collection"]) == {"here"}


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
def test_a_table_may_be_of_other_kinds_than_csv(tmp_path, phantoms, kind):
    table = pd.read_csv(write_csv(tmp_path, phantoms, sex=["F", "M", "F", "M"]))
    path = phantoms.parent / tmp_path.name / f"list.{kind}"
    if kind == "tsv":
        table.to_csv(path, sep="\t", index=False)
    elif kind == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path)
    rows = read_manifest(path).rows
    assert len(rows) == 4
    assert sorted(list_unlabelled(str(path))) == sorted(rows["file"])
    assert sorted(read_columns(str(path), rows["file"], ["sex"])["sex"]) == ["F", "F", "M", "M"]


@given(order=st.permutations(range(8)))
def test_rows_come_in_one_order_however_they_are_listed(order, phantoms):
    files = [str(file) for file in sorted(phantoms.rglob("*.png"))[20:28]]
    table = pd.DataFrame({"file": files, "label": list("aabbaabb"), "group": list("ABCDEFGH")})
    with TemporaryDirectory() as folder:
        listed, shuffled = Path(folder) / "listed.csv", Path(folder) / "shuffled.csv"
        table.to_csv(listed, index=False)
        table.iloc[list(order)].to_csv(shuffled, index=False)
        first, second = read_manifest(listed).rows, read_manifest(shuffled).rows
    pd.testing.assert_frame_equal(first, second)
    assert first["sha256"].is_monotonic_increasing


@pytest.mark.parametrize(("allowed", "cores"), [({3}, 1), ({0, 5}, 2), (None, 64)])
def test_no_more_cores_are_used_than_this_process_may_use(allowed, cores, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    if allowed is None:  # as on macOS and Windows
        monkeypatch.delattr("os.sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr("os.sched_getaffinity", lambda process: allowed, raising=False)
    assert available_cores() == cores


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"split": ["train", "holdout", "test", "test"]}, "unknown split holdout"),
        ({"label": ["a", "", "b", "b"]}, "1 rows have no label"),
        ({"sha256": ["0" * 64] * 4}, "sha256 differs"),
    ],
)
def test_a_wrong_csv_says_what_is_wrong(tmp_path, phantoms, columns, said):
    with pytest.raises(UsageError, match=said):
        read_manifest(write_csv(tmp_path, phantoms, **columns))


def test_some_cells_of_split_may_be_empty(tmp_path, phantoms):
    rows = read_manifest(write_csv(tmp_path, phantoms, split=["train", "", "test", ""])).rows
    assert rows.sort_values("file")["split"].tolist() == ["train", "", "test", ""]


def test_missing_data_says_what_is_expected(tmp_path, phantoms):
    for data, said in ((tmp_path, "no images"), (tmp_path / "nothing", "not found")):
        with pytest.raises(UsageError, match=said):
            read_manifest(data)
    (tmp_path / "a.csv").write_text("file,label\nnot/there.png,x\n")
    with pytest.raises(UsageError, match=r"1 of 1 files are not there.*there\.png"):
        read_manifest(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("place,class\nx.png,x\n")
    with pytest.raises(UsageError, match="no column file, label"):
        read_manifest(tmp_path / "b.csv")
    film = next(phantoms.rglob("*.png"))
    (tmp_path / "c.csv").write_text(f"file,label\n{film},x\n{film},y\n")
    with pytest.raises(UsageError, match="listed twice"):
        read_manifest(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_bytes(b"")
    with pytest.raises(UsageError, match="not a CSV"):
        read_manifest(tmp_path / "d.csv")
