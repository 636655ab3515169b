"""Galileo nano with its published weights against numbers of the upstream code: `--galileo FILE.npz` for others.

Arrays: `pixels_btcyx` reflectance, `model_input` (b, y, x, t, 13), `tokens_s_t` (b, h, w, t, 7, d), `group_means`
(b, groups present, d), `embedding` (b, d), `loss_mask_s_t` (b, y, x, t, 7) with 0 seen, 1 ignored, 2 hidden,
`loss_random` (b,), `month0` (b,) the first month, January is 0, `patch_size`, and `note`, which begins with the bands.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.models.galileo import BANDS, CONFIGS, GROUPS, Galileo, read

RTOL = ATOL = 1e-5
NAMES = ["VV", "VH", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]


@pytest.fixture(scope="module")
def arrays(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    told = request.config.getoption("--galileo")
    path = told or request.getfixturevalue("shared") / "weights" / "golden" / "galileo_nano_golden.npz"
    if told is None and not path.is_file():
        pytest.skip(f"{path} is absent; give --galileo FILE.npz")
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def weights(shared: Path) -> str:
    path = shared / "weights" / "galileo_nano"
    if not path.is_dir():
        pytest.skip(f"the published weights are absent ({path})")
    return str(path)


@pytest.fixture(scope="module")
def model(arrays: dict[str, np.ndarray], weights: str) -> Galileo:
    size = {"patch_px": int(arrays["patch_size"]), "chip_px": arrays["pixels_btcyx"].shape[-1]}
    return read("galileo.nano", replace(CONFIGS["galileo.nano"], **size), weights)


@pytest.fixture(scope="module")
def chips(arrays: dict[str, np.ndarray]) -> Chips:
    pixels = arrays["pixels_btcyx"].astype(np.float32)
    n, frames, _, side, _ = pixels.shape
    lattice = Lattice(epsg=32618, gsd_m=10, size_px=side, stride_px=side)
    month = arrays["month0"].reshape(n, -1)
    month = month if month.shape[1] == frames else month[:, :1] + np.arange(frames)
    given = re.match(r"bands ([\w,]+)", str(arrays["note"].item()))[1].split(",")
    return Chips(
        pixels_btcyx=pixels,
        addresses=Addresses(lattice=lattice, rows=np.full(n, -2_600), cols=np.arange(n) + 260),
        times_bt=(np.datetime64("2022-01", "M") + month).astype("datetime64[s]"),
        lonlat_b2=np.zeros((n, 2)), bands=tuple(BANDS[NAMES.index(band)] for band in given), items=(("item",),) * n,
    )  # fmt: skip


@pytest.fixture(scope="module")
def present(model: Galileo, chips: Chips) -> list[int]:
    return list(model.card.groups_of(chips.bands))


def tokens_of(model: Galileo, chips: Chips) -> np.ndarray:
    """Return (b, h, w, t, g, d)."""
    with torch.inference_mode():
        groups, months = model.inputs(chips)
        tokens = model.net.encoder(groups, months)
    n, frames, _, _, _ = chips.shape
    return tokens.view(n, frames, len(groups), *[model.card.grid] * 2, -1).permute(0, 3, 4, 1, 2, 5).numpy()


def test_normalised_pixels(arrays: dict[str, np.ndarray], model: Galileo, chips: Chips) -> None:
    groups, _ = model.inputs(chips)
    channel = {band: i for i, band in enumerate((*BANDS, "NDVI"))}
    for name, pixels in groups.items():
        bands = ("NDVI",) if name == "NDVI" else GROUPS[name]
        theirs = arrays["model_input"][..., [channel[band] for band in bands]]
        np.testing.assert_allclose(pixels.permute(0, 3, 4, 1, 2).numpy(), theirs, rtol=0, atol=1e-6)


def test_tokens(arrays: dict[str, np.ndarray], model: Galileo, chips: Chips, present: list[int]) -> None:
    found = np.empty_like(arrays["tokens_s_t"])
    found[...] = model.net.encoder.norm.bias.numpy()  # what upstream writes where a group is absent: a normed zero
    found[..., present, :] = tokens_of(model, chips)
    np.testing.assert_allclose(found, arrays["tokens_s_t"], rtol=RTOL, atol=ATOL)
    means = found[..., present, :].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, arrays["group_means"], rtol=RTOL, atol=ATOL)


def test_embedding(arrays: dict[str, np.ndarray], model: Galileo, chips: Chips) -> None:
    found = model.encode(chips).patch_bhwd.mean(dim=(1, 2)).numpy()
    np.testing.assert_allclose(found, arrays["embedding"], rtol=RTOL, atol=ATOL)


def test_loss(arrays: dict[str, np.ndarray], model: Galileo, chips: Chips, present: list[int]) -> None:
    """Chip by chip, for masks of a file may hide unlike counts."""
    patch = model.card.patch_px
    state = arrays["loss_mask_s_t"][:, ::patch, ::patch][..., present].transpose(0, 3, 4, 1, 2)
    for i, theirs in enumerate(arrays["loss_random"]):
        loss = model.loss(chips[i : i + 1], state[i : i + 1] == 2, state[i : i + 1] == 0)
        assert float(loss.total_b) == pytest.approx(theirs, abs=ATOL, rel=0)
        assert float(loss.error.nanmean()) == pytest.approx(theirs, abs=ATOL, rel=0)
        np.testing.assert_array_equal(np.isfinite(loss.error.numpy()), state[i : i + 1] == 2)


def test_chips_together_are_chips_apart(arrays: dict[str, np.ndarray], model: Galileo, chips: Chips) -> None:
    whole = model.encode(chips).patch_bhwd
    one = torch.cat([model.encode(chips[i : i + 1]).patch_bhwd for i in range(len(chips))])
    torch.testing.assert_close(one, whole, rtol=RTOL, atol=ATOL)
