"""A stand-in for the Hub: the part of its HTTP API by which huggingface_hub lists, fetches, creates and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standin"


@dataclass
class Repository:
    """A repository: its commits, each with all its files, and its branches and tags."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # what is said of files, where it is not their size

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        """Add files on main."""
        kept = self.commits.get(self.refs.get("main", ""), {})
        sha = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[sha], self.refs["main"] = {**kept, **files}, sha
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> str | None:
        """The commit that a revision names."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass
class HubServer:
    """The stand-in: its address, its repositories, and the requests it got."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failing: int = 0  # a status to answer everything with

    def add(self, name: str, folder: Path | None = None, **files: bytes) -> str:
        """A new version of a repository, with the files of a folder and others; its commit."""
        held = {file.name: file.read_bytes() for file in folder.iterdir()} if folder else {}
        return self.repositories.setdefault(name, Repository()).commit({**held, **files})


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A stand-in that answers on a free port within a ``with`` block."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            self._describe(match[1], match[2] or "revision", match[3] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        else:
            self._answer(404, {"error": "no such page"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(content))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path):
            if match[2] == "preupload":
                files = json.loads(content)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                self._answer(200, {"files": modes})
            else:
                self._commit(match[1], [json.loads(line) for line in content.splitlines()])
        else:
            self._answer(404, {"error": "no such page"})

    def _repository(self, name: str) -> Repository | None:
        """A repository that this request may read; else it is answered with the Hub's own error."""
        found = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.hub.failing:
            self._answer(self.hub.failing, {"error": "the stand-in fails"})
        elif found is None or (found.private and not known):
            self._answer(404 if known else 401, {"error": "Repository not found"}, "RepoNotFound")
        elif found.gated and not known:
            self._answer(403, {"error": "Access to this model is restricted"}, "GatedRepo")
        else:
            return found
        return None

    def _describe(self, name: str, what: str, revision: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        sha = repository.at(revision)
        if sha is None:
            self._answer(404, {"error": f"Invalid rev id: {revision}"}, "RevisionNotFound")
            return
        files = {path: repository.sizes.get(path, len(data)) for path, data in repository.commits[sha].items()}
        if what == "tree":
            self._answer(200, [{"type": "file", "path": p, "size": n, "oid": "0" * 40} for p, n in files.items()])
        else:
            siblings = [{"rfilename": path, "size": size, "blobId": "0" * 40} for path, size in files.items()]
            self._answer(200, {"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []})

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        sha = repository.at(revision)
        data = repository.commits.get(sha or "", {}).get(path)
        if data is None:
            self._answer(404, {"error": "Entry not found"}, "EntryNotFound")
            return
        self._answer(200, data, headers={"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": str(sha)})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization')}/{asked['name']}"
        if asked.get("organization") == "others":
            self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif name in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{name}"})
        else:
            self.hub.repositories[name] = Repository(
                private=asked.get("private") is True or asked.get("visibility") == "private"
            )
            self.hub.repositories[name].commit({".gitattributes": b""})
            self._answer(200, {"url": f"{self.hub.endpoint}/{name}"})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        (header,) = (line["value"] for line in lines if line["key"] == "header")
        files = {f["path"]: base64.b64decode(f["content"]) for f in (x["value"] for x in lines if x["key"] == "file")}
        sha = self.hub.repositories[name].commit(files, header["summary"])
        url = f"{self.hub.endpoint}/{name}/commit/{sha}"
        self._answer(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _answer(self, status: int, content: Any, code: str = "", headers: dict[str, str] | None = None) -> None:
        self.hub.requests.append(f"{self.command} {urlsplit(self.path).path}")
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for key, value in {**({"X-Error-Code": code} if code else {}), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""
