"""Clear-cuts are found by NDVI alone, judged as `recovery_of` judges, and told as the protocol decides."""

import doctest
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import evaluate_recovery as recovery
import recovery_ground
import recovery_page
import recovery_places
from delta_series import forest
from evaluate_recovery import Departure, Judged
from geoelle.drift import recovery_of
from geoelle.errors import ProbeError
from geoelle.seasonal import YEAR_DAYS, years_of
from recovery_ground import Ground
from recovery_places import Place, cut_places, placebos, uncut

SHAPE = (10, 12)
START = np.datetime64("2015-01-01").astype(float)
DAYS = np.sort(np.concatenate([START + y * YEAR_DAYS + np.linspace(70, 300, 16) for y in range(6)]).round())
WINTER = np.datetime64("2018-02-01").astype(float)
CUT_YX = np.zeros(SHAPE, bool)
CUT_YX[2:4, 2:5] = True
CUT_YX[2, 4] = False  # five patches, an L


def field(seed: int = 0, haze: float = 0.1, back: float | None = None) -> np.ndarray:
    """Return NDVI of a forest with hazy dates; CUT_YX is cut in the winter of 2018, and back after so many years."""
    rng = np.random.default_rng(seed)
    wave = 0.7 - 0.2 * np.cos(2 * np.pi * (DAYS - START - 20) / YEAR_DAYS)
    ndvi = wave[:, None] - haze * rng.random((len(DAYS), 1)) + rng.normal(0, 0.01, (len(DAYS), CUT_YX.size))
    since = (DAYS - WINTER) / YEAR_DAYS
    loss = np.where(since > 0, 0.3 * (1 if back is None else np.clip(1 - since / back, 0, 1)), 0)
    ndvi[:, CUT_YX.ravel()] -= loss[:, None]
    return ndvi


def ground(back: float | None = None, blind: bool = True) -> Ground:
    """Return a ground whose difficulty does not see the cut, or follows NDVI."""
    ndvi = field(back=back)
    other = field(seed=1) + 0.3 * ((DAYS >= WINTER)[:, None] & CUT_YX.ravel())
    numbers = {
        "difficulty": other if blind else 1 - ndvi,
        "NDVI": ndvi,
        "random direction 0": other,
        "random direction 1": ndvi,
    }
    return Ground(days_d=DAYS, numbers=numbers, inside_dn=np.ones(ndvi.shape), shape=SHAPE)


@pytest.mark.parametrize("module", [recovery, recovery_page, recovery_places])
def test_examples_in_docstrings_hold(module: object) -> None:
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_a_cut_is_found_with_its_year_and_its_first_summer_date() -> None:
    (place,) = cut_places(DAYS, field(), SHAPE)
    assert place.year == 2018 and place.cells_k.tolist() == np.flatnonzero(CUT_YX).tolist()
    assert place.event_day == DAYS[(years_of(DAYS) == 2018) & (recovery_places.months_of(DAYS) >= 6)][0]


def test_the_event_is_the_first_date_that_lies_below_not_the_first_of_summer() -> None:
    ndvi, months = field(), recovery_places.months_of(DAYS)
    summer = np.flatnonzero((years_of(DAYS) == 2018) & (months >= 6) & (months <= 9))
    ndvi[summer[0], CUT_YX.ravel()] += 0.3  # not yet cut
    (place,) = cut_places(DAYS, ndvi, SHAPE)
    assert place.event_day == DAYS[summer[1]]


def test_a_hazy_year_and_a_single_dark_date_are_no_cut() -> None:
    ndvi = field()
    ndvi[:, CUT_YX.ravel()] = ndvi[:, ~CUT_YX.ravel()][:, : CUT_YX.sum()]
    ndvi[years_of(DAYS) == 2018] -= 0.3
    ndvi[np.flatnonzero(years_of(DAYS) == 2019)[8], 5] -= 0.6
    assert cut_places(DAYS, ndvi, SHAPE) == []


