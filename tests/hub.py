"""A stand-in for the Hugging Face Hub on loopback: as much of its endpoint as `huggingface_hub` asks of it here."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

OWNER, TOKEN = "me", "hf_of_the_tests"
LICENSES = ("mit", "apache-2.0", "cc-by-4.0", "other")  # of those on its list
# What the Hub keeps as LFS, by what a repository's .gitattributes has from its beginning; git has the rest.
LARGE = (".onnx", ".safetensors", ".ts", ".pt2")
Files = dict[str, bytes]


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message


@dataclass
class Repository:
    """Branches, each a commit; what commits hold."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        said = repr((branch, len(self.commits), sorted(files.items()))).encode()
        sha = hashlib.sha1(said).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def files(self, revision: str = "main") -> Files:
        return self.commits[self.sha(revision)]

    def sha(self, revision: str) -> str:
        found = self.branches.get(revision, revision)
        if found not in self.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found


class Hub:
    """What is on it. `refuse` is the status, where it is set, that requests for what begins with `refused` get."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refuse: int | None = None
        self.refused = "/"

    def add(self, name: str, files: Files, **settings: Any) -> Repository:
        made = self.repositories[name] = Repository(**settings)
        made.commit("main", {".gitattributes": b"", **files})
        return made

    def downloads(self) -> list[str]:
        """The files that were fetched since this was last asked, by their name."""
        found = [line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/resolve/" in line]
        self.asked.clear()
        return found

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and content."""
        self.asked.append(f"{method} {path}")
        parts = [unquote(part) for part in urlsplit(path).path.split("/")[1:]]
        if self.refuse is not None and path.startswith(self.refused):
            raise Refused(self.refuse, message="as the test wants")
        if token not in (None, TOKEN):
            raise Refused(401, message="Invalid credentials in Authorization header")
        match [method, *parts]:
            case ["PUT", "lfs", oid]:
                if hashlib.sha256(body).hexdigest() != oid:
                    raise Refused(400, message="another content than was announced")
                self.large[oid] = body
                return 200, {}, b""
            case ["POST", "api", "repos", "create"]:
                return _json(self._create(json.loads(body), token))
            case ["POST", "api", "validate-yaml"]:
                faults = _faults(json.loads(body)["content"])
                return _json({"errors": faults, "warnings": []}, status=400 if faults else 200)
            case ["POST", owner, name, "info", "lfs", "objects", "batch"]:
                self._repository(f"{owner}/{name.removesuffix('.git')}", token, write=True)
                return _json({"transfer": "basic", "objects": [self._place(o) for o in json.loads(body)["objects"]]})
            case [_, "api", "models", owner, name, *rest]:
                known = self._repository(f"{owner}/{name}", token, write=method == "POST")
                return _json(self._model(known, f"{owner}/{name}", method, rest, body))
            case ["GET" | "HEAD", owner, name, "resolve", revision, *file]:
                return _resolved(self._repository(f"{owner}/{name}", token), revision, "/".join(file), method)
        raise Refused(404, message=f"the stand-in knows no {method} {path}")

    def _create(self, wanted: dict[str, Any], token: str | None) -> dict[str, Any]:
        if token is None:
            raise Refused(401, message="Invalid username or password.")
        owner = wanted.get("organization") or OWNER
        if owner != OWNER:
            raise Refused(403, message=f"You don't have the rights to create a model under the namespace {owner!r}")
        name = f"{owner}/{wanted['name']}"
        found = {"url": f"{self.url}/{name}", "name": name}
        if name in self.repositories:
            raise Refused(409, message=json.dumps(found))
        self.add(name, {}, private=wanted.get("visibility") == "private" or wanted.get("private", False))
        return found

    def _repository(self, name: str, token: str | None, write: bool = False) -> Repository:
        """The Hub tells nobody without a token whether a repository is private or not there."""
        found = self.repositories.get(name)
        if found is None or (found.private and token is None):
            raise Refused(401 if token is None else 404, "RepoNotFound", "Repository not found")
        if write and (token is None or not name.startswith(f"{OWNER}/")):
            raise Refused(403, message="Forbidden: you must use a write token to upload to a repository.")
        return found

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.large:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}"}}}

    def _model(self, known: Repository, name: str, method: str, rest: list[str], body: bytes) -> Any:
        match [method, *rest]:
            case ["GET"] | ["GET", "revision", _]:
                sha = known.sha(rest[1] if rest else "main")
                siblings = [{"rfilename": path} for path in known.files(sha)]
                return {"_id": "1", "id": name, "modelId": name, "sha": sha, "private": known.private,
                        "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}  # fmt: skip
            case ["GET", "tree", revision]:
                return [_listed(path, content) for path, content in known.files(revision).items()]
            case ["POST", "branch", branch]:
                if branch in known.branches:
                    raise Refused(409, message="Reference already exists")
                known.branches[branch] = known.branches["main"]
                return {}
            case ["POST", "preupload", revision]:
                there = known.files(revision)
                return {"files": [_upload_mode(file["path"], there) for file in json.loads(body)["files"]]}
            case ["POST", "commit", branch]:
                sha = self._commit(known, branch, [json.loads(line) for line in body.splitlines()])
                url = f"{self.url}/{name}/commit/{sha}"
                return {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}
        raise Refused(404, message=f"the stand-in knows no {method} {rest}")

    def _commit(self, known: Repository, branch: str, lines: list[dict[str, Any]]) -> str:
        files = dict(known.files(branch))
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        return known.commit(branch, files)


def _faults(card: str) -> list[dict[str, str]]:
    """What is wrong with a card's metadata: the Hub's rules that matter here."""
    import yaml

    found = yaml.safe_load(card.split("---\n")[1])
    wrong = [key for key in ("pipeline_tag",) if not isinstance(found.get(key, ""), str)]
    wrong += [] if found.get("license", "mit") in LICENSES else ["license"]
    wrong += ["license_name"] if found.get("license") == "other" and not found.get("license_name") else []
    for model in found.get("model-index", []):
        for result in model["results"]:
            wrong += [key for key in ("task", "dataset", "metrics") if key not in result]
            wrong += [key for key in ("type", "name") if key not in result["dataset"]]
    return [{"message": f'"{key}" is not legal'} for key in wrong]


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _upload_mode(path: str, there: Files) -> dict[str, Any]:
    large = path.endswith(LARGE)
    oid = (
        {} if path not in there else {"oid": (hashlib.sha256(there[path]).hexdigest() if large else _oid(there[path]))}
    )
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **oid}


def _listed(path: str, content: bytes) -> dict[str, Any]:
    about = {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
    if path.endswith(LARGE):
        about["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return about


def _resolved(known: Repository, revision: str, path: str, method: str) -> tuple[int, dict[str, str], bytes]:
    sha = known.sha(revision)
    if path not in known.files(sha):
        raise Refused(404, "EntryNotFound", "Entry not found")
    content = known.files(sha)[path]
    etag = hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else _oid(content)
    return 200, {"X-Repo-Commit": sha, "ETag": f'"{etag}"', "X-Linked-Size": str(len(content))}, content


def _json(value: Any, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def serving():
    """Gives a Hub that answers on loopback in the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self._body()
            token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
            try:
                status, headers, content = hub.answer(self.command, self.path, token, body)
            except Refused as error:
                told = error.message if error.message.startswith("{") else json.dumps({"error": error.message})
                status, content = error.status, told.encode()
                headers = {"Content-Type": "application/json", "X-Error-Code": error.code}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_HEAD = do_POST = do_PUT = _answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def environment(hub: Hub, home: object) -> dict[str, str]:
    """What lets a program take the stand-in for the Hub."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",  # its storage is a protocol of its own
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
