"""DOFA beyond its goldens: which files it takes and refuses, what they permit, its 8-bit numbers, its traps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from geoelle.errors import CapabilityError, InputMismatch, WeightsError
from geoelle.models import dofa
from geoelle.models.dofa_net import resized
from geoelle.models.weights import digest
from small import SMALLER, make_chips

BASE, LARGE = "dofa.v1-base", "dofa.v1-large"
CONFIG = replace(dofa.CONFIGS[BASE], **SMALLER[BASE])
FULL = replace(CONFIG, decoder=True, decoder_dim=48, decoder_depth=1, decoder_heads=4)
RGB = ("red", "green", "blue")


@pytest.fixture(scope="module")
def small():
    return dofa.make(BASE, CONFIG)


@pytest.fixture(scope="module")
def full():
    return dofa.make(BASE, FULL)


def chips_of(model=None, n=2, **options):
    return make_chips(model.card if model else dofa._card(BASE, CONFIG), n, **options)


def state_of(model, *starts: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a model but those under these beginnings."""
    return {k: v.clone() for k, v in model.net.state_dict().items() if not k.startswith(starts)}


EXTRAS = ("norm.", "projector.", "mask_token")


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Save a checkpoint under a published name and make its sha256 the published one."""

    def save(checkpoint, name: str = "DOFA_ViT_base_e100.pth") -> Path:
        torch.save(checkpoint, tmp_path / name)
        monkeypatch.setitem(dofa.KNOWN, name, digest([tmp_path / name]))
        return tmp_path / name

    return save


@pytest.fixture
def teacher(tmp_path, small) -> Path:
    """Save the teacher as timm publishes it, its classifier included."""
    prefix = "teacher."
    state = {k.removeprefix(prefix): v.clone() for k, v in small.net.state_dict().items() if k.startswith(prefix)}
    path = tmp_path / dofa.TEACHER.name
    save_file(state | {"head.weight": torch.zeros(10, CONFIG.dim), "head.bias": torch.zeros(10)}, path)
    return path


# What the files permit.


def test_the_official_file_and_the_teacher_permit_the_proxy(small, saved, teacher):
    path = saved(state_of(small, "teacher."))
    model = dofa.read(BASE, CONFIG, path, teacher)
    assert (model.card.target, model.card.objective) == ("dofa-distill", "distill")
    assert model.card == small.card
    assert model.weights_sha256 == digest([path, teacher])
    chips = chips_of(model)
    assert torch.equal(model.encode(chips).patch_bhwd, small.encode(chips).patch_bhwd)
    assert torch.equal(model.proxy(chips), small.proxy(chips))
    with pytest.raises(CapabilityError, match=r"no true pretraining loss.*'dofa-distill' can"):
        model.loss(chips, np.zeros((2, 4, 4), bool))


def test_without_the_teacher_there_is_no_target(small, saved):
    path = saved(state_of(small, "teacher."))
    model = dofa.read(BASE, CONFIG, path)
    assert model.card.target == "none" and not model.card.objective
    assert model.weights_sha256 == digest([path])
    assert torch.equal(model.encode(chips_of()).patch_bhwd, small.encode(chips_of()).patch_bhwd)
    with pytest.raises(CapabilityError, match=f"no proxy.*geoelle models pull {BASE}"):
        model.proxy(chips_of())


def test_torchgeos_copy_embeds_and_no_more(small, saved, teacher):
    path = saved(state_of(small, "teacher.", *EXTRAS), "dofa_base_patch16_224-a0275954.pth")
    model = dofa.read(BASE, CONFIG, path, teacher)
    assert model.card.target == "none"
    assert not hasattr(model.net, "teacher")
    tokens = model.encode(chips_of())
    for x in (tokens.patch_bhwd, tokens.summary_bd):
        torch.testing.assert_close(x.mean(dim=-1), torch.zeros(x.shape[:-1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(dim=-1, correction=0), torch.ones(x.shape[:-1]), atol=1e-3, rtol=0)
    with pytest.raises(CapabilityError, match=r"no proxy.*lacks the projector; give DOFA_ViT_base_e100\.pth"):
        model.proxy(chips_of())


def test_the_large_model_has_no_target_and_says_why(saved):
    config = replace(dofa.CONFIGS[LARGE], **SMALLER[LARGE])
    twin = dofa.make(LARGE, config)
    model = dofa.read(LARGE, config, saved(state_of(twin), "DOFA_ViT_large_e100.pth"))
    assert model.card.target == dofa.CARDS[LARGE].target == "none"
    with pytest.raises(CapabilityError, match=r"no proxy.*never published"):
        model.proxy(chips_of())


def test_a_decoder_and_the_teacher_give_the_loss(full, saved, teacher):
    table = {"decoder_pos_embed": torch.zeros(1, 17, 48)}
    model = dofa.read(BASE, FULL, saved({"model": state_of(full, "teacher.") | table}), teacher)
    card, chips = model.card, chips_of(n=3)
    assert (card.target, card.objective, card.additive) == ("loss", "mim + distill", False)
    hidden = np.zeros((3, 4, 4), bool)
    hidden[:, 1:] = True
    loss = model.loss(chips, hidden)
    assert list(loss.terms) == ["mim", "distill"]
    torch.testing.assert_close(loss.total_b, loss.terms["mim"] + loss.terms["distill"])
    np.testing.assert_array_equal(loss.error.isfinite().numpy(), hidden)
    torch.testing.assert_close(loss.error.nanmean(dim=(1, 2)), loss.terms["mim"])
    alone = torch.cat([model.loss(chips[[i]], hidden[[i]]).total_b for i in range(3)])
    torch.testing.assert_close(alone, loss.total_b, rtol=2e-5, atol=1e-6)
    with pytest.raises(CapabilityError, match="ask for the loss"):
        model.proxy(chips)


def test_the_loss_stays_close_in_half_precision(full):
    hidden = np.zeros((2, 4, 4), bool)
    hidden[:, 1:] = True
    exact = full.loss(chips_of(), hidden)
    with torch.autocast("cpu", torch.bfloat16):
        half = full.loss(chips_of(), hidden)
    torch.testing.assert_close(half.total_b, exact.total_b, rtol=2e-2, atol=2e-2)
    assert half.total_b.dtype == torch.float32


def test_a_decoder_alone_gives_mim_and_says_so(full, saved):
    model = dofa.read(BASE, FULL, saved(state_of(full, "teacher.")))
    assert (model.card.target, model.card.objective, model.card.additive) == ("loss", "mim", True)
    assert "cosine" not in model.card.unit
    hidden = np.zeros((2, 4, 4), bool)
    hidden[:, 1:] = True
    assert list(model.loss(chips_of(), hidden).terms) == ["mim"]


def test_a_teacher_within_the_file_is_taken(full, saved, teacher):
    path = saved(state_of(full) | {"teacher.head.weight": torch.zeros(10, CONFIG.dim)})
    model = dofa.read(BASE, FULL, path, teacher)
    assert model.card.objective == "mim + distill"
    assert model.weights_sha256 == digest([path])


@pytest.mark.parametrize("wrap", [lambda s: {"model": s, "epoch": 99}, lambda s: {"state_dict": s}, dict])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_files_are_unwrapped(small, saved, wrap, prefix):
    state = {prefix + key: tensor for key, tensor in state_of(small, "teacher.").items()}
    model = dofa.read(BASE, CONFIG, saved(wrap(state)))
    assert torch.equal(model.encode(chips_of()).summary_bd, small.encode(chips_of()).summary_bd)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("blocks.1.attn.qkv.weight"), r"lacks 1 tensor \(blocks\.1\.attn\.qkv\.weight\)"),
        (lambda s: s.pop("norm.bias"), r"lacks 1 tensor \(norm\.bias\)"),
        (lambda s: s.update({"decoder_embed.bias": torch.zeros(512)}), "lacks .*decoder_embed.weight"),
        (lambda s: s.update(spare=torch.zeros(1)), r"has foreign 1 tensor \(spare\)"),
        (lambda s: s.update(cls_token=torch.zeros(1, 1, 1024)), r"another shape \(cls_token is \(1, 1, 1024\)"),
        (lambda s: s.update({"head.weight": torch.zeros(45, 64)}), "a classifier"),
        (lambda s: s.update({"model.blocks.0.ls1.gamma": torch.zeros(64)}), "DOFA v2"),
    ],
)
def test_other_contents_are_refused(small, saved, change, match):
    state = state_of(small, "teacher.")
    change(state)
    with pytest.raises(WeightsError, match=match):
        dofa.read(BASE, CONFIG, saved(state))


def test_a_wrong_teacher_is_named(small, saved, tmp_path):
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"with model\.safetensors lacks"):
        dofa.read(BASE, CONFIG, saved(state_of(small, "teacher.")), tmp_path / "model.safetensors")


def test_a_truncated_file_is_refused(small, saved):
    path = saved(state_of(small, "teacher."))
    path.write_bytes(path.read_bytes()[:9_000])
    with pytest.raises(WeightsError, match=r"DOFA_ViT_base_e100\.pth .*truncated"):
        dofa.read(BASE, CONFIG, path)


# Which file it is.

OFFICIAL = dofa.OFFICIAL[BASE].sha256
UNKNOWN = "1234" * 16


@pytest.mark.parametrize(
    ("file", "sha256", "proven"),
    [
        ("DOFA_ViT_base_e100.pth", OFFICIAL, True),
        ("renamed.pth", OFFICIAL, True),
        ("dofa_base_patch16_224-a0275954.pth", "a0275954" + UNKNOWN[8:], True),
        ("renamed.pth", "0ff904d3" + UNKNOWN[8:], True),
        ("DOFA_ViT_large_e100.pth", UNKNOWN, False),
        ("DOFA_ViT_base_e100_full_weight.pth", UNKNOWN, False),
    ],
)
def test_known_files_are_taken(file, sha256, proven):
    assert dofa.identify(file, sha256) is proven


@pytest.mark.parametrize(
    ("file", "sha256", "match"),
    [
        ("dofa_base_patch16_224-7cc0f413.pth", UNKNOWN, "torchgeo's first copy of the base.*mixes bands"),
        ("dofa_large_patch16_224-fbd47fa9.pth", UNKNOWN, "torchgeo's first copy of the large.*mixes bands"),
        ("renamed.pth", "7cc0f413" + UNKNOWN[8:], "obsolete weight generator"),
        ("DOFA_ViT_base_e120.pth", UNKNOWN, "early release.*mixes bands"),
        ("DOFA_ViT_large_e120_full_weight.pth", UNKNOWN, "early release"),
        ("DOFA_ViT_base_e100.pth", "74ae0908" + UNKNOWN[8:], "first file that was called.*mixes bands"),
        ("DOFA_ViT_base_e100.pth", UNKNOWN, "begins 12341234, not 4720985e"),
        ("dofa_base_patch16_224-a0275954.pth", UNKNOWN, "begins 12341234, not a0275954"),
        ("dofa.pth", UNKNOWN, "cannot be told from obsolete"),
        ("dofav2_vit_base_e150.pth", UNKNOWN, "DOFA v2"),
    ],
)
def test_other_files_are_refused_with_the_reason(file, sha256, match):
    with pytest.raises(WeightsError, match=match):
        dofa.identify(file, sha256)


def test_an_unknown_file_is_not_loaded(small, tmp_path):
    torch.save(state_of(small, "teacher."), tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match=r"mine\.pth cannot be told"):
        dofa.read(BASE, CONFIG, tmp_path / "mine.pth")


def test_the_card_says_where_a_name_is_all_there_is(small, tmp_path):
    torch.save(state_of(small, "teacher."), tmp_path / "DOFA_ViT_base_e100_full_weight.pth")
    model = dofa.read(BASE, CONFIG, tmp_path / "DOFA_ViT_base_e100_full_weight.pth")
    assert "rests on its name" in model.card.deviations[-1]
    assert model.card.deviations[:-1] == dofa.CARDS[BASE].deviations


def test_the_official_file_comes_first_then_the_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    official, copy, teacher = (f.name for f in (dofa.OFFICIAL[BASE], dofa.COPIES[BASE], dofa.TEACHER))
    with pytest.raises(WeightsError, match=f"lacks {official}"):
        dofa._find(BASE, str(tmp_path))
    (tmp_path / copy).touch()
    (tmp_path / teacher).touch()
    assert dofa._find(BASE, str(tmp_path)) == {copy: tmp_path / copy, teacher: tmp_path / teacher}
    (tmp_path / official).touch()
    assert dofa._find(BASE, str(tmp_path)) == {official: tmp_path / official, teacher: tmp_path / teacher}
    assert dofa._find(BASE, str(tmp_path / copy)) == {official: tmp_path / copy}
    with pytest.raises(WeightsError, match=f"geoelle models pull {LARGE}"):
        dofa._find(LARGE, None)


def test_cached_files_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for remote in (dofa.COPIES[BASE], dofa.TEACHER):
        folder = tmp_path / f"models--{remote.repo.replace('/', '--')}" / "snapshots" / remote.revision
        folder.mkdir(parents=True)
        (folder / remote.file).touch()
    assert set(dofa._find(BASE, None)) == {dofa.COPIES[BASE].file, dofa.TEACHER.file}
    given = tmp_path / "DOFA_ViT_base_e100.pth"
    assert dofa._find(BASE, str(given))[dofa.OFFICIAL[BASE].file] == given
    assert dofa.TEACHER.file in dofa._find(BASE, str(given))


def test_no_published_card_claims_a_loss():
    assert {name: card.target for name, card in dofa.CARDS.items()} == {BASE: "dofa-distill", LARGE: "none"}
    for card in dofa.CARDS.values():
        assert "loss" not in card.objective + card.unit + card.title
        assert card.needs == ("sensor",) and card.band_subset and card.chip_px == 224


# Pixels.


def flat(values: dict[str, float], sensor: str = "sentinel-2-l2a"):
    chips = chips_of(n=1, bands=tuple(values))
    pixels = np.broadcast_to(np.array(list(values.values()), np.float32)[None, None, :, None, None], chips.shape).copy()
    return replace(chips, pixels_btcyx=pixels, sensor=sensor)


def test_reflectance_becomes_8_bit_and_then_a_z_score(small):
    x, waves = small._input(flat({"nir": 0.3, "red": 0.1, "swir22": -0.01, "green": 0.5, "swir16": 0.9}))
    assert waves == (0.665, 0.56, 0.842, 1.61, 2.19)
    # 0.1 * 255 / 0.3558 = 71.6695; green saturates at 0.3558, swir16 at 0.816; 0.3 * 10000 / 32 = 93.75
    counts = np.array([71.669477, 255, 93.75, 255, 0])
    mean = np.array([114.1099739, 114.81779093, 101.435633, 72.32804172, 56.66528851])
    std = np.array([77.84352553, 69.96844919, 60.29744676, 47.88519516, 42.55886798])
    np.testing.assert_allclose(x[0, :, 5, 5], (counts - mean) / std, rtol=1e-6)
    assert x.dtype == torch.float32


def test_naip_is_of_imagenet_statistics_and_leaves_nir_out(small):
    three = flat({"blue": 0.2, "green": 0.5, "red": 1.0}, "naip")
    x, waves = small._input(three)
    assert waves == (0.665, 0.56, 0.49)
    expected = [(255 - 123.675) / 58.395, (127.5 - 116.28) / 57.12, (51 - 103.53) / 57.375]
    np.testing.assert_allclose(x[0, :, 0, 0], expected, rtol=1e-5)
    four = flat({"blue": 0.2, "green": 0.5, "nir": 0.7, "red": 1.0}, "naip")
    assert torch.equal(small.encode(four).patch_bhwd, small.encode(three).patch_bhwd)
    with pytest.raises(InputMismatch, match="of sensor naip red, green, blue"):
        small.encode(flat({"nir": 0.7}, "naip"))


@pytest.mark.parametrize("sensor", ["", "landsat-c2-l2", "hls2"])
def test_sensors_without_statistics_are_refused(small, sensor):
    with pytest.raises(InputMismatch, match=f"sensor {sensor or 'unknown'}.*sentinel-2, naip"):
        small.encode(replace(chips_of(bands=RGB), sensor=sensor))


def test_bands_without_statistics_are_refused(small):
    with pytest.raises(InputMismatch, match="does not know bands nir08"):
        small.encode(chips_of(bands=("red", "nir08")))


def test_the_proxy_needs_red_green_and_blue(small):
    value = small.proxy(chips_of(n=4))
    assert value.shape == (4,) and bool((value.abs() <= 1).all())
    torch.testing.assert_close(small.proxy(chips_of(n=4).select_bands(("blue", "red", "green"))), value)
    with pytest.raises(InputMismatch, match=r"red, green, blue; the chips lack red, blue"):
        small.proxy(chips_of(bands=("green", "nir")))


# Traps of the network.


def test_bands_may_come_in_any_order_with_their_wavelengths(small):
    """The current layout of the weight generator; the obsolete one fails here."""
    x, waves = small._input(chips_of())
    back = tuple(reversed(waves))
    base = small.net.raw(x, waves)
    torch.testing.assert_close(small.net.raw(x.flip(1), back), base, atol=1e-5, rtol=0)
    assert (small.net.raw(x, back) - base).abs().max() > 1e-3


def test_the_patch_grid_lies_one_pixel_north_west(small):
    x, waves = small._input(chips_of(n=1))

    def moved(rows: slice, cols: slice) -> np.ndarray:
        changed = x.clone()
        changed[..., rows, cols] += 5
        difference = small.net.patch_embed(changed, waves)[0] - small.net.patch_embed(x, waves)[0]
        return difference.abs().amax(dim=-1).unflatten(1, (4, 4))[0].numpy() > 1e-6

    assert not moved(slice(63, None), slice(None)).any()
    assert not moved(slice(None), slice(63, None)).any()
    np.testing.assert_array_equal(np.argwhere(moved(slice(15, 16), slice(15, 16))), [[1, 1]])
    np.testing.assert_array_equal(np.argwhere(moved(slice(14, 15), slice(30, 31))), [[0, 1]])


def test_the_position_table_is_resized_to_the_chip():
    rows = torch.arange(14.0)[:, None].expand(14, 14).reshape(1, 196, 1)
    table = torch.cat([torch.full((1, 1, 1), 99.0), rows], dim=1)
    assert resized(table, 14) is table
    half = resized(table, 7)
    assert half[0, 0, 0] == 99
    # Rows 0.5, 2.5, 4.5 ... of a ramp, align_corners off; the outermost feel the edge.
    np.testing.assert_allclose(half[0, 1:, 0].view(7, 7)[1:-1, 3], np.arange(2.5, 12, 2), atol=1e-5)
    model = dofa.make(BASE, replace(CONFIG, chip_px=48))
    assert model.encode(make_chips(model.card, 1)).patch_bhwd.shape == (1, 3, 3, 64)
    assert model.proxy(make_chips(model.card, 1)).shape == (1,)


def test_the_generator_stays_in_float32(small):
    x, waves = small._input(chips_of())
    with torch.autocast("cpu", torch.float16):
        half = small.net.patch_embed(x, waves)[0]
    assert torch.equal(half, small.net.patch_embed(x, waves)[0])


# torchgeo.


@pytest.mark.parametrize("name", dofa.CONFIGS)
def test_torchgeo_names_the_copy(name):
    models = pytest.importorskip("torchgeo.models")
    enum, member = dofa.TORCHGEO[name]
    url, copy = getattr(models, enum)[member].url, dofa.COPIES[name]
    assert url == f"https://hf.co/{copy.repo}/resolve/{copy.revision}/{copy.file}"
    prefix = copy.file.rsplit("-", 1)[1].removesuffix(".pth")
    assert dofa.identify(copy.name, prefix + UNKNOWN[8:]) and dofa.KNOWN[copy.name] == prefix


@pytest.mark.parametrize("sensor", ["sentinel-2-l1c", "naip"])
def test_features_are_those_of_torchgeo(small, sensor):
    models = pytest.importorskip("torchgeo.models")
    chips = replace(chips_of(), sensor=sensor)
    theirs = models.DOFA(img_size=64, embed_dim=64, depth=3, num_heads=4).eval()
    config = replace(CONFIG, extras=False, teacher_depth=0, wave_hidden=2048)
    ours = dofa.make(BASE, config, seed=3)
    missing, foreign = theirs.load_state_dict(ours.net.state_dict(), strict=False)
    assert {key.split(".")[0] for key in missing} == {"fc_norm", "head"} and not foreign
    x, waves = ours._input(chips)
    with torch.inference_mode():
        expected = theirs.forward_features(x, list(waves))
        found = F.layer_norm(ours.net.raw(x, waves)[:, 1:].mean(dim=1), (64,), eps=1e-6)
    torch.testing.assert_close(found, expected, atol=6e-5, rtol=1e-5)
