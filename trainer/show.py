"""Figures and predictions as lines of text."""

from typing import Any

from hub_cards.figures import figure_name, headline, show_figure, show_number


def show_metrics(metrics: dict[str, Any]) -> str:
    """metrics.json as text: each split, then its operating points and its calibration."""
    parts = []
    for split, report in metrics["splits"].items():
        parts.append(show_report(split, report))
        for point in metrics["operating_points"]:
            if found := point["on"].get(split):
                values = next(iter(found["predictive_values"]))
                shown = "  ".join(f"{name} {show_figure(found[name])}" for name in ("sensitivity", "specificity"))
                shown += f"  PPV {show_figure(values['ppv'])} at a prevalence of {values['prevalence']:g}"
                names = ", ".join([point["name"], *point.get("also", [])])
                parts.append(f"  {names}: {point['label']} from {show_number(point['threshold'])} ({point['aim']}): {shown}")
        if calibration := metrics.get("calibration"):
            found = calibration["splits"][split]
            shown = "  ".join(f"{name} {show_figure(found['after'][name])}" for name in ("ece", "brier", "nll"))
            before = ", ".join(show_figure({**found["before"][name], "low": None}) for name in ("ece", "brier", "nll"))
            parts.append(f"  calibration: {shown}   (before: {before})")
        if familiarity := metrics.get("familiarity"):
            parts.append(f"  called unfamiliar: {show_figure(familiarity['splits'][split]['flagged'])}")
    return "\n".join(parts)


def show_report(split: str, report: dict[str, Any]) -> str:
    """A split of metrics.json as a small table: overall, by class, by collection; 95 % intervals in brackets."""
    lines = [f"\n{split}: n = {report['n']} images, {report['groups']} groups; 95 % intervals in brackets"]
    first = headline(report["metrics"])
    names = [*first, *(name for name in report["metrics"] if name not in first)]
    lines += [f"  {figure_name(name):<20}{show_figure(report['metrics'][name])}" for name in names]
    for label, figures in report["per_class"].items():
        shown = "  ".join(f"{figure_name(name)} {show_figure(figures[name])}" for name in ("auroc", "sensitivity", "specificity"))
        lines.append(f"  {label} (n = {figures['n']}): {shown}")
    for name, part in report["collections"].items():
        lines.append(f"  in {name} (n = {part['n']}): {_headline(part['metrics'])}")
    return "\n".join(lines)


COMPARED = ("auroc", "macro_auroc", "sensitivity", "specificity", "balanced_accuracy", "precision", "f1", "macro_f1", "accuracy")


def show_comparison(runs: list[tuple[str, dict[str, Any], dict[str, Any]]], split: str) -> str:
    """Runs as a Markdown table, each followed by its source's figures: (name, recipe.json, metrics.json) each.

    The source's figures are of its own data and test split, so they orient and do not compare. All but AUROC and
    accuracy are of the decision, which is the argmax in the sources and in runs that are older than this column.
    """
    reports = [(name, recipe, metrics["splits"].get(split)) for name, recipe, metrics in runs]
    shown = [key for key in COMPARED if any(report and key in report["metrics"] for _, _, report in reports)]
    lines = [
        f"| run ({split}) | recipe | decision | n | " + " | ".join(map(figure_name, shown)) + " |",
        "|---" * (4 + len(shown)) + "|",
    ]
    for (name, recipe, report), (*_, metrics) in zip(reports, runs, strict=True):
        figures = report["metrics"] if report else {}
        count = str(report["n"]) if report else "–"
        cells = [name, recipe["name"], show_decision(metrics), count, *(show_figure(figures.get(key)) for key in shown)]
        lines.append("| " + " | ".join(cells) + " |")
        if source := recipe["source"]:
            published = source["figures"]
            cells = [
                "– its source –",
                source["name"],
                "argmax",
                str(source["n"]),
                *(show_number(published[key]) if key in published else "–" for key in shown),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show_decision(metrics: dict[str, Any]) -> str:
    """What decided, where the figures of metrics.json are of a decision; older runs have those of the argmax."""
    point = metrics.get("decision")
    return f"{point['name']}, {point['label']} from {show_number(point['threshold'])}" if point else "argmax"


def show_prediction(prediction: dict[str, Any]) -> str:
    """One line a file: the answer, the scores, the warnings; or the error."""
    if "error" in prediction:
        return f"error: {prediction['error']}"
    scores = "  ".join(f"{label} {show_number(score)}" for label, score in prediction["scores"].items())
    warnings = f"  [{', '.join(prediction['warnings'])}]" if prediction["warnings"] else ""
    return f"{prediction['file']}: {prediction['label']}  ({scores}){warnings}"


def show_check(report: dict[str, Any]) -> str:
    """What `cxr data check` found, worst first."""
    counts = [
        ("patients across splits", report["patients_across_splits"]),
        ("copies across splits", report["copies_across_splits"]),
        ("copies under two labels", report["label_conflicts"]),
        ("pairs of near copies", report["near_copies"]),
        ("pictures stored more than once, byte by byte", report["exact_copies"]),
        ("files that cannot be read", report["unreadable"]),
        ("pictures of an absurd size", report["absurd_sizes"]),
        ("files that are no pictures", report["not_pictures"]),
    ]
    lines = [f"{report['images']} radiographs, " + (f"splits: {', '.join(report['splits'])}" if report["splits"] else "no split given")]
    for name, found in counts:
        lines.append(f"  {len(found):>6}  {name}" + (f"   (first: {_first(found[0])})" if found else ""))
    if not report["copy_search_complete"]:
        lines.append("          the search for near copies stopped at its bound: there may be more")
    lines.append("told without the lungs (cross-validated AUROC, 95 % interval):")
    for kind, parts in report["shortcuts"].items():
        for part, rows in parts.items():
            for row in rows:
                told = f"{_interval(row)}, n = {row['n']}"
                lines.append(f"  {kind}, {part}: {row['label']} {told}{'  SHORTCUT' if row['shortcut'] else ''}")
    return "\n".join(lines)


def show_audit(audit: dict[str, Any]) -> str:
    """What `cxr audit` found; its verdict last."""
    counts = f"n = {audit['n']} images, {audit['groups']} groups, {audit['lung_masks']} with a lung mask"
    lines = [f"{audit['split']}: {counts}; levelled to {audit['level']} pixels; 95 % intervals in brackets"]
    for name, figures in audit["conditions"].items():
        lines.append(f"  {name:<22}{_headline(figures)}")
    if audit["collections"]:
        lines.append("collections, told by the model's features (AUROC, cross-validated):")
        lines += [f"  {row['collection']} among {row['among']}: {_interval(row)}, n = {row['n']}" for row in audit["collections"]]
    if audit["heat_maps"]:
        lines.append(f"heat maps on {audit['heat_maps']['n']} known findings (mean area {show_number(audit['heat_maps']['area'])}):")
        for name, found in audit["heat_maps"]["maps"].items():
            lines.append(
                f"  {name:<30}points into it {show_figure(found['hits'])}   share of the map inside {show_figure(found['inside'])}"
            )
    return "\n".join([*lines, audit["verdict"]["text"]])


def _headline(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{figure_name(key)} {show_figure(metrics[key])}" for key in headline(metrics))


def _interval(row: dict[str, Any]) -> str:
    return show_figure({"value": row["auroc"], "low": row["low"], "high": row["high"]})


def _first(found: Any) -> str:
    if isinstance(found, dict):
        found = found.get("file") or found["files"]
    return found if isinstance(found, str) else ", ".join(found[:2])
