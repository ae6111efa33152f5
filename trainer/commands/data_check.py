"""`cxr data check`: bad files, copies, label conflicts, leaks and shortcuts of a data set."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.commands.options import DATA_ARGUMENT, JSON, Commands, add_command
from trainer.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from trainer.data.check import FileInfo

MOST_SHOWN = 40  # cases of a kind in the HTML report
FAULTS = {  # lists of the report, worst first
    "patients_across_splits": "patients across splits",
    "copies_across_splits": "copies across splits",
    "label_conflicts": "copies under two labels",
    "near_copies": "pairs of near copies",
    "exact_copies": "images stored more than once, byte by byte",
    "unreadable": "files that cannot be read",
    "doubtful": "doubtful images",
    "not_images": "files that are not used",
}
INCOMPLETE = "the search for near copies stopped at its bound: there may be more"


def check_data(data: str, output: str | None = None) -> dict[str, Any]:
    """Inspect a folder or manifest; write report.html and report.json into `output` where it is given.

    Returns:
        The report as JSON.

    Raises:
        UsageError: no such data.
    """
    from trainer.data import check
    from trainer.data.manifest import read_manifest
    from trainer.files import write_json, write_text

    if output and Path(output).is_file():
        raise UsageError(f"--output {output}: is a file; name a folder")
    manifest = read_manifest(data)
    rows = manifest.rows
    infos = check.inspect_files(rows["file"])
    report = {"schema": 1, **check.find_faults(rows, infos, manifest.others), "shortcuts": _shortcuts(rows, infos)}
    report["notes"] = manifest.notes
    if output:
        write_json(Path(output) / "report.json", report)
        write_text(Path(output) / "report.html", _render(report, dict(zip(rows["file"], infos, strict=True)), data))
    return report


def _shortcuts(rows: "pd.DataFrame", infos: "list[FileInfo]") -> dict[str, Any]:
    """How well border pixels and global statistics tell the labels: over all, and in each collection."""
    import numpy as np

    from trainer.data import check
    from trainer.evaluation.probe import probe_auroc

    readable = [not info.error for info in infos]
    if not any(readable):
        return {}
    thumbnails, rows = check.thumbnails(infos), rows[readable]
    labels = rows["label"].to_numpy()
    groups = np.where(rows["group"] == "", rows["sha256"], rows["group"])
    parts = {"all": np.ones(len(rows), bool)}
    if rows["collection"].nunique() > 1:
        parts |= {name: (rows["collection"] == name).to_numpy() for name in sorted(set(rows["collection"]))}
    border, statistics = check.border_pixels(thumbnails), check.global_statistics(thumbnails)
    return {
        kind: {part: probe_auroc(features[inside], labels[inside], groups[inside]) for part, inside in parts.items()}
        for kind, features in {"border pixels": border, "global statistics": statistics}.items()
    }


def _render(report: dict[str, Any], infos: "dict[str, FileInfo]", data: str) -> str:
    """report.html, with thumbnails."""
    import base64
    import io

    from jinja2 import Environment, PackageLoader
    from PIL import Image

    def picture(file: str) -> str:
        if file not in infos or infos[file].error:
            return ""
        stream = io.BytesIO()
        Image.fromarray(infos[file].thumbnail).save(stream, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()

    root = Path(data).expanduser().absolute()
    root = root if root.is_dir() else root.parent

    def short(file: str) -> str:
        return str(Path(file).relative_to(root)) if Path(file).is_relative_to(root) else file

    environment = Environment(loader=PackageLoader("trainer"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"short": short, "auroc": _auroc}
    facts = {"faults": _faults(report), "title": root.name, "incomplete": INCOMPLETE, "most": MOST_SHOWN}
    return environment.get_template("check.html.jinja").render(report=report, picture=picture, **facts)


def _faults(report: dict[str, Any]) -> list[tuple[str, list[tuple[list[str], str]]]]:
    """What is wrong, worst first; and of each case its files and the other facts of it."""
    from trainer.data.pixels import count_doubts

    kinds = count_doubts(case["warnings"] for case in report["doubtful"])
    names = FAULTS | ({"doubtful": f"doubtful images ({kinds})"} if kinds else {})
    return [(name, [_describe_case(case) for case in report[key]]) for key, name in names.items()]


def _describe_case(case: Any) -> tuple[list[str], str]:
    if not isinstance(case, dict):
        return [case] if isinstance(case, str) else case, ""
    facts = [fact for key, fact in case.items() if key not in ("file", "files")]
    words = [str(word or "–") for fact in facts for word in (fact if isinstance(fact, list) else [fact])]
    return case.get("files") or [case["file"]], ", ".join(words)


def _auroc(row: dict[str, Any]) -> str:
    from hub_cards.formatting import format_metric

    return format_metric({**row, "value": row["auroc"]})


def add_parser(commands: Commands) -> None:
    """cxr data check"""
    parser = add_command(
        commands,
        "check",
        "find bad files, copies, label conflicts, leaks and shortcuts",
        *(DATA_ARGUMENT, JSON),
        example="cxr data check my-films --output report --strict",
    )
    parser.add_argument("--output", metavar="DIR", help="write report.html (with thumbnails) and report.json there")
    strict_help = "exit 1 when a copy or a patient stands on two sides of the split"
    parser.add_argument("--strict", action="store_true", help=strict_help)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print the report; 1 with --strict and leaks."""
    report = check_data(options.data, options.output)
    print(json.dumps(report, indent=2) if options.json else to_text(report))
    if options.output:
        file = Path(options.output) / "report.html"
        print(f"report: {file} (holds thumbnails: keep it with the data)", file=sys.stderr)
    return 1 if options.strict and report["leaks"] else 0


def to_text(report: dict[str, Any]) -> str:
    """The report as lines, worst first."""
    splits = f"splits: {', '.join(report['splits'])}" if report["splits"] else "no split given"
    lines = [f"{report['images']} radiographs, {splits}"]
    for name, cases in _faults(report):
        first = f"   (first: {', '.join(cases[0][0][:2])})" if cases else ""
        lines.append(f"  {len(cases):>6}  {name}{first}")
    lines += [f"note: {note}" for note in report["notes"]]
    if not report["copy_search_complete"]:
        lines.append(f"          {INCOMPLETE}")
    lines.append("labels told without the lungs (cross-validated AUROC, 95 % interval):")
    for kind, parts in report["shortcuts"].items():
        for part, rows in parts.items():
            for row in rows:
                auroc = f"{_auroc(row)}, n = {row['n']}{'  SHORTCUT' if row['shortcut'] else ''}"
                lines.append(f"  {kind}, {part}: {row['label']} {auroc}")
    return "\n".join(lines)
