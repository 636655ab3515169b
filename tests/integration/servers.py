"""Loopback servers for tests: a file server with byte ranges and faults, and a third-party STAC API.

Neither is part of geoelle. The STAC API is `rustac serve`, a server written by others, so that a search is
tested against somebody else's reading of the specification. Both listen on 127.0.0.1 on a free port and end
with their `with` block.
"""

from __future__ import annotations

import json
import mimetypes
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

import pystac
import pytest

__all__ = ["DEMO", "Fault", "RangeServer", "Request", "demo_collections", "demo_items", "stac_api"]

DEMO = Path(__file__).parents[2] / "catalogs" / "demo"
_READY_S = 20.0
_AT_ONCE = 32  # requests answered at the same time; more wait
_LONGEST_DELAY_S = 30.0
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
_STATUS = {"missing": 404, "busy": 429, "broken": 500}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Say what goes wrong with the paths that match a pattern ("*/blue.tif"), and how often.

    missing: 404. busy: 429 with Retry-After. broken: 500. slow: an answer after `delay_s`. cut: the promised
    length, half the body, a closed connection. whole: the range is ignored, 200 with the whole file.
    corrupt: every byte from `start` in the file on is another. `times` counts answers, None means always.
    """

    kind: Literal["missing", "busy", "broken", "slow", "cut", "whole", "corrupt"]
    pattern: str = "*"
    times: int | None = None
    retry_after_s: int = 1
    delay_s: float = 1.0
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Record one answered request; `sent` counts bytes of the body."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Stay silent: clients hang up, and a traceback among their words would be taken for theirs."""


class RangeServer:
    """Serve the files under `root` over HTTP/1.1 with byte ranges and switchable faults.

    `faults` may be replaced at any time, the first that matches a path and has answers left applies;
    `requests` lists what was answered.
    """

    def __init__(self, root: Path, faults: Iterable[Fault] = ()) -> None:
        self.root = Path(root).resolve()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        self._stopped = threading.Event()
        self._requests: list[Request] = []
        self.faults = faults
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        """Return the address of the root, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return the faults in force."""
        return tuple(fault for fault, _ in self._faults)

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        with self._lock:
            self._faults = [(fault, [0]) for fault in faults]

    @property
    def requests(self) -> tuple[Request, ...]:
        """Return what was answered so far, in order of completion."""
        with self._lock:
            return tuple(self._requests)

    @property
    def bytes_sent(self) -> int:
        """Return the bytes of all bodies so far."""
        return sum(request.sent for request in self.requests)

    def count(self, pattern: str = "*", status: int | None = None) -> int:
        """Count answered requests by path pattern and status."""
        matching = (r for r in self.requests if fnmatchcase(r.path, pattern))
        return sum(status is None or r.status == status for r in matching)

    def forget(self) -> None:
        """Empty the list of requests."""
        with self._lock:
            self._requests.clear()

    def file(self, path: str) -> Path | None:
        """Return the file at a URL path, or None where there is none below the root."""
        found = (self.root / path.lstrip("/")).resolve()
        return found if found.is_relative_to(self.root) and found.is_file() else None

    def fault(self, path: str) -> Fault | None:
        """Return the fault that applies to a request, and count it."""
        with self._lock:
            for fault, used in self._faults:
                left = fault.times is None or used[0] < fault.times
                if left and fnmatchcase(path, fault.pattern):
                    used[0] += 1
                    return fault
        return None

    def record(self, request: Request) -> None:
        """Add a request to the list."""
        with self._lock:
            self._requests.append(request)

    @contextmanager
    def turn(self, delay_s: float) -> Iterator[None]:
        """Hold one of the places for requests answered at once, after a delay that ends with the server."""
        with self._slots:
            self._stopped.wait(min(delay_s, _LONGEST_DELAY_S))
            yield


