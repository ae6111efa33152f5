"""An answer as DICOM, for a hospital's own software: a structured report and the heat map as a secondary capture.

Both go into the film's study, with its patient as the film names them: they are made for the archive that it came from.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from matplotlib import colormaps
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes

from trainer.commands.options import DISCLAIMER
from trainer.files import atomic_write
from trainer.run import Run

KEEP = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")  # without which none refers to a film
EMPTY = (  # may be empty, must be there
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName", "Modality"),
)
MAKER, SCHEME = "cxr-hub", "99CXRHUB"  # who makes the files, and who defines their codes
RESEARCH = DISCLAIMER.partition(":")[0]  # as it fits into a header
REPORT_SERIES, HEAT_MAP_SERIES = 9001, 9002  # numbers of the two series in the film's study
LARGEST = 1024  # pixels of the longer side of the secondary capture
STRONGEST = 0.55  # opacity of the heat map at its highest


class DicomReports:
    """Writes the answers of one model into a folder."""

    def __init__(self, folder: str, run: Run, model: Any) -> None:
        self._folder, self._labels = Path(folder), model.labels
        self._name, self._weights = f"{MAKER} {run.read_json('recipe.json')['name']}", run.weights_hash()

    def write(self, file: str, prediction: dict[str, Any], pixels: np.ndarray, heat: np.ndarray) -> list[Path]:
        """NAME-report.dcm and NAME-heatmap.dcm for a film, replaced where they are there.

        Args:
            file: the film that was read.
            prediction: what `predict` says of it.
            pixels: uint8 [H, W], as the reader sees it.
            heat: of the label that the decision is about, float [h, w] in 0..1.

        Raises:
            ValueError: the file is no DICOM, or its header has no study, series or instance to refer to, or other
                values than a report may have.
            WorkError: the folder cannot be written.
        """
        film = _header(file)
        name = f"{Path(file).stem}-{sha256(film.SOPInstanceUID.encode()).hexdigest()[:8]}"
        try:
            parts = {"report": self._report(film, prediction), "heatmap": self._capture(film, prediction, pixels, heat)}
        except Exception as error:  # whatever a header that is not as the standard has it makes of it
            raise ValueError(f"its header has values that no report may have ({str(error)[:200]})") from error
        for part, dataset in parts.items():
            dataset.SeriesDescription = RESEARCH
            with atomic_write(self._folder / f"{name}-{part}.dcm") as target:
                dataset.save_as(target)
        return [self._folder / f"{name}-{part}.dcm" for part in parts]

    def _report(self, film: Dataset, prediction: dict[str, Any]) -> Dataset:
        """Scores, threshold, decision and warnings as a measurement report (DICOM PS3.16, TID 1500)."""
        parameters = [f"decision: {prediction['decision']['name']}", DISCLAIMER]
        device = hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID(), name=self._name, manufacturer_name=MAKER)
        observer = hd.sr.ObserverContext(codes.DCM.Device, device)
        group = hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=RESEARCH),
            algorithm_id=hd.sr.AlgorithmIdentification(self._name, self._weights, parameters),
            measurements=self._measurements(prediction),
            qualitative_evaluations=self._evaluations(prediction),
            source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(film)],
        )
        content = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=codes.SCT.ChestImaging,
            imaging_measurements=[group],
        )
        return hd.sr.ComprehensiveSR([film], content, **_series(REPORT_SERIES), manufacturer=MAKER)

    def _measurements(self, prediction: dict[str, Any]) -> list[Any]:
        """The score of each label, the threshold and the familiarity, where there are any."""
        decision = prediction["decision"]
        numbers = [
            (f"score-{index}", f"Score: {label}", prediction["scores"][label])
            for index, label in enumerate(self._labels)
        ]
        numbers.append(("threshold", f"Threshold: {decision['label']}", decision["threshold"]))
        numbers.append(("familiarity", "Familiarity", prediction["familiarity"]))
        return [
            hd.sr.Measurement(name=_code(value, meaning), value=round(number, 6), unit=codes.UCUM.NoUnits)
            for value, meaning, number in numbers
            if number is not None
        ]

    def _evaluations(self, prediction: dict[str, Any]) -> list[Any]:
        """The answer, and a warning each."""
        label = prediction["label"]
        said = [(_code("answer", "Answer of the model"), _code(f"label-{self._labels.index(label)}", label))]
        said += [(_code("warning", "Warning"), _code(warning[:16], warning)) for warning in prediction["warnings"]]
        return [hd.sr.QualitativeEvaluation(name, value) for name, value in said]

    def _capture(self, film: Dataset, prediction: dict[str, Any], pixels: np.ndarray, heat: np.ndarray) -> Dataset:
        """The film with the heat map over it; what it is stands in the image."""
        what = f"what speaks for {prediction['decision']['label']}; answer: {prediction['label']}"
        image = draw_heat_map(pixels, heat, f"{RESEARCH}.\n{what}.")
        orientation = tuple(film.get("PatientOrientation") or ("L", "F"))
        capture = hd.sc.SCImage.from_ref_dataset(
            film,
            image,
            "RGB",
            8,
            "PATIENT",
            **_series(HEAT_MAP_SERIES),
            manufacturer=MAKER,
            patient_orientation=orientation,
        )
        capture.BurnedInAnnotation = "YES"
        capture.ImageComments = f"Heat map of {self._name}, {self._weights}: {what}. {DISCLAIMER}"
        return capture


def draw_heat_map(pixels: np.ndarray, heat: np.ndarray, text: str) -> np.ndarray:
    """The image uint8 [H, W] with the heat map in colour over it and two lines of text, as large as fits:
    uint8 [h, w, 3], at most 1024.
    """
    film = Image.fromarray(pixels)
    film.thumbnail((LARGEST, LARGEST))
    strength = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(film.size, Image.Resampling.BICUBIC)).clip(
        0, 1
    )
    opacity = STRONGEST * strength[..., None]
    colour = 255 * colormaps["inferno"](strength)[..., :3]
    image = Image.fromarray(np.rint((1 - opacity) * np.asarray(film)[..., None] + opacity * colour).astype(np.uint8))
    size = max(8, min(18, image.width // 30))  # of the letters: the longer line is 27 times as wide, or less
    ImageDraw.Draw(image).text((8, 8), text, font_size=size, fill="white", stroke_fill="black", stroke_width=2)
    return np.asarray(image)


def _header(file: str) -> Dataset:
    """What a report needs of a film that was read already, without its pixels."""
    try:
        film = pydicom.dcmread(file, stop_before_pixels=True)
    except InvalidDicomError:
        raise ValueError("it is no DICOM file") from None
    if missing := [keyword for keyword in KEEP if not film.get(keyword)]:
        raise ValueError(f"its header has no {missing[0]}")
    for keyword in EMPTY:
        if keyword not in film:
            setattr(film, keyword, "")
    return film


def _code(value: str, meaning: str) -> Any:
    """A code of our own; a value has at most 16 characters, a meaning 64."""
    return hd.sr.CodedConcept(value, SCHEME, meaning[:64])


def _series(number: int) -> dict[str, Any]:
    return {
        "series_instance_uid": hd.UID(),
        "series_number": number,
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
    }
