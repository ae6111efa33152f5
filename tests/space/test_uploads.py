"""What visitors send does not stay: not what was answered, not what nobody asked about, not what MCP clients send."""

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file


@pytest.fixture
def uploads(monkeypatch, tmp_path):
    """space/uploads.py, imported by its bare name as the Space does."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "elsewhere"))
    import uploads

    return uploads


def put(folder: Path, name: str, content: bytes = b"film") -> Path:
    path = folder / name / f"{name}.png"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_what_is_due_is_deleted_and_nothing_else(uploads, tmp_path):
    mine = uploads.Uploads(tmp_path)
    answered, waiting, used, empty = (put(tmp_path, name) for name in ("answered", "waiting", "used", "empty"))
    empty.write_bytes(b"")
    with mine.use([str(answered)]):
        pass
    assert not answered.parent.exists()
    start = time.time()
    with mine.use([str(used)]):
        mine.sweep(start + uploads.EMPTY - 5)
        assert all(path.exists() for path in (waiting, used, empty))
        mine.sweep(start + uploads.EMPTY + 5)
        assert [path.exists() for path in (waiting, used, empty)] == [True, True, False]
        mine.sweep(start + 100 * uploads.UNASKED)
        assert [path.exists() for path in (waiting, used)] == [False, True]
    assert not used.parent.exists()
    mine.sweep(time.time() + uploads.EMPTY)  # a folder goes when it has been empty for a while
    assert not list(tmp_path.iterdir())


def test_two_questions_about_one_file(uploads, tmp_path):
    mine, start = uploads.Uploads(tmp_path), time.time()
    film = put(tmp_path, "film")
    with mine.use([str(film)]):
        with mine.use([str(film)]):
            pass
        mine.sweep(start + 1000)
        assert film.exists()
    assert not film.exists()


def test_a_new_upload_under_the_same_name_waits_anew(uploads, tmp_path):
    mine, start = uploads.Uploads(tmp_path), time.time()
    film = put(tmp_path, "film")
    with mine.use([str(film)]):
        pass
    film.parent.mkdir(exist_ok=True)
    film.write_bytes(b"again")
    mine.sweep(start + uploads.UNASKED - 5)
    assert film.exists()


def test_what_the_page_offers_to_ask_again_stays_longer_and_then_says_that_it_is_gone(uploads, tmp_path):
    from batch import predict_files
    from worker import DELETED, Served

    mine, start = uploads.Uploads(tmp_path), time.time()
    film, again = put(tmp_path, "film"), put(tmp_path, "again")
    with mine.use([str(film), str(again)], uploads.OFFERED):
        pass
    mine.sweep(start + uploads.OFFERED - 5)
    assert film.exists()
    with mine.use([str(again)], uploads.OFFERED):  # another question
        pass
    mine.sweep(time.time() + uploads.OFFERED + 5)
    assert not film.exists()
    source = SimpleNamespace(task="tb", model=str(tmp_path), revision=None)
    assert predict_files(Served(source, [], None), [str(film)]) == [{"file": "film.png", "error": DELETED}]


def test_the_folder_is_of_one_process_alone_and_goes_with_it(uploads, tmp_path):
    told = "import os, uploads; folder = uploads.UPLOADS.folder; print(folder, oct(folder.stat().st_mode)[-3:], os.environ['GRADIO_TEMP_DIR'])"
    environment = {
        **os.environ,
        "GRADIO_TEMP_DIR": str(tmp_path / "all"),
        "PYTHONPATH": str(Path(uploads.__file__).parent),
    }
    done = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True)
    folder, mode, gradios = done.stdout.split()
    assert Path(folder).parent == tmp_path / "all"
    assert (mode, gradios) == ("700", folder)
    assert not list((tmp_path / "all").iterdir())


def test_what_was_shown_is_forgotten_with_the_next_question(uploads, film):
    """Gradio keeps the values of every session's components, and a film is one."""
    import page as pages
    from answer import Answer

    class Stub:
        task, title, labels, facts, example = "tb", "Tuberculosis", ["Normal", "Tuberculosis"], {}, None
        source = SimpleNamespace(model="org/tb", revision=None)

        def __call__(self, source, name="", film=False):
            prediction = {
                "file": name,
                "label": "Normal",
                "scores": {"Normal": 0.9, "Tuberculosis": 0.1},
                "decision": {"name": "argmax", "label": "Tuberculosis", "threshold": 0.5, "positive": False},
                "warnings": [],
            }
            return Answer(prediction, (8, 8), np.ones((2, 2), np.float32), np.ones((8, 8), np.uint8))

    page = pages.build([Stub()], {})
    _, address, _ = page.launch(**{**pages.LAUNCH, "mcp_server": False}, prevent_thread_lock=True, quiet=True)
    try:
        for _ in range(3):
            with httpx.Client(base_url=address, timeout=60) as http:
                (path,) = http.post("/gradio_api/upload", files={"files": ("film.png", film.read_bytes())}).json()
                shown = next(number for number, fn in page.fns.items() if fn.name == "show")
                file = {"path": path, "meta": {"_type": "gradio.FileData"}}
                question = {
                    "data": [file],
                    "fn_index": shown,
                    "session_hash": f"visitor{len(path)}{time.monotonic_ns()}",
                }
                assert http.post("/gradio_api/queue/join", json=question).status_code == 200
                answer = http.get("/gradio_api/queue/data", params={"session_hash": question["session_hash"]}).text
                assert "data:image/png" in answer
        kept = [
            state for state in page.state_holder.session_data.values() if "data:image/png" in str(state.config_values)
        ]
        assert len(kept) <= 1
    finally:
        page.close()


