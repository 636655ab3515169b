"""The rules of embedding, on a model whose tokens and losses can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.complexity import feature_names
from geoelle.embed import DRAWS, PERMUTATIONS, embed_chips, patch_losses, space_of
from geoelle.errors import InputMismatch
from geoelle.models.base import Card, Loss, Tokens
from geoelle.models.masks import hidden_patches, permutations, seeds_of
from geoelle.models.nano import CARD

BANDS = ("blue", "green", "red")
GRID, PATCH = 4, 4
SIDE = GRID * PATCH


class Ruler:
    """Its tokens are the means of each band in a patch; its error is the mean of all pixels of a patch, twice
    that of every patch where the north-west one is hidden, so that it depends on the mask as a real one does."""

    def __init__(self, card: Card, factor: float = 1.0) -> None:
        self.card, self.factor, self.weights_sha256 = card, factor, f"ruler-{factor:g}"
        self.seen: list[Chips] = []
        self.masks: list[np.ndarray] = []

    def to(self, device: str) -> Ruler:
        return self

    def encode(self, chips: Chips) -> Tokens:
        self.seen.append(chips)
        return Tokens(patch_bhwd=torch.from_numpy(self.factor * means(chips)))

    def loss(self, chips: Chips, hidden_bhw: np.ndarray) -> Loss:
        self.masks.append(hidden_bhw)
        error = np.where(hidden_bhw, means(chips).mean(-1) * (1 + hidden_bhw[:, :1, :1]), np.nan)
        total = torch.from_numpy(np.nanmean(error, axis=(1, 2)))
        return Loss(total_b=total, terms={"mean": total}, error=torch.from_numpy(error))


def means(chips: Chips) -> np.ndarray:
    """Return (b, h, w, c): the mean of each band in each patch."""
    pixels = chips.pixels_btcyx[:, 0]
    b, c = pixels.shape[:2]
    return pixels.reshape(b, c, GRID, PATCH, GRID, PATCH).mean(axis=(3, 5)).transpose(0, 2, 3, 1)


@pytest.fixture
def card() -> Card:
    return replace(CARD, name="ruler", dim=3, patch_px=PATCH, chip_px=SIDE, stride_px=SIDE, bands=BANDS, mask_ratio=0.5)


@pytest.fixture
def ruler(card: Card) -> Ruler:
    return Ruler(card)


def make_chips(n: int = 3, seed: int = 0) -> Chips:
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=SIDE, stride_px=SIDE)
    addresses = Addresses(lattice=lattice, rows=np.full(n, -31_250), cols=np.arange(n) + 3_125)
    pixels = np.random.default_rng(seed).random((n, 1, len(BANDS), SIDE, SIDE), np.float32)
    return Chips(
        pixels_btcyx=pixels, addresses=addresses, times_bt=np.full((n, 1), "2024-06-01", "datetime64[s]"),
        lonlat_b2=addresses.lonlat_n2, bands=BANDS, items=tuple((f"item{i}", "other") for i in range(n)),
    )  # fmt: skip


def with_gap(chips: Chips, chip: int, rows: slice, cols: slice, band: slice = slice(None)) -> Chips:
    pixels = chips.pixels_btcyx.copy()
    pixels[chip, :, band, rows, cols] = np.nan
    return replace(chips, pixels_btcyx=pixels)


def test_a_vector_is_the_mean_of_the_tokens(ruler: Ruler) -> None:
    chips = make_chips()
    found = embed_chips(replace(chips, sensor="sentinel-2-l2a"), ruler)
    np.testing.assert_allclose(found.vectors_nd, means(chips).mean(axis=(1, 2)), rtol=1e-6)
    assert found.vectors_nd.dtype == np.float32
    assert found.addresses.strings() == chips.addresses.strings()
    assert found.items_n == ["item0;other", "item1;other", "item2;other"]
    assert found.times_n.tolist() == chips.times_bt[:, 0].tolist()
    assert found.header.sensor == "sentinel-2-l2a" and found.header.bands == BANDS
    assert found.header.feature_names == feature_names(BANDS)
    assert found.features_nf.shape == (3, len(feature_names(BANDS)))
    assert found.header.space == space_of(ruler, BANDS)
    assert found.loss_n is None and found.loss_sd_n is None and found.loss_rel_n2 is None and found.twins == {}


@pytest.mark.parametrize(("missing", "counts"), [(PATCH * 2, True), (PATCH * 2 + 1, False)])
def test_a_patch_counts_while_half_of_its_pixels_are_valid(ruler: Ruler, missing: int, counts: bool) -> None:
    chips = make_chips(1)
    pixels = chips.pixels_btcyx.copy()
    pixels[0, :, :, :PATCH, :PATCH] = 9.0  # a patch that would show
    flat = np.zeros(PATCH * PATCH, bool)
    flat[:missing] = True
    pixels[0, 0, 1, :PATCH, :PATCH][flat.reshape(PATCH, PATCH)] = np.nan  # one band missing is a pixel missing
    chips = replace(chips, pixels_btcyx=pixels)
    vector = embed_chips(chips, ruler).vectors_nd[0]
    filled = ruler.seen[-1]
    tokens = means(filled)[0].reshape(GRID * GRID, 3)
    np.testing.assert_allclose(vector, (tokens if counts else tokens[1:]).mean(axis=0), rtol=1e-5)
    assert np.isfinite(patch_losses(chips, ruler)[0, 0, 0]) == counts


def test_missing_pixels_reach_the_model_as_the_mean_of_their_band(ruler: Ruler) -> None:
    chips = with_gap(make_chips(), 1, slice(0, 3), slice(0, 5), slice(0, 1))
    embed_chips(chips, ruler)
    (filled,) = ruler.seen
    expected = np.nanmean(chips.pixels_btcyx[1, 0, 0])
    np.testing.assert_allclose(filled.pixels_btcyx[1, 0, 0, :3, :5], expected, rtol=1e-6)
    kept = np.isfinite(chips.pixels_btcyx)
    np.testing.assert_array_equal(filled.pixels_btcyx[kept], chips.pixels_btcyx[kept])


def test_an_invalid_chip_keeps_its_row_and_no_number(ruler: Ruler, card: Card) -> None:
    whole = make_chips()
    chips = with_gap(whole, 1, slice(0, SIDE), slice(0, 2))  # an eighth of the chip
    found = embed_chips(chips, ruler, loss=True, twins={"twin0": Ruler(card, 2)})
    assert found.valid_n.tolist() == [True, False, True]
    assert found.valid_fraction_n.tolist() == [1, 1 - 2 / SIDE, 1]
    losses = (found.loss_n, found.loss_sd_n, found.loss_rel_n2)
    for values in (found.vectors_nd, found.features_nf, found.twins["twin0"], *losses):
        assert np.isnan(values[1]).all() and np.isfinite(values[[0, 2]]).all()
    others = embed_chips(whole, ruler, loss=True)
    np.testing.assert_array_equal(found.vectors_nd[[0, 2]], others.vectors_nd[[0, 2]])
    np.testing.assert_array_equal(found.loss_n[[0, 2]], others.loss_n[[0, 2]])


def test_a_chip_without_any_pixel_is_only_invalid(ruler: Ruler) -> None:
    found = embed_chips(with_gap(make_chips(), 0, slice(None), slice(None)), ruler, loss=True)
    assert found.valid_n.tolist() == [False, True, True]
    assert np.isnan(found.loss_n[0]) and found.valid_fraction_n[0] == 0


def by_hand(chips: Chips, usable_bn: np.ndarray) -> np.ndarray:
    """Return (2, draws, b): the mean error over hidden and usable patches, by loops."""
    errors = means(chips).mean(-1).reshape(len(chips), -1)
    out = np.empty((PERMUTATIONS, DRAWS, len(chips)))
    for stream in range(PERMUTATIONS):
        order = permutations(seeds_of(chips.addresses.strings(), stream), GRID * GRID)
        for draw in range(DRAWS):
            hidden = hidden_patches(order, GRID * GRID // 2, draw, DRAWS)
            for b in range(len(chips)):
                out[stream, draw, b] = errors[b, hidden[b] & usable_bn[b]].mean() * (1 + hidden[b, 0])
    return out


def test_a_chip_without_an_item_is_given_a_time_that_nobody_sees(ruler: Ruler) -> None:
    """Models that need a time would refuse the whole batch; a frame with pixels keeps what it has."""
    chips = make_chips(3)
    chips.pixels_btcyx[1] = np.nan
    chips.times_bt[1:] = "NaT"
    found = embed_chips(chips, ruler)
    assert np.isnat(ruler.seen[-1].times_bt[:, 0]).tolist() == [False, False, True]
    assert ruler.seen[-1].times_bt[0] == chips.times_bt[0]
    assert np.isnat(found.times_n).tolist() == [False, True, True] and np.isnan(found.vectors_nd[1]).all()


def test_the_loss_is_the_mean_over_draws_of_two_permutations(ruler: Ruler) -> None:
    chips = make_chips()
    found = embed_chips(chips, ruler, loss=True)
    draws = by_hand(chips, np.ones((3, GRID * GRID), bool))
    np.testing.assert_allclose(found.loss_rel_n2, draws.mean(axis=1).T, rtol=1e-5)
    np.testing.assert_allclose(found.loss_n, draws.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.loss_sd_n, draws.reshape(-1, 3).std(axis=0, ddof=1), rtol=1e-4)
    assert found.loss_n.shape == found.loss_sd_n.shape == (3,) and found.loss_rel_n2.shape == (3, 2)
    assert (np.abs(np.diff(found.loss_rel_n2)) > 1e-3).any()


def test_patches_without_pixels_leave_the_loss(ruler: Ruler) -> None:
    chips = with_gap(make_chips(), 2, slice(PATCH, 2 * PATCH), slice(0, PATCH))
    found = embed_chips(chips, ruler, loss=True)
    usable = np.ones((3, GRID * GRID), bool)
    usable[2, GRID] = False
    np.testing.assert_allclose(found.loss_n, by_hand(ruler.seen[0], usable).mean(axis=(0, 1)), rtol=1e-5)


def test_every_mask_hides_the_same_count_and_depends_on_the_address_alone(ruler: Ruler) -> None:
    chips = make_chips()
    embed_chips(chips, ruler, loss=True)
    assert len(ruler.masks) == DRAWS * PERMUTATIONS
    assert all((mask.sum(axis=(1, 2)) == GRID * GRID // 2).all() for mask in ruler.masks)
    first, ruler.masks = ruler.masks, []
    brighter = replace(chips, pixels_btcyx=chips.pixels_btcyx + 1)
    embed_chips(brighter[1:], ruler, loss=True)
    for whole, part in zip(first, ruler.masks, strict=True):
        np.testing.assert_array_equal(whole[1:], part)


def test_twins_see_the_same_pixels_and_keep_their_names(ruler: Ruler, card: Card) -> None:
    chips = with_gap(make_chips(), 0, slice(0, 4), slice(0, 4))
    twins = {"twin1": Ruler(card, 3), "twin0": Ruler(card, 2)}
    found = embed_chips(chips, ruler, twins=twins)
    assert list(found.twins) == ["twin0", "twin1"]
    np.testing.assert_allclose(found.twins["twin0"], 2 * found.vectors_nd, rtol=1e-6)
    np.testing.assert_allclose(found.twins["twin1"], 3 * found.vectors_nd, rtol=1e-6)


def test_batches_and_repetition_change_nothing(ruler: Ruler, card: Card) -> None:
    chips = with_gap(make_chips(7), 3, slice(0, 4), slice(0, 4))
    tables = [embed_chips(chips, ruler, loss=True, twins={"twin0": Ruler(card, 2)}, batch=b) for b in (7, 7, 2, 1)]
    for name in ("vectors_nd", "features_nf", "loss_n", "loss_sd_n", "loss_rel_n2"):
        whole, again, *cut = (getattr(table, name) for table in tables)
        assert whole.tobytes() == again.tobytes()
        for other in cut:
            np.testing.assert_allclose(other, whole, rtol=1e-5)
    np.testing.assert_allclose(tables[-1].twins["twin0"], tables[0].twins["twin0"], rtol=1e-5)


def test_bf16_is_asked_of_the_encoder_and_of_nothing_else(ruler: Ruler) -> None:
    states = []
    encode = ruler.encode
    ruler.encode = lambda chips: states.append(torch.is_autocast_enabled("cpu")) or encode(chips)
    embed_chips(make_chips(1), ruler, precision="bf16")
    embed_chips(make_chips(1), ruler)
    assert states == [True, False] and not torch.is_autocast_enabled("cpu")


def test_the_space_has_what_must_agree(ruler: Ruler, card: Card) -> None:
    space = space_of(ruler, BANDS)
    assert set(space) == {"model", "weights_sha256", "bands", "pooling", "target", "masking"}
    assert space["bands"] == "blue green red" and space["weights_sha256"] == "ruler-1"
    assert space["masking"].startswith("0.5 of 4x4, 4 draws of 2 permutations")
    others = [
        space_of(Ruler(card, 2), BANDS),
        space_of(ruler, BANDS[::-1]),
        space_of(Ruler(replace(card, mask_ratio=0.75)), BANDS),
        space_of(Ruler(replace(card, objective="latent")), BANDS),
        space_of(Ruler(replace(card, mask_axes=("t", "h", "w"))), BANDS, frames=2),
    ]
    assert all(other != space for other in others)


def test_no_chips_and_wrong_chips_are_refused(ruler: Ruler) -> None:
    chips = make_chips()
    with pytest.raises(InputMismatch, match="no chips"):
        embed_chips(chips[:0], ruler)
    with pytest.raises(InputMismatch, match="does not know bands nir"):
        embed_chips(replace(chips, bands=("nir", "green", "red")), ruler)
