"""OlmoEarth v1: what the goldens cannot show. Files that are others', inputs worked by hand, and the two traps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geoelle.area import Addresses, Lattice
from geoelle.errors import InputMismatch, WeightsError
from geoelle.models.networks import months_of
from geoelle.models.olmoearth import CARDS, CONFIGS, GROUPS, OlmoEarth, OlmoEarthConfig, load, make, read
from geoelle.models.olmoearth_net import _codes
from small import make_chips

NAME = "olmoearth.v1-nano"
TINY = OlmoEarthConfig(dim=32, depth=1, heads=2, decoder_depth=1, chip_px=16)
S2 = "encoder.patch_embeddings.per_modality_embeddings.sentinel2_l2a.sentinel2_l2a__0"


@pytest.fixture(scope="module")
def tiny() -> OlmoEarth:
    return make(NAME, TINY)


@pytest.fixture
def state(tiny: OlmoEarth) -> dict[str, Tensor]:
    """Return what a published file of this size holds: the fixed tables of months and slots are in it too."""
    fixed = {
        f"{part}.composite_encodings.{table}": torch.full((12, TINY.dim // 4), torch.nan)
        for part in ("encoder", "decoder", "target_encoder")
        for table in ("month_embed.weight", "pos_embed")
    }
    return dict(tiny.net.state_dict()) | fixed


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def half(model: OlmoEarth, chips, seed: int = 0) -> np.ndarray:
    shape = model.card.mask_shape(chips)
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(math.prod(shape)), (len(chips), 1)), axis=1)
    return (order < math.prod(shape) // 2).reshape(len(chips), *shape)


# --- the file


@pytest.mark.parametrize("wrapped", ["flat", "state_dict", "model", "prefix"])
def test_a_published_file_is_loaded_whatever_wraps_it(wrapped: str, tiny: OlmoEarth, state: dict, tmp_path: Path):
    content = {
        "flat": state,
        "state_dict": {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        "model": {"model": state},
        "prefix": {f"model.{k}": v for k, v in state.items()},
    }[wrapped]
    found = read(NAME, TINY, saved(content, tmp_path / "weights.pth"))
    chips = make_chips(tiny.card, 2)
    assert torch.equal(found.encode(chips).patch_bhwd, tiny.encode(chips).patch_bhwd)
    hidden = half(tiny, chips)
    assert torch.equal(found.loss(chips, hidden).total_b, tiny.loss(chips, hidden).total_b)
    assert len(found.weights_sha256) == 64


def test_load_takes_a_path_under_any_name_and_says_which_size_is_wrong(state: dict, tmp_path: Path):
    path = saved(state, tmp_path / "mine.pth")
    with pytest.raises(
        WeightsError, match=r"mine\.pth lacks 144 tensors \(encoder\.blocks\.1\..* \(32,\), not \(128,\)"
    ):
        load(NAME, str(path))
    with pytest.raises(WeightsError, match=f"lacks .*a folder of weights for {NAME} holds weights-795c68"):
        load(NAME, str(tmp_path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({f"{S2}.pixel_proj.0.weight": (12, 12), f"{S2}.proj.weight": (32, 768)}, "later family, OlmoEarth v1.1"),
        ({f"{S2}.proj.weight": (32, 768), "encoder.blocks.0.attn.rope_mixed_freqs": (2, 3)}, "OlmoEarth v1.2"),
        ({"encoder.perceiver.registers": (4,), "encoder.blocks.0.attn.rope_mixed_freqs": (2, 3)}, "OlmoEarth v1.3"),
        ({"encoder.blocks.0.attn.q_norm.weight": (16,)}, r"foreign 1 tensor \(encoder\.blocks\.0\.attn\.q_norm"),
        ({f"{S2}.proj.weight": (32, 4, 16, 16)}, "1 tensors of another shape"),
        ({"encoder.norm.weight": None}, r"lacks 1 tensor \(encoder\.norm\.weight"),
        ({"target_encoder.patch_embeddings.per_modality_embeddings.cdl.cdl__0.proj.bias": None}, "lacks 1 tensor "),
    ],
)
def test_another_file_says_what_it_is(change: dict, told: str, state: dict, tmp_path: Path):
    for key, shape in change.items():
        state.pop(key, None)
        if shape is not None:
            state[key] = torch.zeros(shape)
    with pytest.raises(WeightsError, match=told) as caught:
        read(NAME, TINY, saved(state, tmp_path / "weights.pth"))
    assert str(caught.value).startswith("weights.pth")


@pytest.mark.parametrize(
    ("parts", "told"), [(("encoder",), "decoder and target_encoder"), (("encoder", "decoder"), "target_encoder")]
)
def test_a_file_without_its_decoder_or_targets_is_named(parts: tuple, told: str, state: dict, tmp_path: Path):
    state = {key: value for key, value in state.items() if key.split(".")[0] in parts}
    with pytest.raises(WeightsError, match=rf"weights\.pth lacks the whole {told}; give the published file"):
        read(NAME, TINY, saved(state, tmp_path / "weights.pth"))


def test_a_truncated_file_is_refused(state: dict, tmp_path: Path):
    path = saved(state, tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"cannot read weights weights\.pth"):
        read(NAME, TINY, path)


# --- inputs


def test_two_standard_deviations_become_0_and_1(tiny: OlmoEarth):
    """By hand, in L2A numbers: blue 1188.94 -+ 2 * 1859.19, nir09 3269.81 -+ 2 * 2651.09; nothing is cut."""
    chips = make_chips(tiny.card, 1)
    low, high = (1188.9412572 - 3718.3847944) / 1e4, (1188.9412572 + 3718.3847944) / 1e4
    pixels = np.zeros_like(chips.pixels_btcyx)
    pixels[0, 0, chips.bands.index("blue"), 0, :3] = low, high, 2 * high - low
    pixels[0, 0, chips.bands.index("nir09")] = (3269.8125542 + 2651.0884251) / 1e4
    found = tiny.inputs(replace(chips, pixels_btcyx=pixels)).pixels_btcyx
    np.testing.assert_allclose(found[0, 0, 0, 0, :3], [0, 1, 2], atol=1e-6)
    np.testing.assert_allclose(found[0, 0, 11], 0.75, atol=1e-6)
    assert found.dtype == torch.float32


def test_bands_go_to_their_own_place_whatever_their_order(tiny: OlmoEarth):
    chips = make_chips(tiny.card, 1)
    shuffled = chips.select_bands(sorted(chips.bands))
    assert torch.equal(tiny.inputs(chips).pixels_btcyx, tiny.inputs(shuffled).pixels_btcyx)
    assert chips.bands == tuple(b for group in GROUPS for b in group)


def test_months_count_from_zero():
    times = np.array(["1969-12-31T23:59:59", "2020-01-01", "2024-02-29", "2021-12-31"], "datetime64[s]")
    assert months_of(times, "olmoearth").tolist() == [11, 0, 1, 11]


def test_a_frame_without_a_time_is_refused(tiny: OlmoEarth):
    chips = make_chips(tiny.card, 2, frames=2)
    times = chips.times_bt.copy()
    times[1, 1] = "NaT"
    with pytest.raises(InputMismatch, match=f"{NAME} needs the time of every frame"):
        tiny.encode(replace(chips, times_bt=times))


def test_only_the_month_counts_and_the_order_of_frames(tiny: OlmoEarth):
    chips = make_chips(tiny.card, 1, frames=2)
    base = tiny.encode(chips).patch_bhwd
    same = replace(chips, times_bt=chips.times_bt + np.timedelta64(365 * 86_400, "s"))
    assert torch.equal(tiny.encode(same).patch_bhwd, base)
    turned = replace(chips, times_bt=chips.times_bt[:, ::-1].copy(), pixels_btcyx=chips.pixels_btcyx[:, ::-1].copy())
    assert (tiny.encode(turned).patch_bhwd - base).abs().max() > 1e-3


def test_the_ground_sampling_distance_moves_the_place_codes(tiny: OlmoEarth):
    chips = make_chips(tiny.card, 1)
    lattice = Lattice(epsg=32618, gsd_m=20, size_px=TINY.chip_px, stride_px=TINY.chip_px)
    coarse = replace(chips, addresses=Addresses(lattice=lattice, rows=[0], cols=[0]))
    assert (tiny.inputs(chips).step, tiny.inputs(coarse).step) == (4.0, 8.0)
    assert (tiny.encode(coarse).patch_bhwd - tiny.encode(chips).patch_bhwd).abs().max() > 1e-3


def test_codes_by_hand():
    """Frequencies reach 10000^(-1/4) only; the column comes before the row; a month is one sine and one cosine."""
    slots, months, places = _codes(8, 3, 2, 3, 4.0, torch.device("cpu"))
    omega = 10000.0 ** (-np.arange(4) / 16)
    np.testing.assert_allclose(slots[2], [*np.sin(2 * omega), *np.cos(2 * omega)], rtol=1e-6)
    np.testing.assert_allclose(months[2], [math.sin(math.pi / 3)] * 4 + [math.cos(math.pi / 3)] * 4, rtol=1e-6)
    omega = 10000.0 ** (-np.arange(2) / 8)
    col, row = 4.0 * 2 * omega, 4.0 * 1 * omega
    np.testing.assert_allclose(places[1, 2], [*np.sin(col), *np.cos(col), *np.sin(row), *np.cos(row)], rtol=1e-5)


@pytest.mark.parametrize("lost", ["nir09", "swir22", "blue"])
def test_part_of_a_band_set_is_refused(lost: str, tiny: OlmoEarth):
    chips = make_chips(tiny.card, 1)
    with pytest.raises(InputMismatch, match="whole groups"):
        tiny.encode(chips.select_bands([b for b in chips.bands if b != lost]))


@pytest.mark.parametrize("kept", [(0,), (2,), (0, 1), (1, 2)])
def test_a_band_set_that_is_missing_has_no_token(kept: tuple[int, ...], tiny: OlmoEarth):
    chips = make_chips(tiny.card, 2).select_bands([b for g in kept for b in GROUPS[g]])
    assert tiny.net.encode(tiny.inputs(chips)).shape == (2, len(kept) * 16, TINY.dim)
    loss = tiny.loss(chips, half(tiny, chips))
    assert loss.error.shape == (2, 1, len(kept), 4, 4) and bool(torch.isfinite(loss.total_b).all())


# --- the loss


def test_what_is_hidden_does_not_reach_the_encoder(tiny: OlmoEarth):
    """Predictions stay when a hidden patch changes, and move when one that is seen does."""
    chips = make_chips(tiny.card, 1)
    hidden = np.zeros((1, 1, 3, 4, 4), bool)
    hidden[..., :2, :] = True
    seen, masked = (torch.from_numpy(np.flatnonzero(m)[None]) for m in (~hidden, hidden))

    def predicted(row: int) -> Tensor:
        pixels = chips.pixels_btcyx.copy()
        pixels[..., row : row + 4, :4] += 0.3
        return tiny.net.predict(tiny.inputs(replace(chips, pixels_btcyx=pixels)), seen, masked)

    base = tiny.net.predict(tiny.inputs(chips), seen, masked)
    assert torch.equal(predicted(0), base)
    assert (predicted(12) - base).abs().max() > 1e-4


def test_the_loss_by_hand(tiny: OlmoEarth):
    chips = make_chips(tiny.card, 2, frames=2)
    hidden = half(tiny, chips)
    found, inputs = tiny.loss(chips, hidden), tiny.inputs(chips)
    for b in range(2):
        seen, masked = (torch.from_numpy(np.flatnonzero(m)[None]) for m in (~hidden[b], hidden[b]))
        alone = tiny.inputs(chips[b : b + 1])
        p = tiny.net.predict(alone, seen, masked)[0].double().numpy()
        t = tiny.net.target_encoder.patch_embeddings(inputs)[b].flatten(0, 3)[masked[0]].double().numpy()
        p, t = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (p, t))
        odds = np.exp(p @ t.T / 0.1)
        expected = -np.log(np.diag(odds) / odds.sum(1)) * 0.2
        np.testing.assert_allclose(found.error[b].numpy()[hidden[b]], expected, rtol=1e-4)
        assert float(found.total_b[b]) == pytest.approx(expected.mean(), rel=1e-5)


def test_uniform_ground_is_high(tiny: OlmoEarth):
    """One band set on flat ground: all targets are one, so the loss is 0.2 ln c exactly; varied ground can be below."""
    chips = make_chips(tiny.card, 1, bands=GROUPS[0])
    flat = replace(chips, pixels_btcyx=np.full_like(chips.pixels_btcyx, 0.05))
    hidden = half(tiny, chips)
    assert float(tiny.loss(flat, hidden).total_b) == pytest.approx(0.2 * math.log(8), rel=1e-4)
    assert tiny.card.reading.startswith("High: the hidden patches look alike, so UNIFORM ground")


def test_unequal_counts_and_masks_of_another_shape_are_refused(tiny: OlmoEarth):
    chips = make_chips(tiny.card, 2)
    hidden = half(tiny, chips)
    hidden[0].ravel()[np.flatnonzero(hidden[0])[0]] = False
    with pytest.raises(ValueError, match="same number of tokens"):
        tiny.loss(chips, hidden)
    with pytest.raises(ValueError, match=r"not \(2, 4, 4\)"):
        tiny.loss(chips, hidden[:, 0, 0])


def test_tokens_neither_hidden_nor_visible_are_nowhere(tiny: OlmoEarth):
    chips = make_chips(tiny.card, 1)
    hidden, visible = np.zeros((2, 1, 1, 3, 4, 4), bool)
    hidden[..., :2, :], visible[..., 2, :] = True, True
    changed = chips.pixels_btcyx.copy()
    changed[..., 14:, :] += 0.2  # rows 12 and 13 reach the patch before, by the resize
    losses = [tiny.loss(replace(chips, pixels_btcyx=p), hidden, visible) for p in (chips.pixels_btcyx, changed)]
    assert torch.equal(losses[0].total_b, losses[1].total_b)
    assert torch.equal(tiny.loss(chips, hidden, ~hidden).total_b, tiny.loss(chips, hidden).total_b)


def test_the_resize_reaches_two_pixels_over_a_border_and_without_it_none_is(tiny: OlmoEarth):
    """As upstream: a chip is resized as a whole. Hidden pixels at a border are therefore not quite hidden."""
    for patch, reached in ((4, True), (8, False)):
        model = make(NAME, replace(TINY, patch_px=patch, chip_px=4 * patch))
        chips = make_chips(model.card, 1)
        pixels = chips.pixels_btcyx.copy()
        pixels[..., patch : patch + 2, :] += 0.3
        pair = [
            model.net.encoder.patch_embeddings(model.inputs(c)) for c in (chips, replace(chips, pixels_btcyx=pixels))
        ]
        moved = (pair[1] - pair[0]).abs().amax(dim=(0, 1, 2, 4, 5))
        assert [bool(m > 1e-6) for m in moved] == [reached, True, False, False]


@pytest.mark.parametrize("patch", [1, 2, 8])
def test_other_patch_sizes(patch: int):
    model = make(NAME, replace(TINY, patch_px=patch, chip_px=8))
    chips = make_chips(model.card, 1)
    side = 8 // patch
    assert model.encode(chips).patch_bhwd.shape == (1, side, side, TINY.dim)


# --- the card


@pytest.mark.parametrize("name", CONFIGS)
def test_the_card_says_what_is_left_out_and_what_is_forbidden(name: str):
    card = CARDS[name]
    assert card.objective.endswith("without the InfoNCE term") and "InfoNCE" in card.deviations[0]
    assert "military" in card.terms and card.files[0].repo == f"allenai/OlmoEarth-v1-{name.rsplit('-', 1)[-1].title()}"
    assert card.download_bytes > 10e6
