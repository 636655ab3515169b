"""What a fit holds out: each kind by what it separates, its refusals, and the buffer that residuals ask for."""

from dataclasses import replace

import numpy as np
import pytest

from geoelle.errors import HoldoutError
from geoelle.held import KINDS, Asked, Stand, holdout_for, with_measured_buffer
from geoelle.holdout import PlaceKFold, SpatialKFold, sphere_n3
from geoelle.knndm import KNNDM

KM = 111.195
CHIP_M = 450.0


def stand(places=4, side=10, step_km=0.4, apart_km=300.0) -> Stand:
    """Return squares of chips, one a place; two sensors, three scenes and four dates cut across them."""
    y, x = (v.ravel() * step_km for v in np.mgrid[:side, :side])
    lonlat = [np.stack([4 + x / KM + p * apart_km / KM, y / KM], 1) for p in range(places)]
    n = places * side * side
    day = np.datetime64("2024-06-01T23:00", "s") + np.arange(n) % 4 * np.timedelta64(1, "D")
    return Stand(
        lonlat_n2=np.concatenate(lonlat), place_n=np.repeat([f"run{p}" for p in range(places)], side * side),
        source_n=np.array(["L1C", "L2A", "L2B"])[np.arange(n) % 3], scene_n=np.array([f"s{i % 3};t" for i in range(n)]),
        times_n=day, chip_m=CHIP_M,
    )  # fmt: skip


GROUND = stand()
LABELS = {
    "place": GROUND.place_n, "source": GROUND.source_n, "scene": GROUND.scene_n,
    "date": GROUND.times_n.astype("datetime64[D]").astype(str),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELS)
def test_every_label_is_held_out_in_turn(kind):
    held = holdout_for(Asked(kind=kind), GROUND, block_m=2_000)
    tested = [np.unique(LABELS[kind][test]) for _, test in held.folds()]
    assert all(len(labels) == 1 for labels in tested)
    assert sorted(np.concatenate(tested)) == sorted(np.unique(LABELS[kind]))
    for train, test in held.folds():
        assert len(train) + len(test) == 400 and not set(LABELS[kind][train]) & set(LABELS[kind][test])
    assert isinstance(held.cv, PlaceKFold) and held.cv.inner(held.groups[:300]).n_splits >= 2
    np.testing.assert_array_equal(np.unique(held.place_n), np.unique(LABELS[kind]))
    assert f"every {kind} in turn" in held.text and held.buffer_m is None
    # chips of other labels stand next door, but for places, which lie apart
    assert [f"a new {kind} of known ground" in note for note in held.notes] == ([] if kind == "place" else [True])


def test_labels_share_folds_where_asked_or_where_there_are_many():
    held = holdout_for(Asked(kind="place"), GROUND, block_m=2_000, folds=3)
    assert len(list(held.folds())) == 3 and held.text == "3 folds of whole places, 4"
    many = replace(GROUND, scene_n=np.array([f"s{i // 10}" for i in range(400)]))
    held = holdout_for(Asked(kind="scene"), many, block_m=2_000)
    assert len(list(held.folds())) == 20 and held.notes[0] == "40 scenes share 20 folds"


def test_blocks_are_the_default_and_keep_a_chip_apart():
    held = holdout_for(Asked(), GROUND, block_m=1_600)
    assert held.kind == "block" and held.cv.buffer_m == CHIP_M and held.cv.n_splits == 5 and held.notes == ()
    np.testing.assert_array_equal(held.place_n, SpatialKFold(block_m=1_600).labels(GROUND.lonlat_n2))
    assert holdout_for(Asked(buffer_m=900), GROUND, block_m=1_600, folds=3).cv.buffer_m == 900
    assert (np.bincount(held.fold_n) > 0).sum() == 5


def test_an_area_to_be_mapped_implies_knndm():
    held = holdout_for(Asked(domain="3.9,-0.1,13,0.2"), GROUND, block_m=1_600, folds=4)
    assert isinstance(held.cv, KNNDM) and held.kind == "knndm" and held.cv.buffer_m == CHIP_M
    assert held.matching.notes == held.notes and "kNNDM folds" in held.notes[0]
    facts = held.to_dict()
    assert facts["for"] == "3.9,-0.1,13,0.2" and facts["w_m"] == held.matching.w_m
    blocks = SpatialKFold(block_m=1_600).labels(GROUND.lonlat_n2)  # not single chips: intervals would be too narrow
    np.testing.assert_array_equal(held.place_n, blocks)


def test_places_that_share_ground_are_refused():
    with pytest.raises(HoldoutError, match=r"places share ground: .*give runs that lie apart"):
        holdout_for(Asked(kind="place"), stand(apart_km=3.8), block_m=2_000)
    holdout_for(Asked(kind="place"), stand(apart_km=4.5), block_m=2_000)


