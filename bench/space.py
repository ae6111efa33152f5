"""How fast the Space answers, and whether it stays up: against a bare script and against gr.Interface.from_pipeline.

`python bench/space.py RUN FILE [--clients 32] [--soak 600] [--json FILE]`. RUN is a class model that transformers' own
pipeline loads too (its `native` folder), FILE a radiograph. Each server has a process of its own; the two take turns.

1. One request, scores and heat map, through the API, beside decode + forward + heat map in a loop of a script.
2. Many clients at once: requests a second, ours and gr.Interface.from_pipeline with the same network.
3. Start to first answer.
4. With --soak SECONDS: sixteen clients send good and hostile files; failed good requests, memory, what is left on disk.
"""

import argparse
import io
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from common import describe_machine, write_report
from gradio_client import Client, handle_file

SPACE = Path(__file__).parents[1] / "space"
PEER = """
import importlib, sys, types
import gradio as gr
import transformers.pipelines as known
for name in ("object_detection", "text_classification", "token_classification"):  # gradio 6.31 looks for these and for one that
    importlib.import_module(f"transformers.pipelines.{name}")  # transformers 5 has no more; without them it answers nothing
gone = ("Text2TextGenerationPipeline", "TranslationPipeline", "SummarizationPipeline")
known.text2text_generation = types.SimpleNamespace(**{name: type(name, (), {}) for name in gone})
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
model, processor = (one.from_pretrained(sys.argv[1], subfolder="native") for one in (AutoModelForImageClassification, AutoImageProcessor))
gr.Interface.from_pipeline(pipeline("image-classification", model=model, image_processor=processor)).launch()
"""
BARE = """
import statistics, sys, time
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
known = {"trust_remote_code": True}
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], **known).eval()
processor = AutoImageProcessor.from_pretrained(sys.argv[1], **known)
times = []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    values = processor(sys.argv[2], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        output = model(values)
        model.decide(output)
    times.append(time.perf_counter() - start)
print(statistics.median(times))
"""


