"""The benchmarks run to the end and write a page; what they measure is not looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "benchmarks" / "bench.py"


@pytest.mark.slow
def test_the_quick_benchmarks_write_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [sys.executable, str(BENCH), "--quick", "--repeats", "1", "-o", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    text = page.read_text("utf-8")
    heads = ["Reading", "Embedding", "Fitting", "Scoring", "Memory and a whole map", "Writing"]
    assert re.findall(r"^## (.+)$", text, re.M) == heads
    for part in text.split("\n## ")[1:]:
        columns = {line.count(" | ") for line in part.splitlines() if line.startswith("| ")}
        assert columns == {5}
    assert all(f"\n## {head}\n" in f"\n{done.stdout}" for head in heads)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users)/|" + re.escape(str(BENCH.parents[1])), text)
