"""Which dates are read: one that covers, else those that add ground."""

import numpy as np
import pytest
import shapely

from geoelle.errors import CatalogError
from geoelle.looks import plan_looks
from scenes import NORTH, SIDE_M, WEST, bare_item, to_lonlat

AREA = to_lonlat(shapely.box(WEST + 100, NORTH - SIDE_M + 100, WEST + SIDE_M - 100, NORTH - 100), 32631)
HALF = WEST + SIDE_M / 2
WESTERN = (WEST, NORTH - SIDE_M, HALF, NORTH)
EASTERN = (HALF, NORTH - SIDE_M, WEST + SIDE_M, NORTH)


def days(looks):
    return [str(look.date)[:10] for look in looks]


def test_the_clearest_date_that_covers_is_read_alone():
    items = [
        bare_item("a", moment="2024-06-01T10:50:00Z", cloud=20),
        bare_item("b", moment="2024-06-06T10:50:00Z", cloud=3),
        bare_item("c", moment="2024-06-11T10:50:00Z", cloud=0, bounds=WESTERN),
        bare_item("d", moment="2024-06-16T10:50:00Z", cloud=3),
    ]
    (look,) = plan_looks(items, AREA)
    assert days([look]) == ["2024-06-16"]
    assert (look.cloud, look.coverage, look.date_half_width_days) == (3, pytest.approx(1), 0)
    assert "1 items, cloud 3%, covers 100%" in str(look)


def test_without_one_each_next_date_adds_ground():
    items = [
        bare_item("w1", moment="2024-06-01T10:50:00Z", cloud=0, bounds=WESTERN),
        bare_item("w2", moment="2024-06-06T10:50:00Z", cloud=1, bounds=WESTERN),
        bare_item("w3", moment="2024-06-08T10:50:00Z", cloud=2, bounds=WESTERN),
        bare_item("e1", moment="2024-06-11T10:50:00Z", cloud=30, bounds=EASTERN),
        bare_item("far", moment="2024-06-12T10:50:00Z", cloud=0, bounds=(0, 0, 1000, 1000)),
    ]
    assert days(plan_looks(items, AREA, looks=2)) == ["2024-06-01", "2024-06-11"]
    assert days(plan_looks(items, AREA)) == ["2024-06-01", "2024-06-11", "2024-06-06", "2024-06-08"]
    assert plan_looks(items[-1:], AREA) == ()


def test_two_tiles_of_one_pass_are_one_look_with_weighted_cloud():
    third = WEST + SIDE_M / 3
    items = [
        bare_item("w", moment="2024-06-01T10:50:00Z", cloud=0, bounds=(WEST, NORTH - SIDE_M, third, NORTH)),
        bare_item("e", moment="2024-06-01T10:50:20Z", cloud=30, bounds=(third, *WESTERN[1:2], *EASTERN[2:])),
    ]
    (look,) = plan_looks(items, AREA)
    assert [item.id for item in look.items] == ["w", "e"]
    assert look.date == np.datetime64("2024-06-01T10:50:10")
    assert look.cloud == pytest.approx(20, abs=1) and look.coverage == pytest.approx(1)


def test_a_pass_over_midnight_is_one_solar_day():
    # At 175 degrees east, noon is shortly after midnight UTC.
    east = shapely.box(175.0, -40.0, 175.1, -39.9)
    items = [
        bare_item(n, moment=m, bounds=(*east.bounds,), epsg=4326)
        for n, m in (
            ("a", "2024-05-31T23:59:50Z"),
            ("b", "2024-06-01T00:00:10Z"),
            ("c", "2024-06-01T23:59:50Z"),
        )
    ]
    (look,) = plan_looks(items[:2], east)
    assert len(look.items) == 2 and look.date == np.datetime64("2024-06-01T00:00:00")
    assert len(plan_looks(items, east)[0].items) == 1


def test_a_period_has_its_middle_and_half_width():
    item = bare_item("month")
    item.datetime = None
    item.properties |= {"start_datetime": "2024-06-01T00:00:00Z", "end_datetime": "2024-07-01T00:00:00Z"}
    (look,) = plan_looks([item], AREA)
    assert look.date == np.datetime64("2024-06-16T00:00:00") and look.date_half_width_days == 15


def test_unknown_cloud_counts_as_cloudy_beside_known_and_clear_alone():
    known = bare_item("k", moment="2024-06-01T10:50:00Z", cloud=35)
    unknown = bare_item("u", moment="2024-06-06T10:50:00Z", cloud=None)
    later = bare_item("v", moment="2024-06-11T10:50:00Z", cloud=None)
    assert days(plan_looks([known, unknown], AREA)) == ["2024-06-01"]
    (look,) = plan_looks([unknown, later], AREA)
    assert days([look]) == ["2024-06-11"] and look.cloud is None and "cloud unknown" in str(look)


def test_no_looks_is_refused():
    with pytest.raises(CatalogError, match="looks of a plan is 0"):
        plan_looks([], AREA, looks=0)
    assert plan_looks([], AREA) == ()
