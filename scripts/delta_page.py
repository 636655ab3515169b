"""Keep the numbers of the series in docs/delta-series.json, and write docs/evaluation-delta-series.md from them."""

from __future__ import annotations

import json
from pathlib import Path

from geoelle.files import write_bytes

DOCS = Path(__file__).parents[1] / "docs"
NUMBERS = DOCS / "delta-series.json"


def keep(part: str, found: object) -> None:
    """Put the numbers of one script beside those of the others."""
    every = json.loads(NUMBERS.read_text()) if NUMBERS.is_file() else {}
    every |= {"protocol": "docs/protocol-delta-series.md", part: found}
    write_bytes(NUMBERS, (json.dumps(every, indent=1) + "\n").encode(), overwrite=True)
