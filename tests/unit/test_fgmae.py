"""FG-MAE beyond the goldens: 8-bit levels, gradients worked by hand, chips of other sizes, files that are not it."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.embed import embed_chips
from geoelle.errors import CapabilityError, InputMismatch, WeightsError
from geoelle.models import load_model
from geoelle.models.fgmae import (
    BANDS,
    CARDS,
    CONFIGS,
    ENCODER,
    FULL,
    TORCHGEO,
    FgMae,
    FgMaeConfig,
    FgMaeNet,
    hog,
    make,
    window,
)
from geoelle.models.fgmae import read as read_model
from geoelle.models.networks import place_codes
from geoelle.models.weights import load_strict
from small import SMALLER, make_chips

NAME = "fgmae.s2-base"
SMALL = replace(CONFIGS[NAME], **SMALLER[NAME])
BUFFERS = {
    "hog.weight_x": torch.zeros(13, 1, 3, 3),
    "hog.weight_y": torch.zeros(13, 1, 3, 3),
    "hog.gkern": torch.zeros(16, 16),
}
ARGS = {"feature": "hog+ndi", "hog_norm": True, "norm_pix_loss": True, "input_size": 224, "mask_ratio": 0.7}


@pytest.fixture(scope="module")
def model() -> FgMae:
    return make(NAME, SMALL, seed=4)


@pytest.fixture(scope="module")
def state(model: FgMae) -> dict[str, torch.Tensor]:
    return model.net.state_dict() | BUFFERS


def save(path: Path, state: dict[str, torch.Tensor], **said: object) -> Path:
    """Write a file as upstream's trainer does: the optimizer's state beside the model."""
    exp = {name: torch.zeros(2) for name in ("exp_avg", "exp_avg_sq")}
    optimizer = {"state": {0: exp}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    whole = {"model": state, "optimizer": optimizer, "epoch": 99, "scaler": {"scale": 65536.0}}
    torch.save(whole | {"args": Namespace(**{**ARGS, **said})}, path)
    return path


def some_hidden(n: int = 2, grid: int = 14) -> np.ndarray:
    hidden = np.zeros((n, grid, grid), bool)
    hidden[:, ::2] = True
    return hidden


# Levels


def test_every_number_of_a_file_gets_upstreams_level(model: FgMae) -> None:
    """DN / 10000 as float32, as the reader has it, truncates to the level that upstream computes from the DN."""
    chips = make_chips(model.card, 1)
    dn = np.arange(224 * 224) % 10001
    pixels = np.broadcast_to((dn.astype(np.float32) / 10000).reshape(224, 224), chips.pixels_btcyx.shape)
    found = model.levels(replace(chips, pixels_btcyx=pixels.astype(np.float32)))[0, 3].numpy()
    np.testing.assert_array_equal(found, (dn / 10000.0 * 255.0).astype("uint8").reshape(224, 224))


def test_bright_and_dark_are_clipped_and_not_wrapped(model: FgMae) -> None:
    chips = make_chips(model.card, 1)
    pixels = np.full_like(chips.pixels_btcyx, 0.2)
    pixels[..., 0, :3] = (1.3, -0.01, 1.004)  # upstream's cast makes 331 a 75
    assert model.levels(replace(chips, pixels_btcyx=pixels))[0, 0, 0, :4].tolist() == [255, 0, 255, 51]


def test_bands_are_taken_by_name(model: FgMae) -> None:
    chips = make_chips(model.card, 1, bands=BANDS[::-1])
    assert torch.equal(model.levels(chips)[:, 0], model.levels(chips.select_bands(BANDS))[:, 0])
    assert BANDS[7:11] == ("nir", "nir08", "nir09", "cirrus")


def test_level_2a_lacks_cirrus(model: FgMae) -> None:
    with pytest.raises(InputMismatch, match="needs bands cirrus"):
        model.encode(make_chips(model.card, 1, bands=tuple(b for b in BANDS if b != "cirrus")))


# Gradients


@pytest.mark.parametrize(
    ("right", "down", "expected"),
    [
        (1, 0, 4),
        (-1, 0, 4),
        (0, 1, 0),
        (0, -1, 0),
        (1, 1, 2),
        (-1, -1, 2),
        (1, -1, 6),
        (-1, 1, 6),
        (1, 3, 0),
        (1, -3, 8),
    ],
)
def test_a_ramp_falls_into_one_bin(right: int, down: int, expected: int) -> None:
    """The angle is that of atan2(horizontal, vertical), modulo 180 degrees, in steps of 20."""
    rows, cols = np.indices((32, 32))
    levels = torch.from_numpy(128 + right * cols + down * rows).float().view(1, 1, 32, 32)
    inner = hog(levels, 8)[0, 0, :, 1:3, 1:3]  # away from the border
    assert (inner[expected] == 1).all()
    assert inner.sum() == 4


def test_flat_ground_has_no_gradient_and_stays_finite(model: FgMae) -> None:
    assert hog(torch.full((1, 2, 32, 32), 17.0), 8).abs().max() == 0
    chips = make_chips(model.card, 2)
    flat = replace(chips, pixels_btcyx=np.full_like(chips.pixels_btcyx, 0.1))
    assert torch.isfinite(model.loss(flat, some_hidden()).total_b).all()


def test_gradients_of_levels_are_exact() -> None:
    """Neither an offset nor the order of the image turns a pixel whose horizontal response is 0."""
    levels = torch.from_numpy(np.random.default_rng(0).integers(0, 120, (2, 3, 48, 48))).float()
    whole = hog(levels, 8)
    assert torch.equal(whole, hog(levels + 100, 8))
    torch.testing.assert_close(whole, hog(2 * levels, 8), atol=1e-7, rtol=0)
    assert torch.equal(whole, hog(255 - levels, 8))  # a negative has the same directions


def test_the_border_is_mirrored_about_its_last_pixel() -> None:
    levels = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (1, 1, 32, 32))).float()
    inner = hog(torch.nn.functional.pad(levels, (16, 16, 16, 16), mode="reflect"), 8)[..., 2:6, 2:6]
    assert torch.equal(inner, hog(levels, 8))


def test_the_window_is_centred() -> None:
    bell = window(torch.device("cpu"))
    assert bell.sum() == pytest.approx(1, abs=1e-6) and torch.equal(bell, bell.flip(0)) and torch.equal(bell, bell.T)
    assert bell[7, 7] / bell[7, 15] == pytest.approx(np.exp(0.5 * (7.5**2 - 0.5**2) / 64), rel=1e-5)


# Sizes


@pytest.mark.parametrize(("chip_px", "patch_px"), [(208, 16), (336, 16), (448, 16), (230, 16), (224, 8)])
def test_sizes_that_upstream_cannot_group_are_refused(chip_px: int, patch_px: int) -> None:
    with pytest.raises(ValueError, match="14 to 20 patches"):
        replace(SMALL, chip_px=chip_px, patch_px=patch_px)


def test_a_chip_of_240_px() -> None:
    model = make(NAME, replace(SMALL, chip_px=240))
    chips = make_chips(model.card, 1)
    assert model.encode(chips).patch_bhwd.shape == (1, 15, 15, SMALL.dim)
    assert torch.isfinite(model.loss(chips, some_hidden(1, 15)).total_b).all()
    targets = model.net.targets(model.levels(chips))
    assert {k: v.shape for k, v in targets.items()} == {"hog": (1, 225, 468), "ndi": (1, 225, 768)}


def test_an_untrained_twin_has_the_fixed_tables(model: FgMae) -> None:
    cpu = torch.device("cpu")
    assert torch.equal(model.net.pos_embed, place_codes(SMALL.dim, 14, 14, cpu))
    assert torch.equal(model.net.decoder_pos_embed, place_codes(SMALL.decoder_dim, 14, 14, cpu))


# Files


def test_a_file_in_the_published_wrapper(model: FgMae, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    chips = make_chips(model.card, 2)
    found = read_model(NAME, SMALL, save(tmp_path / FULL.file, state))
    assert torch.equal(found.encode(chips).patch_bhwd, model.encode(chips).patch_bhwd)
    assert torch.equal(found.loss(chips, some_hidden()).total_b, model.loss(chips, some_hidden()).total_b)
    assert found.card == model.card and len(found.weights_sha256) == 64


def test_tables_are_those_of_the_file(model: FgMae, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    chips = make_chips(model.card, 1)
    other = state | {"pos_embed": torch.zeros_like(state["pos_embed"])}
    found = read_model(NAME, SMALL, save(tmp_path / "w.pth", other))
    assert (found.encode(chips).patch_bhwd - model.encode(chips).patch_bhwd).abs().max() > 1e-3


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_encoder_alone_embeds_and_has_no_loss(
    wrapped: bool, model: FgMae, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path, chips = tmp_path / ENCODER.file, make_chips(model.card, 2)
    part = {k: v for k, v in state.items() if k.startswith(("cls", "pos", "patch", "blocks", "norm"))}
    torch.save({"model": part} if wrapped else part, path)
    found = read_model(NAME, SMALL, path)
    assert torch.equal(found.encode(chips).patch_bhwd, model.encode(chips).patch_bhwd)
    assert found.card.target == "none" and not found.card.objective
    with pytest.raises(CapabilityError, match=r"no true pretraining loss.*B13_vitb16_fgmae_ep99\.pth"):
        found.loss(chips, some_hidden())
    with pytest.raises(CapabilityError, match="no true loss"):
        embed_chips(chips, found, loss=True)
    assert np.isfinite(embed_chips(chips, found).vectors_nd).all()


def test_the_mask_ratio_is_that_of_the_training(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    found = read_model(NAME, SMALL, save(tmp_path / "w.pth", state, mask_ratio=0.5))
    assert found.card.mask_ratio == 0.5 and CARDS[NAME].mask_ratio == 0.7


@pytest.mark.parametrize(
    ("key", "value"), [("feature", "canny"), ("hog_norm", False), ("norm_pix_loss", False), ("input_size", 112)]
)
def test_another_training_is_refused(key: str, value: object, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"w\.pth says {key} is {value}, not"):
        read_model(NAME, SMALL, save(tmp_path / "w.pth", state, **{key: value}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s | {"patch_embed.proj.weight": torch.zeros(48, 2, 16, 16)}, "takes 2 bands: .*of Sentinel-1"),
        (lambda s: s | {"patch_embed.proj.weight": torch.zeros(48, 3, 16, 16)}, "takes 3 bands: it is a model of RGB"),
        (lambda s: {k: v for k, v in s.items() if "pred2" not in k}, r"lacks 2 tensors \(decoder_pred2\."),
        (lambda s: s | {"decoder_pred.weight": torch.zeros(3328, 32)}, r"decoder_pred\.weight is \(3328, 32\)"),
        (lambda s: s | {"channel_embed": torch.zeros(1, 3, 8)}, "a SatMAE"),
        (lambda s: s | {"fpn.fpn2.0.bias": torch.zeros(1)}, "a ScaleMAE"),
        (lambda s: s | {"head.weight": torch.zeros(10, 48)}, "fine-tuned"),
        (lambda s: s | {"pos_embed": torch.zeros(1, 257, 48)}, r"pos_embed is \(1, 257, 48\)"),
    ],
    ids=["radar", "rgb", "no indices", "pixels", "satmae", "scalemae", "classifier", "vit-h"],
)
def test_another_file_says_what_it_is(change, told: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"^other\.pth.*{told}"):
        read_model(NAME, SMALL, save(tmp_path / "other.pth", change(state)))


def test_a_truncated_file_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = save(tmp_path / "cut.pth", state)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"cannot read weights cut\.pth"):
        read_model(NAME, SMALL, path)


def test_a_small_file_is_not_the_published_model(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"small\.pth lacks .*another shape"):
        load_model(NAME, str(save(tmp_path / "small.pth", state)))


def test_torchgeo_names_the_encoder() -> None:
    models = pytest.importorskip("torchgeo.models")
    enum, member = TORCHGEO[NAME]
    url = getattr(models, enum)[member].url
    assert url.endswith(f"{ENCODER.repo}/resolve/{ENCODER.revision}/{ENCODER.file}")


# References


@pytest.mark.parametrize("name", ["fgmae_b13_tiny", "fgmae_b2_tiny"])
def test_tiny_reference(name: str, shared: Path) -> None:
    """Two images through upstream's class, the radar variant too; pixels here are no levels, the sums are the same."""
    path = shared / "goldens" / "tiny" / f"{name}.pt"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    ref = torch.load(path, weights_only=True)
    told = ref["config"]
    config = FgMaeConfig(
        dim=told["embed_dim"], depth=told["depth"], heads=told["num_heads"], decoder_dim=told["decoder_embed_dim"],
        decoder_depth=told["decoder_depth"], decoder_heads=told["decoder_num_heads"],
        bands=BANDS if told["in_chans"] == 13 else ("vv", "vh"), indices="ndi" in told["feature"],
    )  # fmt: skip
    net = FgMaeNet(config).eval()
    load_strict(net, ref["state_dict"], name=path.name, ignore=net.IGNORED)
    image = ref["x_half"].float() if "x_half" in ref else ref["x"]
    kept = int(196 * (1 - ref["mask_ratio"]))
    order = ref["noise"].argsort(dim=1)
    with torch.inference_mode():
        errors = net.errors(255 * image, order[:, :kept], order[:, kept:])
        targets = net.targets(255 * image)
    assert ref["mask"].sum(1).tolist() == [196 - kept] * 2
    torch.testing.assert_close(targets["hog"][:, :8], ref["hog_1d_first8tokens"], atol=1e-5, rtol=1e-5)
    if config.indices:
        first = targets["ndi"][:, 0].unflatten(-1, (16, 16, 3)).movedim(-1, 1)
        torch.testing.assert_close(first, ref["ndi_16x16"], atol=1e-6, rtol=1e-5)
    total = torch.stack([*errors.values()]).sum(0).mean(1)
    torch.testing.assert_close(total, ref["loss_per_sample"], atol=5e-6, rtol=1e-5)
