"""The evaluation of series reads as a dense map does, judges as `geoelle delta` does, and counts what it injects."""

import doctest
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import delta_cuts
import delta_inject
import delta_nulls
import delta_page
import delta_power_page
import delta_series
import delta_words
import eval_delta
import evaluate_false_alarms as alarms
import evaluate_power as power
import evaluate_radar as radar
import simulate_delta as simulation
from delta_inject import EDGE_PX, Square, judged_shape, squares, variants
from delta_nulls import Judges, Kit, Measured, Outcome
from delta_seen import Cells, Reader, cached
from delta_series import Image
from geoelle.change import MIN_YEARS, fit_null, q_values
from geoelle.delta import Scored, compare, judge
from geoelle.dense import PatchScores
from geoelle.embed import Readers, score_patches, space_of
from geoelle.errors import ProbeError
from geoelle.models import load_model
from geoelle.shipped import probe_of_space
from nano_samples import BAND_SETS

BANDS = BAND_SETS["6"]


def image(seed: int = 0, side: int = 64, bands: tuple[str, ...] = BANDS) -> Image:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0.05, 0.4, (len(bands), side, side)).astype(np.float32)
    return Image(
        day=np.datetime64("2020-08-04"),
        pixels_cyx=pixels,
        bands=bands,
        epsg=3035,
        corner=(-253_296, 527_200),
        sensor="sentinel-2-l2a",
    )


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(model=load_model("nano"), twin=load_model("nano", "untrained", seed=0), loss=False, bands=BANDS)


@pytest.fixture(scope="module")
def kit() -> Kit:
    return Kit(probe=probe_of_space(space_of(load_model("nano"), BANDS, dense=True)), bands=BANDS)


def measured(seed: int, n: int = 60, inside: float = 1.0) -> Measured:
    rng = np.random.default_rng(seed)
    numbers = {name: rng.normal(size=n) for name in ("Delta", "red", "random direction 0", "random direction 1")}
    vectors = {"token": rng.normal(size=(n, 4)) + 3, "bands": rng.uniform(0.1, 0.4, (n, 3))}
    return Measured(numbers=numbers, vectors=vectors, inside_n=rng.random(n) < inside)


@pytest.mark.parametrize("module", [delta_inject, delta_nulls, delta_words, alarms])
def test_examples_in_docstrings_hold(module: object) -> None:
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_patches_have_the_difficulty_of_a_dense_map(reader: Reader, kit: Kit) -> None:
    given = image()
    given.pixels_cyx[:, 40:64, 40:64] = np.nan  # the last chip is not valid
    found = kit.measure(reader.read(given, "patches"))
    chips = given.chips("patches")
    parts = score_patches(chips, reader.model, Readers(difficulty=kit.probe.score_raw, pixels=kit.probe.pixels))
    wanted = PatchScores.of(*parts, patch_px=4, probe=kit.probe)
    green_n = wanted.means_nc[:, BANDS.index("green")]
    inner = [v.reshape(16, 16)[2:14, 2:14].ravel() for v in (wanted.mean_n, wanted.complexity_n, green_n)]
    assert 0 < np.isnan(inner[0]).sum() < len(inner[0])
    np.testing.assert_allclose(found.numbers["Delta"], inner[0], atol=1e-4)
    np.testing.assert_allclose(found.numbers["complexity"], inner[1], atol=1e-4)
    np.testing.assert_allclose(found.numbers["green"], inner[2], rtol=1e-5)


def test_bands_of_a_patch_are_the_means_of_its_pixels(reader: Reader) -> None:
    given = image()
    found = reader.read(given, "patches").bands_nc.reshape(*judged_shape(given), -1)
    edge = EDGE_PX["patches"]
    own = given.pixels_cyx[:, edge + 4 : edge + 8, edge + 8 : edge + 12].mean(axis=(1, 2))
    np.testing.assert_allclose(found[1, 2], own, rtol=1e-5)


def test_cells_come_back_from_the_folder_as_they_were(reader: Reader, tmp_path: Path) -> None:
    made = reader.read(image(), "chips")
    first = cached(tmp_path, "one", lambda: (made,))[0]
    again = cached(tmp_path, "one", lambda: pytest.fail("read twice"))[0]
    for cells in (first, again):
        np.testing.assert_array_equal(cells.tokens_nd, made.tokens_nd)


