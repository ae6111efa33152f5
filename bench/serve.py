"""How fast the Space answers: against a bare script and against gr.Interface.from_pipeline.

`python bench/serve.py RUN FILE [--clients 32] [--json FILE]`. RUN is a class model that transformers' own
pipeline loads too (its `native` folder), FILE a radiograph. Each server has a process of its own; the two take turns.
Requests go over HTTP as README's curl lines send them: upload, question, answer; each client has one connection and one
session.

1. Start to first answer.
2. One request, scores and heat map, beside decode + forward in a loop of a script; the two take turns, four requests
each. Then
   what of it is Gradio's: the same request to a server that does nothing, and both by gradio_client, which opens three
   connections a request.
3. Many clients at once: requests a second, ours and gr.Interface.from_pipeline with the same network.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client, handle_file
from harness import describe_machine, write_report

SPACE = Path(__file__).parents[1] / "space"
PEER = """
import importlib, sys, types
import gradio as gr
import transformers.pipelines as known
# gradio 6.31 looks for these and for one that transformers 5 has no more; without them it answers nothing
for name in ("object_detection", "text_classification", "token_classification"):
    importlib.import_module(f"transformers.pipelines.{name}")
gone = ("Text2TextGenerationPipeline", "TranslationPipeline", "SummarizationPipeline")
known.text2text_generation = types.SimpleNamespace(**{name: type(name, (), {}) for name in gone})
from transformers import AutoImageProcessor, AutoModelForImageClassification, ImageClassificationPipeline
class Named(ImageClassificationPipeline):  # gradio 6.31 names the image as transformers 4 did
    __module__ = ImageClassificationPipeline.__module__
    def __call__(self, images, **words):
        return super().__call__(images, **words)
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], subfolder="native")
processor = AutoImageProcessor.from_pretrained(sys.argv[1], subfolder="native")
pipeline = Named(model=model, image_processor=processor, task="image-classification")
gr.Interface.from_pipeline(pipeline, api_name="fn").launch()
"""
NOTHING = """
import gradio as gr
gr.Interface(lambda path, wanted: {}, [gr.File(), gr.Checkbox()], gr.JSON(), api_name="predict_tb").launch()
"""
BARE = """
import sys, time
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
known = {"trust_remote_code": True}
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], **known).eval()
processor = AutoImageProcessor.from_pretrained(sys.argv[1], **known)
for _ in sys.stdin:
    start = time.perf_counter()
    values = processor(sys.argv[2], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        output = model(values)
        model.decide(output)
    print(1000 * (time.perf_counter() - start), flush=True)
"""


@contextmanager
def serve(
    words: list[str], folder: Path, uploads: Path, settings: dict[str, str]
) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """The address of a server, its process, and when it was started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(uploads),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
    }
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **known, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
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


