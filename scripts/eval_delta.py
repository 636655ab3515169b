"""Put in docs/evaluation.md, in short, what the pages of Delta say."""

from __future__ import annotations

from pathlib import Path

from geoelle.files import write_bytes

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "evaluation.md"
TITLE = "## What Delta is worth"


def section() -> str:
    """Return the section, from the pages that `evaluate_delta.py` and `delta_page.py` write."""
    damage = (DOCS / "evaluation-delta.md").read_text("utf-8")
    series = (DOCS / "evaluation-delta-series.md").read_text("utf-8").partition("## In short\n")[2].partition("\n## ")[0]
    lines = [f"- On forest that bark beetle damaged, {line}" for line in damage.splitlines() if line.startswith("**`")]
    return "\n".join([TITLE, "", *lines, series.strip(), ""])


def refresh() -> None:
    """Write the section anew; the rest of the page stays."""
    before, _, after = PAGE.read_text("utf-8").partition(TITLE)
    _, _, rest = after.partition("\n## ")
    write_bytes(PAGE, f"{before}{section()}\n## {rest}".encode(), overwrite=True)
