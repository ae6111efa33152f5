"""`cxr data check`: bad files, copies, label conflicts, leaks and shortcuts of a data set."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.commands.options import DATA_ARGUMENT, JSON, Commands, add_command

if TYPE_CHECKING:
    import pandas as pd

    from trainer.data.check import FileInfo

MOST_SHOWN = 40  # pairs of a kind in the HTML report


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

    manifest = read_manifest(data)
    rows = manifest.rows
    infos = check.inspect_files(rows["file"])
    report = {"schema": 1, **check.find_faults(rows, infos, manifest.others), "shortcuts": _shortcuts(rows, infos)}
    report |= {"leaks": check.leaks(report), "notes": manifest.notes}
    if output:
        write_json(Path(output) / "report.json", report)
        write_text(Path(output) / "report.html", _render(report, dict(zip(rows["file"], infos, strict=True)), data))
    return report


def _shortcuts(rows: "pd.DataFrame", infos: "list[FileInfo]") -> dict[str, Any]:
    """How well border pixels and global statistics tell the labels: over all, and in each collection."""
    import numpy as np

    from trainer.data import check
    from trainer.evaluation.probe import probe_auroc

    readable = np.array([number for number, info in enumerate(infos) if not info.error])
    if not len(readable):
        return {}
    thumbnails = check.thumbnails(infos, list(readable))
    rows = rows.iloc[readable]
    labels = rows["label"].to_numpy()
    groups = np.where(rows["group"] == "", rows["sha256"], rows["group"])
    parts = {"all": np.ones(len(rows), bool)}
    if rows["collection"].nunique() > 1:
        parts |= {name: (rows["collection"] == name).to_numpy() for name in sorted(set(rows["collection"]))}
    kinds = {
        "border pixels": check.border_pixels(thumbnails),
        "global statistics": check.global_statistics(thumbnails),
    }
    return {
        kind: {part: probe_auroc(features[inside], labels[inside], groups[inside]) for part, inside in parts.items()}
        for kind, features in kinds.items()
    }


def _render(report: dict[str, Any], infos: "dict[str, FileInfo]", data: str) -> str:
    """report.html, with thumbnails."""
    import base64
    import io

    from jinja2 import Environment, PackageLoader
    from PIL import Image

    from hub_cards.formatting import format_number

    def picture(file: str) -> str:
        stream = io.BytesIO()
        Image.fromarray(infos[file].thumbnail).save(stream, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()

    root = Path(data).expanduser().absolute()
    root = root if root.is_dir() else root.parent

    def name(file: str) -> str:
        return str(Path(file).relative_to(root)) if Path(file).is_relative_to(root) else file

    environment = Environment(loader=PackageLoader("trainer"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = format_number
    template = environment.get_template("check.html.jinja")
    labels = sorted({label for counts in report["collections"].values() for label in counts})
    return template.render(report=report, title=root.name, picture=picture, name=name, labels=labels, most=MOST_SHOWN)


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
    from hub_cards.formatting import format_metric
    from trainer.data.pixels import count_doubts

    kinds = count_doubts(case["warnings"] for case in report["doubtful"])
    counts = [
        ("patients across splits", report["patients_across_splits"]),
        ("copies across splits", report["copies_across_splits"]),
        ("copies under two labels", report["label_conflicts"]),
        ("pairs of near copies", report["near_copies"]),
        ("images stored more than once, byte by byte", report["exact_copies"]),
        ("files that cannot be read", report["unreadable"]),
        (f"doubtful images{f' ({kinds})' if kinds else ''}", report["doubtful"]),
        ("files that are not used", report["not_images"]),
    ]
    splits = f"splits: {', '.join(report['splits'])}" if report["splits"] else "no split given"
    lines = [f"{report['images']} radiographs, {splits}"]
    for name, cases in counts:
        lines.append(f"  {len(cases):>6}  {name}" + (f"   (first: {_first_file(cases[0])})" if cases else ""))
    lines += [f"note: {note}" for note in report["notes"]]
    if not report["copy_search_complete"]:
        lines.append("          the search for near copies stopped at its bound: there may be more")
    lines.append("labels told without the lungs (cross-validated AUROC, 95 % interval):")
    for kind, parts in report["shortcuts"].items():
        for part, rows in parts.items():
            for row in rows:
                auroc = f"{format_metric({**row, 'value': row['auroc']})}, n = {row['n']}"
                lines.append(f"  {kind}, {part}: {row['label']} {auroc}{'  SHORTCUT' if row['shortcut'] else ''}")
    return "\n".join(lines)


def _first_file(case: Any) -> str:
    if isinstance(case, dict):
        case = case.get("file") or case["files"]
    return case if isinstance(case, str) else ", ".join(case[:2])
