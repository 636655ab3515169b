"""What metadata say: moments, footprints over the antimeridian, tiles."""

from datetime import UTC, datetime

import pystac
import pytest
import shapely

from geoelle.errors import CatalogError
from geoelle.scene import cloud, footprint, interval, tile
from scenes import bare_item


def item_of(geometry, bbox=None, **properties):
    item = pystac.Item(
        "x", geometry, bbox, datetime(2024, 1, 1, tzinfo=UTC), {"eo:cloud_cover": 3, **properties}
    )
    return item


def test_a_moment_or_a_period_in_utc():
    item = bare_item("x", moment="2024-06-01T12:00:00+02:00")
    assert interval(item) == (datetime(2024, 6, 1, 10, tzinfo=UTC),) * 2
    item.datetime = datetime(2024, 6, 1, 12)
    assert interval(item)[0] == datetime(2024, 6, 1, 12, tzinfo=UTC)
    item.datetime = None
    item.properties |= {"start_datetime": "2024-06-01T00:00:00Z", "end_datetime": "2024-06-30T00:00:00Z"}
    assert interval(item) == (datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 6, 30, tzinfo=UTC))
    del item.properties["end_datetime"]
    with pytest.raises(CatalogError, match="item x has neither datetime nor start and end"):
        interval(item)


def test_a_footprint_over_the_antimeridian_is_split():
    ring = [[179.5, -17], [-179.5, -17], [-179.5, -16], [179.5, -16], [179.5, -17]]
    shape = footprint(item_of({"type": "Polygon", "coordinates": [ring]}))
    assert shape.area == pytest.approx(1.0)
    assert shape.intersects(shapely.Point(179.9, -16.5)) and shape.intersects(shapely.Point(-179.9, -16.5))
    assert not shape.intersects(shapely.Point(0, -16.5))


def test_a_footprint_from_bbox_and_with_height():
    assert footprint(item_of(None, [1, 2, 3, 4])).bounds == (1, 2, 3, 4)
    assert footprint(item_of(None, [1, 2, 0, 3, 4, 99])).bounds == (1, 2, 3, 4)
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}
    assert footprint(item_of(bow)).is_valid
    for geometry in ({"type": "Polygon"}, {"type": "Polygon", "coordinates": "far"}):
        with pytest.raises(CatalogError, match="footprint of item x is no geometry"):
            footprint(item_of(geometry))


@pytest.mark.parametrize(
    ("name", "properties", "expected"),
    [
        ("x", {"grid:code": "MGRS-05VVN"}, "5VVN"),
        ("x", {"s2:mgrs_tile": "31TFJ"}, "31TFJ"),
        ("x", {"mgrs:utm_zone": 20, "mgrs:latitude_band": "E", "mgrs:grid_square": "PT"}, "20EPT"),
        ("x", {"landsat:wrs_path": "028", "landsat:wrs_row": "030"}, "28/30"),
        ("S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531", {}, "6VVN"),
        ("S2A_28QCH_20200714_0_L2A", {}, "28QCH"),
        ("HLS.S30.T17SQC.2021001T160621.v2.0", {}, "17SQC"),
        ("m_4709963_se_14_1_20150926", {}, ""),
    ],
)
def test_tile(name, properties, expected):
    item = item_of(None, [0, 0, 1, 1], **properties)
    item.id = name
    assert tile(item) == expected


def test_cloud():
    assert cloud(item_of(None, [0, 0, 1, 1])) == 3
    assert cloud(bare_item("x", cloud=None)) is None
    with pytest.raises(CatalogError, match="eo:cloud_cover of item x is no number"):
        cloud(item_of(None, [0, 0, 1, 1], **{"eo:cloud_cover": "some"}))
