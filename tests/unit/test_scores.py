"""Tables of scores: their sentence, their verdicts and their two printed forms."""

import json

import pytest

from geoelle.bootstrap import Interval, Metrics, Reliability
from geoelle.errors import ProbeError
from geoelle.scores import Gain, Row, Scores, Table

NAN = float("nan")


def metrics(value, half=0.05):
    each = Interval(value=value, low=value - half, high=value + half)
    return Metrics(r=each, r2=each, spearman=each, within=Interval(value=NAN, low=NAN, high=NAN))


def table(**changes):
    rows = (
        Row(name="ELLE", kind="probe", metrics=metrics(0.9)),
        Row(name="ELLE on random folds", kind="flattered", metrics=metrics(0.95), minus=metrics(-0.05, 0.01)),
        Row(name="twins", kind="null", metrics=metrics(0.6), minus=metrics(0.3), note="3 seeds"),
        Row(name="trees", kind="null", metrics=metrics(0.88), minus=metrics(0.02)),
        Row(name="pixels", kind="null", metrics=metrics(0.97), minus=metrics(-0.07)),
        Row(name="season", kind="null", metrics=metrics(0.1), minus=metrics(0.8)),
    )
    given = {"scale": "log", "subset": "all chips", "n_chips": 1200, "n_places": 40, "rows": rows}
    return Table(**(given | changes))


def test_the_sentence_says_the_score_its_rivals_and_its_ceiling():
    bound = Reliability(r=0.9, spearman_brown=0.947, ceiling=0.973)
    assert table(reliability=bound).sentence() == (
        "log-loss, all chips: r = 0.900 [0.850, 0.950] on ground held out. "
        "ELLE beats twins and season; ties with trees; loses to pixels. The loss itself allows r = 0.973."
    )
    assert table(scale="raw").sentence().startswith("loss, all chips")


def test_only_nulls_have_verdicts():
    assert [row.verdict for row in table().rows] == ["", "", "beats", "ties with", "loses to", "beats"]


def test_markdown_is_a_table_with_every_row():
    gain = Gain(name="partial r", value=Interval(value=0.4, low=0.3, high=0.5))
    text = Scores(tables=(table(adds=(gain,)),), holdout="SpatialKFold()", notes=("one note",)).to_markdown()
    assert "| twins (3 seeds) | 0.600 [0.550, 0.650] |" in text
    assert "| 0.300 [0.250, 0.350] | beats |" in text
    assert "1,200 chips, 40 places." in text
    assert "- partial r: 0.400 [0.300, 0.500]" in text
    assert text.endswith("- Held out: SpatialKFold().\n- one note\n")
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {8}


def test_dictionary_is_json_with_none_for_nan():
    plain = json.loads(json.dumps(Scores(tables=(table(),), holdout="x").to_dict(), allow_nan=False))
    row = plain["tables"][0]["rows"][4]
    assert (row["name"], row["verdict"], row["metrics"]["within"]["value"]) == ("pixels", "loses to", None)
    assert row["minus"]["r"]["high"] == pytest.approx(-0.02)


def test_tables_and_rows_are_found_by_name():
    scores = Scores(tables=(table(), table(scale="raw")), holdout="x")
    assert scores.table() is scores.tables[0]
    assert scores.table("raw").row("trees").metrics.r.value == 0.88
    with pytest.raises(ProbeError, match="there are log, all chips; raw, all chips"):
        scores.table(subset="water")
    with pytest.raises(ProbeError, match="no row 'tree'"):
        scores.table().row("tree")
