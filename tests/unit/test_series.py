"""A place through time: gathered from dates, judged, drawn, and said in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoelle.delta import Scored
from geoelle.errors import FormatError, ProbeError
from geoelle.lattice import Addresses, Lattice
from geoelle.seasonal import YEAR_DAYS
from geoelle.series import Observed, Series, judge, observe
from geoelle.series_dates import DateScores
from geoelle.series_figure import _figure, draw_series
from seasons import FIRST_DAY, simulate

CELLS = Addresses(lattice=Lattice(epsg=32634, gsd_m=10, size_px=32, stride_px=16), rows=np.zeros(10, int),
                  cols=np.arange(10))  # fmt: skip


def date_of(day: float, difficulty_n: np.ndarray, inside_n: np.ndarray | None = None) -> DateScores:
    scored = Scored(addresses=CELLS, difficulty_n=difficulty_n, days_n=np.full(10, day), probe="p",
                    complexity_n=difficulty_n - 1, inside_n=inside_n)  # fmt: skip
    return DateScores(scored=scored, clear_n=np.isfinite(difficulty_n) * 1.0, items_n=(("a", f"b{day}"),) * 10)


def observed(seed: int = 0, **more: object) -> Observed:
    days_n, values_n = simulate(seed)
    return Observed.of_values("here", days_n, values_n, **more)


def test_a_date_counts_where_nine_tenths_of_the_cells_are_clear() -> None:
    values = np.arange(10.0)
    one, two = values.copy(), values.copy()
    one[:1], two[:2] = np.nan, np.nan
    found = observe("here", CELLS, [date_of(30, two), date_of(20, one), date_of(10, values)])
    assert found.looks == 3 and found.days_n.tolist() == [10, 20] and found.cells_n.tolist() == [10, 9]
    assert found.difficulty_n.tolist() == [4.5, 5] and found.complexity_n.tolist() == [3.5, 4]
    assert found.clear_n.tolist() == [1, 0.9] and found.items == ("a;b10", "a;b20") and found.inside_n is None
    part = observe("there", CELLS[2:5], [date_of(30, two)])
    assert part.difficulty_n.tolist() == [3] and part.cells_n.tolist() == [3]


def test_no_clear_look_is_no_row() -> None:
    found = observe("here", CELLS, [date_of(day, np.full(10, np.nan)) for day in (10, 20)])
    series = judge(found)
    assert len(found.days_n) == 0 and found.looks == 2
    assert series.missing["season"] == "none of 2 dates has a clear look" and series.counts["clear"] == 0


def test_two_dates_of_one_day_are_refused() -> None:
    with pytest.raises(ProbeError, match="two dates on 1970-01-11"):
        observe("here", CELLS, [date_of(day, np.arange(10.0)) for day in (10.2, 10.8)])
    with pytest.raises(ProbeError, match="two dates on 1970-01-03"):
        Observed.of_values("here", np.array([5.0, 2.0, 2.5]), np.ones(3))


def test_values_come_in_any_order_and_nan_is_no_look() -> None:
    days_n, values_n = simulate(0)
    gaps = np.append(values_n, [np.nan, -3.0])
    days = np.append(days_n, [20_000.0, np.nan])
    turned = Observed.of_values("here", days[::-1], gaps[::-1])
    np.testing.assert_array_equal(turned.days_n, days_n)
    np.testing.assert_array_equal(turned.difficulty_n, values_n)
    assert turned.looks == len(days_n) + 2


def test_what_is_looked_for_is_not_gated_and_not_in_the_fit() -> None:
    days_n, values_n = simulate(1)
    event = FIRST_DAY + 4 * YEAR_DAYS
    values_n = values_n + np.where(days_n >= event, 1.0, 0.0)
    inside_n = np.ones(len(days_n))
    inside_n[[0, -1]] = 0.0
    seen = Observed.of_values("here", days_n, values_n, inside_n=inside_n)
    series = judge(seen, event)
    assert not series.fitted_n[0] and series.fitted_n[1:31].all() and not series.fitted_n[32:].any()
    assert series.counts["gated"] == 1 and series.counts["departures_after"] >= 15
    assert np.median(series.departure_n[days_n >= event]) == pytest.approx(1, abs=0.15)
    assert series.departs_n[-1] and judge(seen).season.sd > 2 * series.season.sd


def test_everything_that_is_missing_has_its_reason() -> None:
    short = judge(Observed.of_values("here", FIRST_DAY + 20.0 * np.arange(15), np.arange(15.0)))
    assert short.season is None and "15 dates of 1 years are too few" in short.missing["season"]
    assert np.isnan(short.expected_n).all() and not short.departs_n.any()
    told = judge(observed()).to_dict()
    assert told["season"]["coverage"]["dates"] == told["counts"]["fitted"] and told["recovery"] is None
    assert told["drift"]["years"] == 6 and told["missing"] == {}
    event = judge(observed(), FIRST_DAY + 4 * YEAR_DAYS)
    assert "nothing to recover from" in event.missing["recovery"] or "no recovery" in event.missing["recovery"]


def test_the_drift_of_complexity_is_beside_that_of_difficulty() -> None:
    days_n, values_n = simulate(2)
    brighter = 0.2 * (days_n - days_n[0]) / YEAR_DAYS
    rng = np.random.default_rng(0)
    series = judge(Observed.of_values("here", days_n, values_n + brighter,
                                      complexity_n=brighter + rng.normal(0, 0.05, len(days_n))))  # fmt: skip
    assert series.drift.per_year == pytest.approx(0.2, rel=0.3) and series.drift.found
    assert series.complexity_drift.per_year == pytest.approx(0.2, rel=0.3) and series.complexity_drift.found


def test_a_date_is_what_was_written(tmp_path: Path) -> None:
    date = date_of(10, np.where(np.arange(10) < 3, np.nan, 1.5), np.ones(10))
    path = date.write(tmp_path / "date.parquet")
    read = DateScores.read(path)
    for name in ("difficulty_n", "complexity_n", "inside_n", "days_n"):
        np.testing.assert_array_equal(getattr(read.scored, name), getattr(date.scored, name))
    assert read.items_n == date.items_n and read.clear_n.tolist() == date.clear_n.tolist()
    assert DateScores.is_whole(path, "p", CELLS) and not DateScores.is_whole(path, "q", CELLS)
    assert not DateScores.is_whole(path, "p", CELLS[1:]) and not DateScores.is_whole(tmp_path / "none", "p", CELLS)
    unknown = date_of(10, np.ones(10)).write(tmp_path / "unknown.parquet")
    assert DateScores.read(unknown).scored.inside_n is None
    path.write_bytes(path.read_bytes()[:-50])
    assert not DateScores.is_whole(path, "p", CELLS)
    with pytest.raises(FormatError, match="holds no scores of a date"):
        DateScores.read(path)


def test_the_picture_is_drawn_with_and_without_a_season() -> None:
    event = FIRST_DAY + 4 * YEAR_DAYS
    short = Observed.of_values("short", FIRST_DAY + 20.0 * np.arange(8), -np.arange(8.0))
    series: list[Series] = [judge(observed(inside_n=np.arange(48) % 9 > 0), event), judge(short)]
    drawn = draw_series(series, scale="log", unit="MSE", title="Two places")
    assert drawn.startswith(b"\x89PNG") and drawn == draw_series(series, scale="log", unit="MSE", title="Two places")
    assert draw_series(series[1:], scale="raw", unit="", title="One") != drawn
    with pytest.raises(FormatError, match="no place has a clear date"):
        draw_series([judge(observe("here", CELLS, []))], scale="log", unit="", title="None")


def test_the_legend_lies_inside_of_the_picture_whatever_it_has_to_say() -> None:
    event = FIRST_DAY + 4 * YEAR_DAYS
    short = Observed.of_values("short", FIRST_DAY + 20.0 * np.arange(8), -np.arange(8.0))
    for series, entries in (
        ([judge(observed())], 4),
        ([judge(observed(), event), judge(short)], 6),
        ([judge(observed(inside_n=np.arange(48) % 9 > 0), event), judge(short)], 7),
    ):
        figure = _figure(series, scale="log", unit="MSE", title="Places")
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box, whole = legend.get_window_extent(), figure.bbox
        assert len(legend.get_texts()) == entries
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1 and whole.y0 <= box.y0 < box.y1 <= whole.y1
        labels = [text.get_window_extent() for text in legend.get_texts()]
        assert max(label.x1 for label in labels) <= whole.x1
