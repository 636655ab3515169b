"""`geoelle models pull` against a hub on loopback that speaks the protocol of huggingface.co."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "a" * 40
TOKEN = "hf_loopback"
BODY = bytes(range(256)) * (24 * 4096)  # 24 MiB: more than the library keeps in memory before it writes


class Hub(ThreadingHTTPServer):
    """Serves files by repository and path; `cut` files break off halfway once, `gated` repositories want the token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[tuple[str, str], bytes] = {}
        self.gated: set[str] = set()
        self.cut: set[str] = set()
        self.gets: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        owner, repo, verb, _revision, *rest = [*self.path.strip("/").split("/"), "", "", ""]
        name, path = f"{owner}/{repo}", "/".join(p for p in rest if p)
        if name in self.server.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(403, "GatedRepo")
        if verb != "resolve" or (name, path) not in self.server.files:
            return self._refuse(404, "EntryNotFound")
        data = self.server.files[name, path]
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-").split("-")[0]) if wanted else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return None
        self.server.gets.append((path, wanted))
        if path in self.server.cut:
            self.server.cut.discard(path)
            self.wfile.write(data[start : start + len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            return self.connection.close()
        self.wfile.write(data[start:])
        return None

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A third-party package with one model of one file, found by its entry point; the file's sha256 is in its card."""
    folder = tmp_path / "site"
    info = folder / "third_party-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[geoelle.models]\nours.small = third_party\n")
    (folder / "third_party.py").write_text(f'''
import os
from dataclasses import replace
from geoelle.models import model_card, load_model, Remote
FILE = Remote(repo="owner/ours", file="deep/weights.bin", revision="{COMMIT}",
              sha256=os.environ.get("OURS_SHA", "{hashlib.sha256(BODY).hexdigest()}"), bytes={len(BODY)})
CARDS = {{"ours.small": replace(model_card("nano"), name="ours.small", embedded=False, files=(FILE,),
                               terms=os.environ.get("OURS_TERMS", ""))}}
def load(name, weights=None, *, seed=0):
    from geoelle.models.weights import local_files
    model = load_model("nano")
    if weights != "untrained":
        model.weights_sha256 = str(local_files(name, CARDS[name].files, weights)[FILE.file].stat().st_size)
    model.card = CARDS[name]
    return model
''')
    return folder


def geoelle(*words: str, hub: Hub, package: Path, **more: str) -> subprocess.CompletedProcess[str]:
    cache = package.parent / "cache"
    path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))} | {
        "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_HOME": str(package.parent / "home"),
        "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": path, **more,
    }  # fmt: skip
    command = [sys.executable, "-m", "geoelle.cli", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_pull_checks_installs_and_tells(hub: Hub, package: Path) -> None:
    hub.files["owner/ours", "deep/weights.bin"] = BODY
    listed = json.loads(geoelle("models", "--json", hub=hub, package=package).stdout)
    assert [c["installed"] for c in listed if c["name"] == "ours.small"] == [False]
    done = geoelle("models", "pull", "ours.small", "--json", hub=hub, package=package)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert Path(row["path"]).read_bytes() == BODY
    assert row["commit"] == COMMIT and row["sha256"] == hashlib.sha256(BODY).hexdigest() and row["checked"]
    assert "CC-BY-4.0" in done.stderr
    listed = json.loads(geoelle("models", "--json", hub=hub, package=package).stdout)
    assert [c["installed"] for c in listed if c["name"] == "ours.small"] == [True]
    again = geoelle("models", "pull", "ours.small", hub=hub, package=package)
    assert again.returncode == 0 and again.stdout.strip() == row["path"] and len(hub.gets) == 1


def test_a_broken_download_resumes(hub: Hub, package: Path) -> None:
    hub.files["owner/ours", "deep/weights.bin"] = BODY
    hub.cut.add("deep/weights.bin")
    done = geoelle("models", "pull", "ours.small", hub=hub, package=package)
    if done.returncode:  # whether the library goes on by itself is its own affair; the next pull must
        assert done.returncode == 1 and "pull again" in done.stderr
        done = geoelle("models", "pull", "ours.small", hub=hub, package=package)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == BODY
    ranges = [wanted for _, wanted in hub.gets]
    assert ranges[0] is None and ranges[-1] is not None and int(ranges[-1].removeprefix("bytes=").split("-")[0]) > 0


def test_other_bytes_than_published_are_not_kept(hub: Hub, package: Path) -> None:
    hub.files["owner/ours", "deep/weights.bin"] = BODY[:-1] + b"x"
    done = geoelle("models", "pull", "ours.small", hub=hub, package=package)
    assert done.returncode == 1 and "deleted: pull again" in done.stderr and "Traceback" not in done.stderr
    assert not [p for p in (package.parent / "cache").rglob("*") if p.is_file() and p.stat().st_size == len(BODY)]


def test_gated_files_need_the_token(hub: Hub, package: Path) -> None:
    hub.files["owner/ours", "deep/weights.bin"] = BODY
    hub.gated.add("owner/ours")
    refused = geoelle("models", "pull", "ours.small", hub=hub, package=package)
    assert refused.returncode == 1 and "accept its licence at https://huggingface.co/owner/ours" in refused.stderr
    done = geoelle("models", "pull", "ours.small", hub=hub, package=package, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_restrictive_terms_come_first(hub: Hub, package: Path) -> None:
    hub.files["owner/ours", "deep/weights.bin"] = BODY
    terms = "Not for surveillance."
    refused = geoelle("models", "pull", "ours.small", hub=hub, package=package, OURS_TERMS=terms)
    assert refused.returncode == 1 and terms in refused.stderr and "--yes" in refused.stderr and not hub.gets
    done = geoelle("models", "pull", "ours.small", "--yes", hub=hub, package=package, OURS_TERMS=terms)
    assert done.returncode == 0, done.stderr


def test_torchgeos_file_is_fetched_from_its_commit_and_checked(hub: Hub, package: Path) -> None:
    """What is served here is not the published file, and its name says so: it is fetched, checked and not kept."""
    pytest.importorskip("torchgeo")
    hub.files["torchgeo/dofa", "dofa_base_patch16_224-a0275954.pth"] = BODY
    done = geoelle("models", "pull", "dofa.v1-base", "--torchgeo", hub=hub, package=package)
    assert [path for path, _ in hub.gets] == ["dofa_base_patch16_224-a0275954.pth"]
    assert done.returncode == 1 and "not the published a0275954" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [("absent", "could not be fetched (404)"), ("down", "no connection")],
)
def test_failures_are_one_line(hub: Hub, package: Path, change: str, told: str) -> None:
    more = {"HF_ENDPOINT": "http://127.0.0.1:9"} if change == "down" else {}
    done = geoelle("models", "pull", "ours.small", hub=hub, package=package, **more)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


def test_a_model_of_another_package_is_found_and_used(hub: Hub, package: Path, tmp_path: Path) -> None:
    hub.files["owner/ours", "deep/weights.bin"] = BODY
    absent = geoelle("embed", *AREA, "-o", str(tmp_path / "run"), hub=hub, package=package)
    assert absent.returncode == 1 and "geoelle models pull ours.small" in absent.stderr
    assert geoelle("models", "pull", "ours.small", hub=hub, package=package).returncode == 0
    done = geoelle("embed", *AREA, "-o", str(tmp_path / "run"), hub=hub, package=package)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "ours.small" in json.dumps(run)


AREA = ("--model", "ours.small", "--bbox", "-75.62,37.66,-75.60,37.68", "--dates", "2015/2018", "--catalog", "demo")
