"""Presto with its published weights against numbers of the upstream code: `--presto FILE.npz` for others.

Arrays: `x` (n, t, 17) normalised and 0 where absent, `mask_embed` and `mask_loss` (n, t, 17), 1 where hidden: in the
first because a group is absent, in the second also because the loss is of it; `loss_bands` (17,) the channels whose
error is the loss; `latlons` (n, 2), `month` the first month (January is 0), one for all or one a pixel; `embedding`
(n, d), and under the second mask `reconstruction` (n, t, 17), `dw_logits` (n, t, 9), `loss_per_pixel` (n,).

Every pixel is a chip of one pixel here. Pixels of the same masks go together, so masks may differ between pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.models.presto import CHANNELS, CONFIGS, GROUPS, LAND_COVER, Presto, read

RTOL = ATOL = 1e-5
COLUMNS = {  # where upstream keeps each channel of a group
    "S1": [0, 1],
    "S2_RGB": [2, 3, 4],
    "S2_Red_Edge": [5, 6, 7],
    "S2_NIR_10m": [8],
    "S2_NIR_20m": [9],
    "S2_SWIR": [10, 11],
    "ERA5": [12, 13],
    "SRTM": [14, 15],
    "NDVI": [16],
}


@pytest.fixture(scope="module")
def arrays(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    told = request.config.getoption("--presto")
    path = told or request.getfixturevalue("shared") / "weights" / "golden" / "presto_golden.npz"
    if told is None and not path.is_file():
        pytest.skip(f"{path} is absent; give --presto FILE.npz")
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def model(shared: Path) -> Presto:
    path = shared / "weights" / "presto"
    if not path.is_dir():
        pytest.skip(f"the published weights are absent ({path})")
    return read("presto", replace(CONFIGS["presto"], chip_px=1), str(path))


def alike(arrays: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the rows of pixels that have the same masks."""
    both = np.concatenate([arrays["mask_embed"], arrays["mask_loss"]], axis=1).reshape(len(arrays["x"]), -1)
    _, kind = np.unique(both, axis=0, return_inverse=True)
    for number in np.unique(kind):
        yield np.flatnonzero(kind.ravel() == number)


def chips_of(arrays: dict[str, np.ndarray], rows: np.ndarray) -> tuple[Chips, list[str]]:
    """Return pixels as chips of the bands that any frame shows, and the groups there are."""
    x, absent = arrays["x"][rows], arrays["mask_embed"][rows[0]].astype(bool)
    assert (absent == absent[:1]).all(), "a group is there in every frame or in none"
    names = [name for name in GROUPS if not absent[0, COLUMNS[name]].any()]
    bands, columns = [], []
    for name in names:
        if name != "NDVI":
            bands += GROUPS[name]
            columns += COLUMNS[name]
    pixels = x[:, :, columns].astype(np.float64)
    if "S1" in names:
        pixels[:, :, :2] = pixels[:, :, :2] * 25 - 25
    n, frames, _ = x.shape
    start = np.broadcast_to(arrays["month"], (len(arrays["x"]),))[rows]
    lattice = Lattice(epsg=32618, gsd_m=10, size_px=1, stride_px=1)
    chips = Chips(
        pixels_btcyx=pixels[..., None, None].astype(np.float32),
        addresses=Addresses(lattice=lattice, rows=np.full(n, -41_600), cols=np.arange(n) + 4_160),
        times_bt=(np.datetime64("2022-01", "M") + start[:, None] + np.arange(frames)).astype("datetime64[s]"),
        lonlat_b2=arrays["latlons"][rows, ::-1].astype(np.float64), bands=tuple(bands), items=(("item",),) * n,
    )  # fmt: skip
    return chips, names


def hidden_of(arrays: dict[str, np.ndarray], rows: np.ndarray, names: list[str]) -> np.ndarray:
    mask = arrays["mask_loss"][rows].astype(bool)
    return np.stack([mask[:, :, COLUMNS[name][0]] for name in names], axis=-1)


def test_embedding(arrays: dict[str, np.ndarray], model: Presto) -> None:
    for rows in alike(arrays):
        found = model.encode(chips_of(arrays, rows)[0]).patch_bhwd[:, 0, 0].numpy()
        np.testing.assert_allclose(found, arrays["embedding"][rows], rtol=RTOL, atol=ATOL)


