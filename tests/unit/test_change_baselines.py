"""Baselines see the same cells and years as Delta: each finds what it measures, and flags little elsewhere."""

import doctest
from dataclasses import replace

import numpy as np
import pytest

from geoelle import change_baselines
from geoelle.change_baselines import Measured, baselines, gap_of, of_delta
from geoelle.delta import Scored, compare
from geoelle.embeddings import Embeddings, Header
from geoelle.lattice import Addresses, Lattice
from geoelle.probe import Affine, Probe

SIDE = 40
CELLS = SIDE * SIDE
FIRST = Affine(weights_d=np.eye(8)[0], intercept=0.0, mean_d=np.zeros(8), scale_d=np.ones(8), alpha=1.0)
LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
MESH = Addresses(lattice=LATTICE, rows=np.repeat(np.arange(SIDE), SIDE), cols=np.tile(np.arange(SIDE), SIDE))
NAMES = ("mean_red", "mean_nir", "ndvi_mean")
SPACE = {"model": "m", "weights_sha256": "0", "pooling": "mean", "target": "t", "masking": "k"}
BARE = Probe(embedding=FIRST, space=SPACE)
KNOWS = replace(BARE, twin=FIRST)
RNG = np.random.default_rng(0)
LEVEL_ND, LEVEL_NF = 3 * RNG.normal(size=(CELLS, 8)), 0.1 * RNG.normal(size=(CELLS, 3))


def year(number: int, *, vectors: np.ndarray | float = 0.0, features: np.ndarray | float = 0.0) -> Embeddings:
    rng = np.random.default_rng(100 + number)
    return Embeddings(
        addresses=MESH,
        vectors_nd=(LEVEL_ND + 0.2 * rng.normal(size=(CELLS, 8)) + vectors).astype(np.float32),
        valid_n=np.ones(CELLS, bool), valid_fraction_n=np.ones(CELLS),
        times_n=np.full(CELLS, np.datetime64(f"{2024 - number}-06-01", "s")), items_n=[f"i{number}"] * CELLS,
        header=Header(space=SPACE, sensor="s", bands=("red", "nir"), feature_names=NAMES),
        features_nf=(LEVEL_NF + 0.01 * rng.normal(size=(CELLS, 3)) + features).astype(np.float32),
    )  # fmt: skip


def scored(table: Embeddings) -> Scored:
    days_n = table.times_n.astype("datetime64[D]").astype(float)
    return Scored(addresses=MESH, difficulty_n=table.vectors_nd[:, 0].astype(float), days_n=days_n, probe="p",
                  complexity_n=table.features_nf[:, 0].astype(float))  # fmt: skip


def measured(after: Embeddings, years: int = 4) -> dict[str, Measured]:
    tables = [year(1), after, *(year(2 + k) for k in range(years))]
    marks = [scored(table) for table in tables]
    delta = compare(marks[0], marks[1], marks[2:])
    return {each.name: each for each in (of_delta(delta), *baselines(delta, marks, tables, BARE))}


CHANGED = np.arange(CELLS) % 20 == 0


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(change_baselines).failed == 0


def test_all_are_measured_and_flag_little_where_nothing_changed() -> None:
    found = measured(year(0))
    assert list(found) == [
        "Delta", "complexity (pixels alone)", "excess", "NDVI", "red", "nir", "random direction", "pixel difference",
        "embedding cosine", "embedding Euclidean",
    ]  # fmt: skip
    for each in found.values():
        assert each.share < 0.01 and each.unchanged < 0.01, each.name


@pytest.mark.parametrize(
    ("change", "finds", "blind"),
    [
        ({"vectors": np.eye(8)[0] * 4}, {"Delta", "excess", "embedding Euclidean"}, {"NDVI", "red"}),
        ({"vectors": np.eye(8)[1] * 4}, {"embedding Euclidean"}, {"Delta", "NDVI"}),
        ({"features": np.array([0, 0, 0.3])}, {"NDVI"}, {"Delta", "red", "embedding cosine", "pixel difference"}),
        ({"features": np.array([0.3, 0, 0])}, {"red", "complexity (pixels alone)"}, {"Delta", "nir"}),
    ],
)  # fmt: skip
def test_each_finds_what_it_measures(change: dict, finds: set[str], blind: set[str]) -> None:
    found = measured(year(0, **{name: CHANGED[:, None] * by for name, by in change.items()}))
    for name in finds:
        flagged = found[name].flag_n == 1
        assert flagged[CHANGED].mean() > 0.5 and (CHANGED[flagged]).mean() > 0.75, name
    for name in blind:
        assert found[name].share < 0.01, name


def test_without_a_history_all_are_ranked_and_none_is_tested() -> None:
    found = measured(year(0, vectors=CHANGED[:, None] * np.eye(8)[0] * 4), years=0)
    assert all(each.flag_n is None and each.unchanged is None for each in found.values())
    for name in ("Delta", "embedding Euclidean"):
        assert CHANGED[np.argsort(-found[name].size_n)[: CHANGED.sum()]].mean() > 0.9


def test_cells_are_those_of_delta_and_a_measure_that_never_varies_is_not_tested() -> None:
    tables = [year(1), year(0), *(year(2 + k) for k in range(4))]
    marks = [scored(table) for table in tables]
    marks[0].difficulty_n[:5] = np.nan
    delta = compare(marks[0], marks[1], marks[2:])
    flat = [replace(t, features_nf=np.ones((CELLS, 3), np.float32)) for t in tables]
    shuffled = [flat[0], *(t[np.random.default_rng(1).permutation(CELLS)] for t in flat[1:])]
    found = {each.name: each for each in baselines(delta, marks, shuffled, BARE)}
    assert found["NDVI"].flag_n is None
    for each in found.values():
        assert np.isnan(each.size_n[:5]).all() and np.isfinite(each.size_n[5:]).all(), each.name
    straight = {each.name: each for each in baselines(delta, marks, flat, BARE)}
    np.testing.assert_array_equal(found["embedding Euclidean"].size_n, straight["embedding Euclidean"].size_n)


def test_the_twin_is_judged_as_the_others_are_and_its_absence_is_told() -> None:
    """The map of the twin reads the first dimension of its vectors."""
    tables = [year(1), year(0), *(year(2 + k) for k in range(4))]
    assert "--twins 1" in gap_of(tables, KNOWS)
    moved = [4.0 * CHANGED[:, None] * (i == 1) for i in range(len(tables))]
    twins = [replace(t, twins={"twin0": t.vectors_nd + np.float32(by)}) for t, by in zip(tables, moved, strict=True)]
    marks = [scored(table) for table in tables]
    delta = compare(marks[0], marks[1], marks[2:])
    found = {each.name: each for each in baselines(delta, marks, twins, KNOWS)}
    assert gap_of(twins, KNOWS).startswith("The true loss is not among the baselines: a run holds none")
    assert gap_of([replace(t, loss_n=np.ones(CELLS)) for t in twins], KNOWS) == ""
    assert found["untrained twin"].flag_n[CHANGED].mean() > 0.5 and found["untrained twin"].unchanged < 0.01
    assert "untrained twin" not in {each.name for each in baselines(delta, marks, tables, KNOWS)}
    assert "untrained twin" not in {each.name for each in baselines(delta, marks, twins, BARE)}
    assert "the probe has no map of it" in gap_of(twins, BARE)
