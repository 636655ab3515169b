"""Prithvi beyond its goldens: files of every kind, units, dates, places."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geoelle.chips import Chips
from geoelle.errors import InputMismatch, WeightsError
from geoelle.models import prithvi
from geoelle.models.prithvi import BANDS, CARDS, CONFIGS, CoordinateCode, Prithvi, Where, load, make, read
from geoelle.models.prithvi_net import place_table
from small import SMALLER, make_chips, small

V1, PLAIN, TL = "prithvi.v1-100m", "prithvi.v2-600m", "prithvi.v2-tiny-tl"
CPU = torch.device("cpu")


def config_of(name: str) -> prithvi.PrithviConfig:
    return replace(CONFIGS[name], **SMALLER[name])


def published(name: str) -> dict[str, Tensor]:
    """Return the state of a small model as its file would hold it, fixed tables of other frames and all."""
    state = {key: value.clone() for key, value in small(name, seed=4).net.state_dict().items()}
    config = config_of(name)
    state["encoder.pos_embed"] = torch.full((1, 99, config.dim), torch.nan)
    state["decoder.decoder_pos_embed"] = torch.full((1, 99, config.decoder_dim), torch.nan)
    return state


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the layout of 2023: no part named."""
    return {key.split(".", 1)[1]: value for key, value in state.items()}


def saved(content: dict, folder: Path) -> Path:
    path = folder / "Prithvi.pt"
    torch.save(content, path)
    return path


def flat_chips(model: Prithvi, reflectance: float) -> Chips:
    chips = make_chips(model.card, 1)
    return replace(chips, pixels_btcyx=np.full_like(chips.pixels_btcyx, reflectance))


LAYOUTS = {
    "of today": lambda state: state,
    "of 2023": flat,
    "of timm": lambda state: {f"_timm_module.{key}": value for key, value in flat(state).items()},
    "in a checkpoint": lambda state: {"epoch": 7, "model": {f"module.{key}": value for key, value in state.items()}},
    "of Lightning": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
    "in half precision": lambda state: {key: value.bfloat16() for key, value in state.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [V1, TL])
def test_every_layout_loads_to_the_same_model(name: str, layout: str, tmp_path: Path) -> None:
    wanted, state = small(name, seed=4), published(name)
    found = read(name, config_of(name), saved(LAYOUTS[layout](state), tmp_path))
    ours, theirs = found.net.state_dict(), wanted.net.state_dict()
    half = layout == "in half precision"
    assert all(v.dtype == torch.float32 and torch.equal(v, theirs[k].bfloat16().float() if half else theirs[k])
               for k, v in ours.items())  # fmt: skip
    assert found.card == wanted.card and len(found.weights_sha256) == 64
    assert np.isfinite(found.encode(make_chips(found.card, 1)).patch_bhwd.numpy()).all()


def test_load_takes_a_file_a_folder_or_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, TL, config_of(TL))
    path = saved(published(TL), tmp_path)
    by_file = load(TL, str(path))
    path.rename(tmp_path / CARDS[TL].files[0].name)
    assert load(TL, str(tmp_path)).weights_sha256 == by_file.weights_sha256
    assert load(TL, "untrained", seed=5).weights_sha256 == "untrained-5"


def test_the_twin_starts_as_training_does() -> None:
    model = small(TL)
    scales = [float(m.scale) for m in model.net.modules() if isinstance(m, CoordinateCode)]
    assert scales == pytest.approx([0.1] * 4)
    assert make(TL, CONFIGS[TL]).card == CARDS[TL]


def only_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.startswith("encoder.")}


