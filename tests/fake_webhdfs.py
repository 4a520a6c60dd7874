"""A file system behind HTTP, in memory, as Hadoop's ``webhdfs://`` client knows it; it counts, fails and dawdles.

Replies carry no Content-Type: the client that pip installs cannot parse one.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# What a fault can be: refuse the operation; do it and then refuse; keep half of what is written.
FAILS, FAILS_WHEN_DONE, WRITES_HALF = "fails", "fails when done", "writes half"


@dataclass
class FileSystem:
    """Files by path; ``fault`` is asked before every operation with its number, name and path.

    Attributes
    ----------
    fault : callable
        Returns what goes wrong, or None.
    latency : float
        Seconds that every operation takes.
    slow_rename : float
        Where above 0, renaming copies, waits so many seconds, and then deletes, as object stores do.
    lists_twice : bool
        Whether listings name every entry twice.
    """

    fault: Callable[[int, str, str], str | None] = lambda n, operation, path: None
    latency: float = 0.0
    slow_rename: float = 0.0
    lists_twice: bool = False
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {"/"})
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def exists(self, path: str) -> bool:
        return path in self.files or path in self.folders

    def make_folder(self, path: str) -> None:
        while path not in self.folders:
            self.folders.add(path)
            path = path.rpartition("/")[0] or "/"

    def write(self, path: str, content: bytes) -> None:
        self.make_folder(path.rpartition("/")[0] or "/")
        self.files[path] = (content, int(time.time() * 1000))

    def delete(self, path: str) -> bool:
        with self.lock:
            found = self.exists(path)
            self.files = {p: f for p, f in self.files.items() if p != path and not p.startswith(f"{path}/")}
            self.folders = {p for p in self.folders if p != path and not p.startswith(f"{path}/")}
            return found

    def rename(self, source: str, target: str, *, over: bool = False) -> bool:
        """As HDFS: into a folder that is there; over a file only where that is asked for."""
        with self.lock:
            if over and source in self.files:
                self.files.pop(target, None)
            if target in self.folders:
                target = f"{target}/{source.rpartition('/')[2]}"
            if not self.exists(source) or self.exists(target) or (target.rpartition("/")[0] or "/") not in self.folders:
                return False
            if not self.slow_rename:
                self._copy(source, target)
                return self.delete(source)
        self._copy(source, target)
        time.sleep(self.slow_rename)
        return self.delete(source)

    def _copy(self, source: str, target: str) -> None:
        for path in [p for p in self.folders if p == source or p.startswith(f"{source}/")]:
            self.make_folder(target + path[len(source) :])
        for path in [p for p in self.files if p == source or p.startswith(f"{source}/")]:
            self.files[target + path[len(source) :]] = self.files[path]

    def status(self, path: str, suffix: str = "") -> dict[str, Any]:
        content, modified = self.files.get(path, (b"", 0))
        return {
            "accessTime": modified,
            "blockSize": 1 << 27,
            "childrenNum": 0,
            "fileId": 1,
            "group": "g",
            "length": len(content),
            "modificationTime": modified,
            "owner": "o",
            "pathSuffix": suffix,
            "permission": "755",
            "replication": 1 if path in self.files else 0,
            "storagePolicy": 0,
            "type": "FILE" if path in self.files else "DIRECTORY",
        }

    def listing(self, path: str) -> list[dict[str, Any]]:
        if path in self.files:
            return [self.status(path)]
        prefix = path.rstrip("/") + "/"
        names = {p[len(prefix) :] for p in (*self.files, *self.folders) if p.startswith(prefix) and p != prefix}
        found = [self.status(prefix + name, name) for name in sorted(names) if name and "/" not in name]
        return found * 2 if self.lists_twice else found


class Refused(Exception):
    """An operation that ends with an error of the server."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    system: FileSystem

    def log_message(self, *arguments: Any) -> None:
        pass

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        path = unquote(url.path).removeprefix("/webhdfs/v1").rstrip("/") or "/"
        body = self._body()
        if query["op"] in ("CREATE", "OPEN") and "datanode" not in query:
            # The name node sends the client on to a data node: here, to itself.
            host = f"http://{self.headers['Host']}"
            self._reply(307, b"", {"Location": f"{host}{url.path}?{url.query}&datanode=true"})
            return
        try:
            self._reply(*self._answer(query, path, body))
        except Refused as error:
            told = {"exception": error.kind, "javaClassName": f"java.io.{error.kind}", "message": str(error)}
            self._reply(error.status, json.dumps({"RemoteException": told}).encode())

    do_GET = do_PUT = do_POST = do_DELETE = handle_request

    def _answer(self, query: dict[str, str], path: str, body: bytes) -> tuple[int, bytes]:
        system, operation = self.system, query["op"]
        time.sleep(system.latency)
        with system.lock:
            system.counts[operation] += 1
            fault = system.fault(sum(system.counts.values()), operation, path)
        if fault == FAILS:
            raise Refused(403, "IOException", f"{operation} failed on purpose")
        answer = self._do(query, path, body[: len(body) // 2] if fault == WRITES_HALF else body)
        if fault is not None:
            raise Refused(403, "IOException", f"{operation} failed on purpose, once it was done")
        return answer

    def _do(self, query: dict[str, str], path: str, body: bytes) -> tuple[int, bytes]:
        system, operation = self.system, query["op"]
        if operation == "RENAME":
            over = query.get("renameoptions") == "OVERWRITE"
            return 200, _boolean(system.rename(path, query["destination"], over=over))
        with system.lock:
            if operation == "CREATE":
                if system.exists(path) and query.get("overwrite") != "true":
                    raise Refused(403, "FileAlreadyExistsException", path)
                system.write(path, body)
                return 201, b""
            if operation == "MKDIRS":
                system.make_folder(path)
                return 200, _boolean(True)
            if operation == "DELETE":
                return 200, _boolean(system.delete(path))
            return self._read(query, path)

    def _read(self, query: dict[str, str], path: str) -> tuple[int, bytes]:
        system, operation = self.system, query["op"]
        if operation in ("SETPERMISSION", "SETTIMES", "SETOWNER"):
            return 200, b""
        if operation == "GETHOMEDIRECTORY":
            return 200, json.dumps({"Path": "/user/o"}).encode()
        if not system.exists(path):
            raise Refused(404, "FileNotFoundException", f"File does not exist: {path}")
        if operation == "GETFILESTATUS":
            return 200, json.dumps({"FileStatus": system.status(path)}).encode()
        if operation == "LISTSTATUS":
            return 200, json.dumps({"FileStatuses": {"FileStatus": system.listing(path)}}).encode()
        if operation == "GETFILEBLOCKLOCATIONS":
            return 200, json.dumps({"BlockLocations": {"BlockLocation": [_block(len(system.files[path][0]))]}}).encode()
        if operation == "OPEN":
            content, _ = system.files[path]
            first = int(query.get("offset", 0))
            return 200, content[first : first + int(query.get("length", len(content)))]
        raise Refused(400, "UnsupportedOperationException", operation)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _block(length: int) -> dict[str, Any]:
    here = {"hosts": ["127.0.0.1"], "names": ["127.0.0.1:1"], "topologyPaths": ["/rack/127.0.0.1:1"]}
    return {"cachedHosts": [], "corrupt": False, "length": length, "offset": 0, "storageTypes": ["DISK"], **here}


def _boolean(value: bool) -> bytes:
    return json.dumps({"boolean": value}).encode()


@contextmanager
def serving(system: FileSystem) -> Iterator[str]:
    """Serve a file system on this machine; give its URI."""
    handler = type("HandlerOfSystem", (Handler,), {"system": system})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"webhdfs://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
