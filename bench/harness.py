"""What the measurements share: the machine in words, contestants in processes of their own and in turn, tables."""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def describe_machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, GPU and versions."""
    import torch

    from trainer.training.environment import describe

    found = describe([])
    kept = {key: found[key] for key in ("system", "processor", "cpu_kind", "gpus", "python", "date")}
    versions = {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets", *packages)}
    return {
        **kept,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "node": platform.machine(),
    }


def run_child(
    words: list[str],
    python: str = sys.executable,
    home: Path | None = None,
    watch: bool = False,
    variables: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run a script in a process of its own; gives the JSON of its last line.

    Args:
        home: the folder of its caches; an empty one where none is given.
        variables: more of its environment.
        watch: add `peak_gb`, the most memory that it and its processes held at a time, files in memory apart (Linux).

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as empty:
        inherited = {name: value for name, value in os.environ.items() if name != "HF_DATASETS_CACHE"}
        environment = {**inherited, "HF_HOME": str(home or empty), "PYTHONPATH": str(ROOT), **(variables or {})}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen([python, *words], env=environment, stdout=out, stderr=err, text=True)
            peak = 0
            while watch and process.poll() is None:
                peak = max(peak, _memory(process.pid))
                time.sleep(0.1)
            process.wait()
            out.seek(0)
            err.seek(0)
            if process.returncode:
                raise RuntimeError(f"{' '.join(words)}: {err.read()[-2000:]}")
            return {**json.loads(out.read().splitlines()[-1]), **({"peak_gb": peak / 1e6} if watch else {})}


def _memory(pid: int) -> int:
    """kB that a process and those below it hold, each page counted once; pages that belong to files are not counted."""
    total = 0
    for process in [pid, *_children(pid)]:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # it ended just now
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total


def _children(pid: int) -> list[int]:
    try:
        found = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [*found, *(below for child in found for below in _children(child))]


def interleave(contestants: dict[str, Callable[[], dict[str, Any]]], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Let each run in turn, `repeats` times: a machine that drifts then drifts for all.

    One that cannot run is left out, aloud.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in list(contestants.items()):
            try:
                results[name].append(contestant())
                print(f"  {name}: {json.dumps(results[name][-1])}", file=sys.stderr, flush=True)
            except RuntimeError as error:
                print(
                    f"  {name} cannot run here and is left out: {str(error).strip().splitlines()[-1]}",
                    file=sys.stderr,
                    flush=True,
                )
                del contestants[name], results[name]
    return results


def median(results: list[dict[str, Any]], key: str) -> float:
    """Of one figure over the repeats; nan where there is none."""
    values = [result[key] for result in results]
    return math.nan if None in values else statistics.median(values)


def write_report(file: Path | None, **content: Any) -> None:
    """Print the machine below the table, and write the whole measurement as JSON; `machine` is `describe_machine`'s."""
    machine = content["machine"]
    where = ", ".join([machine["processor"], machine["cpu_kind"], f"{machine['threads']} threads", *machine["gpus"]])
    print(f"\n{where}, torch {machine['versions']['torch']}, {machine['date']}")
    if file:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def draw_splits(folder: Path, train: int, validation: int) -> Path:
    """Phantoms as FOLDER/{train,validation,test}/<Label>/*.png, two labels; kept where they are already."""
    from trainer.data.phantom import write_phantoms

    for number, (split, count) in enumerate({"train": train, "validation": validation, "test": 16}.items()):
        target = folder / split
        if len(list(target.rglob("*.png"))) != count:
            write_phantoms(target, "tb", count, seed=number)
    return folder
