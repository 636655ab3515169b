"""`DateScores`: what a probe says of some cells on one date, and the Parquet file that keeps it.

A series is resumed date by date: a date whose file is whole is not read again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geoelle.delta import Scored
from geoelle.errors import AreaError, FormatError
from geoelle.files import write_bytes
from geoelle.lattice import Addresses, Lattice

__all__ = ["DateScores"]

FORMAT_VERSION = 1
_KEY = b"geoelle-series-date"
_NUMBERS = ("difficulty", "days", "complexity", "inside", "clear")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DateScores:
    """Scores of one date, the share of valid pixels of each cell (chip or patch), 0-1, and the ids of its items.

    `skipped` are assets that could not be read, as in a run.
    """

    scored: Scored
    clear_n: np.ndarray
    items_n: tuple[tuple[str, ...], ...]
    skipped: tuple[dict[str, str], ...] = ()

    def write(self, path: Path) -> Path:
        """Write a Parquet file, whole or not at all; equal scores give equal bytes.

        Raises: GeoelleError (the system refused the write).
        """
        cells, scored = self.scored.addresses, self.scored
        gaps = np.full(len(cells), np.nan)
        numbers = (scored.difficulty_n, scored.days_n, scored.complexity_n, scored.inside_n, self.clear_n)
        columns = {"row": pa.array(cells.rows), "col": pa.array(cells.cols)}
        columns |= {n: pa.array(gaps if v is None else v) for n, v in zip(_NUMBERS, numbers, strict=True)}
        columns["items"] = pa.array([";".join(ids) for ids in self.items_n])
        header = {
            "format_version": FORMAT_VERSION, "lattice": asdict(cells.lattice), "probe": scored.probe,
            "has": [n for n, v in zip(_NUMBERS, numbers, strict=True) if v is not None], "skipped": list(self.skipped),
        }  # fmt: skip
        text = json.dumps(header, sort_keys=True, separators=(",", ":"))
        sink = io.BytesIO()
        pq.write_table(pa.table(columns).replace_schema_metadata({_KEY: text}), sink, write_page_checksum=True)
        return write_bytes(path, sink.getvalue(), overwrite=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises: FormatError.
        """
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as source:
                header = json.loads((source.schema_arrow.metadata or {})[_KEY])
                table = source.read()
            if (version := header["format_version"]) != FORMAT_VERSION:
                raise FormatError(f"{path} has format version {version}, not {FORMAT_VERSION}; use its geoelle")
            rows, cols = (table[name].to_numpy() for name in ("row", "col"))
            has = {name: table[name].to_numpy() if name in header["has"] else None for name in _NUMBERS}
            scored = Scored(
                addresses=Addresses(lattice=Lattice(**header["lattice"]), rows=rows, cols=cols), probe=header["probe"],
                difficulty_n=has["difficulty"], days_n=has["days"], complexity_n=has["complexity"],
                inside_n=has["inside"],
            )  # fmt: skip
            items = tuple(tuple(ids.split(";")) if ids else () for ids in table["items"].to_pylist())
            return cls(scored=scored, clear_n=has["clear"], items_n=items, skipped=tuple(header["skipped"]))
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AreaError) as cause:
            raise FormatError(f"{path} holds no scores of a date ({cause!r}); delete it and go on") from cause

    @staticmethod
    def is_whole(path: Path, probe: str, cells: Addresses) -> bool:
        """Say whether a file holds these cells, scored by this probe."""
        try:
            scored = DateScores.read(path).scored
        except FormatError:
            return False
        return scored.probe == probe and _same(scored.addresses, cells)

    def at(self, cells: Addresses) -> tuple[Scored, np.ndarray, Sequence[str]]:
        """Return the scores and clear shares of these cells, NaN where there are none, and their items, each once.

        Raises: AreaError (another lattice).
        """
        rows = {pair: row for row, pair in enumerate(_pairs(self.scored.addresses))}
        held = [rows.get(pair) for pair in _pairs(cells)]
        clear_n = np.array([np.nan if row is None else self.clear_n[row] for row in held])
        ids = {name for row in held if row is not None for name in self.items_n[row]}
        return self.scored.at(cells), clear_n, sorted(ids)


def _pairs(cells: Addresses) -> list[tuple[int, int]]:
    return list(zip(cells.rows.tolist(), cells.cols.tolist(), strict=True))


def _same(one: Addresses, other: Addresses) -> bool:
    return one.lattice == other.lattice and _pairs(one) == _pairs(other)