@pytest.mark.parametrize("departure", [False, True])
def test_a_number_is_judged_as_geoelle_judges_it(departure: bool) -> None:
    before, after, *history = (measured(seed, inside=0.9) for seed in range(6))
    found = Judges(before, history, departure=departure).judge(after)["Delta"]
    gated = [np.where(m.inside_n, m.numbers["Delta"], np.nan) for m in (before, *history)]
    _, wanted = judge(gated[0], after.numbers["Delta"], np.array(gated[1:]), "departure" if departure else "difference")
    np.testing.assert_allclose(found.p_n, wanted.p_n)
    assert 0 < np.isnan(found.p_n).sum() < 60


def test_a_distance_is_judged_by_those_to_the_history_and_only_a_larger_one_is_a_change() -> None:
    before, after, *history = (measured(seed) for seed in range(6))
    after.vectors["token"][:5] += 50
    after.vectors["token"][5:10] = before.vectors["token"][5:10] + 1e-9
    found = Judges(before, history).judge(after)["token, Euclidean distance"]
    logs = [np.log(np.linalg.norm(before.vectors["token"] - m.vectors["token"], axis=1)) for m in (after, *history)]
    tested = fit_null(np.array(logs[1:])).test(logs[0])
    np.testing.assert_allclose(found.size_n, tested.t_n)
    np.testing.assert_allclose(found.p_n, tested.larger_p_n)
    assert (q_values(tested.p_n)[5:10] <= 0.1).all()  # nearer than chance
    assert found.flag_n[:5].all() and not found.flag_n[5:10].any()


def test_all_measures_are_judged_on_the_cells_of_delta() -> None:
    before, after, *history = (measured(seed) for seed in range(6))
    after.numbers["Delta"][:7] = np.nan
    found = Judges(before, history).judge(after)
    assert all(np.isnan(out.p_n[:7]).all() and not out.flag_n[:7].any() for out in found.values())


def test_maps_in_the_order_of_time_are_those_of_compare() -> None:
    given = image(side=96).chips("patches").addresses
    days = np.arange(6) * 365.25
    values_rn = np.random.default_rng(0).normal(size=(6, len(given)))
    scored = [
        Scored(addresses=given, difficulty_n=v, days_n=np.full(len(v), d), probe="p")
        for v, d in zip(values_rn, days, strict=True)
    ]
    dates = [Measured(numbers={"Delta": v}, vectors={}, inside_n=np.ones(len(v), bool)) for v in values_rn]
    plans = list(alarms.in_order(6))
    assert len(plans) == 6 and all(max(history) < before < after for after, before, history in plans)
    for after, before, history in plans:
        if len(history) < MIN_YEARS:  # told on the page, and no longer judged by geoelle delta
            with pytest.raises(ProbeError, match="a history too short"):
                compare(scored[before], scored[after], [scored[k] for k in history])
            continue
        wanted = compare(scored[before], scored[after], [scored[k] for k in history])
        found = Judges(dates[before], [dates[k] for k in history]).judge(dates[after])["Delta"]
        np.testing.assert_allclose(found.p_n, wanted.tested.p_n)
        np.testing.assert_array_equal(found.flag_n, wanted.flag_n == 1)


def test_flags_are_counted_on_patches_cut_between_the_dates_and_on_uncut_ones() -> None:
    dates = [measured(seed, n=200) for seed in range(6)]
    cut_n, uncut_n = np.arange(200) < 10, np.arange(200) >= 20
    dates[5].numbers["Delta"][:20] += 50  # the ten that are neither count in nothing
    series = delta_series.Series(name="s", place="p", credit="c", seasons={
        "June": tuple(replace(image(), day=np.datetime64(f"{year}-06-01")) for year in range(2015, 2021))
    })  # fmt: skip
    year_n = np.where(cut_n, 2020, 0)
    late = [(5, 4, [0, 1, 2, 3]), (5, 3, [0, 1, 2])]
    found = delta_cuts.on_cuts({"June": dates}, series, lambda n: iter(late), year_n, uncut_n)
    assert found["Delta"]["cut"] == found["Delta"]["cut_flagged"] == 20 and found["Delta"]["auroc"]["value"] == 1
    assert found["Delta"]["uncut"] == 360 and found["Delta"]["uncut_flagged"] <= 2 and found["red"]["cut_flagged"] <= 1
    assert found["random direction"]["maps"] == 4 and "random direction 0" not in found
    earlier = delta_cuts.on_cuts({"June": dates}, series, lambda n: iter([(4, 3, [0, 1, 2])]), year_n, uncut_n)
    assert earlier["Delta"]["cut"] == earlier["Delta"]["auroc"]["maps"] == 0  # nothing was cut yet


