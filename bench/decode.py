"""Images a second of the first reading of a folder, beside a bare Pillow decode and resize on the same cores.

`python bench/decode.py [--data DIR] [--json FILE]`. Ours hashes each file, reads it with the reader that the models
carry and keeps the arrays in datasets' cache; the bare loop opens, converts to grey and resizes, in as many processes,
and throws the arrays away. They take turns; each time with an empty cache. Without --data it draws phantoms, as PNG of
320 pixels and enlarged to JPEG of 1024.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from harness import ROOT, describe_machine, interleave, median, run_child, write_report

SIDE = 224


def bare(files: list[str]) -> float:
    """Seconds of the bare loop."""
    start = time.perf_counter()
    with ProcessPoolExecutor() as pool:
        list(pool.map(_bare_one, files, chunksize=64))
    return time.perf_counter() - start


def _bare_one(file: str) -> int:
    import numpy as np
    from PIL import Image

    with Image.open(file) as image:
        return int(np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))[0, 0])


def ours(folder: str) -> float:
    """Seconds from the folder to arrays in the cache."""
    from trainer.data.manifest import read_manifest
    from trainer.data.pixels import decode
    from trainer.recipes import get_recipe
    from trainer.training.build import build_processor

    processor = build_processor(get_recipe("tb-finetuned"))
    start = time.perf_counter()
    decode(read_manifest(folder).rows, processor)
    return time.perf_counter() - start


def draw(folder: Path, count: int) -> dict[str, Path]:
    """Phantoms as small PNG and as large JPEG."""
    from PIL import Image

    from trainer.data.phantom import write_phantoms

    write_phantoms(folder / "png", "tb", count, seed=0)
    for file in (folder / "png").rglob("*.png"):
        target = folder / "jpeg" / file.parent.name / f"{file.stem}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).resize((1024, 1024)).save(target, quality=90)
    return {"PNG, 320 pixels": folder / "png", "JPEG, 1024 pixels": folder / "jpeg"}


def child(name: str, folder: str) -> None:
    """One measurement, in a process of its own."""
    import json

    files = sorted(str(file) for file in Path(folder).rglob("*") if file.is_file())
    seconds = ours(folder) if name == "ours" else bare(files)
    print(json.dumps({"images_per_s": len(files) / seconds}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of class folders (default: phantoms)")
    parser.add_argument("--images", type=int, default=4000, help="phantoms to draw (default 4000)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    report: dict[str, Any] = {}
    print("| images | ours, images/s | bare Pillow, images/s | ours / bare, median of pairs |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for title, folder in (
            {options.data.name: options.data} if options.data else draw(Path(place), options.images)
        ).items():
            script = str(ROOT / "bench" / "decode.py")
            contestants = {
                name: partial(run_child, [script, "--child", name, str(folder)]) for name in ("ours", "bare")
            }
            report[title] = runs = interleave(contestants, options.repeats)
            pairs = [
                one["images_per_s"] / other["images_per_s"]
                for one, other in zip(runs["ours"], runs["bare"], strict=True)
            ]
            own, plain = (median(runs[name], "images_per_s") for name in ("ours", "bare"))
            print(f"| {title} | {own:.0f} | {plain:.0f} | {statistics.median(pairs):.2f} |", flush=True)
    write_report(options.json, machine=describe_machine(), results=report)


if __name__ == "__main__":
    main()
