"""The models that ship on each set they were tested on: `python bench/models.py [--write docs/models.md]`.

Every metric comes from the models' own metrics.json, with n and its 95 % interval; sizes and hashes from their files.
Speed is measured here: the median of 20 answers for one drawn film, in turn with the same backbone alone.
"""

import argparse
import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from harness import describe_machine

from hub_cards.formatting import figure_name, format_metric, headline
from trainer.shipped import MODELS

HEAD = """# The models that ship

Made by `python bench/models.py --write docs/models.md` from the models' own files. Research demonstrations, not medical
devices. {note}

Figures with 95 % intervals: sensitivity and specificity at the threshold that ships, accuracy of the highest score.
"""


def describe(task: str, folder: Path) -> list[str]:
    """A model's section: what it is, each collection of test and external, other diseases, the audit."""
    recipe, metrics = (_read(folder, name) for name in ("recipe", "metrics"))
    weights = (folder / "model.safetensors").read_bytes()
    lines = [f"\n## {task}\n"]
    lines.append(f"{', '.join(recipe['labels'])}. Recipe `{recipe['name']}`, backbone {recipe['backbone']}.\n")
    lines.append(f"{len(weights) / 1e6:.2f} MB, sha256 `{sha256(weights).hexdigest()}`, {recipe['licence']}.\n")
    for split, named in (("external", "External"), ("test", "Its own test")):
        part = metrics["splits"][split]
        keys = headline(part["metrics"])
        lines += [
            f"### {named}: n = {part['n']}\n",
            f"| collection | n | {' | '.join([*recipe['labels'], 'learned from', *map(figure_name, keys)])} |",
        ]
        lines.append("|---" * (3 + len(recipe["labels"]) + len(keys)) + "|")
        rows = {**part["collections"], "all": {**part, "trained": None}}
        for name, row in rows.items():
            sizes = row.get("labels") or {label: found["n"] for label, found in part["per_class"].items()}
            known = {True: "other patients", False: "never", None: ""}[row["trained"]]
            figures = [format_metric(row["metrics"].get(key)) for key in keys]
            cells = [name, str(row["n"]), *(str(sizes[label]) for label in recipe["labels"]), known, *figures]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += _audit(metrics["audit"], recipe["labels"])
    return lines


def _audit(audit: dict[str, Any], labels: list[str]) -> list[str]:
    lines = [
        "### Other diseases: what it calls them\n",
        f"| disease | n | {' | '.join(labels)} |",
        "|---" * (2 + len(labels)) + "|",
    ]
    for row in audit["other_diseases"]:
        called = " | ".join(format_metric(row["called"][label]) for label in labels)
        lines.append(f"| {row['label']} of {row['collection']} | {row['n']} | {called} |")
    return [*lines, f"\nShortcut audit (n = {audit['n']}): {audit['verdict']['text']}"]


def measure(tasks: list[str], repeats: int = 20) -> list[str]:
    """Milliseconds for an answer of each model, and of its backbone alone on the same film, in turn."""
    import torch

    from trainer import load_run
    from trainer.data.phantom import draw_phantom
    from trainer.hardware import keep_freed_memory
    from trainer.inference import for_inference

    keep_freed_memory()
    pixels = draw_phantom("Normal", np.random.default_rng(0)).pixels
    lines = ["\n## Speed\n", "| model | one answer, ms | its backbone alone, ms | ratio |", "|---|---|---|---|"]
    for task in tasks:
        model, processor = load_run(task).load_model()
        model = for_inference(model, processor)
        values = processor.to_pixel_values(torch.from_numpy(processor.resize(pixels).copy())[None])
        values = values.contiguous(memory_format=torch.channels_last)
        times: dict[Any, list[float]] = {model: [], model.backbone: []}
        with torch.inference_mode():
            for _ in range(repeats + 3):
                for network, taken in times.items():
                    start = time.perf_counter()
                    network(values)
                    taken.append(1000 * (time.perf_counter() - start))
        whole, alone = (float(np.median(taken[3:])) for taken in times.values())
        lines.append(f"| {task} | {whole:.0f} | {alone:.0f} | {whole / alone:.1f} |")
    machine = describe_machine()
    lines.append(f"\n{machine['processor']} ({machine['cpu_kind']}), {machine['threads']} threads, {machine['date']}.")
    return lines


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    tasks = sorted(path.parent.name for path in MODELS.glob("*/config.json"))
    lines = [HEAD.format(note=_read(MODELS / tasks[0], "recipe")["note"])]
    for task in tasks:
        lines += describe(task, MODELS / task)
    text = "\n".join([*lines, *measure(tasks)]) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