def test_every_map_judges_a_date_by_other_dates() -> None:
    once = list(alarms.one_a_date(6))
    assert sorted(after for after, _, _ in once) == list(range(6))
    assert all(sorted([after, before, *history]) == list(range(6)) for after, before, history in once)
    assert len(list(alarms.every(6, 3))) == 15 * 4


def test_a_summary_tells_shares_of_cells_and_of_maps() -> None:
    quiet = alarms.Map(p_k=np.full(30, 0.7), flag_k=np.zeros(30, bool))
    maps = [alarms.Map(p_k=np.full(10, 0.03), flag_k=np.arange(10) < 5), quiet, quiet]
    found = alarms.summary(maps)
    assert found["flagged"]["value"] == pytest.approx(5 / 70) and found["any"]["hits"] == 1
    assert found["below"]["0.05"]["value"] == pytest.approx(10 / 70) and found["below"]["0.01"]["value"] == 0


def test_noise_is_judged_uniform_and_few_maps_have_a_flag() -> None:
    dates = [measured(seed, n=400) for seed in range(5)]
    found = alarms.by_measure(list(alarms.judged(dates, alarms.one_a_date(5), np.ones(400, bool))))
    assert found["Delta"]["ks"] < 0.05 and abs(found["red"]["below"]["0.05"]["value"] - 0.05) < 0.02
    assert found["random direction"]["maps"] == 5 and "random direction 0" not in found


@pytest.mark.slow
def test_romania_is_read_on_whole_chips_and_seasons_have_a_date_a_year() -> None:
    series = delta_series.romania()
    assert list(series.seasons) == ["April", "June", "July", "August", "September", "October"]
    assert {i.pixels_cyx.shape for i in series.images} == {(6, 96, 96)}
    for month, images in series.seasons.items():
        assert len({i.year for i in images}) == len(images) >= 4, month
        assert [i.day for i in images] == sorted(i.day for i in images)
    assert series.images[0].chips("patches").addresses.rows.min() * 16 == series.images[0].corner[0]


def test_an_injection_changes_its_square_and_nothing_else() -> None:
    given = image()
    given.pixels_cyx[:, 20, 20] = np.nan
    square = Square(row=16, col=12, size_px=16, seed=3)
    seen = []
    for kind, amplitude, changed in variants(given, square):
        seen.append((kind, amplitude))
        apart = changed.pixels_cyx - given.pixels_cyx
        moved_yx = np.nan_to_num(np.abs(apart)).max(axis=0) > 0
        assert moved_yx[16:32, 12:28].mean() > 0.9 and moved_yx.sum() == moved_yx[16:32, 12:28].sum()
        assert np.isnan(changed.pixels_cyx[:, 20, 20]).all() and np.nanmin(changed.pixels_cyx) >= delta_inject.LEAST
    assert seen == [(k, a) for k in delta_inject.KINDS for a in delta_inject.AMPLITUDES]


def test_amplitudes_are_local_standard_deviations() -> None:
    given = replace(image(), pixels_cyx=image().pixels_cyx + 2)  # far from the floor
    square = Square(row=16, col=16, size_px=32, seed=1)
    found = {(k, a): i.pixels_cyx[:, 16:48, 16:48].astype(float) for k, a, i in variants(given, square)}
    own, sd_c = given.pixels_cyx[:, 16:48, 16:48].astype(float), given.pixels_cyx[:, 16:48, 16:48].std(axis=(1, 2))
    nir = BANDS.index("nir")
    np.testing.assert_allclose((found["texture", 2.0] - own).std(axis=(1, 2)), 2 * sd_c, rtol=0.1)
    shift_c = (found["spectral shift", 0.5] - own).mean(axis=(1, 2))
    np.testing.assert_allclose(shift_c[[0, nir]], [0.5 * sd_c[0], -0.5 * sd_c[nir]], rtol=1e-3)
    smooth = found["smoothing", 4.0].std() / own.std()
    assert smooth < found["smoothing", 1.0].std() / own.std() < 0.6
    moved = [np.abs(found["removal", a] - own).mean() for a in (0.25, 4.0)]
    assert moved[0] / moved[1] == pytest.approx((1 - np.exp(-0.25)) / (1 - np.exp(-4)), rel=1e-3)


