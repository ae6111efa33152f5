"""`cxr audit`: are the lungs what a run reads?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_cards.formatting import format_metric, format_number
from trainer.commands.options import DATA, JSON, OTHERS, OUTPUT_FILE, RUN, Commands, add_command, log, split
from trainer.commands.tables import headline_text, other_diseases_lines, print_report
from trainer.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from trainer.run import Run

DESCRIPTION = """Runs a model on images with their lungs hidden, with nothing but the lungs, and with all sources
equally sharp; measures how well its features tell the collections apart, and where its heat maps point.

Where the lungs are it reads from the manifest's column `mask` (as `cxr data get` writes it) or from a lung_masks.csv
with file,mask beside the data; without a mask a central area counts as the lungs. Findings, for the heat map: a
lesion_boxes.csv with file,x0,y0,x1,y1 (fractions of the image), or the masks beside phantoms."""


def audit(
    run: "Run", data: str, split: str = "test", images: int = 700, other_diseases: str | None = None
) -> dict[str, Any]:
    """Audit a run for shortcuts. Research demonstration, not a medical device.

    Args:
        run: a finished run.
        data: a folder or a manifest; all of it is `split` where it names none.
        images: how many images are used, drawn at random; and as many with a known finding for the heat maps.
        other_diseases: data with films of diseases that the model does not answer, to see what it calls them.

    Returns:
        {"split", "left_out", "n", "groups", "lung_masks", "level", "conditions", "collections", "heat_maps",
        "verdict"}, and "other_diseases" where they were asked for.

    Raises:
        UsageError: no such split, nothing in it that is new to the model, or classes that it does not know.
    """
    import numpy as np

    from trainer.data.labelled import load_for_model, load_other_diseases
    from trainer.evaluation.audit.conditions import audit_conditions, verdict
    from trainer.evaluation.audit.heat_maps import audit_heat_maps
    from trainer.evaluation.report import report_other_diseases
    from trainer.inference import PixelBatches, for_inference

    model, processor = run.load_model()
    model = for_inference(model, processor)
    labelled, counts = load_for_model(
        data, split, model.labels, processor, run.manifest(), log, lambda rows: _sample(data, rows, images)
    )
    pixels = PixelBatches(labelled.images, processor, model.device)
    sampled, pointed = (np.flatnonzero(labelled.rows[name]) for name in ("sampled", "pointed"))
    report: dict[str, Any] = {"split": split, "left_out": counts["left_out"]}
    report |= audit_conditions(model, pixels, labelled, data, sampled)
    report["heat_maps"] = audit_heat_maps(model, pixels, labelled, data, pointed)
    if other_diseases:
        others = load_other_diseases(other_diseases, model.labels, processor, run.manifest(), log)
        report["other_diseases"] = report_other_diseases(model, processor, others)
    report["verdict"] = verdict(report["conditions"], report["collections"])
    return report


def _sample(data: str, rows: "pd.DataFrame", most: int) -> "pd.DataFrame":
    """A random part of the rows, marked `sampled`, and another of those whose finding is known, marked `pointed`."""
    import numpy as np

    from trainer.data.annotations import load_lesion_masks

    order = np.random.default_rng(0).permutation(len(rows))
    known = load_lesion_masks(data, rows, 1, 1)
    parts = {"sampled": order[:most], "pointed": np.array([row for row in order if row in known][:most], int)}
    marked = rows.assign(**{name: np.isin(np.arange(len(rows)), part) for name, part in parts.items()})
    return marked[marked["sampled"] | marked["pointed"]].reset_index(drop=True)


def add_parser(commands: Commands) -> None:
    """cxr audit"""
    parser = add_command(
        commands,
        "audit",
        "are the lungs what a run reads? tested by hiding them, and by its heat maps",
        *(RUN, DATA, OTHERS, split("validation", "test", "external"), OUTPUT_FILE, JSON),
        description=DESCRIPTION,
        example="cxr audit runs/tb --data my-films.csv",
    )
    parser.add_argument("--images", type=int, default=700, metavar="N", help="use so many at random (default 700)")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print the audit, and write it into the run or to --output."""
    from trainer.run import load_run

    if options.images < 1:
        raise UsageError("--images: at least 1")
    keep = Path(options.model).is_dir() and not options.output
    run = load_run(options.model)
    if keep and not run.finished:
        raise UsageError(f"{run.path}: not a finished run; give --output FILE")
    report = audit(run, options.data, options.split, options.images, options.other_diseases)
    print_report(report, options, to_text)
    if keep:
        run.write_json("metrics.json", {**run.read_json("metrics.json"), "audit": report})
        run.write_card()
        log(f"written to {run.path}: metrics.json and its card")
    return 0


def to_text(audit: dict[str, Any]) -> str:
    """The audit as lines; its verdict last."""
    counts = f"n = {audit['n']} images, {audit['groups']} groups, {audit['lung_masks']} with a lung mask"
    lines = [f"{audit['split']}: {counts}; resolution matched at {audit['level']} pixels; 95 % intervals in brackets"]
    lines += [f"  {name:<22}{headline_text(metrics)}" for name, metrics in audit["conditions"].items()]
    if audit["collections"]:
        lines.append("collections, from the model's features (AUROC of a linear probe, cross-validated):")
    for row in audit["collections"]:
        auroc = format_metric({**row, "value": row["auroc"]})
        lines.append(f"  {row['collection']} among {row['among']}: {auroc}, n = {row['n']}")
    if heat_maps := audit["heat_maps"]:
        lines.append(f"heat maps on {heat_maps['n']} known findings (mean area {format_number(heat_maps['area'])}):")
        for name, row in heat_maps["maps"].items():
            inside = f"proportion of the map inside {format_metric(row['inside'])}"
            lines.append(f"  {name:<30}points into it {format_metric(row['hits'])}   {inside}")
    return "\n".join([*lines, *other_diseases_lines(audit), audit["verdict"]["text"]])