WRONG = {
    "an encoder": (PLAIN, lambda: only_encoder(published(PLAIN)), "an encoder alone"),
    "an encoder without its name": (PLAIN, lambda: flat(only_encoder(published(PLAIN))), "an encoder alone"),
    "with coordinates for a plain model": (PLAIN, lambda: published(TL), "-tl model"),
    "without coordinates for a TL model": (TL, lambda: published(V1), r"lacks 4 tensors \(encoder.temporal_embed_enc"),
    "fine-tuned": (
        PLAIN,
        lambda: {"state_dict": {f"model.{k}": v for k, v in only_encoder(published(PLAIN)).items()}
                 | {"model.decoder.convs.0.weight": torch.zeros(2), "model.head.bias": torch.zeros(2)}},
        "fine-tuned",
    ),
    "of another patch": (PLAIN, lambda: published(V1), r"another shape \(encoder.patch_embed.proj.weight"),
    "with a tensor more": (V1, lambda: published(V1) | {"encoder.extra": torch.zeros(1)}, "foreign 1 tensor"),
    "of another kind": (V1, lambda: {"a": torch.zeros(1)}, "lacks"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_told(case: str, tmp_path: Path) -> None:
    name, content, told = WRONG[case]
    with pytest.raises(WeightsError, match=rf"Prithvi\.pt.*{told}"):
        read(name, config_of(name), saved(content(), tmp_path))


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    path = saved(published(V1), tmp_path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(WeightsError, match="truncated"):
        read(V1, config_of(V1), path)


@pytest.mark.parametrize(
    "name, reflectance, band, score",
    [
        (PLAIN, 0.1087, "blue", 0.0),
        (PLAIN, 0.1087 + 0.2248, "blue", 1.0),
        (PLAIN, 0.2734 - 0.1850, "nir08", -1.0),
        (PLAIN, 0.0, "swir22", -1363 / 1049),
        (V1, 0.08, "blue", (800 - 775.2290211032589) / 1281.526139861424),
        (V1, 0.25, "swir16", (2500 - 2204.2139147975554) / 1291.6764008585435),
    ],
)
def test_reflectance_becomes_a_score(name: str, reflectance: float, band: str, score: float) -> None:
    model = small(name)
    x_bctyx = model.normalised(flat_chips(model, reflectance))
    assert x_bctyx.dtype == torch.float32
    np.testing.assert_allclose(x_bctyx[0, BANDS.index(band)], score, atol=1e-6)


def test_axes_are_bands_then_frames() -> None:
    model = small(PLAIN)
    chips = make_chips(model.card, 2, frames=3)
    pixels = np.zeros_like(chips.pixels_btcyx)
    pixels[:, 2, chips.bands.index("red")] = 0.1433 + 0.2178
    red = model.normalised(replace(chips, pixels_btcyx=pixels))[:, BANDS.index("red")]
    np.testing.assert_allclose(red[:, 2], 1, atol=1e-6)
    np.testing.assert_allclose(red[:, :2], -1433 / 2178, atol=1e-6)


@pytest.mark.parametrize(
    "time, year, day",
    [
        ("2019-01-01T23:59:59", 2019, 1),
        ("2019-12-31T00:00:00", 2019, 365),
        ("2020-02-29T10:00:00", 2020, 60),
        ("2020-12-31T12:00:00", 2020, 366),
        ("1969-03-01T00:00:00", 1969, 60),
    ],
)
def test_a_date_is_a_year_and_a_day_from_1(time: str, year: int, day: int) -> None:
    model = small(TL)
    chips = make_chips(model.card, 1)
    where = model.where(replace(chips, times_bt=np.array([[time]], "datetime64[s]")))
    assert where.dates_bt2.tolist() == [[[year, day]]]


def test_the_order_of_the_location_is_a_switch_and_stands_in_the_card() -> None:
    for order, first, told in (("lonlat", -75.6, "longitude, latitude"), ("latlon", 37.7, "latitude, longitude")):
        model = make(TL, replace(config_of(TL), location_order=order))
        assert model.where(make_chips(model.card, 1)).location_b2[0, 0] == first
        assert any(f"in the order {told}" in words for words in model.card.deviations)


def test_one_frame_without_a_time_is_refused_only_where_times_are_coded() -> None:
    model = small(TL)
    chips = make_chips(model.card, 2, frames=2)
    chips.times_bt[1, 1] = np.datetime64("NaT")
    with pytest.raises(InputMismatch, match="needs the time of every frame and 1 of 4"):
        model.encode(chips)
    with pytest.raises(InputMismatch, match="time"):
        model.loss(chips, np.ones((2, 2, 4, 4), bool))
    plain = small(V1)
    assert plain.encode(replace(chips)).patch_bhwd.isfinite().all()


def test_absent_coordinates_are_not_zeros() -> None:
    """Zeros are a place and a year too: their cosines are 1."""
    model = small(TL)
    x = model.normalised(make_chips(model.card, 1))
    zeros = Where(torch.zeros(1, 1, 2), torch.zeros(1, 2))
    with torch.inference_mode():
        absent, present = model.net.encoder(x, Where()), model.net.encoder(x, zeros)
        time_only = model.net.encoder(x, Where(dates_bt2=zeros.dates_bt2))
    assert (absent - present).abs().max() > 1e-3
    assert (time_only - present).abs().max() > 1e-3


def test_a_coordinate_is_sines_then_cosines_of_each_half() -> None:
    code = CoordinateCode(8)
    with torch.no_grad():
        code.scale.fill_(0.5)
        found = code(torch.tensor([[2020.0, 3.0]], dtype=torch.float64))[0].tolist()
    halves = [[f(v * w) for f in (math.sin, math.cos) for w in (1, 0.01)] for v in (2020.0, 3.0)]
    assert found == pytest.approx([0.5 * v for half in halves for v in half], abs=1e-7)


def test_places_are_coded_column_row_frame() -> None:
    dim, grid, frames = 32, 3, 2
    table = place_table(dim, frames, grid, grid, CPU)[0].view(frames, grid, grid, dim)
    steps = {"frame": (1, 0, 0), "row": (0, 1, 0), "column": (0, 0, 1)}
    ranges = {"column": (0, 12), "row": (12, 24), "frame": (24, 32)}
    for axis, at in steps.items():
        differs = (table[at] != table[0, 0, 0]).nonzero()[:, 0]
        start, stop = ranges[axis]
        assert start <= differs.min() and differs.max() < stop, axis
        assert table[at][start] == pytest.approx(math.sin(1))


def test_another_chip_size_resizes_the_table_corner_on_corner() -> None:
    trained, other = (place_table(32, 1, grid, 5, CPU)[0].view(grid, grid, 32) for grid in (5, 3))
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(other[corner], trained[corner])
    assert not torch.allclose(other, place_table(32, 1, 3, 3, CPU)[0].view(3, 3, 32), atol=1e-2)


def test_a_hidden_place_of_one_date_tells_nothing_to_the_others() -> None:
    """Masks run over dates: what is hidden on the second date only must not reach any other error."""
    model = small(PLAIN)
    chips = make_chips(model.card, 1, frames=2)
    hidden = np.zeros((1, 2, 4, 4), bool)
    hidden[0, 0, 2:] = hidden[0, 1, :2] = True
    before = model.loss(chips, hidden).error.numpy()
    changed = chips.pixels_btcyx.copy()
    changed[:, 1, :, :14, :14] += 0.2
    after = model.loss(replace(chips, pixels_btcyx=changed), hidden).error.numpy()
    assert (np.isfinite(before) == hidden).all()
    moved = np.abs(after - before) > 1e-5
    assert np.argwhere(moved).tolist() == [[0, 1, 0, 0]]


def test_tokens_are_the_mean_over_dates_and_dates_have_an_order() -> None:
    model = small(PLAIN)
    chips = make_chips(model.card, 1, frames=3)
    with torch.inference_mode():
        x = model.net.encoder(model.normalised(chips), Where())
    each = x[:, 1:].view(1, 3, 4, 4, -1)
    found = model.encode(chips)
    torch.testing.assert_close(found.patch_bhwd, each.mean(dim=1))
    torch.testing.assert_close(found.summary_bd, x[:, 0])
    backwards = replace(chips, pixels_btcyx=chips.pixels_btcyx[:, ::-1].copy())
    assert (model.encode(backwards).patch_bhwd - found.patch_bhwd).abs().max() > 1e-3


def test_cards_say_what_each_model_takes() -> None:
    assert {name: card.frames for name, card in CARDS.items() if card.frames != (1, 4)} == {V1: (1, 3)}
    assert {name for name, card in CARDS.items() if card.needs} == {n for n in CARDS if n.endswith("-tl")}
    assert {name for name, card in CARDS.items() if card.patch_px == 14} == {n for n in CARDS if "600m" in n}
    assert all(card.grid in (14, 16) and card.gsd_m == (10, 30) for card in CARDS.values())
    assert all(len(f.revision) == 40 and len(f.sha256) in (0, 64) for c in CARDS.values() for f in c.files)
