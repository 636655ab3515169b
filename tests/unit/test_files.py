import errno
import hashlib
import os
from pathlib import Path

import pytest

from geoelle.errors import GeoelleError
from geoelle.files import fresh_directory, fresh_file, sha256, write_bytes


def names(directory: Path) -> list[str]:
    """List everything in a directory, temporary files included."""
    return sorted(path.name for path in directory.iterdir())


def test_write_bytes_writes_and_leaves_nothing_else(tmp_path: Path) -> None:
    assert write_bytes(tmp_path / "a.bin", b"abc") == tmp_path / "a.bin"
    assert (tmp_path / "a.bin").read_bytes() == b"abc"
    assert names(tmp_path) == ["a.bin"]
    assert sha256(tmp_path / "a.bin") == hashlib.sha256(b"abc").hexdigest()


def test_write_bytes_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        write_bytes(tmp_path / "a.bin", b"abc")
    finally:
        os.umask(previous)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o644


def test_existing_file_is_kept_without_overwrite(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"old")
    with pytest.raises(GeoelleError, match=r"a\.bin \(it exists\); --overwrite"):
        write_bytes(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    write_bytes(tmp_path / "a.bin", b"new", overwrite=True)
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(GeoelleError, match=r"no directory .*nowhere"):
        write_bytes(tmp_path / "nowhere" / "a.bin", b"abc")


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_bytes(tmp_path / "a.bin", b"old")
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(GeoelleError, match="No space left on device"):
        write_bytes(tmp_path / "a.bin", b"new", overwrite=True)
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_fresh_file_appears_only_when_whole(tmp_path: Path) -> None:
    with fresh_file(tmp_path / "a.bin") as made:
        made.write_bytes(b"old")
        assert not (tmp_path / "a.bin").exists()
    with pytest.raises(KeyError), fresh_file(tmp_path / "a.bin", overwrite=True) as made:
        made.write_bytes(b"new")
        raise KeyError
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_fresh_directory_appears_only_when_whole(tmp_path: Path) -> None:
    with fresh_directory(tmp_path / "d") as made:
        (made / "x").write_text("1")
        assert not (tmp_path / "d").exists()
    assert (tmp_path / "d" / "x").read_text() == "1"
    assert names(tmp_path) == ["d"]


def test_fresh_directory_keeps_the_old_one_on_any_error(tmp_path: Path) -> None:
    with fresh_directory(tmp_path / "d") as made:
        (made / "x").write_text("old")
    with pytest.raises(KeyError), fresh_directory(tmp_path / "d", overwrite=True) as made:
        (made / "x").write_text("new")
        raise KeyError
    assert (tmp_path / "d" / "x").read_text() == "old"
    assert names(tmp_path) == ["d"]


def test_fresh_directory_restores_the_old_one_if_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh_directory(tmp_path / "d") as made:
        (made / "x").write_text("old")
    rename = os.replace

    def refuse_the_new_one(source: Path, target: Path) -> None:
        if Path(target).name == "d" and (Path(source) / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse_the_new_one)
    with (
        pytest.raises(GeoelleError, match="Input/output error"),
        fresh_directory(tmp_path / "d", overwrite=True) as made,
    ):
        (made / "new").write_text("new")
    assert (tmp_path / "d" / "x").read_text() == "old"
    assert names(tmp_path) == ["d"]


def test_fresh_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    with fresh_directory(tmp_path / "d") as made:
        (made / "stale").write_text("old")
    with pytest.raises(GeoelleError, match="it exists"), fresh_directory(tmp_path / "d"):
        pass
    with fresh_directory(tmp_path / "d", overwrite=True) as made:
        (made / "x").write_text("new")
    assert names(tmp_path / "d") == ["x"]
