"""A server on loopback that speaks the part of the Hugging Face Hub's API that huggingface_hub calls, over HTTP.

Written after the requests that huggingface_hub 2.4 makes and the answers that it reads: repository info, resolve with
etags and ranges, creation, preupload, the LFS batch and its uploads, commits in NDJSON. Large files are kept as the Hub
keeps them, under their SHA-256 on another host, to which ``resolve`` redirects.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_the_test"
_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class Hub:
    """Repositories, and what is to go wrong.

    Attributes:
        repos: of each its commits, from old to new, as files by name.
        branches: of each repository, names of commits.
        private: repositories that only the token reads.
        taken: owners whom the token may not write for.
        requests: what was asked, as ``METHOD path``.
        cut: bytes of the answer after which a download of a file breaks off, by name; each entry is used up.
        wrong: files that are served with a changed byte.
        stall: set by the server when it stands still in the middle of ``stalled``.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.large: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.taken = {"other"}
        self.requests: list[str] = []
        self.cut: dict[str, list[int]] = {}
        self.wrong: set[str] = set()
        self.sizes: dict[str, int | None] = {}
        self.stalled: str | None = None
        self.stands_still, self.goes_on = threading.Event(), threading.Event()
        self.url = self.cdn = ""

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds a commit that holds these files; returns its hash."""
        before = self.branches.setdefault(repo, {}).get(branch, "")
        digest = sha1(repr((before, sorted(files.items()))).encode()).hexdigest()
        self.repos.setdefault(repo, []).append((digest, dict(files)))
        self.branches[repo][branch] = digest
        return digest

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What a revision holds."""
        found = self.find(repo, revision)
        assert found is not None
        return found[1]

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        wanted = self.branches.get(repo, {}).get(revision, revision)
        return next((commit for commit in self.repos.get(repo, []) if commit[0] == wanted), None)


@contextmanager
def serving() -> Iterator[Hub]:
    """The server, on a port of its own."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.cdn = hub.url.replace("127.0.0.1", "localhost")  # another host, which gets no token
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.goes_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _blob(content: bytes) -> str:
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self) -> None:
        path, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        words = path.strip("/").split("/")
        knows = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if words[:3] == ["api", "repos", "create"]:
            self._create(json.loads(body), knows)
        elif words == ["api", "validate-yaml"]:
            content = json.loads(body)["content"]
            wrong = [] if content.startswith("---\n") else [{"message": "no metadata"}]
            self._json({"errors": wrong, "warnings": []}, 400 if wrong else 200)
        elif words[0] == "cdn":
            self._file(self.hub.large[words[1]], words[2], {"ETag": f'"{words[1]}"'})
        elif words[0] == "lfs":
            assert sha256(body).hexdigest() == words[1]
            self.hub.large[words[1]] = body
            self._json({})
        elif words[:2] == ["api", "models"]:
            self._of_model("/".join(words[2:4]), words[4:], query, body, knows)
        elif words[0] == "api":  # such as api/agent-harnesses, which huggingface_hub asks for and can do without
            self._json({"error": "Not found"}, 404)
        elif words[1].endswith(".git"):
            self._batch(json.loads(body), knows)
        else:
            assert words[2] == "resolve", path
            self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]), knows)

    def _create(self, wanted: dict[str, Any], knows: bool) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        if not knows:
            return self._json({"error": "Invalid username or password."}, 401)
        if wanted["organization"] in self.hub.taken:
            return self._json({"error": "You don't have the rights"}, 403)
        url = {"url": f"{self.hub.url}/{repo}"}
        if repo in self.hub.repos:
            return self._json({"error": "You already created this model repo", **url}, 409)
        if wanted.get("visibility") == "private" or wanted.get("private"):  # 1.0 says it so
            self.hub.private.add(repo)
        self.hub.commit(repo, {".gitattributes": _ATTRIBUTES})
        return self._json(url)

    def _of_model(self, repo: str, words: list[str], query: dict[str, list[str]], body: bytes, knows: bool) -> None:
        if repo not in self.hub.repos or (repo in self.hub.private and not knows):
            return self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
        if words[:1] == ["preupload"]:
            files = [
                {"path": each["path"], "uploadMode": "lfs" if _is_large(each["path"]) else "regular",
                 "shouldIgnore": False, "oid": None}
                for each in json.loads(body)["files"]
            ]  # fmt: skip
            return self._json({"files": files})
        if words[:1] == ["commit"]:
            return self._commit(repo, words[1], body, knows)
        found = self.hub.find(repo, "/".join(words[1:]) if words else "main")
        if found is None:
            return self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        siblings = [self._sibling(name, content) for name, content in found[1].items()]
        if "blobs" not in query:
            siblings = [{"rfilename": each["rfilename"]} for each in siblings]
        return self._json(
            {"id": repo, "sha": found[0], "private": repo in self.hub.private, "tags": [], "siblings": siblings}
        )

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        size = self.hub.sizes.get(name, len(content))
        found: dict[str, Any] = {"rfilename": name, "size": size, "blobId": _blob(content)}
        if _is_large(name):
            found["lfs"] = {"size": size, "sha256": sha256(content).hexdigest(), "pointerSize": 134}
        return found

    def _batch(self, wanted: dict[str, Any], knows: bool) -> None:
        assert knows
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
            for each in wanted["objects"]
        ]  # fmt: skip
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, branch: str, body: bytes, knows: bool) -> None:
        if not knows or repo.partition("/")[0] in self.hub.taken:
            return self._json({"error": "Forbidden"}, 403)
        files = dict(self.hub.files(repo, branch))
        for entry in map(json.loads, body.splitlines()):
            value = entry["value"]
            if entry["key"] == "header" and value.get("parentCommit") not in (None, self.hub.branches[repo][branch]):
                return self._json({"error": "A commit has happened since."}, 412)
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.commit(repo, files, branch)
        return self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _resolve(self, repo: str, revision: str, name: str, knows: bool) -> None:
        found = self.hub.find(repo, revision)
        if found is None or (repo in self.hub.private and not knows):
            return self._json({}, 404, {"X-Error-Code": "RepoNotFound"})
        commit, files = found
        if name not in files:
            return self._json({}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        if not _is_large(name):
            return self._file(files[name], name, {"ETag": f'"{_blob(files[name])}"', "X-Repo-Commit": commit})
        digest = sha256(files[name]).hexdigest()
        self.hub.large[digest] = files[name]
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(files[name])), "X-Repo-Commit": commit}
        return self._send(b"", 302, {**linked, "Location": f"{self.hub.cdn}/cdn/{digest}/{name}"})

    def _file(self, content: bytes, name: str, headers: dict[str, str]) -> None:
        if name in self.hub.wrong:
            content = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        begin, total = 0, len(content)
        if (wanted := self.headers.get("Range")) is not None:
            begin = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers |= {"Content-Range": f"bytes {begin}-{total - 1}/{total}"}
        content, cut = content[begin:], None
        if self.command == "GET" and self.hub.cut.get(name):
            cut = self.hub.cut[name].pop(0)
        if self.command == "GET" and name == self.hub.stalled:
            cut = len(content) // 2
        self._send(content, 206 if begin else 200, headers, cut=cut, stall=name == self.hub.stalled)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(
        self, content: bytes, status: int, headers: dict[str, str], *, cut: int | None = None, stall: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        if cut is None:
            return
        self.wfile.flush()
        if stall:
            self.hub.stands_still.set()
            self.hub.goes_on.wait(60)
        self.close_connection = True