@pytest.mark.parametrize(
    ("asked", "ground", "folds", "told"),
    [
        (Asked(kind="place"), stand(places=1), None, r"too few places to hold out .1, 3 needed.; give more runs"),
        (Asked(kind="place"), stand(places=2), None, r"too few places to hold out .2, 3 needed"),
        (Asked(kind="place"), GROUND, 5, "too few places to hold out .4, 5 needed"),
        (Asked(kind="source"), replace(GROUND, source_n=np.full(400, "a")), None, "runs of several sensors"),
        (Asked(kind="scene"), replace(GROUND, scene_n=np.full(400, "a")), None, "embed more scenes"),
        (Asked(kind="date"), replace(GROUND, times_n=GROUND.times_n[np.zeros(400, int)]), None, "embed more dates"),
        (Asked(kind="date"), replace(GROUND, times_n=np.full(400, "NaT", "datetime64[s]")), None, "chips are unknown"),
        (Asked(), GROUND, 500, "too few blocks of 2000 m"),
        (Asked(kind="knndm"), GROUND, None, "without an area to be mapped; name it: --for"),
        (Asked(kind="block", domain="4,0,5,1"), GROUND, None, "by block fails with an area .*4,0,5,1.; use knndm"),
        (Asked(kind="random"), GROUND, None, "nothing can be held out by 'random'; choose block"),
        (Asked(buffer_m=449), GROUND, None, "a buffer of 449 m fails for chips of 450 m"),
        (Asked(domain="4,0,5,1", buffer_m=1), GROUND, None, "a buffer of 1 m fails"),
        (Asked(kind="date", buffer_m=900), GROUND, None, "takes no buffer .900 m."),
    ],
)  # fmt: skip
def test_what_cannot_be_held_out_is_refused_never_replaced(asked, ground, folds, told):
    with pytest.raises(HoldoutError, match=told):
        holdout_for(asked, ground, block_m=2_000, folds=folds)


def smooth(ground: Stand, km: float, noise: float = 0.2) -> np.ndarray:
    """Return a field that is alike over some km, by waves drawn from the Gaussian kernel's spectrum."""
    rng = np.random.default_rng(5)
    waves = rng.normal(size=(400, 3)) / (km * 1000 / 6_371_009)
    phases = sphere_n3(ground.lonlat_n2) @ waves.T + rng.uniform(0, 2 * np.pi, 400)
    return np.cos(phases).mean(1) * np.sqrt(2 * 400) + noise * rng.normal(size=len(ground.lonlat_n2))


def test_the_buffer_is_as_wide_as_residuals_are_alike():
    ground = stand(places=2, side=40)
    held = holdout_for(Asked(), ground, block_m=8_000)
    measured = with_measured_buffer(held, ground, smooth(ground, 0.7))
    assert 1_000 < measured.buffer_m < 2_600 and measured.buffer_m == measured.variogram.range_m
    assert measured.cv.buffer_m == measured.buffer_m == measured.to_dict()["range_m"]
    assert len(measured.notes) == 1 and "residuals are alike up to" in measured.notes[0]
    sphere = sphere_n3(ground.lonlat_n2)
    for train, test in measured.folds():
        gap = np.linalg.norm(sphere[train][:, None] - sphere[test][None, ::20], axis=2).min()
        assert gap * 6_371_009 > measured.buffer_m


def test_a_range_below_a_chip_leaves_a_chip_between():
    ground = stand(places=2, side=30, step_km=0.06)
    held = holdout_for(Asked(), ground, block_m=600, folds=3)
    measured = with_measured_buffer(held, ground, smooth(ground, 0.08))
    assert 60 < measured.variogram.range_m < CHIP_M == measured.buffer_m == measured.cv.buffer_m
    assert measured.notes[0].endswith("less than a chip's diagonal")


def test_noise_leaves_a_chip_between():
    ground = stand(places=2, side=20)
    held = holdout_for(Asked(), ground, block_m=4_000)
    measured = with_measured_buffer(held, ground, np.random.default_rng(0).normal(size=800))
    assert measured.buffer_m == CHIP_M and "pure nugget" in measured.notes[0] and "range_m" not in measured.to_dict()


def test_a_range_that_the_ground_has_no_room_for_is_said():
    ground = stand(places=2, side=30)
    held = holdout_for(Asked(), ground, block_m=4_000)
    measured = with_measured_buffer(held, ground, smooth(ground, 4.0))
    assert measured.variogram.range_m > 3_000 and CHIP_M <= measured.buffer_m < measured.variogram.range_m
    assert "scores flatter; take larger blocks" in measured.notes[0]
    assert measured.buffer_m > CHIP_M
    for train, test in measured.folds():
        assert len(train) >= 0.5 * (1_800 - len(test))
        seen = ground.lonlat_n2[train]
        for inner_train, inner_test in measured.cv.inner(seen).split(seen, groups=seen):
            assert len(inner_train) >= 0.5 * (len(train) - len(inner_test))


def test_only_blocks_measure_their_buffer():
    held = holdout_for(Asked(kind="place"), GROUND, block_m=2_000)
    assert with_measured_buffer(held, GROUND, np.zeros(400)) is held


def test_the_kinds_are_those_of_the_command_line():
    from geoelle.cli import fit

    assert next(p for p in fit.params if p.name == "holdout").type.choices == KINDS
