"""`cxr predict --dicom-out`: what a hospital's archive would read, by pydicom."""

import sys

import numpy as np
import pydicom
import pytest
from PIL import Image

from trainer.cli import main
from trainer.commands.dicom_report import RESEARCH, draw_heat_map
from trainer.commands.predict import predict
from trainer.run import Run

UIDS = {"StudyInstanceUID": "1.2.826.0.1.3680043.8.498.2", "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.3"}


def items(content) -> dict[str, object]:
    """Of a report's tree: concept name -> text, code or number, whatever the item is."""
    found: dict[str, object] = {}
    for item in content:
        if "ConceptNameCodeSequence" in item:
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            if item.ValueType == "NUM":
                found[name] = float(item.MeasuredValueSequence[0].NumericValue)
            elif item.ValueType == "CODE":
                found.setdefault(name, item.ConceptCodeSequence[0].CodeMeaning)
            elif item.ValueType == "TEXT":
                found[name] = f"{found.get(name, '')}{item.TextValue}\n"
        found |= items(item.get("ContentSequence", []))
    return found


@pytest.fixture
def film(dicom_of, phantoms, tmp_path):
    """A DICOM film with all that an archive files it by."""
    pixels = np.asarray(Image.open(next((phantoms / "Normal").glob("*.png"))).convert("L")).astype(np.uint16) * 16
    path = tmp_path / "IM0001"
    dicom_of(pixels, bits=12, **UIDS).save_as(path, enforce_file_format=True)
    return path


def test_a_report_says_what_the_command_says(film, run, tmp_path):
    (answer,) = predict(Run(run), [str(film)], dicom_out=str(tmp_path / "out"))
    heatmap, report = sorted((tmp_path / "out").iterdir())
    document = pydicom.dcmread(report)
    assert document.SOPClassUID.name == "Comprehensive SR Storage"
    assert (document.PatientID, str(document.PatientName)) == ("secret-42", "Doe^Jane")
    assert document.StudyInstanceUID == UIDS["StudyInstanceUID"]
    assert document.SeriesDescription == "Research demonstration, not a medical device"
    said = items([document])
    for label, score in answer["scores"].items():
        assert said[f"Score: {label}"] == pytest.approx(score, abs=1e-6)
    assert said[f"Threshold: {answer['decision']['label']}"] == pytest.approx(answer["decision"]["threshold"], abs=1e-6)
    assert said["Answer of the model"] == answer["label"]
    assert said["Algorithm Version"].strip() == Run(run).weights_hash()
    assert "Research demonstration, not a medical device" in said["Algorithm Parameters"]
    (source,) = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert source.ReferencedSOPInstanceUID == pydicom.dcmread(film).SOPInstanceUID
    image = pydicom.dcmread(heatmap)
    assert image.SOPClassUID.name == "Secondary Capture Image Storage"
    assert image.StudyInstanceUID == UIDS["StudyInstanceUID"]
    assert image.pixel_array.shape[2] == 3
    assert Run(run).weights_hash() in image.ImageComments


@pytest.mark.parametrize("width", [190, 300, 500, 1000])
def test_the_disclaimer_fits_into_the_image_of_a_narrow_film(width):
    black = np.zeros((400, width), np.uint8)
    image = draw_heat_map(black, np.zeros((7, 7), np.float32), f"{RESEARCH}.")
    written = np.flatnonzero((image > 100).any(axis=(0, 2)))
    assert written.max() - written.min() > 140
    assert written.max() < width - 2


def test_warnings_stand_in_the_report(film, run, tmp_path):
    dataset = pydicom.dcmread(film)
    dataset.ViewPosition = "LATERAL"
    dataset.save_as(film)
    (answer,) = predict(Run(run), [str(film)], dicom_out=str(tmp_path / "out"))
    assert "lateral-view" in answer["warnings"]
    assert items([pydicom.dcmread(next((tmp_path / "out").glob("*-report.dcm")))])["Warning"] == "lateral-view"


def test_what_cannot_be_referred_to_is_answered_without_a_report(film, run, phantoms, tmp_path, capsys):
    dataset = pydicom.dcmread(film)
    del dataset.StudyInstanceUID
    dataset.save_as(film)
    png = next((phantoms / "Normal").glob("*.png"))
    assert main(["predict", str(run), str(film), str(png), "--dicom-out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert f"{film}: no report was written: its header has no StudyInstanceUID" in told.err
    assert f"{png}: no report was written: it is no DICOM file" in told.err


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", "?"),
        ("PatientOrientation", ["X", "Y", "Z"]),
        ("StudyDate", "yesterday"),
        ("StudyInstanceUID", "1.x"),
    ],
)
def test_a_header_out_of_order_costs_no_answer(film, run, tmp_path, capsys, keyword, value):
    odd = tmp_path / "odd"
    dataset = pydicom.dcmread(film)
    element = pydicom.DataElement(keyword, pydicom.datadict.dictionary_VR(keyword), "", validation_mode=0)
    element.value = value
    dataset[keyword] = element
    dataset.save_as(odd)
    assert main(["predict", str(run), str(odd), str(film), "--dicom-out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert "Traceback" not in told.err
    assert len([file for file in (tmp_path / "out").iterdir() if file.name.startswith("IM0001")]) == 2


def test_the_same_film_again_takes_the_place_of_its_files(film, run, tmp_path):
    for _ in range(2):
        list(predict(Run(run), [str(film)], dicom_out=str(tmp_path / "out")))
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_without_the_extra_it_says_what_to_install(film, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert main(["predict", str(run), str(film), "--dicom-out", str(tmp_path / "out")]) == 2
    assert "cxr-hub[dicom-out]" in capsys.readouterr().err
