"""What `cxr adapt` prints."""

from typing import Any

from hub_cards.formatting import format_metric, format_number
from trainer.commands.tables import subgroup_lines


def look_text(report: dict[str, Any], verdict: str) -> str:
    """A first look as lines."""
    lines = [f"{report['n']} films, {len(report['skipped'])} files that cannot be read; {verdict}"]
    if report["learned"]:
        lines.append(f"  {report['learned']} of them trained or tuned this model: they say little")
    known = {name: part for name, part in report["known"].items() if name in ("validation", "test", "external")}
    flagged = [f"{name} {format_metric(part['unfamiliar'])}" for name, part in known.items() if "unfamiliar" in part]
    lines.append(
        f"  unfamiliar         {format_metric(report['unfamiliar'])}; of its own {', '.join(flagged) or 'unknown'}"
    )
    lines.append(f"  no lungs found     {format_metric(report['no_lungs'])}")
    for title, counts in (("answers", report["decisions"]), ("warnings", report["warnings"])):
        lines.append(f"  {title:<18} {', '.join(f'{name} {count}' for name, count in counts.items()) or 'none'}")
    lines.append(f"  shorter side       {_quantiles_text(report['pixels'], '{:.0f}')} pixels")
    lines.append(f"  median grey        {_quantiles_text(report['grey'], '{:.2f}')} of 1")
    for label, values in report["scores"].items():
        own = [f"{name} {_quantiles_text(part['scores'][label])}" for name, part in known.items() if "scores" in part]
        lines.append(f"  score of {label}: {_quantiles_text(values)}; of its own {', '.join(own) or 'unknown'}")
    return "\n".join([*lines, "  (5 %, 25 %, 50 %, 75 % and 95 % of the films are below; 95 % intervals in brackets)"])


def _quantiles_text(values: list[float], form: str = "") -> str:
    return " ".join(form.format(value) if form else format_number(value) for value in values)


def to_text(report: dict[str, Any]) -> str:
    """The report as lines."""
    from trainer.adaptation.selection import SENTENCES

    films = ", ".join(f"{count} {label}" for label, count in report["labels"].items())
    lines = [f"{report['n']} films of {report['groups']} groups ({films}); aim: {report['aim']}"]
    lines.append(f"{SENTENCES[report['method']]}: {report['reason']}")
    threshold = report["threshold"]
    if threshold["after"] is not None:
        lines.append(_changed("threshold", *(format_number(threshold[when]) for when in ("before", "after"))))
    if report["method"] in ("calibration", "head"):
        intercepts = ", ".join(f"{label} {value:+.2f}" for label, value in report["intercepts"].items())
        lines.append(f"  scores             slope {report['slope']:.2f}, intercepts {intercepts}")
    before, after = report["before"], report["after"]
    for name, metric in after.items():
        if isinstance(metric, dict) and "value" in metric:
            lines.append(_changed(name.replace("_", " "), format_metric(before[name]), format_metric(metric)))
    for label in after.get("per_class", ()):
        for name in ("auroc", "sensitivity"):
            values = (format_metric(part["per_class"][label][name]) for part in (before, after))
            lines.append(_changed(f"{label}, {name}", *values))
    for label, gain in report.get("gain", {}).items():
        interval = f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
        lines.append(f"  AUROC of {label} rises by {interval}, on the same films")
    if "expected" in after:
        lines += _lines_of_scores(report)
    else:
        lines.append("  after: on these films, which chose the threshold; the interval is of films to come")
    for row in report.get("population", []):
        chosen = " (chosen)" if row["chosen"] else ""
        counts = f"found {row['found']:.1f}, missed {row['missed']:.1f}, false alarms {row['false_alarms']:.0f}"
        tests = "no case" if row["tests_per_case"] is None else f"{row['tests_per_case']:.1f} tests for each case found"
        lines.append(f"  of 1,000 screened, from {format_number(row['threshold'])}{chosen}: {counts}, {tests}")
    return "\n".join([*lines, *subgroup_lines(report.get("subgroups"))])


def _changed(name: str, before: str, after: str) -> str:
    return f"  {name:<18} {before} -> {after}"


def _lines_of_scores(report: dict[str, Any]) -> list[str]:
    """Lines on the scores: how many films of each label they expect, the mixture they assume, the forecast, and how
    many films an interval takes.
    """
    lines = []
    for label, count in report["labels"].items():
        expected = _changed("", *(f"{report[when]['expected'][label]:.1f}" for when in ("before", "after"))).strip()
        lines.append(f"  expected {label}: {expected}; there are {count}")
    assumed = "the training's"
    if report["method"] in ("calibration", "head"):
        assumed = f"a prevalence of {report['prevalence']:g}" if report["prevalence"] else "that of these films"
    lines.append(f"  after: out of fold; the mixture that scores assume: {assumed}")
    if curve := report.get("forecast"):
        points = ", ".join(
            f"{n} films {format_number(value)}" for n, value in zip(curve["films"], curve["auroc"], strict=True)
        )
        twice = f"{curve['twice']['films']} films {format_number(curve['twice']['auroc'])}"
        lines.append(f"  a new last layer, mean AUROC on others: {points}; forecast for {twice}")
    if needed := report.get("films_needed"):
        within = f"within 5 points takes about {needed['0.05']} such films, within 10 points {needed['0.10']}"
        lines.append(f"  a sensitivity {within}")
    return lines
