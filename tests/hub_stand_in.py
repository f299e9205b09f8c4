"""A small Hugging Face Hub on this machine: what its client asks for to push and to fetch.

Written from what `huggingface_hub` sends: repositories, the check of a card's header, regular files
and files of Git LFS, commits, and downloads.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

USER, TOKEN, READ_TOKEN = "ann", "hf_of_ann", "hf_that_reads"
LFS_FROM = 2_000  # bytes; the Hub decides by its own rules
_API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(\w+)(?:/([^/]+))?)?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LFS_BATCH = re.compile(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Repo:
    """A repository: its files by name, and how many commits it has."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    num_commits: int = 0

    @property
    def sha(self) -> str:
        return hashlib.sha1(f"{self.num_commits} {sorted(self.files)}".encode()).hexdigest()


@dataclass
class Hub:
    """The whole Hub: repositories by type and name, what was uploaded by its sha256, and whether it
    has room for more."""

    address: str
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    is_full: bool = False


class _Refused(Exception):
    """A response: its status, and what the Hub's client reads in the headers."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Tests stay silent."""

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size) if size else self._chunks()
        self.path_asked = unquote(urlsplit(self.path).path)
        try:
            self._route()
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            headers = {name: value for name, value in headers.items() if value}
            self._send(json.dumps({"error": refused.message}).encode(), refused.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _chunks(self) -> bytes:
        """The body of a request that is sent in chunks."""
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return body

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_json(self, data: Any) -> None:
        self._send(json.dumps(data).encode(), headers={"Content-Type": "application/json"})

    def _route(self) -> None:
        path, token = self.path_asked, self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.may_read = token in (TOKEN, READ_TOKEN)
        self.may_write = token == TOKEN
        if path.startswith("/uploads/"):
            if self.hub.is_full:
                raise _Refused(507, message="Insufficient storage")
            assert hashlib.sha256(self.body).hexdigest() == path.removeprefix("/uploads/")
            self.hub.stored[path.removeprefix("/uploads/")] = self.body
            self._send(b"")
        elif token and not self.may_read:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif found := _LFS_BATCH.fullmatch(path):
            self._repo("dataset" if found[1] else "model", found[2], writes=True)
            self._lfs_batch(json.loads(self.body))
        elif found := _FILE.fullmatch(path):
            self._file(self._repo("dataset" if found[1] else "model", found[2]), found[4])
        elif found := _API.fullmatch(path):
            self._api(found[1], found[2], found[3])
        else:
            raise _Refused(404, message=f"the stand-in has no {path}")

    def _repo(self, repo_type: str, name: str, *, writes: bool = False) -> Repo:
        repo = self.hub.repos.get((repo_type, name))
        if repo is None or (repo.private and not self.may_read):
            raise _Refused(404, "RepoNotFound", "Repository not found")
        if writes and not (self.may_write and name.startswith(f"{USER}/")):
            raise _Refused(403, message="Forbidden: pass a token with the right to write")
        return repo

    def _create(self, asked: dict[str, Any]) -> None:
        if not self.may_write or asked["organization"] != USER:
            raise _Refused(403, message="You don't have the rights to create a model here")
        key = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        if key in self.hub.repos:
            raise _Refused(409, message="You already created this repo")
        self.hub.repos[key] = Repo(private=asked.get("visibility") == "private")
        self._send_json({"url": f"{self.hub.address}/{key[1]}"})

    def _api(self, repo_type: str, name: str, what: str | None) -> None:
        repo = self._repo(repo_type, name, writes=what in ("preupload", "commit"))
        if what == "preupload":
            files = json.loads(self.body)["files"]
            for file in files:
                mode = "lfs" if file["size"] >= LFS_FROM else "regular"
                file.update(uploadMode=mode, shouldIgnore=False)
            self._send_json({"files": files})
        elif what == "commit":
            self._commit(repo)
            prefix = "datasets/" if repo_type == "dataset" else ""
            address = f"{self.hub.address}/{prefix}{name}/commit/{repo.sha}"
            self._send_json({"success": True, "commitUrl": address, "commitOid": repo.sha})
        elif what == "tree":
            self._send_json([_listed(path, data) for path, data in repo.files.items()])
        else:
            siblings = [{"rfilename": path} for path in repo.files]
            info = {"id": name, "sha": repo.sha, "private": repo.private, "siblings": siblings}
            self._send_json(info)

    def _lfs_batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for wanted in asked["objects"]:
            upload = {"href": f"{self.hub.address}/uploads/{wanted['oid']}"}
            new = wanted["oid"] not in self.hub.stored
            objects.append({**wanted, **({"actions": {"upload": upload}} if new else {})})
        self._send_json({"transfer": "basic", "objects": objects})

    def _commit(self, repo: Repo) -> None:
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.stored[value["oid"]]
            elif operation["key"] == "deletedFile":
                del repo.files[value["path"]]
        repo.num_commits += 1

    def _file(self, repo: Repo, path: str) -> None:
        if path not in repo.files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content = repo.files[path]
        etag = f'"{_listed(path, content)["oid"]}"'
        self._send(content, headers={"ETag": etag, "X-Repo-Commit": repo.sha})


def _listed(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if len(content) >= LFS_FROM:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        entry["oid"] = sha256  # of the download's ETag
    return entry


@contextmanager
def running_hub() -> Iterator[Hub]:
    """An empty Hub that listens on a free port of this machine."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub = handler.hub = Hub(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
