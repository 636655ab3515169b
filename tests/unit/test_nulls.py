"""The table beside a fit, on worlds where the answer is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import KFold, ShuffleSplit

from geoelle.area import Addresses, Lattice
from geoelle.bootstrap import METRICS, Bootstrap
from geoelle.embeddings import Embeddings, Header
from geoelle.errors import HoldoutError, ProbeError
from geoelle.holdout import PlaceKFold, SpatialKFold
from geoelle.nulls import _gains, evaluate
from geoelle.ridge import ALPHAS, cross_predict
from geoelle.sample import Sample

PLACES, PER = 24, 15
NAMES = ("log_gray_var", "water_share", "rough", "bright")
ALL_NULLS = (
    "untrained twins",
    "pixel ridge",
    "pixel boosted trees",
    "pixel SVR",
    "nearest place",
    "season",
    "source",
    "vector length",
    "shuffled targets",
)


def world(seed=0, places=PLACES, signal=1.0):
    """Loss = what the model knows + what pixels show; vectors are linear in both, twins in the pixels."""
    rng = np.random.default_rng(seed)
    n, place = places * PER, np.repeat(np.arange(places), PER)
    centres = np.stack([rng.uniform(-170, 170, places), rng.uniform(-60, 60, places)], 1)
    known, shown = (0.6 * rng.normal(size=places)[place] + rng.normal(size=n) for _ in range(2))
    log_loss = signal * known + 0.5 * shown + 0.1 * rng.normal(size=n) - 2
    features = rng.normal(size=(n, 4))
    features[:, 0], features[:, 1], features[:, 2] = -8, 0, shown

    def vectors(*parts):
        hidden = np.stack(parts, 1) @ rng.normal(size=(len(parts), 12))
        return (hidden + 0.2 * rng.normal(size=(n, 12))).astype(np.float32)

    return Sample(
        vectors_nd=vectors(known, shown),
        loss_n=np.exp(log_loss),
        lonlat_n2=centres[place] + rng.uniform(-1e-6, 1e-6, (n, 2)),
        times_n=np.datetime64("2021-01-01", "s") + rng.integers(0, 3 * 10**7, n),
        loss_rel_n2=np.exp(log_loss[:, None] + 0.1 * rng.normal(size=(n, 2))),
        features_nf=features.astype(np.float32),
        feature_names=NAMES,
        twins={f"twin{k}": vectors(shown, rng.normal(size=n)) for k in range(3)},
        sources_n=rng.choice(["S2A", "S2B"], n),
    )


@pytest.fixture(scope="module")
def sample():
    return world()


@pytest.fixture(scope="module")
def scores(sample):
    return evaluate(sample)


def bare(sample, **changes):
    """Without pixels, twins and sources: what is left takes a second."""
    nothing = {"features_nf": None, "feature_names": (), "twins": {}, "sources_n": None}
    return replace(sample, **(nothing | changes))


def test_a_model_that_knows_more_beats_every_null(scores):
    table = scores.table("log")
    assert tuple(row.name for row in table.rows if row.kind == "null") == ALL_NULLS
    assert {row.name: row.verdict for row in table.rows if row.verdict} == dict.fromkeys(ALL_NULLS, "beats")
    assert table.rows[0].metrics.r.value > 0.95
    assert table.row("pixel ridge").metrics.r.value == pytest.approx(0.4, abs=0.2)
    assert table.row("season").metrics.r.value < 0.2
    assert table.sentence().startswith("log-loss, all chips: r = 0.9")
    assert "ELLE beats untrained twins, pixel ridge" in table.sentence()


def test_every_row_has_its_own_intervals_and_paired_difference(scores):
    for table in scores.tables:
        assert table.n_places == PLACES
        for row in table.rows:
            for name in METRICS:
                interval = getattr(row.metrics, name)
                if (row.name, name) == ("nearest place", "within"):
                    assert np.isnan(interval.value)  # it is the same all over a place
                else:
                    assert interval.low <= interval.value <= interval.high
            assert (row.minus is None) == (row.kind == "probe")
            if row.minus is not None:
                gap = table.rows[0].metrics.r.value - row.metrics.r.value
                assert row.minus.r.value == pytest.approx(gap, abs=1e-12)


def test_what_the_embedding_adds_is_measured(scores):
    adds = {gain.name: gain.value for gain in scores.table().adds}
    assert len(adds) == 5
    for name in ("pixel ridge", "pixel boosted trees", "pixel SVR"):
        assert adds[f"partial r of ELLE given {name}"].low > 0.8
    assert adds["R² of embedding and pixels, ridge minus pixel ridge"].low > 0.4
    assert adds["R² of ELLE and pixels, boosted trees minus pixel boosted trees"].low > 0.4


def test_a_vector_of_noise_ties_with_shuffled_targets_and_loses_to_pixels(sample):
    noise = np.random.default_rng(9).normal(size=(PLACES * PER, 12)).astype(np.float32)
    table = evaluate(replace(sample, vectors_nd=noise, twins={}, sources_n=None)).table("log")
    assert table.row("shuffled targets").verdict == "ties with"
    assert table.row("pixel ridge").verdict == "loses to"
    assert table.row("pixel boosted trees").verdict == "loses to"
    adds = {gain.name: gain.value for gain in table.adds}
    partial = adds["partial r of ELLE given pixel ridge"]
    assert partial.low < 0 < partial.high
    assert adds["R² of ELLE and pixels, boosted trees minus pixel boosted trees"].value < 0.03


def test_a_twin_as_good_as_the_model_ties(sample):
    same = {f"twin{k}": sample.vectors_nd for k in range(3)}
    row = evaluate(bare(sample, twins=same)).table().row("untrained twins")
    assert row.minus.r.value == pytest.approx(0, abs=1e-12) and row.verdict == "ties with"
    assert row.note.startswith("3 seeds, r from 0.9")


def test_twins_are_averaged_and_their_range_told(sample):
    twins = {**sample.twins, "twin3": sample.vectors_nd}
    found = evaluate(bare(sample, twins=twins)).table().row("untrained twins")
    y = np.log(sample.loss_n)
    each = [
        np.corrcoef(cross_predict(v, y, SpatialKFold(5), sample.lonlat_n2), y)[0, 1] for v in twins.values()
    ]
    assert found.metrics.r.value == pytest.approx(np.mean(each), abs=1e-9)
    assert found.note == f"4 seeds, r from {min(each):.3f} to {max(each):.3f}"


def test_nulls_share_folds_alphas_and_target(sample, scores):
    y = np.log(sample.loss_n)
    by_hand = cross_predict(sample.features_nf, y, SpatialKFold(5), sample.lonlat_n2, ALPHAS)
    row = scores.table("log").row("pixel ridge")
    assert row.metrics.r.value == pytest.approx(np.corrcoef(by_hand, y)[0, 1], abs=1e-9)
    raw = cross_predict(sample.vectors_nd, sample.loss_n, SpatialKFold(5), sample.lonlat_n2)
    assert scores.table("raw").rows[0].metrics.r.value == pytest.approx(
        np.corrcoef(raw, sample.loss_n)[0, 1], abs=1e-9
    )
    assert len(scores.table().alphas) == 5
    assert set(scores.table().alphas) <= set(ALPHAS)


def test_random_folds_flatter_vectors_that_name_the_place(sample):
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(PLACES), PER)
    names = rng.normal(size=(PLACES, 12))[place] + 0.01 * rng.normal(size=(len(place), 12))
    loss = np.exp(rng.normal(size=PLACES)[place] + 0.2 * rng.normal(size=len(place)))
    table = evaluate(bare(sample, vectors_nd=names.astype(np.float32), loss_n=loss)).table()
    flattered = table.row("ELLE on random folds")
    assert flattered.metrics.r.value > table.rows[0].metrics.r.value + 0.3
    assert flattered.minus.r.high < 0
    assert flattered.verdict == ""


def test_both_scales_and_their_ceilings(scores):
    assert [(t.scale, t.subset) for t in scores.tables] == [("log", "all chips"), ("raw", "all chips")]
    for table in scores.tables:
        assert 0.97 < table.reliability.ceiling < 1
        assert table.rows[0].metrics.r.value <= table.reliability.ceiling + 0.01
    with pytest.raises(ProbeError, match="there are log, all chips; raw, all chips"):
        scores.table("log", "dry land")
    with pytest.raises(ProbeError, match="no row 'ELEL'"):
        scores.table().row("ELEL")


def test_water_and_uniform_chips_make_a_second_set_of_tables(sample):
    features = sample.features_nf.copy()
    features[:40, 1] = 1
    features[40:60, 0] = -12
    found = evaluate(replace(sample, features_nf=features, twins={}, sources_n=None))
    dry = found.table("log", "without water and uniform chips")
    assert (found.table().n_chips, dry.n_chips) == (360, 300)
    assert dry.n_places == 20
    assert "40 chips are water, 20 uniform" in found.notes
    whole = found.table("log").rows[0].metrics.r.value
    assert dry.rows[0].metrics.r.value != whole


def test_a_loss_of_zero_or_less_has_no_logarithm(sample):
    loss = sample.loss_n - np.median(sample.loss_n)
    with pytest.raises(ProbeError, match="log-loss fails for 180 of 360"):
        evaluate(bare(sample, loss_n=loss))
    found = evaluate(bare(sample, loss_n=loss, loss_rel_n2=None), scale="raw")
    assert [t.scale for t in found.tables] == ["raw"]
    assert "a loss is 0 or less, so there is no log-loss" in found.notes
    assert found.tables[0].reliability is None


def test_the_scale_of_the_fit_comes_first(sample):
    found = evaluate(bare(sample), scale="raw")
    assert [t.scale for t in found.tables] == ["raw", "log"]
    assert found.table() is found.table("raw")


def test_rows_with_nan_are_left_out_and_counted(sample):
    vectors, loss = sample.vectors_nd.copy(), sample.loss_n.copy()
    vectors[3], loss[100] = np.nan, np.nan
    found = evaluate(bare(sample, vectors_nd=vectors, loss_n=loss))
    keep = np.setdiff1d(np.arange(360), [3, 100])
    assert found.to_dict()["tables"] == evaluate(bare(sample).at(keep)).to_dict()["tables"]
    assert found.table().n_chips == 358
    assert "2 of 360 chips have NaN and are left out" in found.notes


def test_what_is_missing_is_said(sample):
    found = evaluate(bare(sample).at(np.arange(10 * PER)))
    assert [row.name for row in found.table().rows] == [
        "ELLE", "ELLE on random folds", "nearest place", "season", "vector length", "shuffled targets",
    ]  # fmt: skip
    assert found.notes == (
        "0 untrained twins where 3 are wanted: embed with more",
        "no pixel features, so no pixel nulls: embed with features",
        "10 places: intervals from fewer than 20 are too narrow",
    )
    assert found.table().adds == ()


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
def test_places_may_be_named_and_are_what_intervals_redraw(sample):
    place = np.repeat(np.arange(PLACES) // 2, PER).astype(str)
    found = evaluate(bare(sample), cv=PlaceKFold(4), groups=place)
    assert found.table().n_places == 12
    assert found.holdout == "PlaceKFold(n_splits=4)"
    assert len(found.table().alphas) == 4
    assert evaluate(bare(sample), cv=SpatialKFold(4), places=place).table().n_places == 12
    with pytest.raises(HoldoutError, match="KFold has none"):
        evaluate(bare(sample), cv=KFold(5))
    with pytest.raises(HoldoutError, match="places do not match the chips"):
        evaluate(bare(sample), places=place[:3])
    with pytest.raises(HoldoutError, match="tests 36 of 360 chips"):
        evaluate(bare(sample), cv=ShuffleSplit(1, random_state=0), places=place)
    with pytest.raises(HoldoutError, match="too few blocks"):
        evaluate(bare(sample).at(np.arange(PER)))


def test_the_seed_is_all_that_varies(sample):
    assert evaluate(bare(sample)).to_dict() == evaluate(bare(sample)).to_dict()
    assert evaluate(bare(sample), seed=1).to_dict() != evaluate(bare(sample)).to_dict()


def test_it_prints_as_json_and_markdown(scores):
    plain = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    rows = {row["name"]: row for row in plain["tables"][0]["rows"]}
    assert rows["pixel SVR"]["verdict"] == "beats"
    assert rows["ELLE"]["metrics"]["r"] == {
        k: getattr(scores.table().rows[0].metrics.r, k) for k in ("value", "low", "high")
    }
    assert plain["tables"][0]["sentence"] == scores.table().sentence()
    text = scores.to_markdown()
    assert all(text.count(f"\n| {name}") == 2 for name in ALL_NULLS)
    assert "| beats |" in text
    assert "Held out: SpatialKFold(block_m=10000.0" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {8}


def table_of(epsg, col, n=40, model="nano", loss=True):
    rng = np.random.default_rng(col)
    lattice = Lattice(epsg=epsg, gsd_m=10.0, size_px=32, stride_px=16)
    space = {"model": model, "weights_sha256": "ab", "pooling": "mean", "target": "loss", "masking": "m"}
    addresses = Addresses(lattice=lattice, rows=-20_000 + 40 * np.arange(n), cols=np.full(n, col))
    return Embeddings(
        addresses=addresses,
        vectors_nd=rng.normal(size=(n, 6)).astype(np.float32),
        valid_n=np.ones(n, bool),
        valid_fraction_n=np.ones(n),
        times_n=np.full(n, np.datetime64("2021-06-01", "s")),
        items_n=["item"] * n,
        header=Header(space=space, sensor="sentinel-2-l2a", bands=("red",), feature_names=("a", "b")),
        loss_n=rng.uniform(1, 2, n) if loss else None,
        features_nf=rng.normal(size=(n, 2)).astype(np.float32),
        twins={f"twin{k}": rng.normal(size=(n, 6)).astype(np.float32) for k in range(2)},
    )


def test_embeddings_are_taken_as_they_are():
    table = table_of(32631, 3000)
    plain = replace(table, features_nf=None, header=replace(table.header, feature_names=()))
    assert evaluate(plain).table().n_chips == 40


@pytest.mark.parametrize("shifted", ["y", "ELLE", "pixel ridge"])
def test_what_is_added_does_not_hang_on_the_means_of_folds(shifted):
    rng = np.random.default_rng(0)
    fold, place = np.repeat(np.arange(4), 50), np.repeat(np.arange(20), 10)
    values = {name: rng.normal(size=200) for name in ("y", "ELLE", "pixel ridge")}

    def partial(parts):
        y, rest = parts["y"], {k: v for k, v in parts.items() if k != "y"}
        return next(_gains(Bootstrap(place, 50), y, rest, {}, fold)).value

    moved = values | {shifted: values[shifted] + rng.normal(size=4)[fold]}
    assert partial(moved).value == pytest.approx(partial(values).value, abs=1e-9)