def ask(http: httpx.Client, file: Path, *rest: Any, endpoint: str = "predict_tb") -> Any:
    """One request: upload, question, answer. `rest`: what the endpoint wants beside the file.

    Raises:
        RuntimeError: the server answers with an error.
    """
    (path,) = http.post("/gradio_api/upload", files={"files": (file.name, file.read_bytes())}).raise_for_status().json()
    session = http.headers["x-session"]  # one a client, as browsers and gradio_client have
    data = {
        "data": [{"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}, *rest],
        "session_hash": session,
    }
    event = http.post(f"/gradio_api/call/{endpoint}", json=data).raise_for_status().json()["event_id"]
    told = http.get(f"/gradio_api/call/{endpoint}/{event}").raise_for_status().text
    if "event: complete" not in told:
        raise RuntimeError(told)
    return json.loads(told.rsplit("data: ", 1)[1])[0]


def connect(address: str) -> httpx.Client:
    """A client that keeps its connection, and a session's name."""
    return httpx.Client(base_url=address, timeout=120, headers={"x-session": secrets.token_hex(6)})


def median_ms(work: Callable[[], Any], times: int = 20) -> float:
    """Median of so many calls, in milliseconds, after one that is not counted."""
    work()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)


def take_turns(address: str, run: Path, file: Path, rounds: int) -> list[tuple[float, float]]:
    """Milliseconds of a request with heat map over HTTP, and of the same in a bare script: medians of the rounds."""
    words = [sys.executable, "-c", BARE, str(run), str(file)]
    with (
        connect(address) as http,
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as script,
    ):
        assert script.stdin is not None
        assert script.stdout is not None
        found = []
        for _ in range(rounds + 1):  # the first warms up
            ours = median_ms(lambda: ask(http, file, True), 4)
            script.stdin.write(b"\n" * 5)
            script.stdin.flush()
            found.append((ours, statistics.median([float(script.stdout.readline()) for _ in range(5)][1:])))
        script.stdin.close()
    return found[1:]


def by_client(address: str, file: Path) -> float:
    """Milliseconds of a request with heat map by gradio_client."""
    client = Client(address, verbose=False)
    return median_ms(lambda: client.predict(handle_file(file), True, api_name="/predict_tb"))


def throughput(
    address: str, question: tuple[Any, ...], file: Path, clients: int, each: int
) -> tuple[float, list[Exception]]:
    """Requests a second of so many clients at once, and what failed.

    `question`: the endpoint, and what it wants beside the file.
    """
    endpoint, *rest = question
    failed: list[Exception] = []

    def work(http: httpx.Client) -> None:
        for _ in range(each):
            try:
                ask(http, file, *rest, endpoint=endpoint)
            except Exception as error:  # any failure counts
                failed.append(error)

    ready = [connect(address) for _ in range(clients)]
    threads = [threading.Thread(target=work, args=(http,)) for http in ready]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = clients * each / (time.perf_counter() - start)
    for http in ready:
        http.close()
    return rate, failed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--each", type=int, default=5, help="requests of each client (default 5)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    run, file = options.run.resolve(), options.file.resolve()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, uploads, theirs = (Path(place, name) for name in ("space", "uploads", "uploads of others"))
        shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(place) / "peer.py").write_text(PEER)
        (Path(place) / "nothing.py").write_text(NOTHING)
        settings = {"CXR_TB": str(run), "PYTHONPATH": ""}
        with serve(["app.py"], folder, uploads, settings) as (ours, _, begun):
            with connect(ours) as http:
                ask(http, file, False)
            results["first_answer_s"] = time.perf_counter() - begun
            print(f"start to first answer: {results['first_answer_s']:.1f} s", flush=True)
            rounds = take_turns(ours, run, file, 10 * options.repeats)
            results["rounds_ms"] = rounds
            results["ratio"] = statistics.median([one / other for one, other in rounds])
            results["more_ms"] = statistics.median([one - other for one, other in rounds])
            request, bare = (statistics.median(found) for found in zip(*rounds, strict=True))
            ratio = f"{results['ratio']:.2f}x, {results['more_ms']:.1f} ms more"
            told = f"one request {request:.1f} ms, bare {bare:.1f} ms: {ratio}"
            print(f"{told} (medians of {len(rounds)} rounds)", flush=True)
            with serve([str(Path(place) / "nothing.py")], folder, theirs, {}) as (idle, _, _), connect(idle) as http:
                results["nothing_ms"] = median_ms(lambda: ask(http, file, True))
                results["by_client_ms"] = {"ours": by_client(ours, file), "nothing": by_client(idle, file)}
            shown = "ours {ours:.1f} ms, a server that does nothing {nothing:.1f} ms".format_map(
                results["by_client_ms"]
            )
            print(f"a server that does nothing: {results['nothing_ms']:.1f} ms; by gradio_client: {shown}", flush=True)
            with serve([str(Path(place) / "peer.py"), str(run)], folder, theirs, {}) as (peer, _, _):
                rates: dict[str, list[float]] = {"ours": [], "peer": []}
                errors = 0
                for _ in range(options.repeats):
                    for name, address, question in (("ours", ours, ("predict_tb", False)), ("peer", peer, ("fn",))):
                        rate, failed = throughput(address, question, file, options.clients, options.each)
                        rates[name].append(rate)
                        if name == "peer" and failed:
                            raise RuntimeError("gr.Interface.from_pipeline does not answer") from failed[0]
                        errors += len(failed)
            results["requests_per_s"] = {name: statistics.median(found) for name, found in rates.items()}
            results["throughput_ratio"] = statistics.median(
                [a / b for a, b in zip(rates["ours"], rates["peer"], strict=True)]
            )
            results["errors"] = errors
            shown = ", ".join(f"{name} {rate:.1f}" for name, rate in results["requests_per_s"].items())
            print(
                f"{options.clients} clients, requests/s: {shown}: {results['throughput_ratio']:.2f}x, {errors} errors",
                flush=True,
            )
        results["left_after_stop"] = len(list(uploads.glob("cxr-space-*")))
        print(f"folders left after the stop: {results['left_after_stop']}", flush=True)
    write_report(options.json, machine=describe_machine(), results=results)


if __name__ == "__main__":
    main()
