"""A run that is killed, interrupted or out of disk goes on where it stopped, and ends as if nothing had been."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Result, geoelle, invoke, start
from servers import Fault, RangeServer

from geoelle.embeddings import Embeddings
from ground import save_catalog, three_places

PARTS = [f"part-32631_r-488_c{column}" for column in (58, 59, 60)]
FIRST, SECOND, THIRD = (f"*S2B_31TF{letter}*.tif" for letter in "JKL")
STUCK_S = 25.0
PROMPT_S = 10.0


@dataclass(frozen=True)
class Places:
    """Three scenes on a server, one a part, and the words that choose them."""

    files: RangeServer
    args: tuple[object, ...]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    home = tmp_path_factory.mktemp("ground")
    items, squares = three_places(home)
    with RangeServer(home) as files:
        catalog = save_catalog(home / "items.json", items, root=home, base=files.url)
        yield Places(files, ("--polygon", squares, "--dates", "2024", "--catalog", catalog))


@pytest.fixture(scope="module")
def whole(places: Places, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run leaves that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    result = geoelle("map", *places.args, "-o", out)
    assert result.code == 0, result.err
    return tree(out)


@pytest.fixture(autouse=True)
def calm(places: Places) -> Iterator[None]:
    yield
    places.files.faults = []
    places.files.forget()


def tree(out: Path) -> dict[str, str]:
    """Hash every file."""
    files = (p for p in out.rglob("*") if p.is_file())
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def parts_of(out: Path) -> list[str]:
    return sorted(p.stem for p in out.glob("embeddings/*.parquet"))


def stop_in_the_middle(places: Places, out: Path, how: signal.Signals, *verb: object) -> tuple[Result, float]:
    """Send a signal once the first part is there and the second will not come; return the end and its wait."""
    places.files.faults = [Fault(kind="slow", pattern=SECOND, delay_s=STUCK_S)]
    process = start(*verb, *places.args, "-o", out)
    try:
        until = time.monotonic() + 60
        while parts_of(out) != PARTS[:1]:
            assert process.poll() is None and time.monotonic() < until, process.communicate(timeout=1)
            time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(how)
        said = process.communicate(timeout=STUCK_S * 2)
    finally:
        process.kill()
    places.files.faults = []
    places.files.forget()
    return Result(process.returncode, *said), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "ctrl-c"])
def test_a_stopped_map_goes_on_with_the_parts_that_are_missing(
    places: Places, whole: dict[str, str], tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "out"
    stopped, waited = stop_in_the_middle(places, out, how, "map")
    assert stopped.out == ""
    if how == signal.SIGINT:
        assert stopped.code == 130 and waited < PROMPT_S
        assert stopped.err.rstrip().endswith("interrupted; the same command goes on where it stopped")
        assert "Traceback" not in stopped.err
    else:
        assert stopped.code == -signal.SIGKILL
    assert parts_of(out) == PARTS[:1] and not (out / "run.json").exists()
    assert "no finished run; run the same command again to finish it" in invoke("info", out).failure()
    written = (out / "embeddings" / f"{PARTS[0]}.parquet").stat().st_mtime_ns

    again = geoelle("map", *places.args, "-o", out)
    assert again.code == 0, again.err
    assert [line.split()[0] for line in again.err.splitlines() if "chips (" in line] == ["32/48", "48/48"]
    assert places.files.count(FIRST) == 0
    assert places.files.count(SECOND) > 0 and places.files.count(THIRD) > 0
    assert (out / "embeddings" / f"{PARTS[0]}.parquet").stat().st_mtime_ns == written
    assert tree(out) == whole


@pytest.mark.slow
def test_a_stopped_run_is_only_its_own_commands(places: Places, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop_in_the_middle(places, out, signal.SIGKILL, "embed")
    before = tree(out)
    other = invoke("map", *places.args, "-o", out, "--stride", 8).failure()
    assert other.endswith("holds an unfinished run of another command; use another -o, or --overwrite to replace it")
    assert tree(out) == before and places.files.count(FIRST) == places.files.count(THIRD) == 0
    # embed without a loss begins what map goes on with: the plan is the same.
    again = geoelle("map", *places.args, "-o", out)
    assert again.code == 0 and places.files.count(FIRST) == 0
    assert tree(out) == whole
    finished = invoke("map", *places.args, "-o", out).failure()
    assert finished.endswith("holds a finished run; use another -o, or --overwrite to replace it")
    changed = invoke("embed", *places.args, "-o", out, "--stride", 32).failure()
    assert changed.endswith("holds a finished run; use another -o, or --overwrite to replace it")
    assert tree(out) == whole
    places.files.forget()
    assert invoke("embed", *places.args, "-o", out, "--stride", 32, "--overwrite").code == 0
    assert places.files.count(FIRST) > 0
    assert {p.name for p in out.iterdir()} == {"embeddings", "items.json", "plan.json", "run.json"}
    assert Embeddings.read(out).addresses.lattice.stride_px == 32


def test_a_directory_of_others_is_refused_and_left_alone(places: Places, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("It was a dark and stormy night")
    (tmp_path / "empty").mkdir()
    with RangeServer(tmp_path / "empty") as own:  # the shared one may still answer a command that was killed
        catalog = tmp_path / "items.json"
        catalog.write_text(Path(places.args[-1]).read_text().replace(places.files.url, own.url))
        before = tree(tmp_path)
        for more in ((), ("--overwrite",)):
            told = invoke("embed", *places.args[:-1], catalog, "-o", tmp_path / "thesis", *more).failure()
            assert told.endswith("holds other files and no plan.json of a run; name a new directory with -o")
        assert tree(tmp_path) == before and own.count() == 0
    file = tmp_path / "thesis" / "chapter1.tex"
    assert "is a file; name a directory" in invoke("embed", *places.args, "-o", file).failure()
    assert "cannot be made (Not a directory)" in invoke("embed", *places.args, "-o", file / "run").failure()


# --- a full disk


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Mount a disk of this size; skip where the system does not let us."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk needs Linux and the right to mount; run as root")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("kilobytes", "parts"), [(60, (1, 2)), (160, (3,))], ids=["among parts", "at a product"])
def test_a_full_disk_is_one_line_and_freeing_it_is_enough(
    places: Places, whole: dict[str, str], tmp_path: Path, kilobytes: int, parts: tuple[int, ...]
) -> None:
    out = tmp_path / "out"
    with small_disk(out, f"{kilobytes}k"):
        told = invoke("map", *places.args, "-o", out).failure()
        assert told.startswith("writing failed for ") and "(No space left on device)" in told
        assert not list(out.rglob("*.tmp")) and not (out / "run.json").exists()
        for part in out.glob("embeddings/*.parquet"):
            assert len(Embeddings.read(part)) == 16
        assert len(parts_of(out)) in parts
        subprocess.run(["mount", "-o", "remount,size=8m", out], check=True)
        places.files.forget()
        again = geoelle("map", *places.args, "-o", out)
        assert again.code == 0, again.err
        assert places.files.count(FIRST) == 0
        assert tree(out) == whole


@pytest.mark.slow
def test_a_file_that_may_not_grow_leaves_no_half_of_it(places: Places, whole: dict[str, str], tmp_path: Path) -> None:
    """The same by a limit on the size of files, for machines on which nobody may mount."""
    out, limit = tmp_path / "out", 16_000
    lower = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    process = start("embed", *places.args, "-o", out, before=lower)
    said = process.communicate(timeout=120)
    told = Result(process.returncode, *said).failure()
    assert told.startswith(f"writing failed for {out / 'embeddings' / PARTS[0]}.parquet (File too large)")
    assert sorted(p.name for p in out.rglob("*")) == ["embeddings", "items.json", "plan.json"]
    again = geoelle("map", *places.args, "-o", out)
    assert again.code == 0, again.err
    assert tree(out) == whole