@contextmanager
def serve(words: list[str], folder: Path, uploads: Path, settings: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """The address of a server, its process, and when it was started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(uploads), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], cwd=folder, env={**os.environ, **known, **settings}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                httpx.get(address, timeout=2)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield address, process, begun
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask_ours(client: Client, file: Path, heat_map: bool = False) -> Any:
    """One request to the Space."""
    return client.predict(handle_file(file), heat_map, api_name="/predict_tb")


def ask_peer(client: Client, file: Path) -> Any:
    """One request to gr.Interface."""
    return client.predict(handle_file(file), api_name="/fn")  # as from_pipeline names it


def throughput(address: str, ask: Callable[[Client, Path], Any], file: Path, clients: int, each: int) -> tuple[float, list[Exception]]:
    """Requests a second of so many clients at once, and what failed."""
    ready = [Client(address, verbose=False) for _ in range(clients)]
    failed: list[Exception] = []

    def work(client: Client) -> None:
        for _ in range(each):
            try:
                ask(client, file)
            except Exception as error:  # any failure counts
                failed.append(error)

    threads = [threading.Thread(target=work, args=(client,)) for client in ready]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients * each / (time.perf_counter() - start), failed


def hostile_files(folder: Path, good: Path) -> list[Path]:
    """What a server should survive: not a picture, cut off, a decompression bomb, an archive, nothing at all."""
    from PIL import Image

    content = good.read_bytes()
    (folder / "text.png").write_text("not a picture")
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "empty.dcm").write_bytes(b"")
    Image.new("1", (60_000, 60_000)).save(folder / "bomb.png")
    with zipfile.ZipFile(folder / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(50_000_000))
    buffer = io.BytesIO()
    Image.new("RGB", (30, 4000), (255, 0, 0)).save(buffer, "JPEG")
    (folder / "odd.jpg").write_bytes(buffer.getvalue())
    return sorted(folder.iterdir())


def soak(address: str, process: subprocess.Popen[bytes], uploads: Path, good: Path, seconds: float) -> dict[str, Any]:
    """Sixteen clients, three good files in four; then two minutes of nothing."""
    end, counts = time.monotonic() + seconds, {"good": 0, "failed": 0, "hostile": 0}
    memory: list[tuple[float, int]] = []
    watched = psutil.Process(process.pid)
    with tempfile.TemporaryDirectory() as place:
        bad = hostile_files(Path(place), good)

        def work(number: int) -> None:
            client, turn = Client(address, verbose=False), number
            while time.monotonic() < end:
                turn += 1
                hostile = turn % 4 == 0
                try:
                    answer = ask_ours(client, bad[turn // 4 % len(bad)] if hostile else good)
                    failed = "scores" not in answer
                except Exception:  # the server refused or broke
                    failed = True
                counts["hostile" if hostile else "failed" if failed else "good"] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        while time.monotonic() < end:
            memory.append((time.monotonic() - begun, watched.memory_info().rss))
            time.sleep(5)
        for thread in threads:
            thread.join()
    early = next(size for when, size in memory if when >= min(120, seconds / 5))
    time.sleep(125)
    left = [path for path in uploads.rglob("*") if path.is_file()]
    return {**counts, "rss_mb": round(memory[-1][1] / 1e6), "rss_against_minute_2": memory[-1][1] / early, "files_left": len(left)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--each", type=int, default=5, help="requests of each client (default 5)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--soak", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    run, file = options.run.resolve(), options.file.resolve()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, uploads = Path(place, "space"), Path(place, "uploads")
        shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(place) / "peer.py").write_text(PEER)
        settings = {"CXR_TB": str(run), "PYTHONPATH": ""}
        with serve(["app.py"], folder, uploads, settings) as (ours, process, begun):
            client = Client(ours, verbose=False)
            ask_ours(client, file)
            results["first_answer_s"] = time.perf_counter() - begun
            print(f"start to first answer: {results['first_answer_s']:.1f} s", flush=True)
            api, bare = [], []
            for _ in range(options.repeats):
                times = []
                for _ in range(20):
                    start = time.perf_counter()
                    ask_ours(client, file, True)
                    times.append(time.perf_counter() - start)
                api.append(statistics.median(times))
                bare.append(
                    float(subprocess.check_output([sys.executable, "-c", BARE, str(run), str(file), "20"], stderr=subprocess.DEVNULL))
                )
            results["one_request_ms"], results["bare_ms"] = (1000 * statistics.median(found) for found in (api, bare))
            results["ratio"] = statistics.median([one / other for one, other in zip(api, bare, strict=True)])
            print(f"one request {results['one_request_ms']:.1f} ms, bare {results['bare_ms']:.1f} ms: {results['ratio']:.2f}x", flush=True)
            with serve([str(Path(place) / "peer.py"), str(run)], folder, uploads, {}) as (peer, _, _):
                rates: dict[str, list[float]] = {"ours": [], "peer": []}
                errors = 0
                for _ in range(options.repeats):
                    for name, address, ask in (("ours", ours, ask_ours), ("peer", peer, ask_peer)):
                        rate, failed = throughput(address, ask, file, options.clients, options.each)
                        rates[name].append(rate)
                        if name == "peer" and failed:
                            raise RuntimeError("gr.Interface.from_pipeline does not answer") from failed[0]
                        errors += len(failed)
            results["requests_per_s"] = {name: statistics.median(found) for name, found in rates.items()}
            results["throughput_ratio"] = statistics.median([a / b for a, b in zip(rates["ours"], rates["peer"], strict=True)])
            results["errors"] = errors
            shown = ", ".join(f"{name} {rate:.1f}" for name, rate in results["requests_per_s"].items())
            print(f"{options.clients} clients, requests/s: {shown}: {results['throughput_ratio']:.2f}x, {errors} errors", flush=True)
            if options.soak:
                results["soak"] = soak(ours, process, uploads, file, options.soak)
                print(f"soak: {results['soak']}", flush=True)
    write_report(options.json, machine=describe_machine(), results=results)


if __name__ == "__main__":
    main()