def test_years_of_fewer_than_three_summer_dates_have_no_level() -> None:
    ndvi, months = field(), recovery_places.months_of(DAYS)
    at = np.flatnonzero((years_of(DAYS) == 2018) & (months >= 6) & (months <= 9))
    ndvi[at[2:], 0] = np.nan
    level = recovery_places.levels(DAYS, recovery_places.anomalies(ndvi))
    assert np.isnan(level[2018][0]) and np.isfinite(level[2018][1:]).all() and np.isfinite(level[2017][0])
    few = np.isin(np.arange(len(DAYS)), at[2:], invert=True)
    assert 2018 not in recovery_places.levels(DAYS[few], recovery_places.anomalies(field()[few]))


def test_placebos_have_the_shape_and_the_event_and_lie_on_uncut_ground_only() -> None:
    (place,) = cut_places(DAYS, field(), SHAPE)
    free_yx = uncut(DAYS, field(), SHAPE)
    assert (free_yx == ~CUT_YX).all()
    found = placebos(place, free_yx, seed=0)
    assert len(found) == recovery_places.EACH == len({p.cells_k.tobytes() for p in found})
    for one in found:
        assert free_yx.ravel()[one.cells_k].all() and one.event_day == place.event_day and one.year == place.year
        rows, cols = np.unravel_index(one.cells_k, SHAPE)
        assert sorted([np.ptp(rows), np.ptp(cols)]) == [1, 2] and len(one.cells_k) == 5
    assert [p.cells_k.tolist() for p in found] == [p.cells_k.tolist() for p in placebos(place, free_yx, seed=0)]
    assert placebos(place, np.zeros(SHAPE, bool), seed=0) == []


def test_ground_that_fell_a_little_or_is_unknown_is_not_uncut() -> None:
    ndvi, at = field(), years_of(DAYS) == 2019
    ndvi[at, 60] -= 0.07  # less than a cut
    ndvi[at | (years_of(DAYS) == 2017), 61] = np.nan
    ndvi[at, 62] = np.nan
    assert uncut(DAYS, ndvi, SHAPE).ravel()[60:63].tolist() == [False, False, True]


def test_a_place_without_placebo_is_counted_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "uncut", lambda *given: np.zeros(SHAPE, bool))
    every, missing, _ = recovery.everything(ground())
    assert every == [] and missing[0].startswith("2018: no placebo of 5 patches")


def test_dates_of_the_year_of_the_cut_before_it_was_seen_are_in_neither_side() -> None:
    (place,) = cut_places(DAYS, field(), SHAPE)
    seen = ground().of(place.cells_k)
    before, after = recovery.sides(seen, place)
    between = ~before & ~after
    assert (
        not (before & after).any()
        and set(years_of(DAYS[between])) == {2018}
        and (DAYS[between] < place.event_day).all()
    )
    outside = replace(seen, inside_d=np.where(np.arange(len(DAYS)) < 3, 0.4, 1.0))
    gated = recovery.sides(outside, place)[0]
    assert not gated[:3].any() and gated[3:].tolist() == before[3:].tolist()


def test_a_date_counts_where_nine_tenths_of_the_place_are_seen() -> None:
    of = ground()
    cells = np.arange(10)
    of.numbers["difficulty"][4, 0] = np.nan
    of.numbers["difficulty"][5, :2] = np.nan
    seen = of.of(cells)
    assert DAYS[4] in seen.days_d and DAYS[5] not in seen.days_d
    np.testing.assert_allclose(seen.numbers["NDVI"][4], of.numbers["NDVI"][4, 1:10].mean())


@pytest.fixture(scope="module")
def followed() -> tuple:
    return recovery.everything(ground(back=4.0, blind=False))


