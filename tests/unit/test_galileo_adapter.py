"""Galileo: normalisation by hand, groups, months, what a mask hides, and the files it is loaded from."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.chips import Chips
from geoelle.embed import embed_chips
from geoelle.errors import CapabilityError, InputMismatch, WeightsError
from geoelle.models.galileo import BANDS, CONFIGS, GROUPS, STATISTICS, Galileo, GalileoConfig, make, read
from small import SMALLER, make_chips

NAME = "galileo.nano"
CONFIG = replace(CONFIGS[NAME], **SMALLER[NAME])
S2 = BANDS[2:]


@pytest.fixture(scope="module")
def model() -> Galileo:
    return make(NAME, CONFIG)


def masks(model: Galileo, chips: Chips, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a third hidden and a third seen; the rest plays no part."""
    shape = model.card.mask_shape(chips)
    n = math.prod(shape)
    order = np.random.default_rng(seed).permutation(n)
    states = np.zeros((2, n), bool)
    states[0, order[: n // 3]] = states[1, order[n // 3 : 2 * n // 3]] = True
    hidden, seen = np.repeat(states.reshape(2, 1, *shape), len(chips), axis=1)
    return hidden, seen


# --- inputs


def test_pixels_are_normalised_as_in_pretraining(model: Galileo) -> None:
    """Two standard deviations below the mean is 0, the mean a half, two above it 1; NDVI stays as it is."""
    chips = make_chips(model.card, 1, bands=BANDS)
    pixels = np.empty_like(chips.pixels_btcyx)
    for i, (band, (mean, std)) in enumerate(STATISTICS.items()):
        scale = 1 if band in ("vv", "vh") else 10_000
        pixels[:, :, i] = mean / scale
        pixels[..., i, 0, 0], pixels[..., i, 0, 1] = (mean - 2 * std) / scale, (mean + 2 * std) / scale
    groups, _ = model.inputs(replace(chips, pixels_btcyx=pixels))
    assert list(groups) == list(GROUPS)
    for name in list(GROUPS)[:-1]:
        np.testing.assert_allclose(groups[name][..., 1:, :], 0.5, atol=1e-6)
        np.testing.assert_allclose(groups[name][..., 0, 0], 0, atol=1e-6)
        np.testing.assert_allclose(groups[name][..., 0, 1], 1, atol=1e-6)
    red, nir = STATISTICS["red"][0], STATISTICS["nir"][0]
    np.testing.assert_allclose(groups["NDVI"][..., 1:, :], (nir - red) / (nir + red), rtol=1e-6)
    assert groups["S1"].dtype == torch.float32


def test_ndvi_of_dark_ground_is_0(model: Galileo) -> None:
    chips = make_chips(model.card, 1, bands=("red", "nir"))
    chips.pixels_btcyx[..., 0, 0] = 0
    chips.pixels_btcyx[:, :, :, 0, 1] = np.array([-0.02, 0.01])
    ndvi = model.inputs(chips)[0]["NDVI"]
    assert ndvi[..., 0, 0] == 0 and ndvi[..., 0, 1] == 0
    assert float(ndvi.abs().max()) > 0


@pytest.mark.parametrize(
    ("bands", "groups"),
    [
        (("vh", "vv"), ["S1"]),
        (BANDS, list(GROUPS)),
        (("nir", "red"), ["S2_NIR_10m", "NDVI"]),
        (("swir22", "nir08", "swir16"), ["S2_NIR_20m", "S2_SWIR"]),
        (S2, list(GROUPS)[1:]),
    ],
)
def test_any_whole_groups_embed_and_score(bands: tuple[str, ...], groups: list[str], model: Galileo) -> None:
    chips = make_chips(model.card, 2, bands=bands)
    assert list(model.inputs(chips)[0]) == groups
    found = embed_chips(chips, model, loss=True)
    assert np.isfinite(found.vectors_nd).all() and (found.loss_n > 0).all()


def test_bands_without_their_group_are_refused(model: Galileo) -> None:
    with pytest.raises(InputMismatch, match=r"whole groups.*rededge1"):
        model.encode(make_chips(model.card, 1, bands=("nir", "rededge1")))


def test_a_month_is_a_month_of_any_year(model: Galileo) -> None:
    chips = make_chips(model.card, 1)

    def at(*times: str) -> torch.Tensor:
        dates = np.array([times], "datetime64[s]")
        pixels = np.repeat(chips.pixels_btcyx[:, :1], len(times), axis=1)
        return model.encode(replace(chips, pixels_btcyx=pixels, times_bt=dates)).patch_bhwd

    assert torch.equal(at("2016-07-01"), at("2023-07-31T23:59:59"))
    assert not torch.allclose(at("2016-07-01"), at("2016-08-01"))
    assert torch.equal(at("1969-12-31"), at("2020-12-01"))
    assert not torch.allclose(at("2016-01-01", "2016-07-01"), at("2016-07-01", "2016-01-01"))


def test_a_frame_without_a_time_is_refused(model: Galileo) -> None:
    chips = make_chips(model.card, 2, frames=2)
    chips.times_bt[1, 1] = "NaT"
    with pytest.raises(InputMismatch, match="needs the time of every frame"):
        model.encode(chips)


# --- loss


def test_what_is_neither_hidden_nor_seen_plays_no_part(model: Galileo) -> None:
    """Hide and see groups of 10 m only: the other groups may be anything, seen bands may not."""
    chips = make_chips(model.card, 1)
    hidden = np.zeros((1, *model.card.mask_shape(chips)), bool)
    seen = hidden.copy()
    hidden[:, :, 0, :2], seen[:, :, 2, 2:] = True, True
    before = model.loss(chips, hidden, seen).total_b
    for band, matters in (("swir16", False), ("rededge1", False), ("nir", True), ("blue", True)):
        changed = chips.pixels_btcyx.copy()
        changed[:, :, chips.bands.index(band)] *= 1 + np.indices(changed.shape[-2:]).sum(0) / 20
        after = model.loss(replace(chips, pixels_btcyx=changed), hidden, seen).total_b
        assert (float((after - before).abs()) > 1e-6) is matters, band
    assert not torch.allclose(model.loss(chips, hidden).total_b, before)  # by default the rest is seen


def test_targets_that_are_all_alike_cost_the_log_of_their_number(model: Galileo) -> None:
    chips = make_chips(model.card, 1, bands=("nir08",))
    uniform = replace(chips, pixels_btcyx=np.full_like(chips.pixels_btcyx, 0.2))
    hidden, seen = masks(model, uniform)
    found = float(model.loss(uniform, hidden, seen).total_b)
    assert found == pytest.approx(2 * CONFIG.tau * math.log(hidden.sum()), rel=1e-5)


def test_the_target_is_of_the_target_encoder(model: Galileo) -> None:
    """And not of the encoder, nor of what attention makes of it."""
    other = make(NAME, CONFIG)
    chips = make_chips(model.card, 1)
    with torch.no_grad():
        other.net.target_encoder.blocks[0].mlp.fc1.weight += 1
        hidden, seen = masks(model, chips)
        same = model.loss(chips, hidden, seen).total_b
        assert torch.equal(other.loss(chips, hidden, seen).total_b, same)
        other.net.target_encoder.space_time_embed["S2_RGB"].proj.weight *= -1
        assert not torch.equal(other.loss(chips, hidden, seen).total_b, same)


def test_chips_of_a_batch_hide_the_same_count(model: Galileo) -> None:
    chips = make_chips(model.card, 2)
    hidden, seen = masks(model, chips)
    hidden[1, 0, 0] = True
    with pytest.raises(ValueError, match="same number"):
        model.loss(chips, hidden, seen)


# --- files


def upstream_config(config: GalileoConfig) -> dict:
    shared = {"num_heads": config.heads, "mlp_ratio": config.mlp_ratio, "max_patch_size": config.base_patch_px}
    return {
        "training": {"tau": config.tau, "loss_type": "patch_disc", "pred2unit": False, "normalization": "std"},
        "model": {
            "encoder": {"embedding_size": config.dim, "depth": config.depth, **shared},
            "decoder": {"decoder_embedding_size": config.dim, "depth": config.decoder_depth, **shared},
        },
    }


def save(folder: Path, model: Galileo, prefix: str = "", wrapper: str = "") -> Path:
    """Write a folder as upstream does, with the tables that it stores and that are computed here."""
    tables = {"pos_embed": torch.zeros(24, CONFIG.dim // 4), "month_embed.weight": torch.zeros(12, CONFIG.dim // 4)}
    for part, module in model.net.named_children():
        state = {prefix + key: value.clone() for key, value in {**module.state_dict(), **tables}.items()}
        torch.save({wrapper: state, "epoch": 500} if wrapper else state, folder / f"{part}.pt")
    (folder / "config.json").write_text(json.dumps(upstream_config(CONFIG)))
    numbers = {"mean": [m for m, _ in STATISTICS.values()] + [0.3], "std": [s for _, s in STATISTICS.values()] + [0.3]}
    (folder / "normalization.json").write_text(json.dumps({"total_n": 127155, "13": numbers}))
    return folder


@pytest.mark.parametrize(("prefix", "wrapper"), [("", ""), ("backbone.", ""), ("module.", "state_dict"), ("", "model")])
def test_a_folder_of_weights(prefix: str, wrapper: str, model: Galileo, tmp_path: Path) -> None:
    found = read(NAME, CONFIG, str(save(tmp_path, model, prefix, wrapper)))
    chips = make_chips(model.card, 2)
    hidden, seen = masks(model, chips)
    assert torch.equal(found.encode(chips).patch_bhwd, model.encode(chips).patch_bhwd)
    assert torch.equal(found.loss(chips, hidden, seen).total_b, model.loss(chips, hidden, seen).total_b)
    assert found.card.target == "loss" and len(found.weights_sha256) == 64


@pytest.mark.parametrize("absent", ["target_encoder.pt", "second_decoder.pt", "all but the encoder"])
def test_an_encoder_alone_embeds(absent: str, model: Galileo, tmp_path: Path) -> None:
    folder = save(tmp_path, model)
    weights = folder / "encoder.pt" if absent.startswith("all") else folder
    (folder / absent).unlink(missing_ok=True)
    found = read(NAME, CONFIG, str(weights))
    chips = make_chips(model.card, 1)
    assert torch.equal(found.encode(chips).patch_bhwd, model.encode(chips).patch_bhwd)
    assert found.card.target == "none"
    with pytest.raises(CapabilityError, match=r"target_encoder\.pt and second_decoder\.pt"):
        found.loss(chips, *masks(model, chips))
    with pytest.raises(CapabilityError, match="no true loss"):
        embed_chips(chips, found, loss=True)
    assert found.weights_sha256 != read(NAME, CONFIG, str(save(folder, model))).weights_sha256


def _decoder_for_encoder(folder: Path) -> None:
    (folder / "encoder.pt").write_bytes((folder / "second_decoder.pt").read_bytes())


def _encoder_for_decoder(folder: Path) -> None:
    (folder / "second_decoder.pt").write_bytes((folder / "encoder.pt").read_bytes())


def _truncated(folder: Path) -> None:
    path = folder / "target_encoder.pt"
    path.write_bytes(path.read_bytes()[:4_000])


def _another_model(folder: Path) -> None:
    torch.save({"encoder.eo_patch_embed.S1.weight": torch.zeros(8, 2)}, folder / "encoder.pt")


def _without_a_tensor(folder: Path) -> None:
    state = torch.load(folder / "encoder.pt")
    del state["space_embed.DW.proj.weight"]
    torch.save(state, folder / "encoder.pt")


def _edit(folder: Path, file: str, *keys: str | int, value: object) -> None:
    told = json.loads((folder / file).read_text())
    inner = told
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / file).write_text(json.dumps(told))


def _other_heads(folder: Path) -> None:
    _edit(folder, "config.json", "model", "encoder", "num_heads", value=16)


def _other_objective(folder: Path) -> None:
    _edit(folder, "config.json", "training", "loss_type", value="MAE")


def _other_statistics(folder: Path) -> None:
    _edit(folder, "normalization.json", "13", "mean", 2, value=1_400.0)


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_decoder_for_encoder, r"encoder\.pt is a decoder of Galileo, not an encoder"),
        (_encoder_for_decoder, r"second_decoder\.pt is an encoder of Galileo, not a decoder"),
        (_truncated, r"cannot read weights target_encoder\.pt"),
        (_another_model, r"encoder\.pt is Presto"),
        (_without_a_tensor, r"encoder\.pt lacks 1 tensor \(space_embed\.DW\.proj\.weight\)"),
        (
            _other_heads,
            r"config\.json beside encoder\.pt \(encoder\) says num_heads is 16, not 2; give the published file",
        ),
        (_other_objective, r"\(training\) says loss_type is MAE, not patch_disc"),
        (_other_statistics, r"normalization\.json beside encoder\.pt is not that of the published Galileo"),
        (_no_json, r"config\.json is no JSON"),
    ],
)
def test_wrong_files_say_what_they_are(damage, told: str, model: Galileo, tmp_path: Path) -> None:
    damage(save(tmp_path, model))
    with pytest.raises(WeightsError, match=told):
        read(NAME, CONFIG, str(tmp_path))


def test_a_folder_without_the_encoder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lacks models/nano/encoder\.pt"):
        read(NAME, CONFIG, str(tmp_path))
