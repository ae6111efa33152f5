"""The three models that ship: `python bench/baselines.py RADIOGRAPHS --backbone ID_OR_DIR [--task tb …]`.

RADIOGRAPHS holds manifest.csv (file, label, collection), tasks/{tb,covid,three-class}.csv (file, label, split, group,
collection: the fixed splits), lung_masks.csv and lesion_boxes.csv, with paths relative to each file. To the splits are
added, for training, films without a finding of other collections: they teach how such films differ. Each recipe is
trained and audited (`cxr train`, `cxr audit --other-diseases`) in a work folder; what is published of the run, without
the code that travels with every model, goes to space/models.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import ROOT

SPLITS = ("external", "test", "validation", "train")  # a film that is in several tasks is on the strictest side
# Films added to a task: collection, label in the manifest, label in the task, the most of each split.
EVERY = 10**6
ADDED = {
    "tb": [
        ("kermany", "normal", "Normal", {"train": 250, "validation": 80, "test": EVERY}),
        ("jsrt", "normal", "Normal", {"train": EVERY, "validation": EVERY, "test": EVERY}),
    ],
    "covid": [
        (collection, "normal", "Normal", {"train": EVERY}) for collection in ("nih-chestxray14", "jsrt", "shenzhen")
    ],
    "three-class": [
        *((collection, "normal", "Normal", {"train": EVERY}) for collection in ("nih-chestxray14", "jsrt", "shenzhen")),
        ("nih-chestxray14", "pneumonia", "Pneumonia", {"train": EVERY}),
    ],
}
# What each model is asked beside its question: collection, label, how many, their side.
OTHERS = {
    "tb": [
        ("nih-chestxray14", "pneumonia", EVERY, SPLITS),
        ("covid19-radiography", "covid", 300, ("test",)),
        ("kermany", "bacterial_pneumonia", 150, ("test",)),
        ("kermany", "viral_pneumonia", 150, ("test",)),
        ("jsrt", "nodule", EVERY, SPLITS),
    ],
    "covid": [("shenzhen", "tuberculosis", EVERY, ("test",)), ("montgomery", "tuberculosis", EVERY, ("external",))],
    "three-class": [
        ("shenzhen", "tuberculosis", EVERY, ("test",)),
        ("montgomery", "tuberculosis", EVERY, ("external",)),
    ],
}
TERMS = ("title", "page", "licence", "citation")
LICENCE = "cc-by-nc-4.0"
NOTE = "Smaller stand-ins of the public sets, not all of their films: no figure compares with other people's."


def read_films(radiographs: Path) -> pd.DataFrame:
    """The manifest with absolute paths, each film's group and its side over all tasks, and its row in each task."""
    films = _read(radiographs / "manifest.csv").set_index("file", drop=False)
    masks = _read(radiographs / "lung_masks.csv")
    known = [masks.loc[masks["collection"] == "jsrt", ["file", "split"]].assign(group="")]
    known += [_read(radiographs / "tasks" / f"{task}.csv")[["file", "split", "group"]] for task in ADDED]
    rows = pd.concat(known)
    sides = rows.assign(rank=rows["split"].map(SPLITS.index)).groupby("file").agg({"rank": "min", "group": "max"})
    films["side"] = sides["rank"].map(lambda rank: SPLITS[rank]).reindex(films.index).fillna("")
    groups = sides["group"].reindex(films.index).fillna("")
    films["group"] = groups.where(groups != "", films["patient_id"])
    return films


def _read(file: Path) -> pd.DataFrame:
    """A table with its files' paths absolute."""
    if not file.is_file():
        raise SystemExit(f"{file}: not found; name the folder with the radiographs and their splits (see --help)")
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    for column in {"file", "mask"} & set(table):
        table[column] = [str((file.parent / name).resolve()) for name in table[column]]
    return table


