"""A local Hub: the HTTP API that the real huggingface_hub client speaks, with each commit of a repository a folder on disk.

Tests read what was asked, let a request fail with a status (`hub.fail`) or cut the line after so many bytes (`Line`).
"""

import hashlib
import json
import secrets
import shutil
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

TOKEN = "hf_localtesttoken"
OTHER = "hf_anotheraccount"  # may read what is public, and write nothing
LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-nc-4.0", "other")
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass
class Hub:
    """Where the repositories lie and what was asked; `fail` maps a part of a path to the status it answers with, once each.

    `commits` holds the commits of each repository in their order, `heads` the newest of each branch; `private` and
    `gated` name repositories (`models/org/tb`) that only the owner of TOKEN reads, `created` what was asked for.
    """

    root: Path
    endpoint: str = ""
    commits: dict[str, list[str]] = field(default_factory=dict)
    heads: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fail: dict[str, list[int]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    created: list[dict[str, Any]] = field(default_factory=list)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)  # what whoami says of each beyond "write"

    def forget(self, root: Path) -> None:
        """Begin anew, in another folder, at the same address."""
        vars(self).update(vars(Hub(root, self.endpoint)))

    def folder(self, kind: str, name: str) -> Path:
        return self.root / kind / name

    def head(self, kind: str, name: str, revision: str = "main") -> str | None:
        """The commit that a branch or a commit's own name stands for."""
        key = f"{kind}/{name}"
        return self.heads[key].get(revision) or (revision if revision in self.commits[key] else None)

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        folder = self.folder(kind, name) / str(self.head(kind, name, revision))
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def commit(self, kind: str, name: str, branch: str) -> Path:
        """Begin a commit on a branch: a copy of what it held."""
        key, new = f"{kind}/{name}", secrets.token_hex(20)
        old = self.heads.setdefault(key, {}).get(branch)
        self.commits.setdefault(key, []).append(new)
        self.heads[key][branch] = new
        target = self.folder(kind, name) / new
        if old:
            shutil.copytree(self.folder(kind, name) / old, target)
        else:
            target.mkdir(parents=True)
        return target


def _entry(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "oid": blob, "size": len(content), "path": path}
    if len(content) > 1_000_000 or path.endswith((".safetensors", ".parquet", ".png", ".onnx")):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _oid(path: str, content: bytes) -> str:
    entry = _entry(path, content)
    oid: str = entry.get("lfs", entry)["oid"]
    return oid


