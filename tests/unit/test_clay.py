"""Clay: numbers of every sensor, codes, files of all kinds, and the parts of its objective worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.embed import embed_chips, space_of
from geoelle.errors import CapabilityError, InputMismatch, WeightsError
from geoelle.models.clay import CONFIGS, SENSORS, Clay, ClayConfig, load, make, meta_codes, read
from geoelle.models.clay_net import _place_codes, _wave_codes
from geoelle.models.networks import patchify
from small import SMALLER

NAME = "clay.v1.5"
TINY = replace(CONFIGS[NAME], **SMALLER[NAME])
S2 = SENSORS["sentinel-2-l2a"].bands


@pytest.fixture(scope="module")
def clay() -> Clay:
    return make(NAME, TINY)


def make_chips(
    sensor: str = "sentinel-2-l2a",
    n: int = 2,
    bands: tuple[str, ...] = (),
    gsd_m: float = 10,
    value: float | None = None,
) -> Chips:
    bands, size = bands or SENSORS[sensor].bands, TINY.chip_px
    pixels = np.random.default_rng(0).gamma(2.0, 0.06, (n, 1, len(bands), size, size))
    if sensor == "sentinel-1-rtc":
        pixels = 40 * pixels - 20
    if value is not None:
        pixels = np.full_like(pixels, value)
    lattice = Lattice(epsg=32631, gsd_m=gsd_m, size_px=size, stride_px=size)
    return Chips(
        pixels_btcyx=pixels.astype(np.float32),
        addresses=Addresses(lattice=lattice, rows=np.full(n, -100), cols=np.arange(n)),
        times_bt=np.full((n, 1), "2024-06-05T10:50:31", "datetime64[s]"), lonlat_b2=np.tile([30.0, 45.0], (n, 1)),
        bands=bands, items=(("item",),) * n, sensor=sensor,
    )  # fmt: skip


def make_mask(n: int = 2) -> np.ndarray:
    places = TINY.grid**2
    rng = np.random.default_rng(1)
    return np.stack([rng.permutation(places) < 3 * places // 4 for _ in range(n)]).reshape(n, TINY.grid, TINY.grid)


# --- numbers


@pytest.mark.parametrize(
    ("sensor", "band", "pixel", "expected"),
    [
        ("sentinel-2-l2a", "blue", 0.2, (2000 - 1105) / 1809),
        ("sentinel-2-l2a", "swir22", 0.1835, 0.0),
        ("landsat-c2-l2", "red", 0.075, (10_000 - 13_705) / 9578),
        ("landsat-c2-l2", "swir16", -0.2, -14_615 / 5300),
        ("naip", "nir", 0.2, (51 - 139.04) / 49.86),
        ("linz", "blue", 1.0, (255 - 89.51) / 31.45),
        ("sentinel-1-rtc", "vv", -12.113, 0.0),
        ("sentinel-1-rtc", "vh", -20.0, (-20 + 18.673) / 8.017),
        ("modis", "sur_refl_b05", 0.3, (3000 - 1599) / 1763),
    ],
)
def test_pixels_become_the_numbers_of_training(
    clay: Clay, sensor: str, band: str, pixel: float, expected: float
) -> None:
    x = clay.inputs(make_chips(sensor, value=pixel))
    np.testing.assert_allclose(x.pixels_bcyx[:, x.bands.index(band)], expected, atol=2e-6)


@pytest.mark.parametrize("sensor", SENSORS)
def test_a_table_has_one_entry_a_band(sensor: str) -> None:
    table = SENSORS[sensor]
    assert len(table.bands) == len(table.mean) == len(table.std) == len(table.wavelength_um)
    assert set(table.colours) <= set(table.bands)
    assert all(0.4 < um <= 4 for um in table.wavelength_um), "micrometres"


def test_wavelengths_stay_with_their_bands(clay: Clay) -> None:
    chips = make_chips(bands=("swir22", "nir", "blue"))
    x = clay.inputs(chips)
    assert x.bands == ("blue", "nir", "swir22") and x.wavelength_um == (0.493, 0.842, 2.19)
    blue = chips.pixels_btcyx[:, 0, 2].astype(float)
    np.testing.assert_allclose(x.pixels_bcyx[:, 0], (blue * 10_000 - 1105) / 1809, atol=2e-6)
    assert clay.inputs(make_chips("naip")).wavelength_um == (0.65, 0.56, 0.48, 0.842)


@pytest.mark.parametrize("sensor", ["sentinel-2-l1c", "hls2", "", "Sentinel-2"])
def test_a_sensor_without_statistics_is_refused(clay: Clay, sensor: str) -> None:
    with pytest.raises(InputMismatch, match=f"no statistics for sensor '{sensor}'.*landsat-c2-l2"):
        clay.encode(replace(make_chips(), sensor=sensor))


def test_a_band_of_another_sensor_is_refused(clay: Clay) -> None:
    with pytest.raises(InputMismatch, match="does not know bands swir16 of sensor naip"):
        clay.encode(replace(make_chips(bands=("red", "swir16")), sensor="naip"))


# --- codes


def test_weeks_are_those_of_the_calendar() -> None:
    days = [datetime(y, m, d) + timedelta(hours=23) for y in range(1969, 2033) for m, d in ((1, 1), (1, 4), (12, 29))]
    days += [datetime(2019, 1, 1) + timedelta(days=d, hours=d % 24, minutes=59) for d in range(0, 1500)]
    codes = meta_codes(np.array(days, "datetime64[s]"), np.zeros((len(days), 2)))
    week = np.array([d.isocalendar().week for d in days]) * 2 * np.pi / 52
    hour = np.array([d.hour for d in days]) * 2 * np.pi / 24
    expected = np.stack([np.sin(week), np.cos(week), np.sin(hour), np.cos(hour)], axis=1)
    np.testing.assert_allclose(codes[:, :4], expected, atol=1e-12)


def test_latitude_comes_before_longitude() -> None:
    codes = meta_codes(np.array(["2024-01-01"], "datetime64[s]"), np.array([[-90.0, 30.0]]))
    np.testing.assert_allclose(codes[0, 4:], [0.5, np.sqrt(0.75), -1.0, 0.0], atol=1e-12)


def test_place_codes_have_the_quirk_the_weights_know() -> None:
    """Frequencies of 10 m run from 10 down to 9.8203 only; column before row, sines before cosines."""
    codes = _place_codes(1016, 3, 10.0, torch.device("cpu"))
    assert codes.shape == (9, 1016)
    east, south = codes[1].view(4, 254), codes[3].view(4, 254)
    np.testing.assert_allclose(east[0, [0, -1]], np.sin([10, 9.8203]), atol=1e-4)
    np.testing.assert_allclose(east[1, [0, -1]], np.cos([10, 9.8203]), atol=1e-4)
    assert (east[2] == 0).all() and (east[3] == 1).all()
    np.testing.assert_array_equal(south, east[[2, 3, 0, 1]])


def test_wave_codes_are_of_micrometres() -> None:
    codes = _wave_codes((0.665,), 128, torch.device("cpu"))[0]
    np.testing.assert_allclose(codes[[0, 63, 64, 127]], [np.sin(0.665), 0.665e-4, np.cos(0.665), 1.0], atol=1e-7)


def test_the_ground_sampling_distance_moves_the_tokens(clay: Clay) -> None:
    moved = clay.encode(make_chips(gsd_m=20)).patch_bhwd - clay.encode(make_chips()).patch_bhwd
    assert moved.abs().max() > 1e-3


# --- time and place, both or neither


def test_a_chip_without_a_time_is_counted_and_refused(clay: Clay) -> None:
    chips = make_chips(n=3)
    chips.times_bt[1] = np.datetime64("NaT")
    with pytest.raises(InputMismatch, match=r"needs the time of every chip, and 1 of 3 have none.*without_metadata"):
        clay.encode(chips)
    found = clay.without_metadata().encode(chips)
    assert bool(torch.isfinite(found.patch_bhwd).all())


def test_withheld_metadata_are_zeros_for_both_and_another_space(clay: Clay) -> None:
    untold, chips = clay.without_metadata(), make_chips()
    assert (untold.inputs(chips).meta_b8 == 0).all() and (clay.inputs(chips).meta_b8 != 0).any()
    elsewhere = replace(
        chips, lonlat_b2=np.full((2, 2), -20.0), times_bt=chips.times_bt + np.timedelta64(9_999_999, "s")
    )
    torch.testing.assert_close(untold.encode(chips).patch_bhwd, untold.encode(elsewhere).patch_bhwd, atol=0, rtol=0)
    assert space_of(untold, S2) != space_of(clay, S2)
    assert untold.card.needs == ("gsd", "wavelength", "sensor") and "time" in clay.card.needs
    assert not torch.equal(untold.loss(chips, make_mask()).total_b, clay.loss(chips, make_mask()).total_b)


# --- the objective


@pytest.mark.parametrize(("sensor", "divisor"), [("sentinel-2-l2a", 1), ("modis", 10), ("sentinel-1-rtc", 1)])
def test_the_objective_is_what_it_says(clay: Clay, sensor: str, divisor: int) -> None:
    chips, hidden, net = make_chips(sensor), make_mask(), clay.net
    found, x = clay.loss(chips, hidden), clay.inputs(chips)
    with torch.inference_mode():
        for b in range(2):
            one = clay.inputs(chips[b : b + 1])
            masked, seen = (torch.from_numpy(np.flatnonzero(m.ravel()))[None] for m in (hidden[b], ~hidden[b]))
            encoded = net.encoder(one, seen)
            predicted = net.decoder(encoded, one, seen, masked)[0].double()
            truth = patchify(x.pixels_bcyx, 8, "cpq")[b, masked[0]].double()
            error = (predicted - truth).abs().mean(1) / divisor
            colours = {"sentinel-2-l2a": [2, 1, 0], "modis": [0, 3, 2]}.get(sensor)
            pixels = one.pixels_bcyx
            shown = pixels[:, colours] if colours else torch.cat([pixels, pixels.mean(1, keepdim=True)], dim=1)
            answer = net.teacher(F.interpolate(shown, (56, 56), mode="bilinear", antialias=True))
            rep = 1 - F.cosine_similarity(net.proj(encoded[:, 0]), answer)
            np.testing.assert_allclose(found.error[b][hidden[b]], error, rtol=1e-4)
            np.testing.assert_allclose(found.terms["rec"][b], error.mean(), rtol=1e-5)
            np.testing.assert_allclose(found.terms["rep"][b], rep[0], atol=1e-5)
            np.testing.assert_allclose(found.total_b[b], 0.9 * error.mean() + 0.1 * rep[0], rtol=1e-5)


def test_the_two_weights_are_of_the_config() -> None:
    other = make(NAME, replace(TINY, rec_weight=0.95, rep_weight=0.05))
    loss = other.loss(make_chips(), make_mask())
    np.testing.assert_allclose(loss.total_b, 0.95 * loss.terms["rec"] + 0.05 * loss.terms["rep"], rtol=1e-6)
    assert other.card.objective == "0.95 rec + 0.05 rep"


def test_the_teacher_needs_its_colours_and_the_embedding_does_not(clay: Clay) -> None:
    chips = make_chips(bands=("red", "nir"))
    assert bool(torch.isfinite(clay.encode(chips).patch_bhwd).all())
    with pytest.raises(InputMismatch, match="lack green, blue"):
        clay.loss(chips, make_mask())
    alone = make(NAME, replace(TINY, has_teacher=False))
    assert bool(torch.isfinite(alone.loss(chips, make_mask()).total_b).all())


def test_the_teacher_is_asked_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chips, asked = make(NAME, TINY), make_chips(), []
    teach = model.net.teach
    monkeypatch.setattr(model.net, "teach", lambda x: (asked.append(1), teach(x))[1])
    embed_chips(chips, model, loss=True)
    assert len(asked) == 1
    first = model.loss(chips, make_mask()).terms["rep"]
    again = len(asked)
    other = model.loss(replace(chips, pixels_btcyx=chips.pixels_btcyx[::-1].copy()), make_mask()).terms["rep"]
    assert len(asked) == again + 1 and not torch.equal(first, other)
    torch.testing.assert_close(model.loss(chips, make_mask()).terms["rep"], first, atol=0, rtol=0)


def test_the_same_pixels_of_another_sensor_are_other_colours(clay: Clay) -> None:
    """Normalised alike, band by band in table order; what the teacher sees differs, and so must its answer."""
    numbers = np.random.default_rng(2).normal(size=(1, 1, 3, TINY.chip_px, TINY.chip_px))
    found = []
    for sensor in ("linz", "sentinel-2-l2a"):
        table, chips = SENSORS[sensor], make_chips(sensor, 1, bands=SENSORS[sensor].bands[:3])
        mean, std = (np.array(v[:3])[:, None, None] for v in (table.mean, table.std))
        pixels = ((numbers * std + mean) * table.scale + table.offset).astype(np.float32)
        chips = replace(chips, pixels_btcyx=pixels)
        kept = clay.loss(chips, make_mask(1)).terms["rep"]
        torch.testing.assert_close(kept, make(NAME, TINY).loss(chips, make_mask(1)).terms["rep"], atol=1e-6, rtol=0)
        found.append(clay.inputs(chips).colours()[0, 0])
    torch.testing.assert_close(found[0].double(), torch.from_numpy(numbers[0, 0, 0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1].double(), torch.from_numpy(numbers[0, 0, 2]), atol=1e-4, rtol=0)


# --- files


def save(path: Path, config: ClayConfig = TINY, drop: str = "", said: dict | None = None, extra: str = "") -> Path:
    """Write a training checkpoint as Lightning does, with the moments of an optimiser."""
    state = make(NAME, config, seed=7).net.state_dict()
    state = {
        f"model.{key}": value for key, value in state.items() if not (drop and key.startswith(tuple(drop.split())))
    }
    if extra:
        state[f"model.{extra}"] = torch.zeros(1)
    moments = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]}
    hyper = {"model_size": "large", "mask_ratio": 0.75, "norm_pix_loss": False, "patch_size": 8, "dolls": [16]}
    torch.save(
        {
            "epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.4.0", "state_dict": state,
            "optimizer_states": [moments], "hyper_parameters": hyper | (said or {}),
        },
        path,
    )  # fmt: skip
    return path


def test_a_training_checkpoint_loads_and_is_used(tmp_path: Path) -> None:
    model, chips, hidden = read(NAME, TINY, save(tmp_path / "clay.ckpt")), make_chips(), make_mask()
    source = make(NAME, TINY, seed=7)
    assert model.card == source.card and len(model.weights_sha256) == 64
    assert all(torch.equal(v, source.net.state_dict()[k]) for k, v in model.net.state_dict().items())
    torch.testing.assert_close(model.encode(chips).patch_bhwd, source.encode(chips).patch_bhwd)
    torch.testing.assert_close(model.loss(chips, hidden).total_b, source.loss(chips, hidden).total_b)


@pytest.mark.parametrize("drop", ["teacher.", "teacher. proj."])
def test_without_the_teacher_the_loss_is_the_reconstruction_and_says_so(drop: str, tmp_path: Path) -> None:
    whole = read(NAME, TINY, save(tmp_path / "whole.ckpt"))
    alone = read(NAME, TINY, save(tmp_path / "alone.ckpt", drop=drop))
    chips, hidden = make_chips(), make_mask()
    loss = alone.loss(chips, hidden)
    assert alone.card.objective == "rec" and alone.card.additive and "DINO" not in alone.card.reading
    assert loss.terms.keys() == {"rec"}
    torch.testing.assert_close(loss.error.flatten(1).nanmean(1), loss.total_b)
    torch.testing.assert_close(loss.total_b, whole.loss(chips, hidden).terms["rec"])
    assert space_of(alone, S2) != space_of(whole, S2)


@pytest.mark.parametrize("drop", ["decoder.", "decoder. teacher. proj."])
def test_an_encoder_embeds_and_has_no_loss(drop: str, tmp_path: Path) -> None:
    model, chips = read(NAME, TINY, save(tmp_path / "encoder.ckpt", drop=drop)), make_chips()
    assert model.card.target == "none" and not model.card.objective and not model.card.unit
    torch.testing.assert_close(model.encode(chips).patch_bhwd, make(NAME, TINY, seed=7).encode(chips).patch_bhwd)
    with pytest.raises(CapabilityError, match=r"no true pretraining loss.*give clay-v1\.5\.ckpt"):
        model.loss(chips, make_mask())
    with pytest.raises(CapabilityError, match="no true loss"):
        embed_chips(chips, model, loss=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"drop": "encoder.transformer.norm.weight"}, "lacks 1 tensor .encoder.transformer.norm.weight"),
        ({"drop": "decoder.mask_patch"}, "lacks 1 tensor .decoder.mask_patch"),
        ({"drop": "teacher.norm.bias"}, "lacks 1 tensor .teacher.norm.bias"),
        ({"drop": "proj."}, "lacks 2 tensors .proj.weight"),
        ({"drop": "encoder."}, "lacks .* tensors .encoder.cls_token"),
        ({"extra": "encoder.pos_embed"}, "has foreign 1 tensor .encoder.pos_embed"),
        ({"extra": "encoder.latlon_embedding.weight"}, "is a file of Clay v0"),
        ({"extra": "mrl.layers.0.weight"}, "Matryoshka"),
        ({"drop": "teacher.reg_token"}, "teacher without registers, as Clay v1.0"),
        ({"said": {"norm_pix_loss": True}}, "says norm_pix_loss is True, not False"),
        ({"said": {"patch_size": 16}}, "says patch_size is 16, not 8"),
        ({"config": replace(TINY, dim=64)}, "of another shape .encoder.cls_token is .1, 1, 64., not .1, 1, 48."),
    ],
)
def test_another_file_is_refused_in_one_line(options: dict, told: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=told) as caught:
        read(NAME, TINY, save(tmp_path / "mine.ckpt", **options))
    assert "mine.ckpt" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 5_000, -1000])
def test_a_file_cut_anywhere_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    path.write_bytes(save(tmp_path / "whole.ckpt").read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cannot read weights cut\.ckpt"):
        read(NAME, TINY, path)


def test_the_mask_ratio_of_training_is_kept(tmp_path: Path) -> None:
    assert read(NAME, TINY, save(tmp_path / "mine.ckpt", said={"mask_ratio": 0.5})).card.mask_ratio == 0.5


def test_load_takes_the_published_size_only(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"small\.ckpt .*encoder\.cls_token|lacks"):
        load(NAME, str(save(tmp_path / "small.ckpt")))


def test_weights_stay_on_disk_until_they_are_used(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("asks Linux what a part of memory belongs to; run it there")
    model = read(NAME, TINY, save(tmp_path / "mine.ckpt"))
    lines = [line.split() for line in maps.read_text().splitlines() if line.endswith("mine.ckpt")]
    mapped = [range(*(int(end, 16) for end in fields[0].split("-"))) for fields in lines]
    assert all(any(p.data_ptr() in part for part in mapped) for p in model.net.parameters())