def test_values_enter_as_upstream_has_them(arrays: dict[str, np.ndarray], model: Presto) -> None:
    for rows in alike(arrays):
        for name, values in model.series(chips_of(arrays, rows)[0]).values.items():
            np.testing.assert_allclose(values.numpy(), arrays["x"][rows][:, :, COLUMNS[name]], rtol=0, atol=1e-6)


def test_reconstruction(arrays: dict[str, np.ndarray], model: Presto) -> None:
    """Every channel, those of absent groups too, and the classes of land cover."""
    for rows in alike(arrays):
        chips, names = chips_of(arrays, rows)
        shown = ~hidden_of(arrays, rows, names).reshape(len(rows), -1)
        seen = torch.from_numpy(np.nonzero(shown)[1].reshape(len(rows), -1))
        with torch.inference_mode():
            decoded = model.net.decode(model.series(chips), seen)
            found = model.net.reconstruct(decoded, list(CHANNELS))
            land_cover = model.net.decoder.dw_decoder_pred(decoded[:, :, LAND_COVER])
        for name, values in found.items():
            theirs = arrays["reconstruction"][rows][:, :, COLUMNS[name]]
            np.testing.assert_allclose(values.numpy(), theirs, rtol=RTOL, atol=ATOL)
        np.testing.assert_allclose(land_cover.numpy(), arrays["dw_logits"][rows], rtol=RTOL, atol=ATOL)


def test_loss(arrays: dict[str, np.ndarray], model: Presto) -> None:
    """The loss bands of a file are those of the groups hidden somewhere: the loss is of nothing else."""
    for rows in alike(arrays):
        chips, names = chips_of(arrays, rows)
        hidden = hidden_of(arrays, rows, names)
        told = arrays["loss_bands"].astype(bool)
        assert [name for i, name in enumerate(names) if hidden[:, :, i].any()] == [
            name for name in names if told[COLUMNS[name]].any()
        ]
        loss = model.loss(chips, hidden)
        np.testing.assert_allclose(loss.total_b.numpy(), arrays["loss_per_pixel"][rows], rtol=RTOL, atol=ATOL)
        np.testing.assert_allclose(
            loss.error_bhw[:, 0, 0].numpy(), arrays["loss_per_pixel"][rows], rtol=RTOL, atol=ATOL
        )


def test_a_chip_is_its_pixels(arrays: dict[str, np.ndarray], model: Presto, shared: Path) -> None:
    """The pixels of a square chip, embedded and scored together, are those scored one by one."""
    rows = next(alike(arrays))
    side = min(math.isqrt(len(rows)), 4)
    single, names = chips_of(arrays, rows[: side * side])
    single = replace(
        single,
        lonlat_b2=np.tile(single.lonlat_b2[:1], (side * side, 1)),
        times_bt=single.times_bt[:1].repeat(side**2, 0),
    )
    pixels = single.pixels_btcyx[..., 0, 0].transpose(1, 2, 0).reshape(1, *single.shape[1:3], side, side)
    lattice = Lattice(epsg=32618, gsd_m=10, size_px=side, stride_px=side)
    whole = replace(
        single[:1],
        pixels_btcyx=np.ascontiguousarray(pixels),
        addresses=Addresses(lattice=lattice, rows=[-9_000], cols=[900]),
    )
    square = read("presto", replace(CONFIGS["presto"], chip_px=side), str(shared / "weights" / "presto"))
    together, apart = (m.encode(c).patch_bhwd.flatten(0, 2) for m, c in ((square, whole), (model, single)))
    torch.testing.assert_close(together, apart, rtol=RTOL, atol=ATOL)
    hidden = hidden_of(arrays, rows[: side * side], names)
    apart, loss = model.loss(single, hidden).total_b, square.loss(whole, hidden[:1])
    torch.testing.assert_close(loss.error_bhw.flatten(), apart, rtol=RTOL, atol=ATOL)
    assert float(loss.total_b) == pytest.approx(float(apart.mean()), rel=RTOL)
