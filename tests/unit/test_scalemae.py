"""ScaleMAE beyond the goldens: brightness, resolution, the arguments a file carries, and files that are not it."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.embed import embed_chips, space_of
from geoelle.errors import CapabilityError, InputMismatch, WeightsError
from geoelle.models import load_model
from geoelle.models.scalemae import CARDS, CONFIGS, ENCODER, FULL, TORCHGEO, ScaleMae, ScaleMaeConfig, ScaleMaeNet, make
from geoelle.models.scalemae import read as read_model
from geoelle.models.weights import load_strict
from small import SMALLER, make_chips

NAME = "scalemae.large"
SMALL = replace(CONFIGS[NAME], **SMALLER[NAME])
DEAD = {
    "pos_embed": torch.zeros(1, 37, SMALL.dim),
    "decoder_pos_embed": torch.zeros(1, 37, SMALL.decoder_dim),
    "mask_token_decoder": torch.zeros(1, 1, SMALL.decoder_dim),
}
ARGS = {
    "input_size": 96,
    "source_size": [96],
    "target_size": [192],
    "use_mask_token": True,
    "band_config": [7, 56],
    "base_resolution": 2.5,
    "use_l1_loss": False,
    "l1_loss_weight": 1.0,
    "mask_ratio": 0.75,
    "output_dir": Path("/checkpoints"),
}


@pytest.fixture(scope="module")
def model() -> ScaleMae:
    return make(NAME, SMALL, seed=4)


@pytest.fixture(scope="module")
def state(model: ScaleMae) -> dict[str, torch.Tensor]:
    return model.net.state_dict() | DEAD


def encoder_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if k.startswith(("cls", "pos", "patch", "blocks", "norm"))}


def save(path: Path, state: dict[str, torch.Tensor], **said: object) -> Path:
    torch.save({"model": state, "args": Namespace(**{**ARGS, **said})}, path)
    return path


def half_hidden(n: int = 2, grid: int = 6) -> np.ndarray:
    hidden = np.zeros((n, grid, grid), bool)
    hidden[:, ::2] = True
    return hidden


# Brightness


def flat(model: ScaleMae, value: float, sensor: str) -> np.ndarray:
    chips = make_chips(model.card, 1)
    pixels = np.full_like(chips.pixels_btcyx, value)
    return model.images(replace(chips, pixels_btcyx=pixels, sensor=sensor))[0, :, 0, 0].numpy()


@pytest.mark.parametrize(
    ("value", "sensor", "bright"),
    [
        (0.15, "sentinel-2-l2a", 0.5),
        (0.9, "sentinel-2-l2a", 1.0),
        (-0.02, "sentinel-2-l1c", 0.0),
        (51 / 255, "naip", 0.2),
        (0.9, "naip", 0.9),
    ],
)
def test_reflectance_is_stretched_and_pictures_are_not(
    model: ScaleMae, value: float, sensor: str, bright: float
) -> None:
    expected = [(bright - 0.485) / 0.229, (bright - 0.456) / 0.224, (bright - 0.406) / 0.225]
    np.testing.assert_allclose(flat(model, value, sensor), expected, atol=1e-6)


def test_chips_of_no_sensor_are_refused(model: ScaleMae) -> None:
    with pytest.raises(InputMismatch, match="needs the sensor of the chips"):
        model.loss(replace(make_chips(model.card, 2), sensor=""), half_hidden())


def test_bands_are_taken_by_name(model: ScaleMae) -> None:
    chips = make_chips(model.card, 1, bands=("blue", "green", "red"))
    found = model.images(replace(chips, sensor="naip"))[0].numpy()
    red = (chips.pixels_btcyx[0, 0, 2].clip(0, 1) - 0.485) / 0.229
    np.testing.assert_allclose(found[0], red, atol=1e-6)


# Resolution


def test_the_encoder_sees_the_mean_of_four_pixels(model: ScaleMae) -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert model.net.halve(image).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    aligned = make(NAME, replace(SMALL, aligned=True)).net.halve(image)
    assert aligned[0, 0, 0, 0] == 0 and aligned[0, 0, -1, -1] == 15  # corners stay where they are


def test_the_two_bands_of_a_plane() -> None:
    """A constant has no high band; a picture of single pixels has no low one."""
    net = make(NAME, SMALL).net
    high, low = net.targets(torch.full((1, 3, 192, 192), 2.0))
    assert high.abs().max() < 1e-6 and (low - 2).abs().max() < 1e-6
    board = torch.from_numpy(np.indices((192, 192)).sum(0) % 2 * 2.0 - 1).float().expand(1, 3, -1, -1)
    high, low = net.targets(board)
    assert low.abs().max() == 0 and (high.abs() - 1).abs().max() < 0.05


def test_resolution_is_of_the_place_codes_alone(model: ScaleMae) -> None:
    """A chip of one patch lies at place 0, where codes of any resolution agree; a larger one tells them apart."""
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ones = [model.net.encode(image[..., :16, :16], res) for res in (1.0, 5.0)]
        many = [model.net.encode(image, res) for res in (1.0, 5.0)]
    assert torch.equal(*ones)
    assert (many[0] - many[1]).abs().max() > 1e-2


def test_the_space_tells_resolutions_apart() -> None:
    """Embeddings at another resolution, or a loss of another kind, are not to be mixed."""
    kinds = [{}, {"embed_res": 2.0}, {"loss_res": 1.0}, {"high_l1": True}]
    targets = {space_of(make(NAME, replace(SMALL, **kind)), ("red",))["target"] for kind in kinds}
    assert len(targets) == len(kinds)
    assert "resolution 5 (embeddings 1)" in CARDS[NAME].objective


# Files


def test_a_file_in_the_published_wrapper(model: ScaleMae, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Beside the tensors lie a Namespace and a PosixPath; the dead weights may be there or not."""
    chips = make_chips(model.card, 2)
    path = save(tmp_path / "scalemae-vitlarge-800.pth", state)
    found = read_model(NAME, SMALL, path)
    assert torch.equal(found.encode(chips).patch_bhwd, model.encode(chips).patch_bhwd)
    assert torch.equal(found.loss(chips, half_hidden()).total_b, model.loss(chips, half_hidden()).total_b)
    assert found.card == model.card and len(found.weights_sha256) == 64
    torch.save({k: v for k, v in state.items() if k not in DEAD}, path)
    bare = read_model(NAME, SMALL, path)
    assert torch.equal(bare.encode(chips).patch_bhwd, model.encode(chips).patch_bhwd)
    assert "does not say its training arguments" in bare.card.deviations[-1]


