"""A Hugging Face Hub on 127.0.0.1: serves local folders by the Hub's protocol, records requests, fails on demand."""

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPO = "ns/name"  # the repository that every test has


@dataclass
class Request:
    """What a client asked, and how many bytes of body it got."""

    method: str
    path: str
    range: str | None = None
    authorization: str | None = None
    sent: int = 0

    @property
    def token(self) -> str | None:
        return self.authorization.removeprefix("Bearer ") if self.authorization else None


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None  # as announced, when the connection ends before


@dataclass
class Fault:
    """What goes wrong, `times` times: a status, a cut in the middle of the body, a wait before the answer."""

    path: str
    method: str = "*"
    times: float = 1
    status: int | None = None
    cut: bool = False
    seconds: float = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Repository:
    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    readers: set[str] | None = None  # tokens that see a private repository
    gate: set[str] | None = None  # tokens that may read the files of a gated one


class HubServer:
    """Use as a context manager. With a `cdn`, another server, weights are redirected there as the Hub does."""

    def __init__(self, cdn: "HubServer | None" = None) -> None:
        self.cdn = cdn
        self.repos: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def add(self, repo: str, folder: Path, ref: str = "main") -> str:
        """Point a branch or tag of a repository, made if new, at a folder; returns the commit."""
        commit = hashlib.sha1(f"{repo} {folder}".encode()).hexdigest()
        repository = self.repos.setdefault(repo, Repository())
        repository.commits[commit] = folder
        repository.refs[ref] = commit
        return commit

    def fail(self, path: str, **what: object) -> None:
        """Let requests whose path matches a pattern fail, as the fields of Fault say."""
        self.faults.append(Fault(path, **what))  # type: ignore[arg-type]

    def asked(self, path: str, method: str = "*") -> list[Request]:
        """The recorded requests whose path matches a pattern."""
        return [r for r in self.requests if fnmatch(r.path, path) and fnmatch(r.method, method)]

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            matching = (f for f in self.faults if fnmatch(request.path, f.path) and fnmatch(request.method, f.method))
            fault = next((f for f in matching if f.times > 0), Fault("", times=0))
            fault.times -= 1
        time.sleep(fault.seconds)
        if fault.status:
            return Answer(fault.status, fault.headers, fault.body)
        answer = self._answer(request)
        if fault.cut:
            answer.length, answer.body = len(answer.body), answer.body[: len(answer.body) // 2]
        return answer

    def _answer(self, request: Request) -> Answer:
        if request.token and request.token not in self.tokens:
            return Answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        is_api, path = request.path.startswith("/api/models/"), request.path.removeprefix("/api/models").strip("/")
        name = "/".join(path.split("/")[:2])
        action, _, rest = path.removeprefix(name).strip("/").partition("/")
        repository = self.repos.get(name)
        if repository is None or (repository.readers is not None and request.token not in repository.readers):
            return _error(404 if request.token else 401, "RepoNotFound", "Repository not found")
        revision, _, file = (unquote(part) for part in rest.partition("/"))
        commit = repository.refs.get(revision or "main", revision)
        if commit not in repository.commits:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        folder = repository.commits[commit]
        if is_api and action in ("", "revision"):
            siblings = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
            return Answer(200, body=json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())
        if repository.gate is not None and request.token not in repository.gate:
            return _error(403 if request.token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        if action != "resolve" or not (folder / file).is_file():
            return _error(404, "EntryNotFound", "Entry not found")
        return self._file(folder / file, commit, request.range, f"/{name}/resolve/{commit}/{file}")

    def _file(self, path: Path, commit: str, wanted: str | None, address: str) -> Answer:
        body = path.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        headers = {"ETag": etag, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if self.cdn and path.suffix in (".safetensors", ".bin"):
            linked = {"X-Linked-ETag": etag, "X-Linked-Size": str(len(body)), "Location": self.cdn.url + address}
            return Answer(302, headers | linked)
        if wanted is None:
            return Answer(200, headers, body)
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        part = body[int(start) : int(end) + 1 if end else None]
        span = f"bytes {start}-{int(start) + len(part) - 1}/{len(body)}"
        return Answer(206, headers | {"Content-Range": span}, part)


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"X-Error-Code": code, "X-Error-Message": message})


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_GET(self) -> None:
        request = Request(self.command, urlsplit(self.path).path, self.headers["Range"], self.headers["Authorization"])
        answer = self.hub.answer(request)
        request.sent = len(answer.body) if self.command == "GET" else 0
        self.send_response(answer.status)
        length = len(answer.body) if answer.length is None else answer.length
        for name, value in {"Content-Length": str(length), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body[: request.sent])

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Silent: tests read `requests`."""
