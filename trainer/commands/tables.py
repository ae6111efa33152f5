"""What several commands print: metrics as lines of text, and nothing that a terminal would obey."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from hub_cards.formatting import figure_name, format_metric, format_number, headline, printable

SUBGROUP = (("sensitivity", "specificity", "auroc"), ("balanced_accuracy", "macro_auroc"))  # of two labels; of more
LEVEL = 0.05
CALIBRATION = ("ece", "brier", "nll")


class Terminal:
    """Standard output without what a terminal would obey: names of files and classes may hold anything."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, what is not printable as escape sequences."""
        self._stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_report(report: dict[str, Any], options: argparse.Namespace, to_text: Callable[[dict[str, Any]], str]) -> None:
    """Print a report as text, or as JSON with --json; and write it to --output."""
    from trainer.files import write_json

    if options.output:
        write_json(options.output, report)
    print(json.dumps(report, indent=2) if options.json else to_text(report))


def metrics_text(metrics: dict[str, Any]) -> str:
    """metrics.json as text: each split, then its operating points and its calibration."""
    lines = []
    for split, report in metrics["splits"].items():
        lines += _split_lines(split, report)
        for point in metrics["operating_points"]:
            if split in point["on"]:
                lines.append(f"  {_point_text(point, point['on'][split])}")
        if calibration := metrics.get("calibration"):
            values = calibration["splits"][split]
            before = ", ".join(format_metric({**values["before"][name], "low": None}) for name in CALIBRATION)
            lines.append(f"  calibration: {_named(values['after'], CALIBRATION)}   (before: {before})")
        if familiarity := metrics.get("familiarity"):
            lines.append(f"  called unfamiliar: {format_metric(familiarity['splits'][split]['flagged'])}")
    return "\n".join([*lines, *subgroup_lines(metrics.get("subgroups")), *other_diseases_lines(metrics)])


def subgroup_lines(report: dict[str, Any] | None) -> list[str]:
    """The groups of each column, and which differ from the others."""
    lines = []
    for column, rows in report["columns"].items() if report else ():
        lines.append(f"\nby {column}:")
        for row in rows:
            metrics = row["metrics"]
            known = [name for name in SUBGROUP["macro_auroc" in metrics] if name in metrics]
            named = _named(metrics, tuple(known or [name for name in metrics if name != "before"]))
            lines.append(f"  {row['value']} (n = {row['n']}): {named}")
            for name, test in row["differences"].items():
                if test["p"] is not None and test["p"] < LEVEL:
                    interval = f"{test['value']:+.2f} ({test['low']:+.2f} to {test['high']:+.2f})"
                    lines.append(f"    {figure_name(name)} is not the others': {interval}, p = {test['p']:.2g}")
    if report:
        compared = f"{report['comparisons']} comparisons with the others of a column, p corrected for their number"
        lines.append(f"\n{compared} ({report['correction']}); named are those with p < {LEVEL}")
    return lines


def other_diseases_lines(report: dict[str, Any]) -> list[str]:
    """What films of other diseases are called, where that was asked."""
    lines = []
    for row in report.get("other_diseases", []):
        source = f" of {row['collection']}" if row["collection"] else ""
        lines.append(f"  {row['label']}{source} (n = {row['n']}): {_named(row['called'], tuple(row['called']))}")
    return ["\nother diseases, and what they are called:", *lines] if lines else []


def _split_lines(split: str, report: dict[str, Any]) -> list[str]:
    """A split of metrics.json as a small table: overall, by class, by collection; 95 % intervals in brackets."""
    lines = [f"\n{split}: n = {report['n']} images, {report['groups']} groups; 95 % intervals in brackets"]
    names = dict.fromkeys([*headline(report["metrics"]), *report["metrics"]])
    lines += [f"  {figure_name(name):<20}{format_metric(report['metrics'][name])}" for name in names]
    for label, metrics in report["per_class"].items():
        lines.append(f"  {label} (n = {metrics['n']}): {_named(metrics, ('auroc', 'sensitivity', 'specificity'))}")
    for name, part in report["collections"].items():
        lines.append(f"  in {name} (n = {part['n']}): {headline_text(part['metrics'])}")
    return lines


def _point_text(point: dict[str, Any], metrics: dict[str, Any]) -> str:
    names, values = ", ".join([point["name"], *point.get("also", [])]), metrics["predictive_values"][0]
    rates = _named(metrics, ("sensitivity", "specificity"))
    ppv = f"PPV {format_metric(values['ppv'])} at a prevalence of {values['prevalence']:g}"
    return f"{names}: {point['label']} from {format_number(point['threshold'])} ({point['aim']}): {rates}  {ppv}"


def headline_text(metrics: dict[str, Any]) -> str:
    """The metrics that speak for a model, in one line."""
    return _named(metrics, headline(metrics))


def _named(metrics: dict[str, Any], names: tuple[str, ...]) -> str:
    return "  ".join(f"{figure_name(name)} {format_metric(metrics[name])}" for name in names)