@pytest.mark.parametrize("blind", [True, False])
def test_a_departure_is_beyond_where_recovery_of_has_an_index(blind: bool, followed: tuple) -> None:
    of = ground(back=4.0, blind=blind)
    every, missing, counts = recovery.everything(of) if blind else followed
    assert not missing and counts == {"places": 1, "cut": 5, "uncut": CUT_YX.size - 5}
    (one,) = every
    seen, name = of.of(one.place.cells_k), "difficulty"
    before, after = recovery.sides(seen, one.place)
    series = [(seen.days_d[at], seen.numbers[name][at]) for at in (before, after)]
    season = recovery.season_of(seen, one.place, name)
    assert one.departures["NDVI"].beyond and one.departures["NDVI"].initial < -0.2
    assert one.rank("NDVI") == 1.0 and len(one.placebos) == recovery_places.EACH
    if blind:
        with pytest.raises(ProbeError, match="nothing to recover from") as told:
            recovery_of(season, *series, one.place.event_day)
        assert f"({one.departures[name].initial:+.3g}) is inside the band (±{one.departures[name].half:.3g})" in str(
            told.value
        )
        assert not one.departures[name].beyond and name not in one.indices
    else:
        wanted = recovery_of(season, *series, one.place.event_day)
        assert one.departures[name].initial == wanted.initial and one.departures[name].beyond


def test_an_index_rises_with_regrowth_and_sees_the_time_of_year_of_its_first_dates_only(followed: tuple) -> None:
    ((one,), *_) = followed
    for way in recovery.WAYS:
        found = [one.indices["difficulty"][way][late]["index"] for late in (1, 2)]
        assert found == [pytest.approx(0.29, abs=0.2), pytest.approx(0.57, abs=0.2)] and found[0] + 0.15 < found[1]
        assert 3 not in one.indices["difficulty"][way]  # the series ends in 2020
    of = ground(back=4.0, blind=False)
    of.numbers["difficulty"][(DAYS > WINTER) & ~np.isin(recovery_places.months_of(DAYS), [6, 7])] += 9.0
    seen = of.of(one.place.cells_k)
    other = recovery.indices(recovery.season_of(seen, one.place, "difficulty"), seen, one.place, "difficulty")
    assert other == one.indices["difficulty"]


def test_a_place_with_too_few_dates_before_is_counted_not_dropped() -> None:
    of = ground()
    late = Ground(
        days_d=DAYS[32:], numbers={n: v[32:] for n, v in of.numbers.items()}, inside_dn=of.inside_dn[32:], shape=SHAPE
    )
    every, missing, counts = recovery.everything(late)
    assert every == [] and counts["places"] == 1
    (why,) = missing
    assert why.startswith("2018: no season can be fitted: 16 dates of 1 years are too few for a season (12 of 2")


def one_judged(size: float, others: list[float], index: dict[int, float], ndvi: dict[int, float]) -> Judged:
    """Return a place of two measures, alike in their departures and not in their indices."""

    def way(of: dict[int, float]) -> dict:
        return {"June and July": {s: {"index": v, "low": v - 1, "high": v + 1} for s, v in of.items()}}

    def both(initial: float) -> dict[str, Departure]:
        return {name: Departure(initial=initial, half=1.0) for name in ("difficulty", "NDVI")}

    return Judged(
        place=Place(cells_k=np.arange(2), year=2017, event_day=17_000.0),
        departures=both(size),
        indices={"difficulty": way(index), "NDVI": way(ndvi)},
        placebos=tuple(both(-other) for other in others),
    )


def test_a_measure_is_told_by_shares_ranks_rises_and_agreement() -> None:
    every = [
        one_judged(size, [0.5, 1.5, 2.0, 3.0], {1: 0.1 * k, 2: 0.1 * k + 0.2}, {1: 0.0, 2: k / 9})
        for k, size in enumerate([2.0] * 3 + [-0.4] * 3)
    ]
    found = recovery.measure(every, "difficulty")
    assert (found["cut"]["hits"], found["cut"]["count"]) == (3, 6) and found["placebo"]["count"] == 24
    assert found["placebo"]["hits"] == 18
    assert found["rank"]["value"] == pytest.approx((3 * 2.5 / 4 + 0) / 6)
    assert found["apart"]["value"] == pytest.approx((3 * 2.0 - 3 * 0.4) / 6 + 1.75)
    told = recovery.index(every, "difficulty")["June and July"]
    assert told["rise"] == {
        "places": 6,
        "value": pytest.approx(0.2),
        "low": pytest.approx(0.2),
        "high": pytest.approx(0.2),
    }
    assert told["seasons"][1]["median"] == pytest.approx(0.25) and told["seasons"][2]["places"] == 6
    assert recovery.agreement(every, "difficulty")["June and July"]["value"] == pytest.approx(1.0)
    assert recovery.agreement(every[:4], "difficulty")["June and July"] == {
        "places": 4,
        "value": None,
        "low": None,
        "high": None,
    }
    assert recovery.index(every, "difficulty")["as shipped"] == {
        "seasons": {},
        "rise": {"places": 0, "value": None, "low": None, "high": None},
    }


