"""Presto: normalisation by hand, pixels apart from one another, what the loss weighs, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.chips import Chips
from geoelle.embed import embed_chips, patch_losses
from geoelle.errors import InputMismatch, WeightsError
from geoelle.models import presto
from geoelle.models.presto import BANDS, CHANNELS, CONFIGS, GROUPS, Presto, make, read
from small import SMALLER, make_chips

CONFIG = replace(CONFIGS["presto"], **SMALLER["presto"])
SIDE = CONFIG.chip_px


@pytest.fixture(scope="module")
def model() -> Presto:
    return make("presto", CONFIG)


def mask_of(model: Presto, chips: Chips, *hidden: tuple[int, str]) -> np.ndarray:
    """Return the mask that hides these groups in these frames, in every chip."""
    present = [list(GROUPS)[i] for i in model.card.groups_of(chips.bands)]
    mask = np.zeros((len(chips), *model.card.mask_shape(chips)), bool)
    for frame, name in hidden:
        mask[:, frame, present.index(name)] = True
    return mask


# --- inputs


def test_pixels_enter_as_upstream_scales_them(model: Presto) -> None:
    chips = make_chips(model.card, 2, bands=BANDS, frames=2)
    chips.pixels_btcyx[0, 1, :2, 0, 0] = (-25, 0)
    series = model.series(chips)
    pixels = chips.pixels_btcyx.transpose(0, 3, 4, 1, 2).reshape(-1, 2, len(BANDS))
    at = {band: i for i, band in enumerate(chips.bands)}
    assert series.values["S1"][0, 1].tolist() == [0, 1]
    np.testing.assert_array_equal(series.values["S2_SWIR"], pixels[..., [at["swir16"], at["swir22"]]])
    nir, red = pixels[..., at["nir"]].astype(float), pixels[..., at["red"]].astype(float)
    np.testing.assert_allclose(series.values["NDVI"][..., 0], (nir - red) / (nir + red), rtol=1e-5)
    assert series.values["S1"].dtype == torch.float32 and list(series.values) == list(GROUPS)
    assert len(series) == 2 * SIDE * SIDE and series.months_nt.shape == (len(series), 2)


def test_a_place_is_a_unit_vector() -> None:
    lonlat = torch.tensor([[0.0, 0.0], [90.0, 0.0], [13.0, 90.0], [180.0, -45.0]], dtype=torch.float64)
    s = 0.5**0.5
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-s, 0, -s]])
    torch.testing.assert_close(presto._place(lonlat), expected, rtol=0, atol=1e-7)


def test_a_frame_without_a_time_is_refused(model: Presto) -> None:
    chips = make_chips(model.card, 2)
    chips.times_bt[1, 0] = "NaT"
    with pytest.raises(InputMismatch, match="needs the time of every frame"):
        model.encode(chips)


# --- pixels


def test_a_pixel_does_not_see_its_neighbours(model: Presto) -> None:
    chips = make_chips(model.card, 2, frames=2)
    mask = mask_of(model, chips, (0, "S2_RGB"), (1, "NDVI"), (1, "S2_SWIR"))
    changed = chips.pixels_btcyx.copy()
    changed[1, :, :, 2, 5] += 0.3
    changed = replace(chips, pixels_btcyx=changed)
    moved = (model.encode(changed).patch_bhwd - model.encode(chips).patch_bhwd).abs().amax(dim=-1)
    assert moved[1, 2, 5] > 1e-3 and (moved > 1e-6).sum() == 1
    errors = (model.loss(changed, mask).error_bhw - model.loss(chips, mask).error_bhw).abs()
    assert errors[1, 2, 5] > 1e-4 and (errors > 1e-6).sum() == 1


def test_chunks_change_nothing(model: Presto, monkeypatch: pytest.MonkeyPatch) -> None:
    chips = make_chips(model.card, 3, frames=2)
    mask = mask_of(model, chips, (0, "S2_RGB"), (1, "NDVI"))
    whole, loss = model.encode(chips).patch_bhwd, model.loss(chips, mask)
    monkeypatch.setitem(presto.CHUNK_TOKENS, "cpu", 100)
    torch.testing.assert_close(model.encode(chips).patch_bhwd, whole, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(model.loss(chips, mask).error, loss.error, rtol=1e-5, atol=1e-6, equal_nan=True)


# --- loss


def test_every_hidden_value_weighs_the_same(model: Presto) -> None:
    """A group of three bands and one of one: the loss of a pixel is the mean over their four squared errors."""
    chips = make_chips(model.card, 1)
    mask = mask_of(model, chips, (0, "S2_RGB"), (0, "S2_NIR_10m"))
    seen = torch.from_numpy(np.flatnonzero(~mask[0])).expand(SIDE * SIDE, -1)
    series = model.series(chips)
    with torch.inference_mode():
        predicted = model.net.reconstruct(model.net.decode(series, seen), ["S2_RGB", "S2_NIR_10m"])
    squares = torch.cat([(predicted[name] - series.values[name]).square()[:, 0] for name in predicted], dim=1)
    assert squares.shape[1] == CHANNELS["S2_RGB"] + CHANNELS["S2_NIR_10m"] == 4
    loss = model.loss(chips, mask)
    torch.testing.assert_close(loss.error_bhw.flatten(), squares.mean(dim=1), rtol=1e-5, atol=1e-7)
    assert float(loss.total_b) == pytest.approx(float(squares.mean()), rel=1e-5)
    np.testing.assert_allclose(patch_losses(chips, model).shape, (1, SIDE, SIDE))


def test_hidden_values_do_not_reach_the_encoder(model: Presto) -> None:
    chips = make_chips(model.card, 1, frames=2)
    mask = mask_of(model, chips, (1, "S2_SWIR"), (0, "NDVI"))
    changed = chips.pixels_btcyx.copy()
    changed[:, 1, chips.bands.index("swir16")] += 0.2
    shift = model.loss(replace(chips, pixels_btcyx=changed), mask).error - model.loss(chips, mask).error
    groups = [list(GROUPS)[i] for i in model.card.groups_of(chips.bands)]
    assert float(shift[0, 1, groups.index("S2_SWIR")].abs().min()) > 1e-5
    assert float(shift[0, 0, groups.index("NDVI")].abs().max()) == 0


def test_every_chip_keeps_its_own_mask(model: Presto) -> None:
    chips = make_chips(model.card, 2, frames=2)
    first = mask_of(model, chips, (0, "S2_RGB"), (1, "NDVI"))[:1]
    second = mask_of(model, chips, (1, "S2_RGB"), (1, "S2_SWIR"))[:1]
    both = model.loss(chips, np.concatenate([first, second]))
    for i, mask in enumerate((first, second)):
        torch.testing.assert_close(both.error[i : i + 1], model.loss(chips[i : i + 1], mask).error, equal_nan=True)
    assert np.isfinite(both.error.numpy()).all(axis=(3, 4)).tolist() == np.concatenate([first, second]).tolist()


def test_radar_alone_needs_two_frames_for_a_loss(model: Presto) -> None:
    """One frame of one group is one token: nothing is left to fill in."""
    chips = make_chips(model.card, 1, bands=("vv", "vh"))
    assert np.isfinite(embed_chips(chips, model).vectors_nd).all()
    with pytest.raises(InputMismatch, match="one frame of one group"):
        embed_chips(chips, model, loss=True)
    assert np.isfinite(
        embed_chips(make_chips(model.card, 2, bands=("vv", "vh"), frames=2), model, loss=True).loss_n
    ).all()


# --- the file


def save(folder: Path, model: Presto, name: str = "default_model.pt", wrapper: str = "", **more: torch.Tensor) -> Path:
    """Write the file as upstream does, with the tables that it stores and that are computed here."""
    state = {key: value.clone() for key, value in model.net.state_dict().items()}
    state |= {
        f"{part}.{table}": torch.zeros(1)
        for part in ("encoder", "decoder")
        for table in ("pos_embed", "month_embed.weight")
    }
    state |= more
    torch.save({wrapper: state} if wrapper else state, folder / name)
    return folder / name


@pytest.mark.parametrize("wrapper", ["", "state_dict"])
@pytest.mark.parametrize("name", ["default_model.pt", "model-bfa691d3.pth", "of any name.pt"])
def test_the_file_by_any_name(name: str, wrapper: str, model: Presto, tmp_path: Path) -> None:
    path = save(tmp_path, model, name, wrapper)
    chips = make_chips(model.card, 2)
    for weights in (path, path.parent)[: 1 if name.startswith("of") else 2]:
        found = read("presto", CONFIG, str(weights))
        assert torch.equal(found.encode(chips).patch_bhwd, model.encode(chips).patch_bhwd)
        assert found.net.decoder.channel_embeddings is found.net.encoder.channel_embed


def test_wrong_files_say_what_they_are(model: Presto, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lacks model-bfa691d3\.pth"):
        read("presto", CONFIG, str(tmp_path))
    path = save(tmp_path, model)
    with pytest.raises(WeightsError, match="another shape"):
        read("presto", replace(CONFIG, dim=64), str(path))
    encoder_only = {key: value for key, value in torch.load(path).items() if key.startswith("encoder.")}
    torch.save(encoder_only, path)
    with pytest.raises(WeightsError, match=r"default_model\.pt lacks \d+ tensors \(decoder\.mask_token"):
        read("presto", CONFIG, str(path))
    path.write_bytes(path.read_bytes()[:2_000])
    with pytest.raises(WeightsError, match="truncated"):
        read("presto", CONFIG, str(path))
    torch.save({"space_time_embed.S1.proj.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="an encoder of Galileo"):
        read("presto", CONFIG, str(path))