def kept(folder):
    """Files with something in them: gradio leaves an empty one with some requests, which is swept."""
    return {path for path in folder.rglob("*") if path.is_file() and path.stat().st_size}


def test_an_upload_goes_with_its_answer_and_is_nobody_else_s(space, space_uploads, films):
    with httpx.Client(base_url=space, timeout=60) as http:

        def upload():
            files = {"files": ("film.png", films["png"].read_bytes())}
            return http.post("/gradio_api/upload", files=files).raise_for_status().json()[0]

        def ask(path):
            event = http.post("/gradio_api/call/predict_tb", json={"data": [path, False]}).json()["event_id"]
            return http.get(f"/gradio_api/call/predict_tb/{event}").text

        mine, theirs = upload(), upload()
        assert {Path(mine), Path(theirs)} <= kept(space_uploads)
        assert "scores" in ask(mine)
        assert not Path(mine).exists()
        assert "scores" in ask(theirs)
        assert "no longer here" in ask(theirs)


def test_a_space_that_runs_keeps_nothing(space, space_uploads, films):
    before = kept(space_uploads)
    pytest.importorskip("mcp")
    import mcp
    from mcp.client.streamable_http import streamablehttp_client

    address = f"data:image/png;base64,{base64.b64encode(films['png'].read_bytes()).decode()}"

    async def talk():
        async with (
            streamablehttp_client(f"{space}/gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await session.call_tool("predict_tb", {"path": address})

    assert not asyncio.run(talk()).isError
    client = Client(space, verbose=False)
    for kind in films:
        client.predict(handle_file(films[kind]), api_name="/predict_tb")
    answers = client.predict(
        "Tuberculosis", [handle_file(films["png"]), handle_file(films["text"])], api_name="/predict_batch"
    )
    assert len(answers) == 2
    assert kept(space_uploads) == before
    assert "scores" in client.predict(handle_file(films["png"]), api_name="/predict_tb")
    assert httpx.get(space).status_code == 200


NAMES = (
    "../../../up.png",
    "/etc/passwd",
    "..\\..\\up.png",
    "x" * 300 + ".png",
    "\x1b[2J\u202e.png",
    "=1+1.png",
    "a\r\nb.png",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_an_upload_leads_nowhere_and_is_text(name, space, space_uploads, films):
    before = kept(space_uploads)
    with httpx.Client(base_url=space, timeout=60) as http:
        sent = http.post("/gradio_api/upload", files={"files": (name, films["png"].read_bytes())})
        assert sent.status_code == 200
        (path,) = sent.json()
        assert space_uploads.resolve() in Path(path).resolve().parents
        event = http.post("/gradio_api/call/predict_tb", json={"data": [path, False]}).json()["event_id"]
        answer = http.get(f"/gradio_api/call/predict_tb/{event}").text
    assert '"scores"' in answer
    told = json.loads(answer.partition("data: ")[2])[0]["file"]
    assert not re.search(r"[\x00-\x1f\u202e]|/|\\", told)
    assert kept(space_uploads) == before
