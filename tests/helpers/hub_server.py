"""A small Hugging Face hub on this machine, its cache, and servers that do not answer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"

INFO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/revision/[^/?]+")
TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/[^/?]+")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)")


class LoopbackHub:
    """Serves `files`, {("models" or "datasets", repository): {name: content}}, and counts what is asked."""

    def __init__(self, files: dict[tuple[str, str], dict[str, bytes]]) -> None:
        self.files = files
        self.requests: list[str] = []
        """`METHOD path` of each request, with ` from <byte>` where a part was asked for."""
        self.stalls: set[str] = set()
        """Names of files whose content stops half-way, without an end."""
        self.refusal = "RepoNotFound"
        """The hub's code for what it does not give."""

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """The hub's URL, for `HF_ENDPOINT`."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            part = self.headers.get("Range")
            hub.requests.append(f"{self.command} {path}" + (f" from {_first(part)}" if part else ""))
            if path == "/":
                return self._send(b"hub")
            if (asked := INFO.fullmatch(path)) and (files := hub.files.get((asked[1], asked[2]))) is not None:
                siblings = [{"rfilename": name} for name in files]
                return self._json({"id": asked[2], "sha": COMMIT, "siblings": siblings, "tags": []})
            if (asked := TREE.fullmatch(path)) and (files := hub.files.get((asked[1], asked[2]))) is not None:
                return self._json([
                    {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
                    for name, content in files.items()
                ])  # fmt: skip
            if asked := FILE.fullmatch(path):
                kind = "datasets" if asked[1] else "models"
                content = hub.files.get((kind, asked[2]), {}).get(asked[3])
                if content is not None:
                    return self._file(asked[3], content, _first(part) if part else 0)
            return self._send(b"{}", 404, {"X-Error-Code": hub.refusal})

        def _file(self, name: str, content: bytes, first: int) -> None:
            headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self._send(content[first:], 206 if first else 200, headers, stalls=name in hub.stalls)

        def _json(self, value: object) -> None:
            self._send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

        def _send(
            self, body: bytes, status: int = 200, headers: dict | None = None, stalls: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            with contextlib.suppress(OSError):  # whoever asked has gone
                self.wfile.write(body[: len(body) // 2] if stalls else body)
                self.wfile.flush()
                if stalls:
                    time.sleep(60)

    return Handler


def _first(part: str) -> int:
    return int(part.removeprefix("bytes=").partition("-")[0])


def _oid(content: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """URL of a server that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def hub_environment(endpoint: str, home: Path) -> dict[str, str]:
    """Environment of a process whose hub is this one and whose caches lie in `home`."""
    return {
        **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }


HUB_CACHE = "hub"
"""Folder in which tests keep a cache of the hub's."""


def put_in_cache(cache: Path, kind: str, repository: str, files: dict[str, bytes]) -> Path:
    """Lays a repository into a cache folder as the hub's client does; returns its snapshot's folder.

    `kind` is `models` or `datasets`.
    """
    folder = cache / f"{kind}--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name, content in files.items():
        target = folder / "snapshots" / COMMIT / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder / "snapshots" / COMMIT
