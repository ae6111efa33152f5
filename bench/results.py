"""Print finished runs as the README's table of results, or write it there: `python bench/results.py RUN… [--write
README.md]`.

Every number comes from the runs' own metrics.json.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from hub_cards.formatting import format_metric

START, END = "<!-- results: made by bench/results.py -->", "<!-- end of results -->"


def describe(run: Path) -> list[str]:
    """One line a split: AUROC (mean with more than two labels), sensitivity, specificity, accuracy; by collection."""
    recipe, metrics = (json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in ("recipe", "metrics"))
    lines = []
    for split in ("test", "external"):
        if split not in metrics["splits"]:
            continue
        part = metrics["splits"][split]
        figures = part["metrics"]
        area = figures.get("auroc") or figures.get("macro_auroc")
        shown = [
            format_metric(found)
            for found in (area, figures.get("sensitivity"), figures.get("specificity"), figures["accuracy"])
        ]
        cells = [f"`{recipe['name']}`", recipe["backbone"], split, str(part["n"]), *shown]
        lines.append(f"| {' | '.join([*cells, _collections(part)])} |")
    return lines


def _collections(part: dict[str, Any]) -> str:
    shown = []
    for name, found in part["collections"].items():
        area = found["metrics"].get("auroc")
        known = f", AUROC {format_metric(area)}" if area and area["value"] is not None else ""
        shown.append(f"{name} (n {found['n']}) {format_metric(found['metrics']['accuracy'])}{known}")
    return "; ".join(shown)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table between the markers of this file")
    options = parser.parse_args()
    head = [
        "| recipe | backbone | split | n | AUROC | sensitivity | specificity | accuracy (argmax) "
        "| by collection: accuracy (argmax), AUROC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    table = "\n".join([*head, *(line for run in options.runs for line in describe(run))])
    print(table)
    if options.write:
        text = options.write.read_text(encoding="utf-8")
        made, count = re.subn(
            f"{re.escape(START)}.*?{re.escape(END)}", f"{START}\n{table}\n{END}", text, flags=re.DOTALL
        )
        if count != 1:
            parser.error(f"{options.write}: needs the markers {START} and {END} once")
        options.write.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