def test_training_arguments_are_honoured(model: ScaleMae, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    said = {"use_l1_loss": True, "l1_loss_weight": 0.5, "band_config": [14, 224], "base_resolution": 1.0}
    found = read_model(NAME, SMALL, save(tmp_path / "w.pth", state, mask_ratio=0.6, **said))
    expected = replace(SMALL, high_l1=True, high_weight=0.5, blur_grid=14, loss_res=2.0, mask_ratio=0.6)
    assert found.net.config == expected
    assert found.card.mask_ratio == 0.6 and found.card.objective.startswith("0.5 x absolute error in the high")
    chips = make_chips(model.card, 2)
    twin = ScaleMaeNet(expected)
    load_strict(twin, model.net.state_dict(), name="twin")
    own = ScaleMae(twin, found.card, "").loss(chips, half_hidden())
    torch.testing.assert_close(found.loss(chips, half_hidden()).total_b, own.total_b)
    assert (own.total_b - model.loss(chips, half_hidden()).total_b).abs().min() > 1e-3
    twin.config = replace(expected, high_weight=1.0)
    whole = ScaleMae(twin, found.card, "").loss(chips, half_hidden())
    torch.testing.assert_close(2 * own.terms["high"], whole.terms["high"])
    torch.testing.assert_close(own.terms["low"], whole.terms["low"])


def test_an_absolute_scale_is_one_everywhere(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    found = read_model(NAME, SMALL, save(tmp_path / "w.pth", state, absolute_scale=True))
    assert found.net.config.loss_res == 1.0


@pytest.mark.parametrize(
    ("key", "value"),
    [("target_size", [96, 192]), ("input_size", 224), ("source_size", [48, 96]), ("use_mask_token", False)],
)
def test_another_training_is_refused(key: str, value: object, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"w\.pth says {key} is "):
        read_model(NAME, SMALL, save(tmp_path / "w.pth", state, **{key: value}))


def test_an_encoder_alone_embeds_and_has_no_loss(
    model: ScaleMae, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path, chips = tmp_path / ENCODER.file, make_chips(model.card, 2)
    torch.save(encoder_of(state), path)
    found = read_model(NAME, SMALL, path)
    assert torch.equal(found.encode(chips).patch_bhwd, model.encode(chips).patch_bhwd)
    assert found.card.target == "none" and "error" not in found.card.objective
    with pytest.raises(CapabilityError, match=r"no true pretraining loss.*scalemae-vitlarge-800\.pth"):
        found.loss(chips, half_hidden())
    with pytest.raises(CapabilityError, match="no true loss"):
        embed_chips(chips, found, loss=True)
    assert np.isfinite(embed_chips(chips, found).vectors_nd).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {k: v for k, v in s.items() if not k.startswith("fcn_low")}, "lacks .*fcn_low"),
        (lambda s: {k: v for k, v in s.items() if k != "norm.weight"}, r"lacks 1 tensor \(norm\.weight\)"),
        (lambda s: s | {"decoder_pred.weight": torch.zeros(1)}, "a plain masked autoencoder"),
        (lambda s: s | {"fcn.proj.bias": torch.zeros(1)}, "one head for both bands"),
        (lambda s: s | {"pos_emb_projection.bias": torch.zeros(1)}, "projects its place codes"),
        (lambda s: s | {"fpn.fpn1.0.ln.bias": torch.zeros(1)}, "progressive heads"),
        (lambda s: s | {"vit.embeddings.cls_token": torch.zeros(1)}, "spelling of transformers"),
        (lambda s: s | {"head.weight": torch.zeros(1000, 64)}, r"foreign 1 tensor \(head\.weight\)"),
        (lambda s: s | {"patch_embed.proj.weight": torch.zeros(64, 10, 16, 16)}, r"is \(64, 10, 16, 16\), not"),
    ],
    ids=["part of the decoder", "a weight", "mae", "one head", "projection", "progressive", "hub", "head", "bands"],
)
def test_another_file_says_what_it_is(change, told: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"^other\.pth.*({told})"):
        read_model(NAME, SMALL, save(tmp_path / "other.pth", change(state)))


