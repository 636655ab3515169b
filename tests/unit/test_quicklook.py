import io

import matplotlib.image
import numpy as np
import pytest
import xarray as xr

from geoelle.errors import FormatError
from geoelle.lattice import Addresses, Lattice
from geoelle.quicklook import MapText, Scene, _degree_labels, _Grid, quicklook
from geoelle.raster import geobox_of, paint
from geoelle.style import Classes, Ramp

TEXT = MapText(
    title="Difficulty of nano", subtitle="2024-06", reading="High values mean fine, irregular texture."
)
RAMP = Ramp(name="viridis", low=0.0, high=1.0, label="difficulty")


def painted(height: int, width: int, *, epsg: int = 32618, row0: int = -26250) -> xr.DataArray:
    lattice = Lattice(epsg=epsg, gsd_m=10, size_px=32, stride_px=16)
    rows, cols = np.divmod(np.arange(height * width), width)
    values = np.linspace(0, 1, len(rows)).astype(np.float32)
    addresses = Addresses(lattice=lattice, rows=rows + row0, cols=cols + 1600)
    return paint(addresses, {"difficulty": values, "excess": values - 0.5})


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def near(image: np.ndarray, colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.abs(image - rgb).max(axis=2) < 0.02


@pytest.mark.parametrize(("height", "width"), [(40, 40), (8, 90), (90, 8), (1, 1)])
@pytest.mark.parametrize("with_scene", [False, True])
def test_maps_of_any_shape_are_drawn(height: int, width: int, with_scene: bool) -> None:
    raster = painted(height, width)
    scene = Scene(
        rgb_yx3=np.random.default_rng(0).random((50, 60, 3)), bounds=geobox_of(raster).boundingbox.bbox
    )
    ramps = {
        "difficulty": RAMP,
        "excess": Ramp.diverging(np.array([0.5, -0.4]), label="excess", unit="ln loss"),
    }
    image = pixels(quicklook(raster, ramps, TEXT, scenes={"scene": scene} if with_scene else {}))
    assert 300 < image.shape[0] < 3000
    assert 800 < image.shape[1] < 3000


def test_the_map_is_north_up_and_missing_cells_are_neither_end_of_the_ramp() -> None:
    raster = painted(30, 30)
    raster.values[0, 10:20, :] = np.nan
    raster.values[0, :10, :] = 1.0  # north
    raster.values[0, 20:, :] = 0.0
    image = pixels(quicklook(raster, {"difficulty": RAMP}, TEXT))
    high, low = (
        np.flatnonzero(near(image, c).sum(axis=1) > 300) for c in (RAMP.colours[-1], RAMP.colours[0])
    )
    assert high.max() < low.min()
    band = image[high.max() + 5 : low.min() - 5, image.shape[1] // 2]
    assert (band.max(axis=1) - band.min(axis=1) < 0.06).all()  # grey
    assert (band.mean(axis=1) > 0.6).all()


def test_classes_are_painted_in_their_colours_and_named_below() -> None:
    raster = painted(30, 30)
    raster.values[0] = np.repeat([0.0, 2.0, 1.0], 10)[:, None]
    colours = ("#e6e6e6", "#2065ab", "#b1182b")
    classes = Classes(label="status", names=("none", "seen once", "seen twice"), colours=colours)
    image = pixels(quicklook(raster, {"difficulty": classes}, TEXT))
    share = [near(image, colour).mean() for colour in classes.colours]
    assert share[1] == pytest.approx(share[2], rel=0.05) and share[1] > 0.1
    low = np.flatnonzero(near(image, classes.colours[1]).sum(axis=1) > 300)
    high = np.flatnonzero(near(image, classes.colours[2]).sum(axis=1) > 300)
    assert low.min() > high.max()  # north is up
    others = Classes(label="status", names=("none", "easier", "harder"), colours=classes.colours)
    assert not np.array_equal(image, pixels(quicklook(raster, {"difficulty": others}, TEXT)))


def test_the_same_raster_gives_the_same_picture() -> None:
    raster = painted(12, 12)
    assert quicklook(raster, {"difficulty": RAMP}, TEXT) == quicklook(raster, {"difficulty": RAMP}, TEXT)


def test_a_scene_without_data_leaves_the_hatch() -> None:
    raster = painted(12, 12)
    rgb = np.full((10, 10, 3), np.nan)
    image = pixels(
        quicklook(raster, {"difficulty": RAMP}, TEXT, scenes={"scene": Scene(rgb_yx3=rgb, bounds=(0, 0, 1, 1))})
    )
    assert near(image, "#d8dbe0").mean() > 0.1


def test_scale_is_measured_on_the_ground() -> None:
    utm = _Grid.of(geobox_of(painted(10, 100)))
    assert utm.ground_m == pytest.approx(16_000, rel=1e-3)
    mercator = _Grid.of(geobox_of(painted(10, 100, epsg=3857, row0=-52000)))  # 60 degrees north: half as long
    assert mercator.ground_m == pytest.approx(8_000, rel=0.02)


def test_degrees_are_labelled_with_their_hemisphere() -> None:
    assert _degree_labels(np.array([-0.1, 0.0, 0.05]), "WE") == ["0.10°W", "0.00°", "0.05°E"]
    assert _degree_labels(np.array([-31.0, -30.0]), "SN") == ["31°S", "30°S"]


def test_only_bands_of_the_raster_can_be_drawn() -> None:
    with pytest.raises(FormatError, match="no band 'loss' to draw"):
        quicklook(painted(3, 3), {"loss": RAMP}, TEXT)
    with pytest.raises(FormatError, match="no ramp"):
        quicklook(painted(3, 3), {}, TEXT)
    with pytest.raises(FormatError, match=r"shape \(3, 4, 4\); give \(y, x, 3\)"):
        Scene(rgb_yx3=np.zeros((3, 4, 4)), bounds=(0, 0, 1, 1))


def test_cells_outside_the_area_are_striped_and_keep_their_colour() -> None:
    raster = painted(20, 30)
    inside = xr.full_like(raster.isel(band=[0]), 1.0).assign_coords(band=["applicable"])
    half = inside.copy(deep=True)
    half[0, :, :15] = 0
    half[0, :, 15:18] = np.nan
    text = MapText(title="t", subtitle="s", reading="r")
    band = str(raster["band"].values[0])
    ramps = {band: Ramp.sequential(raster.values[0], label="l", unit="u")}
    plain, whole, striped = (
        pixels(quicklook(xr.concat([raster, *more], "band"), ramps, text)) for more in ([], [inside], [half])
    )
    assert np.array_equal(plain, whole)  # nothing outside: nothing drawn, no legend
    changed = (striped != plain).any(axis=2)
    top = changed[: int(0.8 * len(changed))]  # above the legend
    columns = np.flatnonzero(top.any(axis=0))
    west, east = columns.min(), columns.max()
    map_west, map_east = np.flatnonzero((plain != plain[0, 0]).any(axis=2)[len(plain) // 2])[[0, -1]]
    assert abs((east - west) / (map_east - map_west) - 0.5) < 0.08
    area = top[:, west : east + 1]
    share = area[area.any(axis=1)].mean()
    assert 0.3 < share < 0.6  # four pixels of nine
    assert changed[int(0.8 * len(changed)) :].any()  # the legend names it
