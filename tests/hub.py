"""A model hub on this machine: the parts of the Hugging Face hub's HTTP interface that huggingface_hub uses.

    GET  /api/models/ID[/revision/REV]          {"id", "sha", "siblings": [{"rfilename"}]}
    GET  /api/models/ID/tree/REV?recursive=...  [{"type": "file", "path", "size", "oid"}]
    HEAD /ID/resolve/REV/FILE                   X-Repo-Commit, ETag, Content-Length
    GET  /ID/resolve/REV/FILE                   the file, or the part of it that `Range` asks for

Data sets are served as models are, below /api/datasets and /datasets.

Errors carry X-Error-Code as the hub's do. A client finds the server through HF_ENDPOINT (`environment`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.testbed.local_server import StatefulHandler, serve_state

TOKEN = "hf_of-the-tests"


@dataclass
class Repo:
    """A model: a folder for each commit (40 hexadecimal digits), and the commit of each branch and tag."""

    commits: dict[str, Path]
    refs: dict[str, str]
    private: bool = False
    gated: bool = False


@dataclass
class Hub:
    """`requests` notes "METHOD path range" of each request; `down` makes every one fail with status 503."""

    url: str
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    down: bool = False

    def add(
        self, repo_id: str, folder: Path, branch: str = "main", *, private: bool = False, gated: bool = False
    ) -> str:
        """Serve `folder` as a branch of a model; its commit."""
        commit = hashlib.sha1(f"{repo_id} {folder}".encode()).hexdigest()  # noqa: S324 - git's own kind of name
        repo = self.repos.setdefault(repo_id, Repo({}, {}, private, gated))
        repo.commits[commit] = folder
        repo.refs[branch] = commit
        return commit

    def environment(self, home: Path) -> dict[str, str]:
        """What a client process needs: this hub, an empty cache, no token of the machine's user."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
            "NO_PROXY": "*",
        }

    def downloads(self) -> list[str]:
        """The files that were fetched, by GET, whole or in part."""
        return [line.split("/")[-1] for line in self.requests if line.startswith("GET") and "/resolve/" in line]


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub without models."""
    with serve_state(_Handler, Hub) as hub:
        yield hub


class _Handler(StatefulHandler[Hub], BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        quoted = urlsplit(self.path).path
        path = unquote(quoted)
        self.state.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if self.state.down:
            self._send(503, b"down")
            return
        path = re.sub(r"^/api/datasets/", "/api/models/", re.sub(r"^/datasets/", "/", quoted))
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = info or tree or file
        if found is None:
            self._send(404, b"no such page")
            return
        repo_id = found[1]
        repo = self.state.repos.get(repo_id)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not known):
            self._fail(404 if known else 401, "RepoNotFound", "Repository not found")
            return
        if repo.gated and not known:
            self._fail(401, "GatedRepo", f"Access to model {repo_id} is restricted")
            return
        revision = unquote(found[2] or "main")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        folder = repo.commits[commit]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if info:
            siblings = [{"rfilename": str(path.relative_to(folder))} for path in files]
            self._json({"_id": "0", "id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings})
        elif tree:
            self._json(
                [
                    {
                        "type": "file",
                        "path": str(path.relative_to(folder)),
                        "size": path.stat().st_size,
                        "oid": _etag(path),
                    }
                    for path in files
                ]
            )
        else:
            self._file(folder / unquote(found[3]), commit)

    def _file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        data, status = path.read_bytes(), 200
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(path)}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            size, first = len(data), int(wanted[1])
            data, status = data[first : int(wanted[2] or size) + 1], 206
            headers["Content-Range"] = f"bytes {first}-{first + len(data) - 1}/{size}"
        self._send(status, data, **headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _fail(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, **{"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()  # noqa: S324 - the hub names small files as git does
