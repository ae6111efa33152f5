"""`cxr predict`: a run's answers for radiographs."""

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_cards.formatting import format_number
from trainer.commands.options import JSON, RUN, Commands, add_command, log
from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.commands.dicom_report import DicomReports
    from trainer.run import Run


def predict(
    run: "Run", files: Iterable[str | os.PathLike[str]], dicom_out: str | None = None
) -> Iterator[dict[str, Any]]:
    """Classify files one by one. Research demonstration, not a medical device.

    Args:
        run: a run; `load_run` finds one by its folder or its Hub id.
        files: PNG, JPEG, TIFF (8 or 16 bit) or DICOM; of a folder, every image below it.
        dicom_out: a folder for a structured report and a heat map of each DICOM film, with its patient in them.

    Yields:
        {"file", "label", "scores": {label: 0..1}, "decision", "familiarity", "warnings"}, or {"file", "error"}.

    Raises:
        UsageError: no model can be loaded from there, or `dicom_out` lacks its extra.
        WorkError: `dicom_out` cannot be written.
    """
    model, processor = run.load_model()  # first: a model that is refused needs nothing else

    from trainer.cxr_model import RadiographError
    from trainer.data.pixels import DECODE
    from trainer.inference import for_inference, heat_map_of, predict_image

    reports = None
    if dicom_out:
        if find_spec("highdicom") is None:
            raise UsageError('--dicom-out needs highdicom: pip install "cxr-hub[dicom-out]"')
        from trainer.commands.dicom_report import DicomReports

        reports = DicomReports(dicom_out, run, model)
    model = for_inference(model, processor)
    for file in _in_folders([files] if isinstance(files, str | os.PathLike) else files):
        try:
            if os.path.isdir(file):
                raise RadiographError(f"{file}: no image in this folder")
            radiograph = processor.read(file, DECODE)
        except (RadiographError, ImportError) as error:
            yield {"file": file, "error": str(error)}
            continue
        answer = predict_image(model, processor, radiograph.pixels)
        prediction = {"file": file, **answer, "warnings": [*radiograph.warnings, *answer["warnings"]]}
        if reports:
            heat = heat_map_of(model, processor, radiograph.pixels, prediction["decision"]["label"])
            _write_report(reports, prediction, radiograph.pixels, heat)
        yield prediction


def _write_report(reports: "DicomReports", prediction: dict[str, Any], pixels: Any, heat: Any) -> None:
    try:
        reports.write(prediction["file"], prediction, pixels, heat)
    except ValueError as error:
        log(f"{prediction['file']}: no report was written: {error}")


def _in_folders(files: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """The files, of a folder every image below it."""
    from trainer.data.folder import list_images

    for file in [os.fspath(file) for file in files]:
        images, notes = list_images(Path(file)) if os.path.isdir(file) else ([file], [])
        for note in notes:
            log(f"note: {file}: {note}")
        yield from images or [file]


def add_parser(commands: Commands) -> None:
    """cxr predict"""
    parser = add_command(
        commands, "predict", "classify radiographs with a run", RUN, JSON, example="cxr predict runs/tb film.dcm"
    )
    kinds = "PNG, JPEG, TIFF (8 or 16 bit) or DICOM, or a folder of them"
    parser.add_argument("files", nargs="+", metavar="FILE", help=kinds)
    dicom_help = "write a DICOM structured report and the heat map of each DICOM film there, of its patient and study"
    parser.add_argument("--dicom-out", metavar="DIR", help=f"{dicom_help}; extra [dicom-out]")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print a line a file; 1 where one of them could not be read."""
    from trainer.run import load_run

    failed = False
    for prediction in predict(load_run(options.model), options.files, options.dicom_out):
        failed |= "error" in prediction
        print(json.dumps(prediction) if options.json else to_text(prediction), flush=True)
    return 1 if failed else 0


def to_text(prediction: dict[str, Any]) -> str:
    """One line: the label, the scores, the warnings; or the error."""
    if "error" in prediction:
        return _one_line(f"error: {prediction['error']}")
    scores = "  ".join(f"{label} {format_number(score)}" for label, score in prediction["scores"].items())
    warnings = f"  [{', '.join(prediction['warnings'])}]" if prediction["warnings"] else ""
    decision = prediction["decision"]
    point = (
        "" if decision["threshold"] is None else f", {decision['label']} from {format_number(decision['threshold'])}"
    )
    return _one_line(f"{prediction['file']}: {prediction['label']}  ({scores}{point}){warnings}")


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
