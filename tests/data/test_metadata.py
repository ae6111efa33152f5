"""Patients that are named are used, whatever their column is called and however the files are spelled."""

import json
import shutil
from pathlib import Path

import datasets
import pandas as pd
import pytest

from trainer.data.manifest import read_manifest
from trainer.errors import UsageError


@pytest.fixture
def data(phantoms, tmp_path) -> Path:
    """Six films of each class, of one name in both classes."""
    for label in ("Normal", "Tuberculosis"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number, file in enumerate(sorted((phantoms / label).iterdir())[:6]):
            shutil.copy(file, tmp_path / "data" / label / f"{number}.png")
    return tmp_path / "data"


def files_of(data: Path) -> list[str]:
    return sorted(file.relative_to(data).as_posix() for file in data.rglob("*.png"))


def patients(manifest) -> dict[str, str]:
    return {"/".join(Path(row.file).parts[-2:]): row.group for row in manifest.rows.itertuples()}


COLUMNS = [
    "patient_id",
    "PatientID",
    "Patient ID",
    "patient",
    "subject_id",
    "Subject",
    "participant_id",
    "Case ID",
    "MRN",
    "pid",
    "PatientNr",
    "patient_identifier",
    "patient_hash",
    "anon_patient_id",
    "ID Paciente",
]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_manifest_names_patients_by_any_usual_column(data, column):
    table = pd.DataFrame({"file": files_of(data), "label": "x", column: ["p1", "p2", "NA"] * 4})
    table.to_csv(data / "list.csv", index=False)
    manifest = read_manifest(data / "list.csv")
    assert manifest.rows["group"].value_counts().to_dict() == {"p1": 4, "p2": 4, "": 4}
    assert manifest.notes == [
        f"{data / 'list.csv'}: 2 patients of 8 of 12 images are taken from column {column}",
    ]


def test_numbers_of_patients_are_the_same_with_and_without_a_decimal_point(data):
    numbers = ["12", "12.00", "7.0", "7", "12.5", "x.0"] * 2  # as pandas writes a column that had gaps
    pd.DataFrame({"path": files_of(data), "label": "x", "patient": numbers}).to_csv(data / "list.csv", index=False)
    groups = read_manifest(data / "list.csv").rows["group"]
    assert groups.value_counts().to_dict() == {"12": 4, "7": 4, "12.5": 2, "x.0": 2}


def test_a_second_patient_column_is_named_and_an_empty_one_gives_way(data):
    table = pd.DataFrame({"File": files_of(data), "Label": "x", "group": "", "patient_id": "p", "Split": "Train"})
    table.assign(subject="s").to_csv(data / "list.csv", index=False, sep=";")
    manifest = read_manifest(data / "list.csv")
    assert set(manifest.rows["group"]) == {"p"}
    assert set(manifest.rows["split"]) == {"train"}
    assert manifest.notes[0].endswith("from column patient_id, not from subject, group")


SPELLINGS = {
    "relative": lambda file: file,
    "Windows": lambda file: file.replace("/", "\\"),
    "from here": lambda file: f"./{file}",
    "another root": lambda file: f"C:\\films\\{file}".replace("/", "\\"),
    "upper case": lambda file: file.upper(),
    "another suffix": lambda file: file.replace(".png", ".dcm"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_metadata_matches_however_the_files_are_spelled(data, spelling):
    if spelling == "another suffix":  # names that are unique
        for number, file in enumerate(files_of(data)):
            (data / file).rename((data / file).with_name(f"film-{number}.png"))
    files = files_of(data)
    table = pd.DataFrame({"file_name": map(SPELLINGS[spelling], files), "patient_id": [f"p{n}" for n in range(12)]})
    table.to_csv(data / "metadata.csv", index=False)
    manifest = read_manifest(data)
    assert patients(manifest) == {file: f"p{number}" for number, file in enumerate(files)}
    (note,) = manifest.notes
    assert note.endswith("metadata.csv: patient_id taken for 12 of 12 images; labels come from the folders")


def test_bare_names_match_where_they_are_unique(data):
    (data / "Normal" / "0.png").rename(data / "Normal" / "alone.png")
    (data / "metadata.csv").write_text("file_name,patient_id\nalone.png,p1\n1.png,p2\nTuberculosis/7.png,p3\n")
    manifest = read_manifest(data)
    assert {file: patient for file, patient in patients(manifest).items() if patient} == {"Normal/alone.png": "p1"}
    assert "patient_id taken for 1 of 12 images" in manifest.notes[0]
    (data / "metadata.csv").write_text("file_name,patient_id\nNormal/0.png,p1\n1.png,p2\n")
    manifest = read_manifest(data)
    assert set(patients(manifest).values()) == {""}  # Tuberculosis/0.png is another image
    assert any("none of its 2 rows names an image here" in note for note in manifest.notes)


def test_metadata_in_split_folders_as_json_lines_and_parquet(data, tmp_path):
    for split in ("train", "test", "validation"):
        shutil.copytree(data, tmp_path / "splits" / split)
        rows = [{"file_name": file, "PatientID": f"{split}-{n // 2}"} for n, file in enumerate(files_of(data))]
        if split == "train":
            lines = "\n".join(map(json.dumps, rows))
            (tmp_path / "splits" / split / "metadata.jsonl").write_text(lines)
        elif split == "test":
            pd.DataFrame(rows).to_parquet(tmp_path / "splits" / split / "metadata.parquet")
        else:
            pd.DataFrame(rows).to_csv(tmp_path / "splits" / split / "metadata.csv", index=False)
    manifest = read_manifest(tmp_path / "splits")
    assert len(manifest.rows) == 36
    assert all(group.startswith(split) for group, split in manifest.rows[["group", "split"]].itertuples(index=False))
    (note,) = manifest.notes
    assert "and 2 more: PatientID taken for 36 of 36 images" in note


def test_a_table_of_another_name_is_used_where_it_names_patients(data):
    files = files_of(data)
    pd.DataFrame({"filename": files, "subject": "s"}).to_csv(data / "patients.csv", index=False)
    pd.DataFrame({"filename": files, "age": "40"}).to_csv(data / "ages.csv", index=False)
    pd.DataFrame({"file": files, "label": "x", "split": "test", "group": "t"}).to_csv(data / "manifest.csv")
    manifest = read_manifest(data)
    assert set(manifest.rows["group"]) == {"t"}  # the first that names them
    assert set(manifest.rows["split"]) == {"test"}
    assert set(manifest.rows["label"]) == {"Normal", "Tuberculosis"}
    assert manifest.left_out == {"no images": [str(data / "ages.csv")]}
    assert any("12 labels are not those of the folders" in note for note in manifest.notes)


@pytest.mark.parametrize("content", [b"file_name,patient\nK\xf6hler.png,p1\n", b"", b'a,b\n"1,2\n3,4,5\n'])
def test_metadata_that_cannot_be_read_is_named(data, content):
    (data / "metadata.csv").write_bytes(content)
    assert any("metadata.csv is left out: " in note for note in read_manifest(data).notes)


def test_a_manifest_with_windows_paths_is_read(data):
    lines = [f"{file},x".replace("/", "\\") for file in files_of(data)]
    (data / "list.csv").write_text("\n".join(["file,label", *lines]))
    assert len(read_manifest(data / "list.csv").rows) == 12
    (data / "list.csv").write_bytes(b"file,label\nK\xf6hler.png,x\n")
    with pytest.raises(UsageError, match="not a CSV that can be read; save it in UTF-8"):
        read_manifest(data / "list.csv")


def test_columns_that_may_name_patients_are_named_where_none_is_known_to(data):
    table = pd.DataFrame({"file": files_of(data), "label": "x", "study_id": "s", "age": "40"})
    table.to_csv(data / "list.csv", index=False)
    said = "no column is known to name patients (not used: study_id, age): call it patient_id"
    assert read_manifest(data / "list.csv").notes == [f"{data / 'list.csv'}: {said}"]
    table.rename(columns={"file": "file_name"}).to_csv(data / "metadata.csv", index=False)
    assert any(note.endswith(said) for note in read_manifest(data).notes)
    (data / "metadata.csv").unlink()
    (data / "list.csv").unlink()
    assert read_manifest(data).notes == []


def test_images_that_two_rows_give_different_patients_are_named(data):
    first, *rest = files_of(data)
    rows = [f"{first},p1", f"{first},p2", *(f"{file},p3" for file in rest), f"{rest[0]},p3"]
    (data / "metadata.csv").write_text("\n".join(["file_name,patient_id", *rows]))
    (data / "patients.csv").write_text(f"file_name,patient_id\n{rest[1]},p4\n")
    notes = read_manifest(data).notes
    told = [note for note in notes if "1 images stand in two rows with different patients" in note]
    assert [Path(note.split(":")[0]).name for note in told] == ["metadata.csv", "patients.csv"]


@pytest.mark.parametrize("name", ["metadata.xlsx", "metadata.json", "patients.txt", "films.ods"])
def test_tables_of_kinds_that_are_not_read_are_counted_as_such(data, name):
    (data / name).write_bytes(b"rows")
    assert read_manifest(data).left_out == {"tables that are not read: save them as CSV": [str(data / name)]}


def test_a_manifest_as_excel_saves_it_is_read(data):
    (data / "list.csv").write_text("sep=;\n" + "\n".join(["file;label", *(f"{file};x" for file in files_of(data))]))
    assert len(read_manifest(data / "list.csv").rows) == 12


def test_paths_of_another_computer_are_named_as_they_stand(data):
    (data / "list.csv").write_text("file,label\nC:\\films\\1.png,x\n")
    with pytest.raises(UsageError, match=r"first: C:\\films\\1\.png\); give paths relative to the folder of the CSV"):
        read_manifest(data / "list.csv")
    (data / "list.csv").write_text("file,label\na.png,x,y\nb.png,x,y,z\n")
    with pytest.raises(UsageError, match=r"can be read: .*line 3"):
        read_manifest(data / "list.csv")


def test_one_patient_in_several_spellings_is_one(data):
    spellings = ["007", "7", "7.0", "0007", "P1", "p1", "P2", "p02", "<NA>", "NaN", "0", "00"]
    pd.DataFrame({"file": files_of(data), "label": "x", "patient": spellings}).to_csv(data / "list.csv", index=False)
    groups = read_manifest(data / "list.csv").rows["group"]
    assert sorted(groups.value_counts()) == [1, 1, 2, 2, 2, 4]
    (data / "Normal" / "metadata.csv").write_text("file_name,patient_id\n0.png,014\n1.png,15\n")
    (data / "Tuberculosis" / "metadata.csv").write_text("file_name,patient_id\n0.png,14\n1.png,0015\n")
    (data / "list.csv").unlink()
    groups = read_manifest(data).rows["group"]
    assert groups[groups != ""].value_counts().tolist() == [2, 2]


def test_of_two_spellings_of_one_column_the_filled_one_is_taken(data):
    table = pd.DataFrame({"file": files_of(data), "label": "x", "PatientID": "", "patient_id": "p"})
    table.to_csv(data / "list.csv", index=False)
    manifest = read_manifest(data / "list.csv")
    assert set(manifest.rows["group"]) == {"p"}
    assert manifest.notes[0].endswith("from column patient_id, not from PatientID")


FORMS = {
    "lines that end in a comma": ("{},x,{},", "file,label,patient_id"),
    "names of rows without a head": ("{2},{0},x,{1}", "file,label,patient_id"),
    "commas in the head": ("{};x;{};a, b", "file;label;patient_id;report (a, b, c, d, e)"),
    "quoted head": ('"{}","x",{},"a; b"', '"file","label",patient_id,"a; b; c; d; e"'),
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_as_programs_write_them_are_read_to_the_end(form, data):
    line, head = FORMS[form]
    rows = [line.format(file, f"p{n // 2}", n + 5) for n, file in enumerate(files_of(data))]
    (data / "list.csv").write_text("\n".join([head, *rows, ";;;" if ";x;" in line else ",,", ""]))
    rows = read_manifest(data / "list.csv").rows
    assert sorted(rows["group"]) == sorted(f"p{n // 2}" for n in range(12))
    (data / "metadata.csv").write_text((data / "list.csv").read_text())
    (data / "list.csv").unlink()
    assert (read_manifest(data).rows.sort_values("file")["group"].to_numpy() == rows.sort_values("file")["group"]).all()


@pytest.mark.parametrize("name", ["{}.dicom.png", "1.2.840.{}.dcm.png", "{}.png"])
@pytest.mark.parametrize("column", ["dicom_id", "ImageId", "image_id", "fname", "img_path"])
def test_identifiers_of_public_sets_name_images(name, column, data):
    for number, file in enumerate(files_of(data)):
        (data / file).rename((data / file).with_name(name.format(f"film-{number}")))
    stems = [
        Path(name.format(f"film-{number}")).name.split(".dicom")[0].split(".dcm")[0].removesuffix(".png")
        for number in range(12)
    ]
    table = pd.DataFrame({column: stems, "subject_id": [n // 3 for n in range(12)]})
    table.to_csv(data / "mimic-cxr-2.0.0-metadata.csv", index=False)
    assert read_manifest(data).rows["group"].value_counts().to_dict() == {str(n): 3 for n in range(4)}


def test_a_table_that_names_patients_and_is_not_used_is_named_whatever_it_is_called(data):
    (data / "stage_2.csv").write_text("patientId,Target\nabc,0\n")
    (data / "train.csv").write_text("image,patient\nelsewhere.png,p1\n")
    notes = read_manifest(data).notes
    assert f"{data / 'stage_2.csv'} is left out: has no column file_name" in notes
    assert any("train.csv is left out: none of its 1 rows names an image here" in note for note in notes)


@pytest.mark.parametrize("folder", ["patient{:05d}/study1", "p10/p1000{:04d}/s5", "sub-{:02d}", "Case {}/views"])
def test_patients_are_taken_from_folders_that_say_so(folder, data):
    for number, file in enumerate(files_of(data)):
        place = (data / file).parent / folder.format(number // 3)
        place.mkdir(parents=True, exist_ok=True)
        (data / file).rename(place / f"view{number}.png")
    manifest = read_manifest(data)
    first = folder.format(0).split("/")[folder.startswith("p10")]
    assert manifest.rows["group"].value_counts().tolist() == [3, 3, 3, 3]
    said = f"no table names patients: 4 patients of 12 of 12 images are taken from folders (first: {first})"
    assert manifest.notes == [said]
    pd.DataFrame({"file": files_of(data), "label": "x"}).to_csv(data / "list.csv", index=False)
    assert said in read_manifest(data / "list.csv").notes


def test_other_folders_within_classes_are_named(data):
    for number, file in enumerate(files_of(data)):
        (data / file).parent.joinpath(f"visit {number // 3}").mkdir(exist_ok=True)
        (data / file).rename((data / file).parent / f"visit {number // 3}" / f"{number}.png")
    manifest = read_manifest(data)
    assert set(manifest.rows["group"]) == {""}
    (note,) = manifest.notes
    assert "4 folders within classes (first: visit 0) are not taken for patients" in note


def test_splits_stand_in_columns_of_other_names(data):
    table = pd.DataFrame({"file": files_of(data), "label": "x", "patient": "p", "Set": ["train", "Test", ""] * 4})
    table.to_csv(data / "list.csv", index=False)
    manifest = read_manifest(data / "list.csv")
    assert manifest.rows["split"].value_counts().to_dict() == {"train": 4, "test": 4, "": 4}
    assert f"{data / 'list.csv'}: splits are taken from column Set" in manifest.notes
    table.assign(Set=["A", "train"] * 6).to_csv(data / "list.csv", index=False)
    assert set(read_manifest(data / "list.csv").rows["split"]) == {""}


def test_counts_are_of_images_and_an_index_is_a_column(data):
    table = pd.DataFrame({"file_name": files_of(data), "patient_id": "p"})
    table.set_index("file_name").to_parquet(data / "metadata.parquet")
    (data / "Normal" / "metadata.csv").write_text("file_name,patient_id\n0.png,p\n")
    (note,) = read_manifest(data).notes
    assert note.endswith("and 1 more: patient_id taken for 12 of 12 images; labels come from the folders")


def test_patients_of_a_hub_dataset_may_be_numbers_and_missing(data, monkeypatch):
    content = [{"bytes": (data / file).read_bytes(), "path": None} for file in files_of(data)]
    columns = {"image": content, "label": ["a", "b"] * 6, "patient_id": [0, 0, 1, 1, None, None] * 2}
    features = {"image": datasets.Image(), "label": datasets.Value("string"), "patient_id": datasets.Value("float64")}
    part = datasets.Dataset.from_dict(columns, datasets.Features(features))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision: {"train": part})
    rows = read_manifest("someone/films").rows
    assert rows["group"].value_counts().to_dict() == {"0": 4, "1": 4, "": 4}