def row(cut: float, low: float, rank_low: float) -> dict:
    span = {"value": cut, "low": low, "high": 1.0, "hits": int(cut * 10), "count": 10}
    return {
        "cut": span,
        "placebo": span,
        "rank": {"value": 0.8, "low": rank_low, "high": 0.9},
        "apart": {"value": -0.2, "low": -0.3, "high": -0.1},
    }


@pytest.mark.parametrize(
    ("low", "rank_low", "word"),
    [
        (0.4, 0.6, "difficulty departs"),
        (0.0, 0.6, "difficulty is not shown to leave its band"),
        (0.4, 0.5, "difficulty does not depart"),
    ],
)
def test_the_page_says_first_what_the_protocol_decides(low: float, rank_low: float, word: str) -> None:
    run = {
        "model": "m",
        "reading": "cube",
        "dates": 77,
        "measures": {"difficulty": row(0.1, low, rank_low), "NDVI": row(1.0, 0.9, 0.9)},
    }
    (line,) = recovery_page.short([run])
    assert (
        word in line
        and "1 of 10 are beyond the band" in line
        and "half-widths, easier" in line
        and "NDVI is beyond its band at 10" in line
    )
    assert "At 9 of 10 cuts there is nothing to recover from" in line
    assert ("too narrow" in line) == (low > 0.1)  # the same share stands for the placebos


def test_a_rise_is_told_by_its_interval() -> None:
    said = [recovery_page.turn({"value": v, "low": v - 0.1, "high": v + 0.1}) for v in (0.2, -0.2, 0.0)]
    assert said == ["rises", "falls", "is not told to rise or fall"]


@pytest.mark.slow
def test_the_whole_source_is_read_on_the_patches_of_the_demo_catalogue(shared: Path) -> None:
    whole = {image.day: image for image in recovery_ground.cube(shared / "data")}
    dates = forest()
    assert len(whole) > 70 and whole.keys() >= {image.day for image in dates}
    for image in dates[::6]:
        other = whole[image.day]
        assert other.corner == image.corner and other.pixels_cyx.shape == image.pixels_cyx.shape
        both = np.isfinite(image.pixels_cyx) & np.isfinite(other.pixels_cyx)
        for band in range(len(image.bands)):  # interpolated by a fraction of a pixel, so alike and not equal
            assert np.corrcoef(image.pixels_cyx[band][both[band]], other.pixels_cyx[band][both[band]])[0, 1] > 0.9


def test_the_page_holds_what_the_numbers_say() -> None:
    docs = Path(__file__).parents[2] / "docs"
    runs = json.loads((docs / "delta-series.json").read_text())["recovery"]
    page = (docs / "evaluation-delta-series.md").read_text()
    assert "\n".join(recovery_page.recovery(runs)) in page
    assert all(line in page.partition("## Nothing is looked for")[0] for line in recovery_page.short(runs))
    for run in runs:
        assert len(run["each"]) == run["judged"] == run["measures"]["difficulty"]["cut"]["count"]
        assert run["judged"] + len(run["missing"]) == run["places"]


def test_two_examples_of_two_places_are_not_drawn_as_one() -> None:
    runs = [{"model": m, "example": {"event_day": day, "patches": 3}} for m, day in (("a", 1.0), ("b", 2.0))]
    with pytest.raises(ValueError, match="examples of two models are of two places"):
        list(recovery_page.panels(runs))
