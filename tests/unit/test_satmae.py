"""What the goldens of SatMAE cannot show: its files, its scale in hand-worked numbers, whose error is whose."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from geoelle.errors import WeightsError
from geoelle.models import satmae
from geoelle.models.satmae import BANDS, SatMae, SatMaeConfig
from small import SMALLER, make_chips, small

CONFIG = SatMaeConfig(**SMALLER["satmae.base"])
HEADS = {"embed_dim": 64, "num_heads": 4, "channel_groups": [[0, 1, 2, 6], [3, 4, 5, 7], [8, 9]]}


@pytest.fixture
def model() -> SatMae:
    return small("satmae.base", seed=3)


@pytest.fixture
def file(model: SatMae, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(model.net.state_dict(), path)
    return path


def read(path: Path) -> SatMae:
    return satmae.read("satmae.base", CONFIG, path)


def vectors(model: SatMae) -> np.ndarray:
    return model.encode(make_chips(model.card, 2)).patch_bhwd.numpy()


def all_hidden_but(model: SatMae, places: int) -> np.ndarray:
    """Return a mask that shows only the first places of the first group."""
    hidden = np.ones((1, 3, model.card.grid**2), bool)
    hidden[:, 0, :places] = False
    return hidden.reshape(1, 3, model.card.grid, model.card.grid)


def test_numbers_are_cut_to_8_bits_between_two_deviations(model: SatMae) -> None:
    chips = make_chips(model.card, 1)
    pixels = np.zeros_like(chips.pixels_btcyx)
    pixels[0, 0, BANDS.index("swir22"), 0, :5] = [0.2, 0.1247, 0.1249, -0.5, 0.9]
    found = model.model_input(replace(chips, pixels_btcyx=pixels))[0, BANDS.index("swir22"), 0, :5] * 255
    # (2000 - (1247.9187 - 2175.2042)) / 4350.4083 * 255 = 171.58; the mean itself lies at 127.5
    np.testing.assert_allclose(found, [171, 127, 127, 0, 255], atol=1e-5)
    # zero reflectance in blue: (0 - (1184.3825 - 1300.5686)) / 2601.1371 * 255 = 11.39
    assert model.model_input(replace(chips, pixels_btcyx=pixels))[0, 0, 9, 9] * 255 == pytest.approx(11, abs=1e-5)


def test_channels_of_the_decoder_meet_bands_in_the_order_they_come(model: SatMae) -> None:
    """The fourth channel of the first group (made for nir) is compared with rededge1, which counts in the second."""
    chips = make_chips(model.card, 1)
    hidden = all_hidden_but(model, 4)
    before = model.loss(chips, hidden).error
    pixels = CONFIG.patch_px**2
    model.net.decoder_pred[0].bias[3 * pixels : 4 * pixels] += 2.0
    moved = (model.loss(chips, hidden).error - before).abs()[0]
    assert moved[1].min() > 0.1
    assert moved[0].nanmean() == 0 and moved[2].max() == 0


def test_a_group_is_predicted_where_it_is_hidden_and_another_seen(model: SatMae) -> None:
    """A place is hidden in one group and visible in another: pixels of the visible group reach the prediction."""
    chips = make_chips(model.card, 1)
    hidden = np.ones((1, 3, model.card.grid, model.card.grid), bool)
    hidden[0, 2] = False  # shortwave infrared is seen everywhere
    before = model.loss(chips, hidden)
    assert torch.isnan(before.error[0, 2]).all() and before.terms["swir16 swir22"] == 0
    pixels = chips.pixels_btcyx.copy()
    pixels[0, 0, BANDS.index("swir16"), 8:16, 8:16] += 0.2
    after = model.loss(replace(chips, pixels_btcyx=pixels), hidden)
    assert (after.error - before.error).abs()[0, :2].max() > 1e-6


def test_terms_are_the_shares_of_the_groups(model: SatMae) -> None:
    chips = make_chips(model.card, 3)
    hidden = np.random.default_rng(0).permuted(np.tile(np.arange(48) < 36, (3, 1)), axis=1).reshape(3, 3, 4, 4)
    loss = model.loss(chips, hidden)
    np.testing.assert_allclose(sum(loss.terms.values()), loss.total_b, rtol=1e-6)
    assert list(loss.terms) == ["blue green red nir", "rededge1 rededge2 rededge3 nir08", "swir16 swir22"]


def test_untrained_tables_are_sines_of_column_row_and_group(model: SatMae) -> None:
    """Place (row 0, column 1): column code first. CLS has a row of zeros, and the last group code in the decoder."""
    net = model.net
    omega = 10000.0 ** (-np.arange(12) / 12)
    column, row = np.r_[np.sin(omega), np.cos(omega)], np.r_[np.zeros(12), np.ones(12)]
    np.testing.assert_allclose(net.pos_embed[0, 2], np.r_[column, row], atol=1e-6)
    assert not net.pos_embed[0, 0].any() and not net.decoder_pos_embed[0, 0].any()
    omega = 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(net.decoder_channel_embed[0, 3], np.r_[np.sin(3 * omega), np.cos(3 * omega)], atol=1e-6)


def test_a_file_of_the_hub_loads(model: SatMae, file: Path) -> None:
    file.with_name("config.json").write_text(json.dumps({**HEADS, "norm_pix_loss": False}))
    found = read(file)
    np.testing.assert_array_equal(vectors(found), vectors(model))
    assert len(found.weights_sha256) == 64 and found.card.objective == "pixel"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_pickle_of_the_authors_loads(prefix: str, model: SatMae, tmp_path: Path) -> None:
    args = argparse.Namespace(
        input_size=32, patch_size=8, grouped_bands=list(map(list, CONFIG.groups)), spatial_mask=False,
        norm_pix_loss=True, mask_ratio=0.6, dropped_bands=[0, 9, 10], model="mae_vit_base_patch16",
    )  # fmt: skip
    state = {prefix + key: tensor for key, tensor in model.net.state_dict().items()}
    path = tmp_path / "pretrain-vit-base-e199.pth"
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 199, "scaler": {}, "args": args}, path)
    found = read(path)
    np.testing.assert_array_equal(vectors(found), vectors(model))
    assert (found.card.objective, found.card.mask_ratio) == ("pixel-norm", 0.6)
    hidden = all_hidden_but(model, 4)
    chips = make_chips(model.card, 1)
    assert found.loss(chips, hidden).total_b > 2 * model.loss(chips, hidden).total_b  # standardised targets


def test_hidden_places_in_all_groups_at_once_is_another_objective(model: SatMae, tmp_path: Path) -> None:
    args = argparse.Namespace(spatial_mask=True)
    torch.save({"model": model.net.state_dict(), "args": args}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth says spatial_mask is True, not False"):
        read(tmp_path / "a.pth")


@pytest.mark.parametrize("nested", [False, True])
def test_heads_that_no_tensor_shows_are_held_to_the_config(nested: bool, file: Path) -> None:
    told = {**HEADS, "num_heads": 16}
    file.with_name("config.json").write_text(json.dumps({"config": told} if nested else told))
    with pytest.raises(WeightsError, match=r"config\.json beside model\.safetensors says num_heads is 16, not 4"):
        read(file)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_named(text: str, file: Path) -> None:
    file.with_name("config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        read(file)


def test_files_that_are_something_else_say_what(model: SatMae, tmp_path: Path) -> None:
    state = model.net.state_dict()
    encoder = {k: v for k, v in state.items() if not k.startswith(("decoder", "mask_token"))}
    tuned = {k: v for k, v in encoder.items() if not k.startswith("norm.")}
    tuned |= {"head.weight": torch.zeros(62, 64), "channel_cls_embed": torch.zeros(1, 1, 16)}
    rgb = {"patch_embed.proj.weight": torch.zeros(64, 3, 16, 16), "cls_token": state["cls_token"]}
    for name, held, told in (
        ("encoder", encoder, r"lacks .*decoder"),
        ("tuned", tuned, "fine-tuned on labels"),
        ("rgb", rgb, "RGB or time series"),
    ):
        save_file(held, tmp_path / f"{name}.safetensors")
        with pytest.raises(WeightsError, match=rf"{name}\.safetensors .*{told}"):
            read(tmp_path / f"{name}.safetensors")


def test_a_truncated_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"truncated"):
        read(file)


def test_load_takes_a_folder_or_a_file(file: Path) -> None:
    """The published config does not fit a small file: the refusal shows that the file was found and read."""
    for given in (file, file.parent):
        with pytest.raises(WeightsError, match=r"model\.safetensors .*another shape"):
            satmae.load("satmae.base", str(given))
