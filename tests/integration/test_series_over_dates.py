"""A series that is killed goes on date by date, and ends as if nothing had been; the words of the command line."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from commands import geoelle, start

COMMAND = ("series", "--at", "22.152,45.205", "--dates", "2016/2017", "--catalog", "demo")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    result = geoelle(*COMMAND, "-o", out)
    assert result.code == 0, result.err
    assert result.out.split() == [str(out / name) for name in (
        "series.parquet", "series.csv", "series.json", "series.png", "report.html", "run.json",
    )]  # fmt: skip
    return out


def tree(out: Path) -> dict[str, str]:
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*.*")}


def test_a_killed_series_goes_on_where_it_stopped(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*COMMAND, "-o", out)
    until = time.monotonic() + 60
    while len(done := list(out.glob("dates/*.parquet"))) < 3:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not (out / "run.json").exists()
    before = {path: path.stat().st_mtime_ns for path in done}
    other = geoelle("series", "--at", "22.153,45.205", *COMMAND[3:], "-o", out)
    assert "an unfinished series of another command" in other.failure()
    result = geoelle(*COMMAND, "-o", out)
    assert result.code == 0, result.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert tree(out) == tree(whole)


def test_a_finished_series_is_not_replaced_unasked(whole: Path) -> None:
    assert "a finished series" in geoelle(*COMMAND, "-o", whole).failure()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    told = geoelle(*COMMAND, "--dry-run", "--json", "-o", tmp_path / "out").json()
    assert len(told["dates"]) == len(told["items"]) == told["chips"] == 13 and told["bytes"] > 0
    assert not (tmp_path / "out").exists()