def _handler(owner: RangeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30  # seconds an idle connection is kept

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            fault = owner.fault(path)
            with owner.turn(fault.delay_s if fault and fault.kind == "slow" else 0):
                status, sent = self._answer(path, fault)
            owner.record(
                Request(
                    method=self.command, path=path, range=self.headers.get("Range"), status=status, sent=sent
                )
            )

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent: `requests` has the log."""

        def _answer(self, path: str, fault: Fault | None) -> tuple[int, int]:
            kind = fault.kind if fault else ""
            if kind in _STATUS:
                later = {"Retry-After": str(fault.retry_after_s)} if kind == "busy" else {}
                return self._send(_STATUS[kind], kind.encode(), later)
            if (file := owner.file(path)) is None:
                return self._send(404, b"missing", {})
            whole = file.read_bytes()
            asked = None if kind == "whole" else _asked(self.headers.get("Range"), len(whole))
            first, last = asked or (0, len(whole))
            headers = {"Content-Type": mimetypes.guess_type(file.name)[0] or "application/octet-stream"}
            if kind != "whole":
                headers["Accept-Ranges"] = "bytes"
            if asked and first >= last:
                return self._send(416, b"", {"Content-Range": f"bytes */{len(whole)}"})
            if asked:
                headers["Content-Range"] = f"bytes {first}-{last - 1}/{len(whole)}"
            body = whole[first:last]
            if kind == "corrupt":
                good = max(0, fault.start - first)
                body = body[:good] + bytes(byte ^ 0x55 for byte in body[good:])
            return self._send(206 if asked else 200, body, headers, cut=kind == "cut")

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], cut: bool = False
        ) -> tuple[int, int]:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            body = b"" if self.command == "HEAD" else body[: len(body) // 2] if cut else body
            self.close_connection = self.close_connection or cut
            try:
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):  # the client has what it wanted
                self.close_connection = True
            return status, len(body)

    return Handler


def _asked(header: str | None, size: int) -> tuple[int, int] | None:
    """Return first byte and end of a single range, or None where the header asks for none we know."""
    match = _RANGE.match(header or "")
    if not match or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def demo_items(base: str, demo: Path = DEMO) -> list[pystac.Item]:
    """Return the items of the demo catalogue, their files at `base`, the address of a server of `demo`."""
    items = []
    for item in pystac.Catalog.from_file(str(demo / "catalog.json")).get_items(recursive=True):
        for asset in item.assets.values():
            asset.href = f"{base}/{Path(asset.get_absolute_href()).relative_to(demo.resolve()).as_posix()}"
        item.clear_links()
        items.append(item)
    return items


def demo_collections(demo: Path = DEMO) -> list[pystac.Collection]:
    """Return the collections of the demo catalogue without links."""
    children = list(pystac.Catalog.from_file(str(demo / "catalog.json")).get_children())
    for child in children:
        child.clear_links()
    return children


@contextmanager
def stac_api(items: Iterable[pystac.Item], collections: Iterable[pystac.Collection] = ()) -> Iterator[str]:
    """Serve items with `rustac serve` and give its address; skip the test where rustac is not installed.

    Collections that are not given are made up by the server. Items of a `datetime` of null are found by
    their interval. Two limits of rustac 0.9: a GET search by collection that has a further page answers 500
    (POST, the default of pystac-client, pages well), and `query` and `filter` are not offered.
    """
    beside = Path(sys.executable).with_name("rustac")
    program = str(beside) if beside.is_file() else shutil.which("rustac")
    if program is None:
        pytest.skip("rustac is not installed; pip install rustac")
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for collection in collections:
            files.append(_write(Path(scratch) / f"{collection.id}.json", collection.to_dict(False)))
        features = [item.to_dict(include_self_link=False) for item in items]
        every = {"type": "FeatureCollection", "features": features}
        files.append(_write(Path(scratch) / "items.json", every))
        url = f"http://127.0.0.1:{_free_port()}"
        arguments = ["serve", "--create-collections", "--addr", url.removeprefix("http://"), *files]
        with (Path(scratch) / "log").open("w+") as log:
            process = subprocess.Popen([program, *arguments], stdout=log, stderr=subprocess.STDOUT)
            try:
                _wait(process, url, log.name)
                yield url
            finally:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(5)


def _write(path: Path, document: dict) -> str:
    path.write_text(json.dumps(document), "utf-8")
    return str(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen, url: str, log: str) -> None:
    """Wait until the server answers; fail with what it said when it does not."""
    end = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/collections", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise RuntimeError(f"rustac does not answer at {url} (exit {process.poll()}): {Path(log).read_text()}")