def write_data(radiographs: Path, task: str, folder: Path) -> None:
    """data.csv of a task, with what lies beside it: outlines, lesions, others.csv and SOURCE.json."""
    films, rng = read_films(radiographs), np.random.default_rng(0)
    parts = [_read(radiographs / "tasks" / f"{task}.csv")]

    def some(collection: str, label: str, side: str, most: int) -> pd.DataFrame:
        found = films[(films["collection"] == collection) & (films["label"] == label) & (films["side"] == side)]
        return found.iloc[rng.permutation(len(found))[:most]]

    for collection, label, named, sizes in ADDED[task]:
        for split, most in sizes.items():
            parts.append(some(collection, label, split, most).assign(label=named, split=split))
    table = pd.concat(parts)[["file", "label", "split", "group", "collection"]].drop_duplicates("file")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "data.csv", index=False)
    for name in ("lung_masks", "lesion_boxes"):
        _read(radiographs / f"{name}.csv").to_csv(folder / f"{name}.csv", index=False)
    others = [some(collection, label, side, most) for collection, label, most, sides in OTHERS[task] for side in sides]
    pd.concat(others)[["file", "label", "group", "collection"]].to_csv(folder / "others.csv", index=False)
    _write_sources(set(table["collection"]), folder)


def _write_sources(collections: set[str], folder: Path) -> None:
    """SOURCE.json: title, page, licence and citation of the collections, and of the backbone's weights."""
    from trainer.data.public.sets import PUBLIC_SETS

    more = tomllib.loads((ROOT / "bench" / "baselines.toml").read_text(encoding="utf-8"))
    sets: list[dict[str, Any]] = []
    for name in [*sorted(collections), "backbone"]:
        known = more.get(name) or {key: getattr(PUBLIC_SETS[name], key) for key in TERMS}
        sets.append({"name": name, **known})
    (folder / "SOURCE.json").write_text(json.dumps({"sets": sets}, indent=1), encoding="utf-8")


def cxr(*words: str | Path) -> None:
    """Run a command of this project."""
    subprocess.run([sys.executable, "-m", "trainer", *map(str, words)], cwd=ROOT, check=True)


def ship(run: Path, models: Path, task: str) -> None:
    """Put what is published of a run into the folder of models that ship, without the code that travels."""
    from hub_cards.publish import contract_files
    from trainer.recipes import get_recipe
    from trainer.run import Run

    shutil.rmtree(models / task, ignore_errors=True)
    for name in contract_files(run):
        if not name.endswith(".py"):
            (models / task / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / name, models / task / name)
    shipped = Run(models / task)
    named = {"backbone": get_recipe(task).backbone, "licence": LICENCE, "note": NOTE}  # also where a folder was given
    shipped.write_json("recipe.json", {**shipped.read_json("recipe.json"), **named})
    metrics = shipped.read_json("metrics.json")
    shipped.write_json("metrics.json", {**metrics, "example": choose_example(shipped)})
    shipped.write_card()
    size = (models / task / "model.safetensors").stat().st_size
    print(f"{models / task}: weights {size / 1e6:.2f} MB")


def choose_example(run: Any) -> dict[str, Any]:
    """Write the phantom that a model finds most familiar, of some that it answers as they are drawn: the recipes know
    films, and call most drawings unfamiliar.
    """
    from trainer.data.phantom import FINDINGS, draw_phantom
    from trainer.finish import write_example
    from trainer.inference import predict_image

    model, processor = run.load_model()
    best: tuple[float, dict[str, Any]] = (-1.0, {})
    for number in range(120):
        labels = [label for label in model.labels if label in FINDINGS]
        drawn = {"label": labels[number % len(labels)], "seed": number, "blur": 2.5 + number % 3}
        pixels = draw_phantom(drawn["label"], np.random.default_rng(number), drawn["blur"]).pixels
        answer = predict_image(model, processor, pixels)
        right = answer["label"] == drawn["label"] and "no-lungs" not in answer["warnings"]
        best = max(best, (answer["familiarity"] + right, drawn), key=lambda one: one[0])
    return write_example(run, model, processor, **best[1])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("radiographs", type=Path)
    parser.add_argument("--backbone", default="google/mobilenet_v2_1.0_224", help="a Hub id, or a folder that holds it")
    parser.add_argument("--task", nargs="+", choices=list(ADDED), default=list(ADDED))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "baselines", help="for data tables and runs")
    parser.add_argument("--models", type=Path, default=ROOT / "space" / "models")
    options = parser.parse_args()
    for task in options.task:
        folder = (options.work / task).resolve()
        data, run = folder / "data.csv", folder / "run"
        write_data(options.radiographs, task, folder)
        cxr("train", task, "--data", data, "--output", run, "--backbone", options.backbone, "--resume")
        cxr("audit", run, "--data", data, "--other-diseases", folder / "others.csv")
        ship(run, options.models.resolve(), task)


if __name__ == "__main__":
    main()
