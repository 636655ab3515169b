"""nano: its file, its patches and its three objectives, against the same thing worked out by hand."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.errors import WeightsError
from geoelle.models import load_model
from geoelle.models.nano import BANDS, CARD, NORM_EPS, TEMPERATURE, WEIGHTS, Nano, NanoConfig, NanoNet, load

TINY = NanoConfig(dim=16, depth=1, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2, target_dim=12)
HIDDEN = 40
assert (TEMPERATURE, NORM_EPS) == (0.1, 0.01), "the numbers of the weights that ship"


@pytest.fixture(scope="module")
def nano() -> Nano:
    return load("nano")


def make_chips(n: int = 2, bands: tuple[str, ...] = BANDS, seed: int = 0) -> Chips:
    lattice = Lattice(epsg=32631, gsd_m=10, size_px=CARD.chip_px, stride_px=CARD.stride_px)
    addresses = Addresses(lattice=lattice, rows=np.full(n, -31_250), cols=np.arange(n) + 3_125)
    pixels = np.random.default_rng(seed).gamma(2.0, 0.05, (n, 1, len(bands), CARD.chip_px, CARD.chip_px))
    return Chips(
        pixels_btcyx=pixels.astype(np.float32), addresses=addresses,
        times_bt=np.full((n, 1), "2024-06-01", "datetime64[s]"), lonlat_b2=addresses.lonlat_n2, bands=bands,
        items=(("item",),) * n,
    )  # fmt: skip


def make_mask(n: int = 2, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    flat = np.stack([rng.permutation(CARD.grid**2) < HIDDEN for _ in range(n)])
    return flat.reshape(n, CARD.grid, CARD.grid)


def tiny(objective: str) -> Nano:
    return Nano(NanoNet(replace(TINY, objective=objective)).init(3), CARD, "")


# --- the file


def test_the_file_in_the_wheel_says_what_it_is(nano: Nano) -> None:
    assert nano.weights_sha256 == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    config = nano.net.config
    assert (config.patch_px, config.chip_px, config.mask_ratio) == (CARD.patch_px, CARD.chip_px, CARD.mask_ratio)
    assert config.dim == CARD.dim and config.objective == nano.card.objective
    assert (nano.net.std > 0).all() and (nano.net.mean > 0).all() and (nano.net.mean < 1).all()
    assert not nano.net.training
    assert CARD.bands == BANDS and len(BANDS) == 10


def test_every_weight_comes_from_the_file(nano: Nano) -> None:
    stored = load_file(WEIGHTS)
    state = nano.net.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[key], stored[key]) for key in stored)


def save(path: Path, config: object = None, drop: str = "", extra: str = "") -> Path:
    state = dict(NanoNet(TINY).init(0).state_dict())
    state.pop(drop, None)
    if extra:
        state[extra] = torch.zeros(1)
    text = config if isinstance(config, str) else json.dumps(TINY.to_dict() if config is None else config)
    save_file(state, path, metadata={"config": text})
    return path


def test_a_file_of_ones_own_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.safetensors")
    mine = load_model("nano", str(path))
    assert mine.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert mine.encode(make_chips()).patch_bhwd.shape == (2, 8, 8, TINY.dim)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"drop": "norm.weight"}, "does not fit its own config.*norm.weight"),
        ({"extra": "head.extra"}, "does not fit its own config.*head.extra"),
        ({"config": TINY.to_dict() | {"dim": 32}}, "does not fit its own config"),
        ({"config": TINY.to_dict() | {"colour": 1}}, "no usable `config`"),
        ({"config": "{half"}, "no usable `config`"),
        ({"config": [1]}, "no usable `config`"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(options: dict, told: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=told) as caught:
        load_model("nano", str(save(tmp_path / "mine.safetensors", **options)))
    assert "mine.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 5_000, -1])
def test_a_file_cut_anywhere_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(WEIGHTS.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cannot read nano weights cut.safetensors"):
        load_model("nano", str(path))


def test_a_twin_keeps_the_band_statistics_and_nothing_else(nano: Nano) -> None:
    first, again, other = (load("nano", "untrained", seed=s) for s in (0, 0, 1))
    assert first.weights_sha256 == "untrained-0" and other.weights_sha256 == "untrained-1"
    for name, value in nano.net.state_dict().items():
        mine, same, others = (m.net.state_dict()[name] for m in (first, again, other))
        assert torch.equal(mine, same)
        if name in ("mean", "std"):
            assert torch.equal(mine, value)
        elif mine.std() > 0 and name != "target":
            assert not torch.equal(mine, value) and not torch.equal(mine, others)


# --- patches and tokens


def test_patches_are_row_major_from_the_north_west(nano: Nano) -> None:
    chips = make_chips(1)
    bands = torch.arange(len(BANDS))
    patches = nano.net.patchify(torch.from_numpy(chips.pixels_btcyx[:, 0]), bands)
    assert patches.shape == (1, 64, 10, 16)
    row, col, band = 2, 5, 7
    block = chips.pixels_btcyx[0, 0, band, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4]
    expected = (block.ravel() - nano.net.mean[band].item()) / nano.net.std[band].item()
    np.testing.assert_allclose(patches[0, 8 * row + col, band], expected, rtol=1e-4, atol=1e-4)


def test_a_change_in_the_south_east_moves_the_south_eastern_token_most(nano: Nano) -> None:
    chips = make_chips(1)
    pixels = chips.pixels_btcyx.copy()
    pixels[..., -4:, -4:] += 0.3
    pair = [nano.encode(c).patch_bhwd[0] for c in (chips, replace(chips, pixels_btcyx=pixels))]
    moved = (pair[1] - pair[0]).norm(dim=-1)
    assert divmod(int(moved.argmax()), 8) == (7, 7)


def test_reflectance_of_the_mean_is_zero_inside(nano: Nano) -> None:
    chips = make_chips(1)
    pixels = np.broadcast_to(nano.net.mean.numpy()[None, None, :, None, None], chips.pixels_btcyx.shape)
    patches, _ = nano._patches(replace(chips, pixels_btcyx=pixels.copy()))
    assert patches.abs().max() < 1e-5


def test_the_order_of_bands_is_of_no_account_and_their_choice_is(nano: Nano) -> None:
    chips = make_chips()
    turned = chips.select_bands(BANDS[::-1])
    torch.testing.assert_close(nano.encode(turned).patch_bhwd, nano.encode(chips).patch_bhwd, atol=1e-4, rtol=1e-4)
    few = nano.encode(chips.select_bands(BANDS[:6])).patch_bhwd
    assert (few - nano.encode(chips).patch_bhwd).abs().max() > 0.1


# --- the loss


def test_the_loss_goes_to_the_patches_that_were_hidden(nano: Nano) -> None:
    chips, hidden = make_chips(), make_mask()
    loss = nano.loss(chips, hidden)
    error = loss.error_bhw.numpy()
    np.testing.assert_array_equal(np.isfinite(error), hidden)
    np.testing.assert_allclose(np.nanmean(error, axis=(1, 2)), loss.total_b, rtol=1e-5)
    assert loss.terms.keys() == {nano.net.config.objective}
    alone = nano.loss(chips[1:], hidden[1:])
    np.testing.assert_allclose(alone.error_bhw[0].numpy(), error[1], rtol=1e-4)


def test_masks_of_unlike_counts_in_a_batch_are_refused(nano: Nano) -> None:
    hidden = make_mask()
    hidden[0] = ~hidden[0]
    with pytest.raises(ValueError, match="same number of tokens"):
        nano.loss(make_chips(), hidden)


@pytest.mark.parametrize("objective", ["pixel", "pixel-norm", "latent"])
@pytest.mark.parametrize("bands", [BANDS, ("blue", "red", "nir", "swir16")])
def test_each_objective_is_what_it_says(objective: str, bands: tuple[str, ...]) -> None:
    model, chips, hidden = tiny(objective), make_chips(bands=bands), make_mask()
    found = model.loss(chips, hidden).error_bhw.numpy()
    places = [BANDS.index(b) for b in bands]
    patches = model.net.patchify(torch.from_numpy(chips.pixels_btcyx[:, 0]), torch.tensor(places))
    for b in range(2):
        where = np.flatnonzero(hidden[b])
        order = torch.from_numpy(np.r_[where, np.flatnonzero(~hidden[b])])[None]
        with torch.inference_mode():
            out = model.net.predict(patches[b : b + 1], torch.tensor(places), order, HIDDEN)[0].double().numpy()
        truth = patches[b, where].double().numpy()
        if objective == "latent":
            keys = np.einsum("nce,ced->nd", truth, model.net.get_buffer("target")[places].double().numpy())
            keys, out = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (keys, out))
            logits = out @ keys.T / TEMPERATURE
            expected = [math.log(np.exp(row).sum()) - row[i] for i, row in enumerate(logits)]
        else:
            predicted = out.reshape(HIDDEN, len(BANDS), -1)[:, places]
            if objective == "pixel-norm":
                centred = truth - truth.mean(-1, keepdims=True)
                truth = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + NORM_EPS)
            expected = ((predicted - truth) ** 2).mean(axis=(1, 2))
        np.testing.assert_allclose(found[b].ravel()[where], expected, rtol=1e-3)


def test_a_trained_model_knows_more_than_its_twin(nano: Nano) -> None:
    """Smooth ground with a step, which a mean cannot fill in and a neighbour can."""
    chips = make_chips(4)
    y, x = np.mgrid[:32, :32] / 32
    ground = 0.08 + 0.1 * x + 0.06 * (y > 0.5)
    pixels = np.broadcast_to(ground.astype(np.float32), chips.pixels_btcyx.shape).copy()
    chips, hidden = replace(chips, pixels_btcyx=pixels), make_mask(4)
    trained, twin = (m.loss(chips, hidden).total_b.mean().item() for m in (nano, load("nano", "untrained")))
    assert trained < 0.5 * twin


def test_rougher_ground_is_harder(nano: Nano) -> None:
    """Only for the pixel objective, whose direction the card states."""
    assert nano.net.config.objective == "pixel" and nano.card.reading.startswith("High: the network cannot fill in")
    chips = make_chips(3)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(chips.pixels_btcyx.shape[1:]).astype(np.float32)
    pixels = np.stack([0.2 + scale * noise for scale in (0.0, 0.02, 0.06)])
    total = nano.loss(replace(chips, pixels_btcyx=pixels), np.repeat(make_mask(1), 3, 0)).total_b
    assert total[0] < total[1] < total[2]