def build_app(hub: Hub) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def watch(request: Request, call_next: Any) -> Response:
        asked = f"{request.method} {request.url.path}"
        hub.requests.append(asked)
        for part, statuses in hub.fail.items():
            if part in asked and statuses:
                return JSONResponse({"error": "asked for by a test"}, statuses.pop(0))
        return await call_next(request)

    def repository(kind: str, name: str, request: Request, write: bool = False) -> Path:
        account = request.headers.get("authorization")
        if write and account != f"Bearer {TOKEN}":
            raise HTTPException(403 if account else 401, "a token is needed")
        folder = hub.folder(kind, name)
        hidden = f"{kind}/{name}" in hub.private and account != f"Bearer {TOKEN}"
        if hidden or not folder.is_dir():
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such repository"}
            raise HTTPException(404 if account else 401, headers=headers)
        return folder

    def head(kind: str, name: str, revision: str = "main") -> str:
        commit = hub.head(kind, name, "main" if revision == "HEAD" else revision)
        if commit is None:
            raise HTTPException(404, headers={"X-Error-Code": "RevisionNotFound"})
        return commit

    @app.get("/api/whoami-v2")
    def whoami(request: Request) -> Any:
        if request.headers.get("authorization") not in (f"Bearer {TOKEN}", f"Bearer {OTHER}"):
            raise HTTPException(401)
        token = {"role": "write", **hub.tokens.get(request.headers["authorization"].removeprefix("Bearer "), {})}
        return {"type": "user", "name": "tester", "orgs": [{"name": "org"}], "auth": {"accessToken": token}}

    @app.post("/api/repos/create")
    async def create(request: Request) -> Any:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise HTTPException(401)
        asked = await request.json()
        hub.created.append(asked)
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'tester'}/{asked['name']}"
        folder, url = hub.folder(kind, name), f"{hub.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
        if folder.is_dir():
            return JSONResponse({"error": "exists", "url": url, "name": name}, 409)
        hub.commit(kind, name, "main")
        if asked.get("private") or asked.get("visibility") == "private":
            hub.private.add(f"{kind}/{name}")
        return {"url": url, "name": name, "id": secrets.token_hex(12)}

    @app.delete("/api/repos/delete")
    async def delete(request: Request) -> Any:
        asked = await request.json()
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'tester'}/{asked['name']}"
        shutil.rmtree(repository(kind, name, request, write=True))
        return {}

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> Any:
        licence = yaml.safe_load((await request.json())["content"].split("---")[1]).get("license")
        wrong = f'"license" must be one of [{", ".join(LICENCES)}]'
        errors = [] if licence in (None, *LICENCES) else [{"message": wrong}]
        return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)

    @app.get("/api/{kind}/{org}/{repo}")
    @app.get("/api/{kind}/{org}/{repo}/revision/{revision:path}")
    def info(kind: str, org: str, repo: str, request: Request, revision: str = "main") -> Any:
        name = f"{org}/{repo}"
        repository(kind, name, request)
        commit_id = head(kind, name, revision)
        card = (
            yaml.safe_load(
                hub.files(kind, name, commit_id).get("README.md", b"").decode().partition("---")[2].partition("---")[0]
            )
            or {}
        )
        siblings = [
            {"rfilename": path, "size": len(content)} for path, content in hub.files(kind, name, commit_id).items()
        ]
        key = f"{kind}/{name}"
        facts = {"id": name, "sha": commit_id, "private": key in hub.private, "tags": [], "downloads": 0, "likes": 0}
        facts["gated"] = "manual" if key in hub.gated else False
        return {
            **facts,
            "modelId": name,
            "siblings": siblings,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "cardData": card,
        }

    @app.get("/api/{kind}/{org}/{repo}/refs")
    def refs(kind: str, org: str, repo: str, request: Request) -> Any:
        repository(kind, f"{org}/{repo}", request)
        heads = hub.heads[f"{kind}/{org}/{repo}"]
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in heads.items()
        ]
        return {"branches": branches, "tags": [], "converts": []}

    @app.post("/api/{kind}/{org}/{repo}/branch/{branch}")
    def branch(kind: str, org: str, repo: str, branch: str, request: Request) -> Any:
        repository(kind, f"{org}/{repo}", request, write=True)
        heads = hub.heads[f"{kind}/{org}/{repo}"]
        if branch in heads:
            return JSONResponse({"error": "exists"}, 409)
        heads[branch] = heads["main"]
        return {}

    @app.get("/api/{kind}/{org}/{repo}/tree/{revision}")
    @app.get("/api/{kind}/{org}/{repo}/tree/{revision}/{path:path}")
    def tree(
        kind: str, org: str, repo: str, revision: str, request: Request, path: str = "", recursive: bool = False
    ) -> Any:
        repository(kind, f"{org}/{repo}", request)
        found = hub.files(kind, f"{org}/{repo}", head(kind, f"{org}/{repo}", revision))
        below = [item for item in found.items() if not path or item[0].startswith(f"{path}/")]
        if path and not below:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        depth = len(Path(path).parts) + 1
        folders = sorted({"/".join(Path(file).parts[:depth]) for file, _ in below if len(Path(file).parts) > depth})
        listed = [_entry(file, content) for file, content in below if recursive or len(Path(file).parts) == depth]
        return [*({"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders), *listed]

    @app.post("/api/{kind}/{org}/{repo}/paths-info/{revision}")
    async def paths_info(kind: str, org: str, repo: str, revision: str, request: Request) -> Any:
        repository(kind, f"{org}/{repo}", request)
        if "json" in request.headers.get("content-type", ""):
            wanted = (await request.json())["paths"]
        else:
            wanted = (await request.form()).getlist("paths")
        files = hub.files(kind, f"{org}/{repo}", head(kind, f"{org}/{repo}", revision))
        found = [_entry(path, files[path]) for path in wanted if path in files]
        folders = [path for path in wanted if any(file.startswith(f"{path.rstrip('/')}/") for file in files)]
        return [*found, *({"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders)]

    @app.post("/api/{kind}/{org}/{repo}/preupload/{revision}")
    async def preupload(kind: str, org: str, repo: str, revision: str, request: Request) -> Any:
        repository(kind, f"{org}/{repo}", request, write=True)
        held = hub.files(kind, f"{org}/{repo}", head(kind, f"{org}/{repo}", revision))
        answer = []
        for file in (await request.json())["files"]:
            path = file["path"]
            mode = "lfs" if "lfs" in _entry(path, b"x" * min(file["size"], 1_000_001)) else "regular"
            answer.append(
                {
                    "path": path,
                    "uploadMode": mode,
                    "shouldIgnore": False,
                    "oid": _oid(path, held[path]) if path in held else None,
                }
            )
        return {"files": answer}

    @app.post("/{prefix:path}.git/info/lfs/objects/batch")
    async def batch(prefix: str, request: Request) -> Any:
        objects = []
        for wanted in (await request.json())["objects"]:
            actions = {
                "upload": {"href": f"{hub.endpoint}/lfs/{wanted['oid']}", "header": {}},
                "verify": {"href": f"{hub.endpoint}/lfs-verify/{wanted['oid']}", "header": {}},
            }
            objects.append({**wanted, **({} if wanted["oid"] in hub.stored else {"actions": actions})})
        return {"transfer": "basic", "objects": objects}

    @app.put("/lfs/{oid}")
    async def upload(oid: str, request: Request) -> Response:
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise HTTPException(400, "damaged")
        hub.stored[oid] = content
        return Response()

    @app.post("/lfs-verify/{oid}")
    async def verify(oid: str) -> Any:
        if oid not in hub.stored:
            raise HTTPException(404)
        return {}

    @app.post("/api/{kind}/{org}/{repo}/commit/{revision}")
    async def commit(kind: str, org: str, repo: str, revision: str, request: Request) -> Any:
        import base64

        name = f"{org}/{repo}"
        repository(kind, name, request, write=True)
        head(kind, name, revision)
        changes = [json.loads(line) for line in (await request.body()).decode().splitlines()]
        folder = hub.commit(kind, name, revision)
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                content = (
                    base64.b64decode(value["content"])
                    if value.get("encoding") == "base64"
                    else value["content"].encode()
                )
            elif change["key"] == "lfsFile":
                content = hub.stored[value["oid"]]
            elif change["key"] == "deletedFile":
                (folder / value["path"]).unlink()
                continue
            else:
                continue
            (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / value["path"]).write_bytes(content)
        oid = folder.name
        url = f"{hub.endpoint}/{'' if kind == 'models' else kind + '/'}{name}/commit/{oid}"
        return {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    def resolve(kind: str, name: str, revision: str, path: str, request: Request) -> Response:
        repository(kind, name, request)
        account = request.headers.get("authorization")
        if f"{kind}/{name}" in hub.gated and account != f"Bearer {TOKEN}":
            raise HTTPException(403 if account else 401, headers={"X-Error-Code": "GatedRepo"})
        commit_id = head(kind, name, revision)
        files = hub.files(kind, name, commit_id)
        if path not in files:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit_id})
        content, entry = files[path], _entry(path, files[path])
        etag = _oid(path, content)
        facts = {"ETag": f'"{etag}"', "X-Repo-Commit": commit_id, "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            hub.stored[etag] = content
            facts |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{etag}"'}
            return RedirectResponse(
                f"{hub.endpoint.replace('127.0.0.1', 'localhost')}/cdn/{etag}", 302, facts
            )  # another host, as there
        return _ranged(content, request, facts)

    @app.api_route("/cdn/{oid}", methods=["GET", "HEAD"])
    def cdn(oid: str, request: Request) -> Response:
        return _ranged(hub.stored[oid], request, {"ETag": f'"{oid}"'})

    @app.api_route("/{kind}/{org}/{repo}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def resolve_other(kind: str, org: str, repo: str, revision: str, path: str, request: Request) -> Response:
        return resolve(kind, f"{org}/{repo}", revision, path, request)

    @app.api_route("/{org}/{repo}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def resolve_model(org: str, repo: str, revision: str, path: str, request: Request) -> Response:
        return resolve("models", f"{org}/{repo}", revision, path, request)

    return app


def _ranged(content: bytes, request: Request, headers: dict[str, str]) -> Response:
    asked = request.headers.get("range", "")
    if asked.startswith("bytes="):
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1 if last else len(content)
        headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        return Response(content[start:stop], 206, headers, media_type="application/octet-stream")
    body = b"" if request.method == "HEAD" else content
    return Response(body, 200, {**headers, "Content-Length": str(len(content))}, media_type="application/octet-stream")


class Line:
    """A line to a Hub that can be cut: after `limit` more bytes to the Hub it closes and answers nobody until `mend`."""

    def __init__(self, hub: Hub, port: int = 0) -> None:
        self.hub = hub
        self.target = int(hub.endpoint.rpartition(":")[2])
        self.limit: float = float("inf")
        self.sent = 0
        self.listener = socket.create_server(("127.0.0.1", port))
        hub.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, size: float) -> None:
        self.sent, self.limit = 0, size

    def mend(self) -> None:
        self.limit = float("inf")

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            if self.sent >= self.limit:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._carry, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(4096):
                self.sent += len(data) if counted else 0
                if self.sent >= self.limit:
                    break
                target.sendall(data)
        except OSError:  # the other direction closed it
            return
        finally:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


def start(root: Path) -> tuple[Hub, uvicorn.Server]:
    """Serve a Hub on a free port, in a thread; stop it by `server.should_exit = True`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hub = Hub(root, f"http://127.0.0.1:{port}")
    server = uvicorn.Server(uvicorn.Config(build_app(hub), port=port, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    return hub, server
