"""Put a finished file or directory under its name, or leave what was there before.

Writers make their content first and hand it over here: bytes go to a temporary name in the same directory,
are flushed to the disk and renamed in one step. A failure, a full disk included, removes the temporary
name and keeps the old file.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from geoelle.errors import GeoelleError

__all__ = ["check_free", "differing", "fresh_directory", "fresh_file", "sha256", "write_bytes"]

_READ_BYTES = 1 << 20


def check_free(path: str | Path, *, overwrite: bool) -> Path:
    """Return the path once it may be written.

    Raises:
        GeoelleError: it exists and `overwrite` is false, or its directory does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise GeoelleError(f"writing failed for {path} (no directory {path.parent}); create it first")
    if path.exists() and not overwrite:
        raise GeoelleError(f"writing refused for {path} (it exists); --overwrite (overwrite=True) replaces it")
    return path


def write_bytes(path: str | Path, content: bytes, *, overwrite: bool = False) -> Path:
    """Write a whole file, or nothing.

    Raises:
        GeoelleError: the file exists and `overwrite` is false, or the system refused the write.
    """
    path = check_free(path, overwrite=overwrite)
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    except OSError as cause:
        raise _refused(path, cause) from cause
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def fresh_file(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary name that takes the name `path` when the block ends without an exception, for streams.

    Raises:
        GeoelleError: the file exists and `overwrite` is false, or the system refused the write.
    """
    path = check_free(path, overwrite=overwrite)
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as cause:
        raise _refused(path, cause) from cause
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def fresh_directory(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty directory that takes the name `path` when the block ends without an exception.

    An older directory of that name is moved aside first and comes back if the rename fails.

    Raises:
        GeoelleError: the directory exists and `overwrite` is false, or the system refused the write.
    """
    path = check_free(path, overwrite=overwrite)
    temporary, old = _temporary(path), _temporary(path)
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    except OSError as cause:
        raise _refused(path, cause) from cause
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for leftover in (temporary, old):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as source:
        while chunk := source.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def differing(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Return the names, of files by their SHA-256, that are missing in a folder or are not what they were."""
    paths = {name: folder / name for name in digests}
    return [name for name, path in paths.items() if not path.is_file() or sha256(path) != digests[name]]


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")


def _refused(path: Path, cause: OSError) -> GeoelleError:
    reason = cause.strerror or cause
    return GeoelleError(f"writing failed for {path} ({reason}); free space or name a writable place")