def test_a_truncated_file_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = save(tmp_path / "cut.pth", state)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"cannot read weights cut\.pth"):
        read_model(NAME, SMALL, path)


def test_a_small_file_is_not_the_published_model(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Through the public door: the size says so before any shape does."""
    with pytest.raises(WeightsError, match=r"small\.pth says input_size is 96, not 224"):
        load_model(NAME, str(save(tmp_path / "small.pth", state)))


def test_torchgeo_names_the_file_that_is_taken() -> None:
    models = pytest.importorskip("torchgeo.models")
    enum, member = TORCHGEO[NAME]
    url = getattr(models, enum)[member].url
    assert url.endswith(f"{ENCODER.repo}/resolve/{ENCODER.revision}/{ENCODER.file}")
    assert ENCODER.file.endswith("-98ed9821.pth") and FULL.name not in url


# References


def test_tiny_reference(shared: Path) -> None:
    """Three images through upstream's class, each with its own resolution, in both variants of the loss."""
    path = shared / "goldens" / "tiny" / "scalemae_tiny.pt"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    ref = torch.load(path, weights_only=True)
    told = ref["config"]
    config = ScaleMaeConfig(
        dim=told["embed_dim"], depth=told["depth"], heads=told["num_heads"], decoder_dim=told["decoder_embed_dim"],
        decoder_depth=told["decoder_depth"], decoder_heads=told["decoder_num_heads"], head_dim=told["fcn_dim"],
        head_depth=told["fcn_layers"], chip_px=told["target_size"][0], blur_grid=told["band_config"][0],
    )  # fmt: skip
    net = ScaleMaeNet(config).eval()
    load_strict(net, ref["state_dict"], name=path.name, ignore=net.IGNORED)
    kept = int(ref["noise"].shape[1] * (1 - ref["mask_ratio"]))
    shuffle = ref["noise"].argsort(dim=1)
    assert torch.equal(shuffle.argsort(dim=1), ref["ids_restore"])
    for i, res in enumerate(ref["input_res"].tolist()):
        source, target, seen = ref["x"][i : i + 1], ref["target"][i : i + 1], shuffle[i : i + 1, :kept]
        with torch.inference_mode():
            torch.testing.assert_close(net.encode(source, res, seen)[0], ref["latent"][i], atol=2e-5, rtol=1e-5)
            high, low = net.predict(source, res, seen)
            wanted = net.targets(target)
        torch.testing.assert_close(high[0], ref["pred_high"][i], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(low[0], ref["pred_low"][i], atol=1e-6, rtol=1e-5)
        masked = ref["mask"][i].bool().view(config.chip_px // 32, -1)
        for kind, losses in ref["losses"].items():
            miss = (wanted[0] - high).square() if kind == "l2" else (wanted[0] - high).abs()
            total = sum(_mean_hidden(error, masked) for error in (miss, (wanted[1] - low).square()))
            torch.testing.assert_close(total, losses["loss_per_sample"][i], atol=5e-6, rtol=1e-5)


def _mean_hidden(error_1cyx: torch.Tensor, masked_hw: torch.Tensor) -> torch.Tensor:
    """Return the sum over channels, mean over hidden pixels, written out pixel by pixel."""
    side = error_1cyx.shape[-1] // masked_hw.shape[-1]
    pixels = masked_hw.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return error_1cyx[0].sum(0)[pixels].sum() / pixels.sum()
