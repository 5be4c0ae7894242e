# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A Hub on this machine: the HTTP API that `huggingface_hub` uses to publish and to download models.

Files over `LFS_BYTES` go the way of git LFS, others inside the commit. Everything is kept in memory.
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
from urllib.parse import unquote, urlsplit

import pytest


LFS_BYTES = 200_000  # more than any file of our code
TOKEN, OWNER = "hf_" + "a" * 30, "me"


@dataclass
class Repository:
    """Its branches, each a list of commits: files by path."""

    private: bool = False
    branches: dict[str, list[dict[str, bytes]]] = field(default_factory=lambda: {"main": [{".gitattributes": b""}]})

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit id and files of a branch or commit."""
        for name, commits in self.branches.items():
            for number, files in enumerate(commits):
                commit = hashlib.sha1(f"{name} {number}".encode()).hexdigest()
                if revision == commit or (revision == name and files is commits[-1]):
                    return commit, files
        return None


class Hub:
    """State of the server.

    Attributes:
        repositories: By name.
        objects: Files that came by LFS, by their SHA-256.
        received: Bytes that came by LFS.
        breaks: Requests that are cut off, as `(method, pattern of the path)`; each once.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.received = 0
        self.breaks: list[tuple[str, str]] = []
        self.endpoint = ""

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Files at the head of a branch."""
        return self.repositories[repo].branches[revision][-1]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/repos/create", "create"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?P<path>/.*)?", "tree"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "branch"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/(?P<oid>\w+)", "store"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def do_GET(self):
        self._dispatch("GET")

    def do_HEAD(self):
        self._dispatch("GET")

    def do_POST(self):
        self._dispatch("POST")

    def do_PUT(self):
        self._dispatch("PUT")

    def log_message(self, *args):
        pass

    def _dispatch(self, method: str) -> None:
        url = urlsplit(self.path)
        self.query = url.query
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for number, (broken, pattern) in enumerate(self.hub.breaks):
            if method == broken and re.search(pattern, url.path):
                del self.hub.breaks[number]
                self.close_connection = True
                self.connection.close()
                return
        for known, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, url.path)
            if method == known and match:
                groups = {key: value and unquote(value) for key, value in match.groupdict().items()}
                return getattr(self, f"_{name}")(**groups)
        self._answer({"error": f"no route for {method} {url.path}"}, 404)

    def _answer(self, content, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, repo: str, writing: bool = False) -> Repository | None:
        """The repository, unless the answer is that there is none for this caller."""
        found = self.hub.repositories.get(repo)
        if writing and not self._is_owner():
            self._answer({"error": "Invalid credentials"}, 401)
        elif found is None or (found.private and not self._is_owner()):
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif writing and not repo.startswith(f"{OWNER}/"):
            self._answer({"error": "Forbidden"}, 403)
        else:
            return found
        return None

    def _revision(self, repo: str, revision: str | None):
        found = self._repository(repo)
        at = found and found.find(revision or "main")
        if found and not at:
            self._answer({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        return at

    def _whoami(self):
        if self._is_owner():
            return self._answer({"type": "user", "name": OWNER, "auth": {"accessToken": {"role": "write"}}})
        return self._answer({"error": "Invalid user token"}, 401)

    def _validate(self):
        self._answer({"warnings": [], "errors": []})

    def _create(self):
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self._is_owner():
            return self._answer({"error": "Invalid credentials"}, 401)
        if asked["organization"] != OWNER:
            return self._answer({"error": f"no rights to create a model under {asked['organization']}"}, 403)
        if name in self.hub.repositories:
            return self._answer({"error": "You already created this model repo"}, 409)
        self.hub.repositories[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
        return self._answer({"url": f"{self.hub.endpoint}/{name}", "name": name})

    def _info(self, repo, revision):
        if at := self._revision(repo, revision):
            commit, files = at
            siblings = [{"rfilename": name} for name in files]
            private = self.hub.repositories[repo].private
            self._answer({"id": repo, "sha": commit, "private": private, "siblings": siblings, "tags": []})

    def _tree(self, repo, revision, path):
        if at := self._revision(repo, revision):
            prefix = f"{(path or '').strip('/')}/".lstrip("/")
            files = [name for name in at[1] if name.startswith(prefix)]
            if prefix and not files:
                return self._answer({"error": "no such path"}, 404, {"X-Error-Code": "EntryNotFound"})
            self._answer([{"type": "file", "path": name, "size": len(at[1][name]), "oid": name} for name in files])

    def _branch(self, repo, revision):
        if found := self._repository(repo, writing=True):
            if revision in found.branches:
                return self._answer({"error": "Reference already exists"}, 409)
            found.branches[revision] = [found.branches["main"][-1]]
            self._answer({})

    def _preupload(self, repo, revision):
        if self._repository(repo, writing=True) and self._revision(repo, revision):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] > LFS_BYTES else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(self.body)["files"]
            ]
            self._answer({"files": files})

    def _batch(self, repo):
        if not self._repository(repo, writing=True):
            return
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}"}}
            objects.append(entry)
        self._answer({"transfer": "basic", "objects": objects})

    def _store(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._answer({"error": "wrong hash"}, 400)
        self.hub.objects[oid] = self.body
        self.hub.received += len(self.body)
        return self._answer({})

    def _commit(self, repo, revision):
        found = self._repository(repo, writing=True)
        at = found and self._revision(repo, revision)
        if not at:
            return
        files = dict(at[1])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        answer = {"pullRequestUrl": None}
        if "create_pr=1" in self.query:
            revision = f"refs/pr/{sum(name.startswith('refs/pr/') for name in found.branches) + 1}"
            found.branches[revision] = list(found.branches["main"])
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{repo}/discussions/{revision.rpartition('/')[2]}"
        found.branches[revision].append(files)
        commit = found.find(revision)[0]
        self._answer(answer | {"commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}"})

    def _resolve(self, repo, revision, path):
        at = self._revision(repo, revision)
        if not at:
            return
        commit, files = at
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            return self._answer({"error": "Entry not found"}, 404, headers | {"X-Error-Code": "EntryNotFound"})
        self._answer(files[path], headers=headers | {"ETag": f'"{hashlib.sha256(files[path]).hexdigest()}"'})


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that answers while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache, token: str = TOKEN) -> None:
    """Points the client in this process, and processes that it starts, to a Hub."""
    import transformers.utils.hub
    from huggingface_hub import constants, hf_api

    variables = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)  # of the client's functions
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
