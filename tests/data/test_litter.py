"""Folders as people have them: no row vanishes or appears without a word, and nothing stops for a file that is no film."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from pydicom.dataset import FileMetaDataset

from trainer.commands.data_check import check_data, to_text
from trainer.cxr_model import CxrImageProcessor, read_radiograph
from trainer.cxr_model.reader_cxr import FORMATS
from trainer.data.copies import Copies
from trainer.data.folder import list_images
from trainer.data.labelled import load_for_model, load_for_training
from trainer.data.manifest import read_manifest
from trainer.data.pixels import add_comparison, decode, doubts_note
from trainer.data.schema import SUFFIXES
from trainer.errors import UsageError, WorkError
from trainer.tasks import TASKS

SMALL = CxrImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture
def data(phantoms, tmp_path) -> Path:
    """Six films of each class."""
    for label in ("Normal", "Tuberculosis"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for file in sorted((phantoms / label).iterdir())[:6]:
            shutil.copy(file, tmp_path / "data" / label)
    return tmp_path / "data"


@pytest.fixture
def copied(phantoms, tmp_path) -> Path:
    return Path(shutil.copytree(phantoms, tmp_path / "data"))


def names(manifest) -> dict[str, set[str]]:
    return {reason: {Path(file).name for file in files} for reason, files in manifest.left_out.items()}


def write_report(target: Path, preamble: bool = True) -> None:
    """A structured report, as lies beside the films of a PACS export."""
    report = pydicom.Dataset()
    report.SOPClassUID, report.SOPInstanceUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.67", "1.2.3", "SR"
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    report.file_meta.MediaStorageSOPClassUID, report.file_meta.MediaStorageSOPInstanceUID = report.SOPClassUID, "1.2.3"
    report.save_as(target, enforce_file_format=True)
    if not preamble:
        target.write_bytes(target.read_bytes()[132:])


def learn(data, log=lambda text: None):
    return load_for_training(str(data), TASKS["tb"], SMALL, None, False, log)


def test_litter_is_no_class_and_no_image_and_is_counted(data):
    for litter in ("__MACOSX/Normal/._film.png", "@eaDir/film.png/SYNOFILE_THUMB_M.png", "Normal/@eaDir/thumb.jpg"):
        (data / litter).parent.mkdir(parents=True, exist_ok=True)
        (data / litter).write_bytes(b"litter")
    for litter in (".DS_Store", "Normal/._film.png", "Normal/Thumbs.db", "Tuberculosis/desktop.ini"):
        (data / litter).write_bytes(b"litter")
    shutil.copytree(data / "Normal", data / "Normal" / ".thumbnails")
    manifest = read_manifest(data)
    assert manifest.rows["label"].value_counts().to_dict() == {"Normal": 6, "Tuberculosis": 6}
    (note,) = manifest.notes
    assert note.startswith("16 files were seen and are not used: 16 hidden, or left by macOS, Windows or a file server")


def test_linked_folders_are_read_once_and_links_that_lead_nowhere_are_named(data, tmp_path):
    shutil.move(data / "Normal", tmp_path / "hospital")
    (data / "Normal").mkdir()
    (data / "Normal" / "a").symlink_to(tmp_path / "hospital")
    (data / "Normal" / "b").symlink_to(tmp_path / "hospital")
    (data / "Normal" / "loop").symlink_to(data)
    (tmp_path / "hospital" / "up").symlink_to(tmp_path / "hospital")
    (data / "Tuberculosis" / "gone.png").symlink_to("/nowhere/gone.png")
    (data / "Pneumonia").symlink_to("/nowhere")
    manifest = read_manifest(data)
    assert manifest.rows["label"].value_counts().to_dict() == {"Normal": 6, "Tuberculosis": 6}
    left_out = names(manifest)
    assert left_out["links that lead nowhere"] == {"gone.png", "Pneumonia"}
    assert left_out["links to a folder that is listed already"] == {"b", "loop", "up"}


def test_what_the_reader_reads_is_listed_whatever_its_suffix(data, dicom_of):
    Image.init()
    assert {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS} <= SUFFIXES
    film = Image.open(next((data / "Normal").iterdir())).convert("L")
    for name in ("a.jfif", "b.JPE", "c.pgm", "d.tiff", "e.J2K"):
        film.save(data / "Normal" / name, format="JPEG" if name[0] in "ab" else None)
    film.save(data / "Normal" / "no-suffix", format="PNG")
    stored = dicom_of(np.asarray(film), bits=8)
    for name in ("f.ima", "g.img", "h.DIC", "IM000001", "1.2.840.113", "i.dicom"):
        stored.save_as(data / "Normal" / name, enforce_file_format=True)
    bare = data / "Normal" / "IM000002"
    stored.save_as(bare, enforce_file_format=True)
    bare.write_bytes(bare.read_bytes()[132:])
    manifest = read_manifest(data)
    assert manifest.notes == []
    assert len(manifest.rows) == 12 + 5 + 1 + 6 + 1
    assert all(read_radiograph(file).pixels.shape == film.size[::-1] for file in manifest.rows["file"])


def test_folders_and_images_beside_the_splits_are_named(data, tmp_path):
    root = tmp_path / "splits"
    for split in ("Train", "train", "val", "validation", "test", "hold_out"):
        shutil.copytree(data, root / split)
    shutil.copy(next((data / "Normal").iterdir()), root / "loose.png")
    shutil.copy(next((data / "Normal").iterdir()), root / "test" / "loose too.png")
    shutil.copytree(data, root / "@eaDir")
    manifest = read_manifest(root)
    assert manifest.rows["split"].value_counts().to_dict() == {"train": 24, "validation": 24, "test": 12}
    assert names(manifest)["images beside the class folders"] == {"loose.png", "loose too.png"}
    assert len(manifest.left_out["in folders that are no split"]) == 12
    (note,) = manifest.notes
    assert "hold_out" in note


SETS = [("train_set", "val_set", "test_set"), ("Train Images", "validating", "TEST-data")]
SETS += [("1_train", "2_val", "3_test"), ("train_2020", "valid2020", "test-2020")]


@pytest.mark.parametrize("names", SETS)
def test_split_folders_may_say_that_they_are_sets(names, data, tmp_path):
    for name in names:
        shutil.copytree(data, tmp_path / "splits" / name)
    manifest = read_manifest(tmp_path / "splits")
    assert manifest.rows["split"].value_counts().to_dict() == {"train": 12, "validation": 12, "test": 12}
    assert manifest.notes == []


def test_splits_of_names_of_their_own_and_classes_without_images_are_named(data, tmp_path):
    for name in ("round one", "round two"):
        shutil.copytree(data, tmp_path / "rounds" / name)
    (note,) = read_manifest(tmp_path / "rounds").notes
    assert note.startswith(
        "round one, round two hold the same folders (Normal, Tuberculosis) and are taken for classes"
    )
    (data / "Pneumonia").mkdir()
    (data / "COVID").mkdir()
    (data / "COVID" / "film.npy").write_bytes(b"no image")
    notes = read_manifest(data).notes
    assert notes[:2] == [
        f"{data / name} holds no image that is read: it is no class" for name in ("COVID", "Pneumonia")
    ]


def test_images_beside_class_folders_masks_and_other_files_are_counted(data):
    shutil.copy(next((data / "Normal").iterdir()), data / "loose.png")
    shutil.copytree(data / "Normal", data / "Masks")
    (data / "Normal" / "read me.txt").write_text("no film")
    (data / "Normal" / "backup.png.bak").write_bytes(next((data / "Normal").iterdir()).read_bytes())
    os.mkfifo(data / "Normal" / "pipe.png")
    manifest = read_manifest(data)
    assert len(manifest.rows) == 12
    assert names(manifest)["no images"] == {"read me.txt", "backup.png.bak", "pipe.png"}
    assert names(manifest)["images beside the class folders"] == {"loose.png"}
    assert len(manifest.left_out["masks"]) == 6
    shutil.rmtree(data / "Normal")
    shutil.rmtree(data / "Tuberculosis")
    with pytest.raises(UsageError, match=r"no images found.*1 images beside the class folders \(first: .*loose\.png"):
        read_manifest(data)


def test_names_that_are_not_utf8_are_counted(data):
    shutil.copy(next((data / "Normal").iterdir()), os.fsencode(data / "Normal") + b"/film-\xe9.png")
    folder = os.fsencode(data) + b"/Pneumonie-\xe9"
    shutil.copytree(data / "Normal", os.fsdecode(folder))
    manifest = read_manifest(data)
    assert len(manifest.rows) == 12
    (note,) = manifest.notes
    assert note.encode().decode() == note
    assert r"8 with names that are not UTF-8: rename them (first: " in note
    with pytest.raises(UsageError, match="not UTF-8; rename it"):
        read_manifest(os.fsdecode(folder))


def test_a_file_without_permission_is_counted(data, monkeypatch):
    closed = str(data / "Normal" / "phantom-00000.png")

    def refuse(file, *words, **options):
        if str(file) == closed:
            raise PermissionError(13, "Permission denied")
        return open(file, *words, **options)

    monkeypatch.setattr("trainer.data.manifest.open", refuse, raising=False)
    manifest = read_manifest(data)
    assert len(manifest.rows) == 11
    assert "1 that cannot be opened (Permission denied) (first: " in manifest.notes[0]


def test_dicom_files_without_an_image_are_no_damaged_films(data):
    for name, preamble in (("SR000001", True), ("report.dcm", True), ("DICOMDIR", True), ("SR000002", False)):
        write_report(data / "Normal" / name, preamble)
    files = [*sorted(data.rglob("*.png")), data / "Normal" / "report.dcm"]
    table = pd.DataFrame({"file": files, "label": [file.parent.name for file in files]})
    table.to_csv(data / "list.csv", index=False)
    manifest = read_manifest(data)
    assert len(manifest.rows) == len(read_manifest(data / "list.csv").rows) == 12
    assert names(manifest)["DICOM files without an image"] == {"SR000001", "report.dcm", "DICOMDIR", "SR000002"}
    assert read_manifest(data / "list.csv").left_out == {
        "DICOM files without an image": [str(data / "Normal" / "report.dcm")]
    }


def test_a_video_is_no_damaged_film(data, dicom_of):
    video = dicom_of(np.zeros((8, 8), np.uint8), bits=8)
    video.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    video.PixelData = pydicom.encaps.encapsulate([b"ftypmp42"])
    video.save_as(data / "Normal" / "cine.dcm", enforce_file_format=True)
    assert names(read_manifest(data)) == {"DICOM files without an image": {"cine.dcm"}}


def test_damaged_files_are_set_aside_and_named_up_to_a_limit_and_never_a_class(copied, monkeypatch):
    monkeypatch.setattr("trainer.data.labelled.copies_among", lambda images: Copies([], True))  # takes long
    films = sorted((copied / "Normal").iterdir())
    for file in films[:3]:
        file.write_bytes(file.read_bytes()[:900])
    Image.open(films[5]).resize((40, 40)).save(films[5])
    notes: list[str] = []
    labelled, skipped = learn(copied, notes.append)
    assert len(labelled.rows) == 45
    assert set(skipped["file"]) == {str(file) for file in films[:3]}
    assert any("3 files cannot be read and are set aside: " in note and "phantom-0000" in note for note in notes)
    doubt = f"DOUBTFUL: 1 of 45 images (1 tiny; first: {films[5]}): look at them first"
    assert f"note: {doubt}" in notes
    _, counts = load_for_model(str(copied), "test", TASKS["tb"].labels, SMALL, None, notes.append)
    assert counts["skipped"] == 3
    films[3].write_bytes(b"")
    with pytest.raises(WorkError, match=r"4 of 48 files cannot be read \(at most 5% or 3 files may be\)"):
        learn(copied)
    for file in films[2:]:
        file.unlink()
    with pytest.raises(WorkError, match=r"no file of Normal can be read \(first: .*phantom-0000"):
        learn(copied)


def test_films_that_are_inverted_tiny_black_or_strange_are_doubted(copied, tmp_path):
    def doubts():
        rows, images, _ = decode(read_manifest(copied).rows, SMALL)
        return doubts_note(rows["file"].tolist(), images.warnings())

    assert doubts() == []
    films = sorted(copied.rglob("*.png"))
    for number, file in enumerate(films[::3]):
        film = Image.open(file).convert("L")
        faults = (film.point(lambda grey: 255 - grey), film.resize((40, 40)), Image.new("L", film.size, number), film)
        black = Image.new("L", film.size)
        black.paste(255, (8, 8, 30, 20))  # a marker on a black film
        (*faults[:3], black)[number % 4].save(file)
    (note,) = doubts()
    assert "16 of 48 images" in note
    for kind in ("4 inverted", "4 tiny", "4 blank", "4 unlike-the-others"):
        assert kind in note
    report = check_data(str(copied), str(tmp_path / "report"))
    assert len(report["doubtful"]) == 16
    assert "inverted" in (tmp_path / "report" / "report.html").read_text()
    assert re.search(r"16  doubtful images \((4 [a-z-]+(, )?){4}\)", to_text(report))


@pytest.mark.parametrize("inverted", [24, 48])
def test_films_are_doubted_even_where_most_are_inverted(inverted, copied):
    for file in read_manifest(copied).rows["file"][:inverted]:
        Image.open(file).convert("L").point(lambda grey: 255 - grey).save(file)
    _, images, _ = decode(read_manifest(copied).rows, SMALL)
    assert images.warnings().count("inverted") == inverted


def test_of_images_that_resemble_no_chest_the_minority_is_inverted():
    rng = np.random.default_rng(0)
    sides = rng.normal(size=(16, 16))
    films = (sides - sides[:, ::-1]).reshape(-1) + 0.3 * rng.normal(size=(30, 256))
    films[:10] *= -1
    films /= np.linalg.norm(films, axis=1, keepdims=True)
    for thumbnails in (films, -films):
        assert add_comparison([""] * 30, thumbnails.astype(np.float32)) == ["inverted"] * 10 + [""] * 20
    assert add_comparison(["blank", "tiny"], np.zeros((2, 256), np.float32))[0] == "blank"


def test_images_of_kinds_that_are_not_read_are_no_other_files(data):
    kinds = ("film.HEIC", "film.avif", "film.jxl", "film.dcm.gz", "film.nii")
    for name in (*kinds, "notes.txt"):
        (data / "Normal" / name).write_bytes(b"\0\0\0\x18ftyp")
    manifest = read_manifest(data)
    assert names(manifest)["of kinds that are not read: unpack them, or save them as PNG"] == set(kinds)
    assert names(manifest)["no images"] == {"notes.txt"}


@pytest.mark.parametrize("folder", ["Masks", "lung_mask", "ManualMask/left", "mask_left", "segmentations", "heatmaps"])
def test_masks_are_no_films_whatever_their_folder_is_called(folder, data):
    (data / "Normal" / folder).mkdir(parents=True)
    film = next((data / "Normal").glob("*.png"))
    shutil.copy(film, data / "Normal" / folder / film.name)
    shutil.copy(film, data / "Normal" / f"{film.stem}_mask.png")
    manifest = read_manifest(data)
    assert len(manifest.rows) == 12
    assert len(manifest.left_out["masks"]) == 2


def test_classes_of_people_who_wear_masks_are_classes(data):
    (data / "Normal").rename(data / "Unmasked")
    assert set(read_manifest(data).rows["label"]) == {"Unmasked", "Tuberculosis"}


def test_a_png_without_suffix_whose_text_is_too_long_is_named_where_it_is_read(data, tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 3_000_000, zip=True)
    Image.new("L", (64, 64)).save(data / "Normal" / "film", "PNG", pnginfo=text)
    images, _ = list_images(data)
    assert str(data / "Normal" / "film") in images
    assert len(read_manifest(data).rows) == 13


def test_what_a_folder_of_films_to_classify_holds_besides_is_said(data):
    (data / "Normal" / "chest_mask.png").write_bytes(b"a mask")
    (data / "gone.png").symlink_to(data / "nowhere.png")
    images, (note,) = list_images(data)
    assert len(images) == 12
    assert "1 masks" in note
    assert "1 links that lead nowhere" in note
