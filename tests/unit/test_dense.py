"""Dense scores on stand-in models whose tokens can be worked out by hand: offsets, gaps, joining, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.complexity import feature_names, features
from geoelle.dense import DENSE_BANDS, PatchScores, agreement, dense_layers
from geoelle.embed import PATCH_POOLING, Readers, embed_chips, embed_patches, patch_losses, score_patches, space_of
from geoelle.errors import AreaError, FormatError, SpaceMismatch
from geoelle.models.base import Card, Loss, Tokens
from geoelle.models.nano import CARD
from geoelle.patches import DRAWN, chips_over, keys_of, patch_lattice, patch_means, patches_of, windows
from geoelle.probe import Affine, Probe

BANDS = ("blue", "green", "red")
GRID, PATCH, SIDE = 8, 4, 32
LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=SIDE, stride_px=16)
ROW, COL = -31_250, 3_125
SCENE = np.random.default_rng(3).uniform(0.05, 0.3, (len(BANDS), 192, 192)).astype(np.float32)
"""Pixels of the ground whose north-west corner is that of the chip (ROW, COL)."""
NAMES = feature_names(BANDS)


class Placed:
    """Its tokens are the mean of each band in a patch, and a code of the place in the chip that repeats with the chip.

    The error of a hidden patch is the mean of its pixels.
    """

    def __init__(self, code: float = 1.0) -> None:
        self.card: Card = replace(CARD, name="placed", dim=4, bands=BANDS)
        self.code, self.weights_sha256 = code, f"placed-{code:g}"

    def encode(self, chips: Chips) -> Tokens:
        wave = np.cos(2 * np.pi * np.arange(GRID) / GRID)
        code = np.broadcast_to(self.code * (wave[:, None] + wave), (len(chips), GRID, GRID))
        return Tokens(patch_bhwd=torch.from_numpy(np.concatenate([means(chips), code[..., None]], axis=-1)))

    def loss(self, chips: Chips, hidden_bhw: np.ndarray) -> Loss:
        error = torch.from_numpy(np.where(hidden_bhw, means(chips).mean(-1), np.nan))
        return Loss(total_b=error.nanmean(dim=(1, 2)), terms={}, error=error)


def means(chips: Chips) -> np.ndarray:
    pixels = chips.pixels_btcyx[:, 0].reshape(len(chips), len(BANDS), GRID, PATCH, GRID, PATCH)
    return pixels.mean(axis=(3, 5)).transpose(0, 2, 3, 1)


def chips_at(addresses: Addresses, scene: np.ndarray = SCENE) -> Chips:
    tops, lefts = ((index - first) * 16 for index, first in ((addresses.rows, ROW), (addresses.cols, COL)))
    cuts = [scene[:, y : y + SIDE, x : x + SIDE] for y, x in zip(tops, lefts, strict=True)]
    return Chips(
        pixels_btcyx=np.stack(cuts)[:, None], addresses=addresses, lonlat_b2=addresses.lonlat_n2, bands=BANDS,
        times_bt=np.full((len(addresses), 1), "2024-06-01T12:00", "datetime64[s]"), items=(("a",),) * len(addresses),
    )  # fmt: skip


def square(rows: range, cols: range, lattice: Lattice = LATTICE) -> Addresses:
    row, col = (v.ravel() for v in np.meshgrid(rows, cols, indexing="ij"))
    return Addresses(lattice=lattice, rows=row, cols=col)


EVERY = square(range(ROW, ROW + 11), range(COL, COL + 11))
"""All chips of the scene."""


def affine(weights: np.ndarray, intercept: float) -> Affine:
    count = len(weights)
    return Affine(weights_d=weights, intercept=intercept, mean_d=np.zeros(count), scale_d=np.ones(count), alpha=1.0)


def probe_of(model: Placed, *, dense: bool = True, scale: str = "raw") -> Probe:
    pixels = np.random.default_rng(0).normal(size=len(NAMES)) / 100
    return Probe(
        embedding=affine(np.array([1.0, -2.0, 0.5, 0.1]), 0.7), pixels=affine(pixels, 0.3), feature_names=NAMES,
        space=space_of(model, BANDS, dense=dense), scale=scale,
    )  # fmt: skip


def scores_of(chips: Chips, model: Placed, probe: Probe) -> PatchScores:
    readers = Readers(
        difficulty=probe.embedding, pixels=probe.pixels, dissimilarity=lambda tokens: tokens[..., 1], keeps=True,
        loss=True, twin=(Placed(code=2.0), lambda tokens: tokens[..., 3]),
    )  # fmt: skip
    return PatchScores.of(*score_patches(chips, model, readers), patch_px=PATCH, probe=probe)


@pytest.fixture(scope="module")
def scores() -> PatchScores:
    return scores_of(chips_at(EVERY), Placed(), probe_of(Placed()))


def ground(patches: Addresses) -> np.ndarray:
    """Return the mean of each band over the pixels of each patch, without the code."""
    y, x = (patches.rows - ROW * 4) * PATCH, (patches.cols - COL * 4) * PATCH
    return np.stack([SCENE[:, a : a + PATCH, b : b + PATCH].mean(axis=(1, 2)) for a, b in zip(y, x, strict=True)])


def local(patches: Addresses) -> np.ndarray:
    """Return what the probe says of the pixels of each patch, without the code."""
    return ground(patches) @ [1.0, -2.0, 0.5] + 0.7


# --- offsets


def test_the_mean_over_offsets_removes_what_repeats_with_the_chip_and_their_spread_shows_it(scores) -> None:
    inner = scores.offsets_n == 4
    truth = local(scores.addresses[inner])
    one = scores.by_offset_nk[inner, 0] - truth
    assert one.std() > 0.09, "one offset alone shows the code"
    np.testing.assert_allclose(scores.mean_n[inner], truth, atol=1e-6)
    wave = np.cos(2 * np.pi * np.arange(GRID) / GRID)
    i, j = (
        (index[inner] - first * 4) % GRID
        for index, first in ((scores.addresses.rows, ROW), (scores.addresses.cols, COL))
    )
    four = 0.1 * np.stack([wave[(i + a) % GRID] + wave[(j + b) % GRID] for a in (0, 4) for b in (0, 4)])
    np.testing.assert_allclose(scores.shift_sd_n[inner], four.std(axis=0, ddof=1), atol=1e-6)
    plain = scores_of(chips_at(EVERY), Placed(0.0), probe_of(Placed(0.0)))
    np.testing.assert_allclose(plain.shift_sd_n[inner], 0, atol=1e-6)


def test_a_patch_has_the_same_numbers_whatever_area_was_asked_for(scores) -> None:
    grid = patch_lattice(LATTICE, PATCH)
    west = square(range(ROW * 4 + 9, ROW * 4 + 22), range(COL * 4 + 8, COL * 4 + 21), grid)
    east = square(range(ROW * 4 + 13, ROW * 4 + 26), range(COL * 4 + 19, COL * 4 + 33), grid)
    probe = probe_of(Placed())
    found = [scores_of(chips_at(chips_over(a, LATTICE)), Placed(), probe).at(a) for a in (west, east)]
    both = west[np.isin(keys_of(west), keys_of(east))]
    assert len(both) == 9 * 2
    for name in ("by_offset_nk", "complexity_n", "days_n", "mean_n", "shift_sd_n"):
        one, other, whole = (getattr(table.at(both), name) for table in (*found, scores))
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, whole)
    assert all((table.offsets_n == 4).all() for table in found), "a patch inside is seen from every offset"


def test_parts_join_to_what_they_are_parts_of_in_any_order(scores) -> None:
    probe = probe_of(Placed())
    tables = [scores_of(chips_at(part), Placed(), probe) for _, part in EVERY.parts(4)]
    assert len(tables) > 4
    for some in (tables, tables[::-1]):
        joined = some[0].join(*some[1:])
        assert joined.addresses.strings() == scores.addresses.strings()
        for name in ("by_offset_nk", "complexity_n", "days_n"):
            np.testing.assert_array_equal(getattr(joined, name), getattr(scores, name))


def test_complexity_is_of_the_square_around_the_patch(scores) -> None:
    probe = probe_of(Placed())
    wanted = patch_lattice(LATTICE, PATCH)
    some = square(range(ROW * 4 + 10, ROW * 4 + 13), range(COL * 4 + 17, COL * 4 + 20), wanted)
    y, x = ((index - first * 4) * PATCH - 4 for index, first in ((some.rows, ROW), (some.cols, COL)))
    squares = np.stack([SCENE[:, a : a + 12, b : b + 12] for a, b in zip(y, x, strict=True)])
    np.testing.assert_allclose(scores.at(some).complexity_n, probe.pixels(features(squares, BANDS)), rtol=1e-5)


# --- the map


@pytest.mark.parametrize("scale", ["raw", "log"])
def test_layers_are_on_the_scale_of_the_probe(scores, scale: str) -> None:
    found = dense_layers(scores, probe_of(Placed(), scale=scale))
    assert tuple(found) == DENSE_BANDS and all(v.dtype == np.float32 for v in found.values())
    mean, unit = scores.mean_n, np.exp if scale == "log" else np.asarray
    np.testing.assert_allclose(found["difficulty"], unit(mean), rtol=1e-6)
    np.testing.assert_allclose(found["complexity"], unit(scores.complexity_n), rtol=1e-6)
    np.testing.assert_allclose(found["excess"], mean - scores.complexity_n, atol=1e-6)
    np.testing.assert_allclose(found["shift_sd"], scores.shift_sd_n, rtol=1e-5, atol=1e-7)
    painted = np.isfinite(found["difficulty"])
    assert (found["date"][painted] == 19_875.5).all() and np.isnan(found["date"][~painted]).all()
    assert set(found["offsets"][painted]) <= {1, 2, 3, 4} and (~painted).sum() > 0


def test_gaps_stay_gaps_and_are_counted() -> None:
    scene = SCENE.copy()
    scene[1, 80:84, 80:84] = np.nan  # one patch, of chips that stay valid
    scene[:, :40, :] = np.nan  # the northern chips are not valid
    probe, patch = probe_of(Placed()), patch_lattice(LATTICE, PATCH)
    found = scores_of(chips_at(EVERY, scene), Placed(), probe)
    hole = found.at(Addresses(lattice=patch, rows=[ROW * 4 + 20], cols=[COL * 4 + 20]))
    assert np.isnan(hole.mean_n).all() and np.isnan(hole.by_offset_nk).all() and np.isnan(hole.days_n).all()
    beside = found.at(Addresses(lattice=patch, rows=[ROW * 4 + 20], cols=[COL * 4 + 21]))
    assert np.isfinite(beside.mean_n).all() and beside.offsets_n == 4
    rows = found.addresses.rows - ROW * 4
    inner = (found.addresses.cols - COL * 4 > 4) & (found.addresses.cols - COL * 4 < 40)
    # Chips from row 3 on (patch 12) are valid and answer for patches from 14 on; 12 and 13 are seen, not answered for.
    assert np.isnan(found.mean_n[inner & (rows < 14)]).all()
    assert (found.offsets_n[inner & (rows == 15) & np.isfinite(found.mean_n)] == 2).all()
    assert np.isfinite(found.by_offset_nk[inner & (rows == 12)]).any()
    layers = dense_layers(found, probe)
    assert all(np.isnan(v[np.isnan(layers["difficulty"])]).all() for v in layers.values())


def test_one_offset_has_no_spread() -> None:
    lattice = replace(LATTICE, stride_px=SIDE)
    chips = chips_at(square(range(ROW, ROW + 5, 2), range(COL + 1, COL + 6, 2)))
    chips = replace(
        chips, addresses=Addresses(lattice=lattice, rows=chips.addresses.rows // 2, cols=chips.addresses.cols // 2)
    )
    found = scores_of(chips, Placed(), probe_of(Placed()))
    assert (found.offsets_n == 1).all() and np.isnan(found.shift_sd_n).all() and np.isfinite(found.mean_n).all()


def test_where_loss_is_linear_and_local_block_means_are_the_chip_level_map() -> None:
    model = Placed(0.0)
    table = embed_chips(chips_at(EVERY), model)
    found, of_chips = scores_of(chips_at(EVERY), model, probe_of(model)), probe_of(model, dense=False)
    agreed = agreement(found.mean_n, found.addresses, table, of_chips)
    assert agreed.r == pytest.approx(1, abs=1e-6) and agreed.chips == 81, "edges are not answered for"
    assert agreement(found.mean_n * np.nan, found.addresses, table, of_chips).r is None
    shuffled = np.where(np.isfinite(found.mean_n), np.random.default_rng(0).permutation(found.mean_n), np.nan)
    assert agreement(np.nan_to_num(shuffled), found.addresses, table, of_chips).r < 0.9


# --- patches to fit on


def test_drawn_patches_have_their_token_loss_features_and_address() -> None:
    chips, model = chips_at(EVERY[:6]), Placed()
    table, patches = embed_patches(chips, model, loss=True, twins={"twin0": Placed(5.0)}, batch=4)
    whole = embed_chips(chips, model, loss=True, twins={"twin0": Placed(5.0)})
    np.testing.assert_array_equal(table.vectors_nd, whole.vectors_nd)
    np.testing.assert_array_equal(table.loss_n, whole.loss_n)
    assert (
        len(patches) == 6 * DRAWN and patches.header.space["pooling"] == PATCH_POOLING != whole.header.space["pooling"]
    )
    chip, (i, j) = np.repeat(np.arange(6), DRAWN), patches.within_n2.T
    keys = keys_of(patches_of(chips.addresses, PATCH)).reshape(6, GRID, GRID)
    np.testing.assert_array_equal(keys_of(patches.addresses), keys[chip, i, j])
    np.testing.assert_allclose(patches.vectors_nd, model.encode(chips).patch_bhwd.numpy()[chip, i, j], rtol=1e-6)
    np.testing.assert_allclose(patches.twins["twin0"][:, 3], 5 * patches.vectors_nd[:, 3], rtol=1e-5)
    np.testing.assert_allclose(patches.loss_n, patch_losses(chips, model)[chip, i, j], rtol=1e-6)
    np.testing.assert_allclose(patches.loss_rel_n2, np.stack([patches.loss_n] * 2, axis=1), rtol=1e-6)
    squares = windows(chips.pixels_btcyx, (i * GRID + j).reshape(6, DRAWN), PATCH)
    np.testing.assert_allclose(patches.features_nf, features(squares, BANDS), rtol=1e-5)
    assert patches.valid_n.all() and (patches.valid_fraction_n == 1).all()


def test_drawn_patches_without_pixels_are_rows_of_nan(tmp_path: Path) -> None:
    scene = SCENE.copy()
    scene[:, :16, :] = np.nan
    chips = chips_at(EVERY[[0, 1, 11, 12]], scene)  # two of which are half empty
    chips.pixels_btcyx[3, 0, 0, :PATCH, : SIDE // 2] = np.nan
    _, patches = embed_patches(chips, Placed(), loss=True)
    usable = np.ones((4, GRID, GRID), bool)
    usable[:2], usable[3, 0, :4] = False, False
    expected = usable[np.repeat(np.arange(4), DRAWN), *patches.within_n2.T]
    np.testing.assert_array_equal(patches.valid_n, expected)
    for array in (patches.vectors_nd, patches.loss_n, patches.features_nf):
        np.testing.assert_array_equal(np.isfinite(array.reshape(len(patches), -1)).all(axis=1), expected)
    kept = type(patches).read(patches.write(tmp_path / "part.parquet"))
    np.testing.assert_array_equal(kept.within_n2, patches.within_n2)
    assert kept.addresses.strings() == patches.addresses.strings() and kept.header.space == patches.header.space


def test_the_means_of_bands_are_those_of_the_pixels_of_a_patch_where_the_map_has_data(scores) -> None:
    known = np.isfinite(scores.complexity_n)
    assert 0 < known.sum() < len(scores)
    np.testing.assert_allclose(scores.means_nc[known], ground(scores.addresses)[known], rtol=1e-5)
    assert np.isnan(scores.means_nc[~known]).all()


def test_dissimilarity_is_of_the_token_of_the_chip_in_whose_middle_the_patch_lies(scores) -> None:
    known = np.isfinite(scores.complexity_n)
    np.testing.assert_allclose(scores.dissimilarity_n[known], ground(scores.addresses)[known, 1], rtol=1e-5)
    assert np.isnan(scores.dissimilarity_n[~known]).all()
    probe = probe_of(Placed())
    bare = Readers(difficulty=probe.embedding, pixels=probe.pixels)
    _, _, middle = score_patches(chips_at(EVERY[:2]), Placed(), bare)
    assert np.isnan(middle["dissimilarity"]).all() and set(middle) == {"complexity", "dissimilarity", "means"}


def test_what_measures_beside_delta_read_is_of_the_same_chip(scores) -> None:
    known = np.isfinite(scores.complexity_n)
    np.testing.assert_allclose(scores.token_nd[known, :3], ground(scores.addresses)[known], rtol=1e-5)
    np.testing.assert_allclose(scores.loss_n[known], ground(scores.addresses)[known].mean(1), rtol=1e-5)
    np.testing.assert_allclose(scores.twin_n[known], 2 * scores.token_nd[known, 3], rtol=1e-5)
    assert np.ptp(scores.twin_n[known]) > 1  # the code of the place in the chip, twice that of the model
    for name in ("token_nd", "twin_n", "loss_n"):
        assert np.isnan(getattr(scores, name)[~known]).all()
    half = replace(scores, token_nd=None, twin_n=None, loss_n=None)
    assert half.join(scores).token_nd is None and scores.join(scores).loss_n is not None


def test_a_mean_of_a_band_leaves_gaps_out() -> None:
    pixels_btcyx = np.ones((1, 2, 1, 4, 8), np.float32)
    pixels_btcyx[0, 1, 0, :2, :4], pixels_btcyx[..., 4:] = 5, np.nan
    pixels_btcyx[0, 0, 0, :, :4] = np.nan
    np.testing.assert_array_equal(patch_means(pixels_btcyx, 4), [[[[3.0], [np.nan]]]])


# --- files


def test_a_file_gives_back_what_was_written_and_equal_tables_equal_bytes(scores, tmp_path: Path) -> None:
    path = scores.write(tmp_path / "part.parquet")
    kept = PatchScores.read(path)
    assert kept.addresses.strings() == scores.addresses.strings()
    assert kept.probe == scores.probe and dict(kept.space) == dict(scores.space)
    always = ("by_offset_nk", "complexity_n", "dissimilarity_n", "means_nc", "days_n")
    for name in (*always, "token_nd", "twin_n", "loss_n"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(scores, name))
    bare = replace(scores, token_nd=None, twin_n=None, loss_n=None)
    assert PatchScores.read(bare.write(tmp_path / "bare.parquet")).token_nd is None
    assert scores.write(tmp_path / "again.parquet").read_bytes() == path.read_bytes()
    assert PatchScores.in_file(path)


def test_files_of_others_and_damaged_ones_are_refused(scores, tmp_path: Path) -> None:
    whole = scores.write(tmp_path / "part.parquet").read_bytes()
    for name, content in {"short": whole[:-200], "empty": b"", "flipped": whole[:900] + b"####" + whole[904:]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=f"{name} holds no scores of patches"):
            PatchScores.read(tmp_path / name)
    table = embed_chips(chips_at(EVERY[:2]), Placed())
    with pytest.raises(FormatError, match="holds no scores of patches"):
        PatchScores.read(table.write(tmp_path / "chips.parquet"))
    assert not PatchScores.in_file(tmp_path / "chips.parquet") and not PatchScores.in_file(tmp_path / "short")


def test_two_probes_or_lattices_are_not_joined(scores) -> None:
    with pytest.raises(SpaceMismatch, match="two probes"):
        scores.join(replace(scores, probe="another"))
    with pytest.raises(AreaError, match="two lattices"):
        scores.at(EVERY)


def test_rows_that_are_not_there_are_nan_at_their_address(scores) -> None:
    far = Addresses(
        lattice=scores.addresses.lattice,
        rows=[0, int(scores.addresses.rows[40])],
        cols=[0, int(scores.addresses.cols[40])],
    )
    found = scores.at(far)
    assert np.isnan(found.by_offset_nk[0]).all() and np.isnan(found.days_n[0])
    np.testing.assert_array_equal(found.by_offset_nk[1], scores.by_offset_nk[40])
