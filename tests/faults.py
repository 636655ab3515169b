"""A file server on loopback that knows ranges and can be told to fail: status, silence, short answers."""

from __future__ import annotations

import http.server
import json
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Fault:
    """What happens to one request instead of an answer."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    delay_s: float = 0.0
    short: bool = False  # promise the whole, send half, hang up
    drop: bool = False  # hang up
    answer: bool = False  # after the delay, answer as usual


@dataclass
class Site:
    """Files and faults of a running server; `faults[path]` is used up request by request, `always` is not."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    always: Callable[[str, str, str | None], Fault | None] | None = None
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    routes: dict[str, Callable[[str, bytes], object]] = field(default_factory=dict)

    def ranges(self, path: str) -> list[tuple[int, int]]:
        """Return the byte ranges asked of a path."""
        asked = [r for method, p, r in self.log if method == "GET" and p.split("?")[0] == path and r]
        return [(int(m[1]), int(m[2])) for m in map(RANGE.match, asked) if m and m[2]]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_args: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, sent: bytes) -> None:
        site, path = self.site, self.path.split("?")[0]
        asked = self.headers.get("Range")
        site.log.append((self.command, self.path, asked))
        fault = site.faults[path].pop(0) if site.faults.get(path) else None
        fault = fault or (site.always(self.command, self.path, asked) if site.always else None)
        if fault:
            time.sleep(fault.delay_s)
        if fault and fault.drop:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif fault and not fault.answer and not fault.short:
            self._send(fault.status, fault.body, dict(fault.headers))
        elif path in site.routes:
            self._send(200, json.dumps(site.routes[path](self.path, sent)).encode(), {})
        elif path in site.files:
            self._send_file(site.files[path], asked, short=bool(fault and fault.short))
        else:
            self._send(404, b"not found", {})

    def _send_file(self, data: bytes, asked: str | None, *, short: bool) -> None:
        match = RANGE.match(asked or "")
        if not match:
            self._send(200, data, {"Accept-Ranges": "bytes"}, short=short)
            return
        first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            self._send(416, b"", {})
            return
        span = {"Content-Range": f"bytes {first}-{last}/{len(data)}", "Accept-Ranges": "bytes"}
        self._send(206, data[first : last + 1], span, short=short)

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, short: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if short else body)
        if short:
            self.close_connection = True


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_args: object) -> None:
        """Stay quiet: clients hang up, that is the point."""


@contextmanager
def serving() -> Iterator[Site]:
    """Run a server on a free loopback port while the block lasts."""
    site = Site()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
