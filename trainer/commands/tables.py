"""Metrics as lines of text, for several commands."""

from typing import Any

from hub_cards.formatting import figure_name, format_metric, format_number, headline


def metrics_text(metrics: dict[str, Any]) -> str:
    """metrics.json as text: each split, then its operating points and its calibration."""
    parts = []
    for split, report in metrics["splits"].items():
        parts.append(_split_text(split, report))
        for point in metrics["operating_points"]:
            if found := point["on"].get(split):
                values = next(iter(found["predictive_values"]))
                shown = "  ".join(f"{name} {format_metric(found[name])}" for name in ("sensitivity", "specificity"))
                shown += f"  PPV {format_metric(values['ppv'])} at a prevalence of {values['prevalence']:g}"
                names = ", ".join([point["name"], *point.get("also", [])])
                parts.append(
                    f"  {names}: {point['label']} from {format_number(point['threshold'])} ({point['aim']}): {shown}"
                )
        if calibration := metrics.get("calibration"):
            found = calibration["splits"][split]
            shown = "  ".join(f"{name} {format_metric(found['after'][name])}" for name in ("ece", "brier", "nll"))
            before = ", ".join(
                format_metric({**found["before"][name], "low": None}) for name in ("ece", "brier", "nll")
            )
            parts.append(f"  calibration: {shown}   (before: {before})")
        if familiarity := metrics.get("familiarity"):
            parts.append(f"  called unfamiliar: {format_metric(familiarity['splits'][split]['flagged'])}")
    return "\n".join(parts)


def _split_text(split: str, report: dict[str, Any]) -> str:
    """A split of metrics.json as a small table: overall, by class, by collection; 95 % intervals in brackets."""
    lines = [f"\n{split}: n = {report['n']} images, {report['groups']} groups; 95 % intervals in brackets"]
    first = headline(report["metrics"])
    names = [*first, *(name for name in report["metrics"] if name not in first)]
    lines += [f"  {figure_name(name):<20}{format_metric(report['metrics'][name])}" for name in names]
    for label, figures in report["per_class"].items():
        shown = "  ".join(
            f"{figure_name(name)} {format_metric(figures[name])}" for name in ("auroc", "sensitivity", "specificity")
        )
        lines.append(f"  {label} (n = {figures['n']}): {shown}")
    for name, part in report["collections"].items():
        lines.append(f"  in {name} (n = {part['n']}): {headline_text(part['metrics'])}")
    return "\n".join(lines)


def headline_text(metrics: dict[str, Any]) -> str:
    """The metrics that speak for a model, in one line."""
    return "  ".join(f"{figure_name(key)} {format_metric(metrics[key])}" for key in headline(metrics))
