"""From a folder to the first training batch, at several sizes: seconds cold and warm, and peak memory.

`python bench/scale.py [--counts 1000 4000 21165] [--json FILE]`. Draws phantoms with the class sizes of the COVID-19
Radiography Database, then lists, hashes, decodes, looks for copies, splits and makes one augmented batch, each time in
a process of its own: first with an empty cache, then with the one the first left.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SHARES = {"COVID": 3616, "Lung_Opacity": 6012, "Normal": 10192, "Viral Pneumonia": 1345}
CHILD = """
import json, resource, sys, time
import numpy as np, torch
from trainer.recipes import get_recipe
from trainer.training.build import default_processor
from trainer.training.feed import PixelFeed
from trainer import workflow
start = time.perf_counter()
recipe = get_recipe("covid")
processor = default_processor(recipe)
study, _ = workflow.prepare(recipe, workflow.TrainOptions(sys.argv[1], "unused"), processor, lambda text: None)
ready = time.perf_counter() - start
feed = PixelFeed(study.images, processor, torch.device("cpu"), recipe)
order = np.random.default_rng(0).permutation(study.indices("train"))
batches = [order[i : i + 32] for i in range(0, min(len(order), 3200), 32)]
feed.training(batches[0], 0)
first = time.perf_counter() - start
each = []
for batch in batches:
    begun = time.perf_counter()
    study.images.batch(batch)
    each.append(time.perf_counter() - begun)
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6
keys = ("ready", "first_batch", "read_32", "peak_gb", "anonymous_gb")
anonymous = sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1e6
print(json.dumps(dict(zip(keys, (ready, first, sorted(each)[len(each) // 2], peak, anonymous)))))
"""


def _draw(job: tuple[str, str, int]) -> None:
    from trainer.data.phantom import draw_phantom

    folder, label, number = job
    Image.fromarray(draw_phantom(label, np.random.default_rng([number, len(label)])).pixels).save(f"{folder}/{label}/{number:05d}.png")


def draw(folder: Path, count: int) -> None:
    """`count` phantoms in the radiography database's proportions."""
    jobs = []
    for label, share in SHARES.items():
        (folder / label).mkdir(parents=True)
        jobs += [(str(folder), label, number) for number in range(round(count * share / sum(SHARES.values())))]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_draw, jobs, chunksize=64))


def measure(folder: Path, home: Path, repeats: int) -> dict[str, dict[str, float]]:
    """One cold run and the median of `repeats` warm ones."""
    runs = []
    for _ in range(1 + repeats):
        environment = {**os.environ, "HF_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", CHILD, str(folder)], env=environment, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {"cold": runs[0], "warm": {key: statistics.median(run[key] for run in runs[1:]) for key in runs[0]}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000, 21165])
    parser.add_argument("--repeats", type=int, default=1, help="warm runs (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    report: dict[str, object] = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "python": sys.version}
    print("| images | run | to the first batch, s | 32 images read, ms | peak memory, GB | of it not file-backed, at the end, GB |")
    print("|---|---|---|---|---|---|")
    for count in options.counts:
        with tempfile.TemporaryDirectory() as place:
            draw(Path(place, "data"), count)
            report[str(count)] = found = measure(Path(place, "data"), Path(place, "home"), options.repeats)
        for name, run in found.items():
            cells = (run["first_batch"], 1000 * run["read_32"], run["peak_gb"], run["anonymous_gb"])
            print(f"| {count} | {name} | {cells[0]:.1f} | {cells[1]:.1f} | {cells[2]:.2f} | {cells[3]:.2f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