@pytest.mark.parametrize("size_px", delta_inject.SIZES_PX["patches"])
def test_injected_cells_are_the_patches_whose_pixels_changed(size_px: int, reader: Reader) -> None:
    given = image(side=96)
    square = squares(given, size_px, 2)[1]
    changed = given.pixels_cyx.copy()
    changed[:, *square.window] += 1
    before, after = (reader.read(i, "patches").bands_nc for i in (given, replace(given, pixels_cyx=changed)))
    moved_n = ((after - before) > 0.5).all(axis=1)
    np.testing.assert_array_equal(moved_n, square.cells(judged_shape(given)))
    np.testing.assert_array_equal(moved_n, ~square.unchanged(judged_shape(given)))
    assert squares(given, size_px, 2) == squares(given, size_px, 2) and len(set(squares(given, size_px, 2))) == 2


@pytest.mark.parametrize("size_px", delta_inject.SIZES_PX["chips"])
def test_chips_around_a_square_are_neither_injected_nor_unchanged(size_px: int) -> None:
    given = image(side=96)
    chips, shape = given.chips("chips"), judged_shape(given, "chips")
    assert len(chips) == np.prod(shape) == 81
    for square in squares(given, size_px, 4, "chips"):
        changed = given.pixels_cyx.copy()
        changed[:, *square.window] += 1
        moved_bcyx = (replace(given, pixels_cyx=changed).chips("chips").pixels_btcyx != chips.pixels_btcyx)[:, 0]
        np.testing.assert_array_equal(square.unchanged(shape, "chips"), ~moved_bcyx.any(axis=(1, 2, 3)))
        middle_b = moved_bcyx[:, 0, 12:20, 12:20].any(axis=(1, 2))
        np.testing.assert_array_equal(square.cells(shape, "chips"), middle_b)
        assert middle_b.sum() == max(size_px // 8, 1) ** 2 and square.unchanged(shape, "chips").any()


@pytest.mark.parametrize("size_px", delta_inject.SIZES_PX["patches"])
def test_patches_apart_are_those_that_no_chip_shows_with_the_square(size_px: int, reader: Reader) -> None:
    given = image(side=96)
    for square in squares(given, size_px, 3):
        changed = given.pixels_cyx.copy()
        changed[:, *square.window] += 0.3
        before, after = (reader.read(i, "patches").tokens_nd for i in (given, replace(given, pixels_cyx=changed)))
        moved_n = np.abs(after - before).max(axis=1) > 1e-3
        np.testing.assert_array_equal(square.apart(judged_shape(given)), ~moved_n)


@pytest.mark.parametrize("unit", ["patches", "chips"])
def test_reading_only_the_chips_that_differ_is_reading_all(unit: str, reader: Reader) -> None:
    given, square = image(), Square(row=12, col=12, size_px=4, seed=0)
    found = power.readings(given, square, reader, unit)
    for k, (_, _, changed) in enumerate(variants(given, square)):
        if k % 7 == 0:
            whole = reader.read(changed, unit)
            np.testing.assert_allclose(found[k].tokens_nd, whole.tokens_nd, atol=2e-4)
            np.testing.assert_allclose(found[k].bands_nc, whole.bands_nc)


def test_a_case_counts_hits_false_flags_and_no_cut_ground() -> None:
    p_n = np.array([0.001, 0.2, 0.001, 0.001, 0.5, np.nan])
    flag_n = np.array([True, False, True, True, False, False])
    out = Outcome(size_n=np.array([5.0, 2.0, 4.0, 9.0, 1.0, np.nan]), p_n=p_n, flag_n=flag_n, shift=0.0)
    injected_n, unchanged_n = np.array([1, 1, 0, 0, 0, 1], bool), np.array([0, 0, 1, 0, 1, 0], bool)
    found = power.case({"Delta": out}, injected_n, unchanged_n, np.array([0, 0, 0, 0, 1, 0], bool))
    assert found["apart"]["Delta"] == 0
    assert found["recall"]["Delta"] == 0.5 and found["found"]["Delta"] == 1 and found["false"]["Delta"] == 0.5
    assert found["auroc"]["Delta"] == roc_auc_score([1, 1, 0, 0], [5, 2, 4, 1])


def test_delta_beats_what_it_beats_in_pairs() -> None:
    rng, every = np.random.default_rng(0), []
    for k in range(20):
        base = rng.uniform(0.5, 0.8)
        rows = {"Delta": base, "red": base - 0.1, "nir": base + 0.1 * rng.normal()}
        parts = dict.fromkeys(("recall", "found", "auroc", "false", "apart"), rows)
        every.append(power.Case(square=str(k), kind="texture", size_px=8, amplitude=1.0, **parts))
    found = power.compared(every)
    assert found["red"]["auroc_gap"]["verdict"] == "beats" and found["nir"]["auroc_gap"]["verdict"] == "ties with"
    assert found["Delta"]["auroc_gap"]["verdict"] == ""


def test_simulated_fields_have_the_spread_and_the_changes_that_they_say() -> None:
    rng = np.random.default_rng(0)
    for apart in simulation.CELLS_APART:
        drawn = [simulation.field(rng, years=4, share=0.05, effect=8.0, apart=apart) for _ in range(20)]
        noise = np.concatenate([(f.years_rn[1] - f.years_rn[0])[~f.changed_n] / f.sd_n[~f.changed_n] for f in drawn])
        assert {f.changed_n.mean() for f in drawn} == {0.05}
        apart_fn = [(f.years_rn[-1] - f.years_rn[-2]) / f.sd_n for f in drawn]
        moved = [np.median(x[f.changed_n]) - np.median(x) for x, f in zip(apart_fn, drawn, strict=True)]
        assert np.mean(moved) == pytest.approx(8, abs=0.7)
        assert noise.std() == pytest.approx(np.sqrt(2), rel=0.5)
    white = simulation.field(rng, years=30, share=0.0, effect=0.0, apart=0.0)
    spread_n = (white.years_rn - white.years_rn.mean(axis=1, keepdims=True)).std(axis=0)
    assert spread_n.mean() == pytest.approx(white.sd_n.mean(), rel=0.05)


def test_false_discoveries_are_at_the_rate_where_p_is_exact_and_not_where_it_is_normal() -> None:
    rows = {r["method"]: r for r in simulation.setting(years=3, share=0.05, effect=8.0, apart=0.0, fields=25)}
    assert rows["known spread (z, BH)"]["false"]["value"] < 0.13
    assert rows["geoelle (shrunk t, BH)"]["false"]["value"] < 0.15
    assert rows["median and MAD, normal p, BH"]["false"]["low"] > 0.5
    power_of = [rows[n]["power"]["value"] for n in ("per-cell t, BH", "geoelle (shrunk t, BH)", "known spread (z, BH)")]
    assert power_of == sorted(power_of) and power_of[0] < power_of[1] - 0.1


def test_a_known_spread_gives_uniform_p() -> None:
    field = simulation.field(np.random.default_rng(1), years=3, share=0.0, effect=0.0, apart=0.0)
    assert stats.kstest(simulation.known(field), "uniform").statistic < 0.05


def test_radar_scores_are_high_where_water_is_dark_and_easy() -> None:
    cells = Cells(
        tokens_nd=np.zeros((2, 3)),
        twin_nd=np.zeros((2, 0)),
        loss_n=np.array([0.1, 0.5]),
        bands_nc=np.array([[-22.0, -28.0], [-8.0, -14.0]]),
        features_nf=np.zeros((2, 1)),
    )
    said = {"score_raw": lambda _, t: np.array([-1.0, 1.0]), "pixels": lambda _, f: np.array([-0.5, 0.5])}
    probe = type("Fixed", (), said)()
    found = radar.scores(type("S", (), {"cells": cells})(), probe)
    assert all(v[0] > v[1] for name, v in found.items() if name != "vv - vh, high")


def test_the_page_says_what_the_numbers_say() -> None:
    every = json.loads(delta_page.NUMBERS.read_text())
    assert delta_page.PAGE.read_text() == delta_page.page(every)
    assert {"false_alarms", "power", "radar", "simulated"} <= set(every)
    assert all(delta_power_page.picture(found).stat().st_size < 200_000 for found in every["power"])
    assert eval_delta.section() in eval_delta.PAGE.read_text()
