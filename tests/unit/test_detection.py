"""Rankings scored against labels: as scikit-learn has it, with blocks redrawn whole."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

import scenes
from geoelle.detection import MIN_BLOCKS, block_cells, blocks_of, detect, read_truth
from geoelle.errors import FormatError
from geoelle.lattice import Addresses, Lattice

LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
MESH = Addresses(lattice=LATTICE, rows=np.repeat(np.arange(-50, -30), 20), cols=np.tile(np.arange(3000, 3020), 20))


def test_scores_are_those_of_scikit_learn_ties_and_gaps_included() -> None:
    rng = np.random.default_rng(0)
    truth_n = (rng.random(400) < 0.2).astype(float)
    size_n = np.round(rng.normal(size=400) + truth_n, 1)
    size_n[:20] = np.nan
    flag_n = np.where(np.isnan(size_n), np.nan, size_n > 1)
    found = detect(size_n, truth_n, blocks_of(MESH, 32), flag_n)
    y, s = truth_n[20:], size_n[20:]
    assert found.auroc.value == pytest.approx(roc_auc_score(y, s))
    assert found.auprc.value == pytest.approx(average_precision_score(y, s))
    assert found.lift.value == pytest.approx(found.auprc.value / y.mean())
    assert found.f1.value == pytest.approx(f1_score(y, s > 1))
    for name in ("auroc", "auprc", "lift", "f1"):
        interval = getattr(found, name)
        assert interval.low < interval.value < interval.high


def test_recall_is_that_at_a_hundredth_of_false_alarms() -> None:
    truth_n = np.append(np.ones(10), np.zeros(200))
    size_n = np.append(np.linspace(10, 1, 10), np.append([5.5, 4.5, 3.5], np.zeros(197)))
    assert detect(size_n, truth_n, np.arange(210) % 7).recall.value == 0.7  # two of 200 lie above the seventh


def test_recall_of_flags_is_told_with_the_cells_outside_and_without() -> None:
    rng = np.random.default_rng(2)
    truth_n, flag_n, inside_n = (rng.random(400) < share for share in (0.3, 0.5, 0.6))
    size_n, truth_n = rng.normal(size=400), truth_n.astype(float)
    found = detect(size_n, truth_n, blocks_of(MESH, 32), flag_n.astype(float), inside_n)
    assert found.flagged.value == pytest.approx(recall_score(truth_n, flag_n))
    assert found.flagged_inside.value == pytest.approx(recall_score(truth_n[inside_n], flag_n[inside_n]))
    assert (
        detect(size_n, truth_n, blocks_of(MESH, 32), flag_n.astype(float)).flagged_inside.value == found.flagged.value
    )
    assert np.isnan(detect(size_n, truth_n, blocks_of(MESH, 32)).flagged.value)
    assert np.isnan(
        detect(size_n, truth_n, blocks_of(MESH, 32), flag_n.astype(float), truth_n == 0).flagged_inside.value
    )


def test_chance_is_a_half_and_blocks_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    field_b = rng.normal(size=(2, 16))
    block_n = np.repeat(np.arange(16), 25)
    truth_n, size_n = (field_b[0][block_n] > 0.5).astype(float), field_b[1][block_n] + 0.1 * rng.normal(size=400)
    by_block, by_cell = (detect(size_n, truth_n, at_n).auroc for at_n in (block_n, np.arange(400)))
    assert by_block.low < 0.5 < by_block.high
    assert by_block.high - by_block.low > 2 * (by_cell.high - by_cell.low)


@pytest.mark.parametrize("name", ["labels.geojson", "labels.parquet"])
def test_labels_mark_cells_they_cover_by_half(name: str, tmp_path: Path) -> None:
    import geopandas

    x, y = LATTICE.raster_geobox(MESH.rows, MESH.cols).boundingbox.left, -(-50 * 160 + 80.0)
    square = shapely.box(x + 0.3 * 160, y - 2 * 160, x + 3.3 * 160, y)
    shapes = geopandas.GeoSeries([scenes.to_lonlat(square, 32631)], crs=4326)
    table = geopandas.GeoDataFrame(geometry=shapes)
    table.to_parquet(tmp_path / name) if name.endswith("parquet") else table.to_file(tmp_path / name)
    (truth_n,) = read_truth(tmp_path / name, [MESH])
    assert np.flatnonzero(truth_n).tolist() == [0, 1, 2, 20, 21, 22]


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        (shapely.box(0, 0, 1, 1), "labels 0 of 400 cells"),
        (shapely.box(2, -1, 9, 3), "labels 400 of 400 cells"),
        (shapely.Point(3, 0), "no polygons, or other shapes"),
        (shapely.Polygon([(2, 0), (3, 1), (3, 0), (2, 1)]), "label 1 of .* is not valid"),
        (shapely.box(170, 0, 171, 1), "labels 0 of 400 cells .* 170, 0, 171, 1 degrees"),
    ],
)
def test_labels_that_tell_nothing_are_refused(shape: shapely.Geometry, told: str, tmp_path: Path) -> None:
    (tmp_path / "labels.geojson").write_text(shapely.to_geojson(shape))
    with pytest.raises(FormatError, match=told):
        read_truth(tmp_path / "labels.geojson", [MESH])


def test_only_zones_that_have_labels_are_scored(tmp_path: Path) -> None:
    far = Lattice(epsg=32632, gsd_m=10, size_px=32, stride_px=16)
    zones = [MESH, Addresses(lattice=far, rows=MESH.rows, cols=MESH.cols)]
    middle = scenes.to_lonlat(shapely.box(480_400, 6_000, 481_000, 7_000), 32631)
    (tmp_path / "labels.geojson").write_text(shapely.to_geojson(middle))
    found = read_truth(tmp_path / "labels.geojson", zones)
    assert 0 < found[0].sum() < 400 and found[1] is None
    with pytest.raises(FormatError, match="labels 0 of 400 cells"):
        read_truth(tmp_path / "labels.geojson", zones[1:])


def test_labels_without_a_crs_are_refused(tmp_path: Path) -> None:
    import geopandas

    geopandas.GeoDataFrame(geometry=geopandas.GeoSeries([shapely.box(0, 0, 1, 1)])).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(FormatError, match="does not say its CRS"):
        read_truth(tmp_path / "a.parquet", [MESH])


def test_blocks_of_patches_are_as_wide_as_blocks_of_chips() -> None:
    patches = Lattice(epsg=32631, gsd_m=10, size_px=4, stride_px=4)
    dense = Addresses(lattice=patches, rows=np.repeat(np.arange(64), 64), cols=np.tile(np.arange(64), 64))
    assert block_cells(dense, 32) * patches.cell_m == block_cells(MESH, 32) * LATTICE.cell_m == 640
    assert len(np.unique(blocks_of(dense, 32))) == 16
    assert len(np.unique(blocks_of(dense, 4))) == 1024


def test_fewer_than_eight_blocks_give_a_value_without_an_interval() -> None:
    rng = np.random.default_rng(3)
    truth_n, size_n = (np.arange(400) % 5 == 0).astype(float), rng.normal(size=400)
    few, enough = (detect(size_n, truth_n, np.arange(400) % blocks) for blocks in (MIN_BLOCKS - 1, MIN_BLOCKS))
    assert few.auroc.value == enough.auroc.value and enough.auroc.low < enough.auroc.value
    assert few.to_dict()["auroc"]["low"] is None and few.row()["AUROC"] == f"{few.auroc.value:.3f}"
    assert few.row()["F1 of flags"] == "-" and "[" in enough.row()["AUROC"]


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.geojson").write_text("not a map")
    with pytest.raises(FormatError, match="holds no labels"):
        read_truth(tmp_path / "labels.geojson", [MESH])
