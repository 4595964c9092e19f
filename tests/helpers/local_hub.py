"""A stand-in of the Hugging Face hub on this host: repositories of models in memory, behind the paths of its API."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

TOKEN = "hf_of_the_test"
REPOSITORY = r"/(?P<repository>[^/]+/[^/]+)"


class LocalHub:
    """Repositories by name, each a list of commits; a revision is a commit's id, or `main` for the newest."""

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.refuses_commits = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.is_up = False

    def start(self) -> None:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.is_up = True

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self.is_up:
            self.server.shutdown()
            self.server.server_close()
            self.is_up = False

    def environment(self, cache: Path) -> dict[str, str]:
        """Return the variables with which another process uses this hub alone."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        """Add a commit with these files and no others; return its id."""
        commits = self.commits.setdefault(repository, [])
        text = f"{repository} {len(commits)} {sorted(files)}"
        commits.append((hashlib.sha1(text.encode()).hexdigest(), files))
        return commits[-1][0]

    def add_folder(self, repository: str, folder: Path) -> str:
        """Add a commit with the files of a folder; return its id."""
        paths = (path for path in folder.rglob("*") if path.is_file())
        return self.add(repository, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """Return a commit; a `HubError` where there is none."""
        if repository not in self.commits:
            raise HubError(404, "RepoNotFound", "Repository not found")
        commits = self.commits[repository]
        found = [each for each in commits if each[0] == revision] or (commits[-1:] if revision == "main" else [])
        if not found:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[0]


class HubError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        routes: dict[tuple[str, str], Any] = {
            ("GET", "/api/whoami-v2"): self.who,
            ("POST", "/api/validate-yaml"): self.validate,
            ("POST", "/api/repos/create"): self.create,
            ("GET", rf"/api/models{REPOSITORY}(/revision/(?P<revision>[^/]+))?"): self.info,
            ("GET", rf"/api/models{REPOSITORY}/tree/(?P<revision>[^/]+)"): self.tree,
            ("POST", rf"/api/models{REPOSITORY}/preupload/(?P<revision>[^/]+)"): self.preupload,
            ("POST", rf"/api/models{REPOSITORY}/commit/(?P<revision>[^/]+)"): self.commit,
            ("GET", rf"{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"): self.resolve,
        }
        try:
            for (method, pattern), answer in routes.items():
                if method == self.command.replace("HEAD", "GET") and (match := re.fullmatch(pattern, path)):
                    if method == "POST" or answer == self.who:
                        self.check_token()
                    names = {name: unquote(value or "main") for name, value in match.groupdict().items()}
                    answer(body, **names)
                    return
            raise HubError(404, "", f"no such page: {path}")
        except HubError as error:
            self.reply({"error": str(error)}, error.status, {"X-Error-Code": error.code, "X-Error-Message": str(error)})

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def check_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise HubError(401, "", "Invalid username or password.")

    def who(self, _: bytes) -> None:
        self.reply({"type": "user", "name": "someone", "auth": {"type": "access_token"}})

    def validate(self, body: bytes) -> None:
        metadata = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        errors = (
            [] if isinstance(metadata, dict) and metadata.get("license") else [{"message": '"license" is required'}]
        )
        self.reply({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        repository = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "owner":
            raise HubError(403, "", f"You don't have the rights to create a model under {wanted['organization']}")
        if repository in self.hub.commits:
            self.reply({"error": "You already created this model repo", "url": f"{self.hub.url}/{repository}"}, 409)
            return
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(repository)
        self.hub.add(repository, {".gitattributes": b""})
        self.reply({"url": f"{self.hub.url}/{repository}"})

    def info(self, _: bytes, repository: str, revision: str) -> None:
        oid, files = self.hub.find(repository, revision)
        siblings = [{"rfilename": name} for name in files]
        self.reply({"_id": oid[:24], "id": repository, "sha": oid, "siblings": siblings, "tags": [], "private": False})

    def tree(self, _: bytes, repository: str, revision: str) -> None:
        entries = self.hub.find(repository, revision)[1].items()
        self.reply([{"type": "file", "path": name, "size": len(data), "oid": blob(data)} for name, data in entries])

    def preupload(self, body: bytes, repository: str, revision: str) -> None:
        files = self.hub.find(repository, revision)[1]
        answers = [
            {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
            | ({"oid": blob(files[each["path"]])} if each["path"] in files else {})
            for each in json.loads(body)["files"]
        ]
        self.reply({"files": answers})

    def commit(self, body: bytes, repository: str, revision: str) -> None:
        if self.hub.refuses_commits:
            raise HubError(403, "", "Your storage is full")
        files = dict(self.hub.find(repository, revision)[1])
        for line in body.splitlines():
            entry = json.loads(line)
            path = entry["value"].get("path", "")
            if entry["key"] == "file":
                files[path] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                del files[path]
            elif entry["key"] != "header":
                raise HubError(400, "", f"unknown operation {entry['key']}")
        oid = self.hub.add(repository, files)
        self.reply({"commitUrl": f"{self.hub.url}/{repository}/commit/{oid}", "commitOid": oid})

    def resolve(self, _: bytes, repository: str, revision: str, path: str) -> None:
        oid, files = self.hub.find(repository, revision)
        if path not in files:
            raise HubError(404, "EntryNotFound", f"{path} does not exist")
        self.reply(files[path], headers={"ETag": f'"{blob(files[path])}"', "X-Repo-Commit": oid})


def blob(data: bytes) -> str:
    """Return the id that Git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def run_local_hub() -> Iterator[LocalHub]:
    """Yield a hub that is up."""
    hub = LocalHub()
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()


def use(hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process use a hub; huggingface_hub reads the environment only when it is imported."""
    from huggingface_hub import constants

    for name, value in hub.environment(cache).items():
        monkeypatch.setenv(name, value)
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_STORED_TOKENS_PATH": str(cache / "stored_tokens"),
    }.items():
        monkeypatch.setattr(constants, name, value)


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Yield a hub that this process uses, with an empty cache."""
    with run_local_hub() as hub:
        use(hub, tmp_path / "hub_cache", monkeypatch)
        yield hub
