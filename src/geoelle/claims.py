"""Claim the directory of an output that is made in one go, and say what was written there.

`plan.json` is written first and names the output by its fingerprint, `run.json` last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoelle.errors import GeoelleError
from geoelle.files import write_bytes

__all__ = ["TEMPORARY", "Written", "claim_output"]

TEMPORARY = ".*.tmp"
"""What a write leaves that was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A finished output: its directory, files, and what is worth saying aloud."""

    out: Path
    files: tuple[Path, ...]
    lines: tuple[str, ...]
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"out": str(self.out), "files": [str(f) for f in self.files], "lines": list(self.lines), **self.facts}


def claim_output(
    out: Path, fingerprint: str, clear: Callable[[bool], None], *, form: tuple[str, int], kind: str,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Take a directory for an output of a format, or go on with it.

    `clear` removes what an earlier command left, and is told whether that was one of this fingerprint. `kind` is what
    people call the output.

    Raises: GeoelleError (it holds something else, or is finished and `overwrite` is false, or cannot be made).
    """
    marker = out / "plan.json"
    if out.exists() and not out.is_dir():
        raise GeoelleError(f"output {out} is a file; name a directory with -o")
    owner = _owner(marker, form[0])
    if owner is None and out.is_dir() and any(not path.match(TEMPORARY) for path in out.iterdir()):
        raise GeoelleError(f"output {out} holds other files and no {kind}; name a new directory with -o")
    finished = (out / "run.json").is_file()
    if owner and (finished or owner != fingerprint) and not overwrite:
        state = f"a finished {kind}" if finished else f"an unfinished {kind} of another command"
        raise GeoelleError(f"output {out} holds {state}; use another -o, or --overwrite to replace it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "run.json").unlink(missing_ok=True)  # a crash from here on leaves an unfinished output
        clear(owner == fingerprint)
        plan = {"format": form[0], "version": form[1], "fingerprint": fingerprint}
        write_bytes(marker, (json.dumps(plan, indent=1, sort_keys=True) + "\n").encode(), overwrite=True)
    except OSError as cause:
        raise GeoelleError(f"output {out} cannot be made ({cause.strerror}); name a writable place with -o") from cause


def _owner(marker: Path, form: str) -> str | None:
    """Return the fingerprint that claimed a directory for this format, None where none did."""
    try:
        claimed = json.loads(marker.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(claimed, dict) and claimed.get("format") == form
    return str(claimed.get("fingerprint", "")) if is_ours else None
