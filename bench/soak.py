"""The Space under attack: clients that send good films and hostile files; right answers, waits, memory, what is left.

`python bench/soak.py RUN FILM... [--seconds 300] [--clients 8] [--json FILE]`; RUN is a tb model.
Every fifth file is hostile: those of `tests/hostile` that may be uploaded, in turn, and what is left of valid ones. A
good answer is right where its scores are those that the same film had before.
"""

import argparse
import random
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from harness import ROOT, describe_machine, write_report
from serve import SPACE, ask, connect, serve

LARGEST = 64 << 20  # bytes that the Space takes
EVERY = 5  # one file in so many is hostile


@dataclass
class Counts:
    """What the clients saw."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    read: int = 0
    broken: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def write_hostile_files(folder: Path) -> list[Path]:
    """One file of each kind, and two mutations of each valid one."""
    from tests.hostile import more_files  # noqa: F401  it names more kinds
    from tests.hostile.files import KINDS, VALID, mutations

    folder.mkdir()
    made = {name: make() for name, make in KINDS.items()}
    for valid in VALID:
        made |= dict(random.Random(valid).sample(sorted(mutations(valid).items()), 2))
    for name, content in made.items():
        if len(content) <= LARGEST:
            (folder / f"{name}.png").write_bytes(content)
    return sorted(folder.iterdir())


def send(address: str, films: dict[Path, Any], hostile: list[Path], number: int, end: float, counts: Counts) -> None:
    """One client, until the time is over."""
    order, turn = random.Random(number), number
    with connect(address) as http:
        while time.monotonic() < end:
            turn += 1
            bad = turn % EVERY == 0
            file = hostile[(turn // EVERY * 7 + number * 13) % len(hostile)] if bad else order.choice(sorted(films))
            begun = time.monotonic()
            try:
                answer = ask(http, file, False)
            except (httpx.HTTPError, RuntimeError, ValueError) as error:  # the server refused or broke
                (counts.broken if bad else counts.wrong).append(f"{file.name}: {error!r}"[:300])
                continue
            if bad:
                counts.read += "scores" in answer
                counts.refused += "error" in answer
                if "our" in answer.get("error", "").split():
                    counts.broken.append(f"{file.name}: {answer['error']}")
                continue
            counts.waits.append(time.monotonic() - begun)
            if "scores" in answer and np.allclose(list(answer["scores"].values()), films[file], atol=1e-3):
                counts.right += 1
            else:
                counts.wrong.append(f"{file.name}: {answer}"[:300])


def memory(process: psutil.Process) -> float:
    """Resident memory of a process and all that it started, GB."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e9


def soak(
    address: str, watched: psutil.Process, films: list[Path], hostile: list[Path], seconds: float, clients: int
) -> dict[str, Any]:
    """Each film once, then the attack, then a minute of nothing."""
    with connect(address) as http:
        known = {film: list(ask(http, film, False)["scores"].values()) for film in films}
    start, peak, counts = memory(watched), [0.0], Counts()
    print(f"before: {start:.2f} GB", flush=True)
    run_clients(address, known, hostile, clients, seconds, counts, lambda: peak.append(memory(watched)))
    after = memory(watched)
    time.sleep(60)
    median, late, most = np.quantile(counts.waits, (0.5, 0.99, 1)).tolist()
    return {
        "good": {"right": counts.right, "wrong": len(counts.wrong), "first wrong": counts.wrong[:5]},
        "hostile": {"refused": counts.refused, "read": counts.read, "broken": counts.broken[:5]},
        "wait_s": {"median": median, "99 %": late, "most": most},
        "memory_gb": {"start": start, "peak": max(peak), "end": after, "a minute later": memory(watched)},
    }


def run_clients(
    address: str,
    films: dict[Path, Any],
    hostile: list[Path],
    clients: int,
    seconds: float,
    counts: Counts,
    watch: Any = lambda: None,
) -> None:
    """So many clients at once; `watch` is called every second."""
    end = time.monotonic() + seconds
    words = [(address, films, hostile, number, end, counts) for number in range(clients)]
    threads = [threading.Thread(target=send, args=own) for own in words]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        watch()
        time.sleep(1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("films", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, uploads = Path(place, "space"), Path(place, "uploads")
        shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        hostile = write_hostile_files(Path(place, "hostile"))
        settings = {"CXR_TB": str(options.run.resolve()), "PYTHONPATH": ""}
        with serve(["app.py"], folder, uploads, settings) as (address, process, _):
            films = [film.resolve() for film in options.films]
            print(f"served: {memory(psutil.Process(process.pid)):.2f} GB", flush=True)
            results = soak(address, psutil.Process(process.pid), films, hostile, options.seconds, options.clients)
            results["left"] = [str(path.relative_to(uploads)) for path in uploads.rglob("*") if path.is_file()]
    for name, result in results.items():
        print(f"{name}: {result}")
    write_report(options.json, machine=describe_machine(), results=results)


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(ROOT))
    main()
