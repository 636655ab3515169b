"""What people read of facts, and what programs do."""

import doctest
import json

import pytest

from geoelle import console


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(console).failed == 0


def test_facts_are_a_table_without_braces_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"bands": ["red", "nir"], "looks": [{"date": "2024", "items": ["a", "b"]}], "weights": None, "chips": 3}
    console.show(facts, as_json=False)
    told = capsys.readouterr().out
    assert [line.split(None, 1)[1].strip() for line in told.splitlines()[1:]] == [
        "red, nir", "date 2024, items a b", "none", "3",
    ]  # fmt: skip
    console.show(facts, as_json=True)
    assert json.loads(capsys.readouterr().out) == facts
