"""From a folder to the first training batch, at several sizes: seconds cold and warm, and memory.

`python bench/scale.py [--counts 1000 4000 21165] [--phantoms DIR] [--json FILE]`. Draws phantoms with the class sizes
of the COVID-19 Radiography Database, then lists, hashes, decodes, looks for copies, splits, makes one augmented batch
and takes three steps of MobileNet-V2, each time in a process of its own: first with an empty cache, then with the one
the first left. Memory is what cannot be given back (files in memory apart), the most at a time of all processes
together; `beyond` is what is above a process that takes the same steps on a random batch without any data.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from harness import describe_machine, median, run_child, write_report

SHARES = {"COVID": 3616, "Lung_Opacity": 6012, "Normal": 10192, "Viral Pneumonia": 1345}
BATCH = 32


def child(folder: str) -> None:
    """With a folder: prepare it and train three steps; without: the steps alone."""
    import numpy as np
    import torch
    from accelerate import Accelerator

    from trainer.data.labelled import load_for_training
    from trainer.hardware import choose_precision
    from trainer.recipes import get_recipe
    from trainer.tasks import TASKS
    from trainer.training.build import build_model, build_processor, load_backbone
    from trainer.training.feed import PixelFeed, TrainingData
    from trainer.training.fused import fuse
    from trainer.training.loop import make_optimizer

    start = time.perf_counter()
    recipe = get_recipe("covid-finetuned")
    processor = build_processor(recipe)
    values, found = torch.zeros(BATCH, 3, recipe.image_size, recipe.image_size), {}
    if folder:
        labelled, _ = load_for_training(folder, TASKS[recipe.task], processor, None, False, lambda text: None)
        feed = PixelFeed(labelled.images, processor, torch.device("cpu"), recipe, TrainingData.of(labelled))
        order = np.random.default_rng(0).permutation(labelled.indices("train"))
        values = feed.training(order[:BATCH], 0)
        found["first_batch"] = time.perf_counter() - start
        begun = time.perf_counter()
        rounds = range(0, min(len(order), 100 * BATCH), BATCH)
        for first in rounds:
            labelled.images.batch(order[first : first + BATCH])
        found["read_32"] = (time.perf_counter() - begun) / len(rounds)
    accelerator = Accelerator(cpu=True, mixed_precision=choose_precision("auto")[0])
    model = build_model(recipe, tuple(SHARES), load_backbone(recipe, recipe.backbone, False))
    model.update_statistics = False
    fuse(model.to(memory_format=torch.channels_last))
    trained, optimizer = accelerator.prepare(model.train(), make_optimizer(model, recipe))
    for _ in range(3):
        accelerator.backward(trained(values).logits.square().mean())
        optimizer.step()
        optimizer.zero_grad()
    print(json.dumps(found))


def _draw(job: tuple[str, str, int]) -> None:
    import numpy as np
    from PIL import Image

    from trainer.data.phantom import draw_phantom

    folder, label, number = job
    file = Path(folder, label, f"{number:05d}.png")
    if not file.exists():
        Image.fromarray(draw_phantom(label, np.random.default_rng([number, len(label)])).pixels).save(file)


def draw(folder: Path, count: int) -> None:
    """`count` phantoms in the radiography database's proportions; those that are there are kept."""
    jobs = []
    for label, share in SHARES.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        jobs += [(str(folder), label, number) for number in range(round(count * share / sum(SHARES.values())))]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_draw, jobs, chunksize=64))


def measure(folder: Path, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """The steps alone, a cold run and `repeats` warm ones."""
    script = str(Path(__file__).resolve())
    with tempfile.TemporaryDirectory() as home:
        runs = [run_child([script, "--child", str(folder)], home=Path(home), watch=True) for _ in range(1 + repeats)]
    alone = run_child([script, "--child", ""], watch=True)
    return {"steps alone": [alone], "cold": runs[:1], "warm": runs[1:]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000, 21165])
    parser.add_argument("--repeats", type=int, default=1, help="warm runs (default 1)")
    parser.add_argument("--phantoms", type=Path, help="keep the drawn images below this folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child)
        return
    report: dict[str, Any] = {}
    print(
        "| images | run | to the first batch, s | 32 images read, ms | peak memory, GB | beyond the steps alone, GB |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for count in options.counts:
            folder = (options.phantoms or Path(place)) / str(count)
            print(f"drawing {count} phantoms", file=sys.stderr, flush=True)
            draw(folder, count)
            report[str(count)] = found = measure(folder, options.repeats)
            least = median(found["steps alone"], "peak_gb")
            for name in ("cold", "warm"):
                first, read, peak = (median(found[name], key) for key in ("first_batch", "read_32", "peak_gb"))
                print(
                    f"| {count} | {name} | {first:.1f} | {1000 * read:.1f} | {peak:.2f} | {peak - least:.2f} |",
                    flush=True,
                )
    write_report(options.json, machine=describe_machine(), results=report)


if __name__ == "__main__":
    main()
