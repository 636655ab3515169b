"""`Area`: every spelling of ground and dates a user may write, and a clear error for the rest."""

import json
import time
from datetime import UTC, datetime, timedelta, timezone

import geopandas
import numpy as np
import pandas
import pytest
import shapely

from geoelle.area import Area, lattices_for
from geoelle.errors import AreaError

SQUARE = shapely.Polygon([(4, 51), (4.2, 51), (4.2, 51.1), (4, 51.1)])
NANO = {"gsd_m": 10, "size_px": 32, "stride_px": 16}


def area(bbox: str = "4,51,4.2,51.1", dates: str = "2024") -> Area:
    return Area.parse(bbox=bbox, dates=dates)


def test_bbox_is_west_south_east_north():
    assert area("4, 51, 4.2, 51.1").bbox == (4.0, 51.0, 4.2, 51.1)
    assert Area.parse(bbox=[4, 51, 4.2, 51.1], dates="2024") == area()
    assert area().centroid == pytest.approx((4.1, 51.05))
    assert area().geometry.bounds == area().bbox


def test_km2_is_the_area_on_the_ellipsoid():
    # 0.2 degrees of longitude at 51.05 N are 14.031 km, 0.1 degrees of latitude 11.126 km
    assert area().km2 == pytest.approx(156.1, rel=2e-3)
    hole = SQUARE.difference(shapely.box(4.05, 51.02, 4.15, 51.08))
    assert Area.parse(polygon=hole, dates="2024").km2 == pytest.approx(area().km2 * 0.7, rel=2e-3)
    wound = shapely.Polygon(hole.exterior.coords[::-1], [hole.interiors[0].coords])
    again = shapely.Polygon(hole.exterior.coords, [hole.interiors[0].coords[::-1]])
    for polygon in (wound, again):
        assert Area.parse(polygon=polygon, dates="2024").km2 == pytest.approx(area().km2 * 0.7, rel=2e-3)


@pytest.mark.parametrize(
    ("bbox", "says"),
    [
        ("4,51,4.2", "3 numbers"),
        ("4,51,4.2,51.1,9", "5 numbers"),
        ("4,51,east,51.1", "not made of numbers"),
        ("4.2,51,4,51.1", "reversed"),
        ("4,51.1,4.2,51", "reversed"),
        ("179,10,-179,11", "antimeridian"),
        ("179,10,181,11", "antimeridian"),
        ("-179,10,179,11", "spans 358 degrees"),
        ("4,51,4,51.1", "no area"),
        ("4,51,4.2,51", "no area"),
        ("4,51,nan,51.1", "not finite"),
        ("4,-inf,4.2,51.1", "not finite"),
        ("4,51,4.2,91", "out of range"),
        ("51,104,51.1,104.2", "out of range"),
    ],
)
def test_bad_bbox_is_named_with_its_value(bbox, says):
    with pytest.raises(AreaError, match=says) as failure:
        area(bbox)
    assert bbox.split(",")[0] in str(failure.value)
    assert "; give" in str(failure.value)


def test_an_area_needs_ground_once():
    with pytest.raises(AreaError, match="bbox or a polygon"):
        Area.parse(dates="2024")
    with pytest.raises(AreaError, match="bbox or a polygon"):
        Area.parse(bbox="4,51,4.2,51.1", polygon=SQUARE, dates="2024")


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("2024", "2024-01-01T00:00:00Z/2024-12-31T23:59:59Z"),
        ("2023-02", "2023-02-01T00:00:00Z/2023-02-28T23:59:59Z"),
        ("2024-02", "2024-02-01T00:00:00Z/2024-02-29T23:59:59Z"),
        ("2024-12", "2024-12-01T00:00:00Z/2024-12-31T23:59:59Z"),
        ("2024-06-01", "2024-06-01T00:00:00Z/2024-06-01T23:59:59Z"),
        ("2023/2024-06", "2023-01-01T00:00:00Z/2024-06-30T23:59:59Z"),
        ("2024-06-01T01:30:00+02:00/2024-06-02", "2024-05-31T23:30:00Z/2024-06-02T23:59:59Z"),
        ("2024-06-01T12:00/2024-06-01T12:00:05Z", "2024-06-01T12:00:00Z/2024-06-01T12:00:05Z"),
    ],
)
def test_dates_are_closed_periods_in_utc(text, dates):
    assert area(dates=text).dates == dates
    assert area(dates=dates).dates == dates


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yesterday", "cannot be read"),
        ("", "cannot be read"),
        ("24-06-01", "cannot be read"),
        ("2024-6-1", "cannot be read"),
        ("../2024", "cannot be read"),
        ("2024-13", "does not exist"),
        ("2023-02-29", "does not exist"),
        ("2024-06-01T25:00:00Z", "does not exist"),
        ("2024-06-02/2024-06-01", "reversed"),
        ("2025/2024", "reversed"),
        ("2023/2024/2025", "3 sides"),
    ],
)
def test_bad_dates_are_named_with_their_text(text, says):
    with pytest.raises(AreaError, match=says) as failure:
        area(dates=text)
    assert text.split("/")[0] in str(failure.value)


def test_the_constructor_checks_too():
    day = datetime(2024, 6, 1, tzinfo=UTC)
    with pytest.raises(AreaError, match="reversed"):
        Area(bbox=(4, 51, 3, 52), start=day, end=day)
    with pytest.raises(AreaError, match="not in UTC"):
        Area(bbox=(4, 51, 5, 52), start=day.replace(tzinfo=None), end=day)
    with pytest.raises(AreaError, match="not in UTC"):
        Area(bbox=(4, 51, 5, 52), start=day.astimezone(timezone(timedelta(hours=2))), end=day)
    with pytest.raises(AreaError, match="not the bounds"):
        Area(bbox=(4, 51, 5, 52), start=day, end=day, polygon=SQUARE)


def test_polygon_spellings_give_one_area(tmp_path):
    as_json = shapely.geometry.mapping(SQUARE)
    feature = {"type": "Feature", "properties": {}, "geometry": as_json}
    collection = {"type": "FeatureCollection", "features": [feature]}
    (tmp_path / "a.geojson").write_text(json.dumps(collection))
    (tmp_path / "a.json").write_text(json.dumps(feature))
    geopandas.GeoSeries([SQUARE], crs=4326).to_frame("geometry").to_parquet(tmp_path / "a.parquet")
    spellings = [
        SQUARE,
        as_json,
        SQUARE.wkt,
        json.dumps(as_json),
        *(tmp_path / f"a.{s}" for s in ("geojson", "json")),
    ]
    spellings += [tmp_path / "a.parquet", str(tmp_path / "a.parquet")]
    areas = {Area.parse(polygon=polygon, dates="2024") for polygon in spellings}
    assert len(areas) == 1
    assert areas.pop().bbox == SQUARE.bounds


def test_polygon_files_in_another_crs_are_carried_to_degrees(tmp_path):
    frame = geopandas.GeoSeries([SQUARE], crs=4326).to_crs(3035).to_frame("geometry")
    frame.to_parquet(tmp_path / "a.parquet")
    name = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3035"}}
    content = {"type": "Polygon", "coordinates": [list(frame.geometry[0].exterior.coords)], "crs": name}
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    for suffix in ("parquet", "geojson"):
        found = Area.parse(polygon=tmp_path / f"a.{suffix}", dates="2024")
        assert found.bbox == pytest.approx(SQUARE.bounds, abs=1e-3)
        assert found.polygon.symmetric_difference(SQUARE).area < 1e-3 * SQUARE.area


def test_crs84_is_left_as_written():
    content = shapely.geometry.mapping(SQUARE) | {
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    }
    assert Area.parse(polygon=content, dates="2024").polygon.equals_exact(SQUARE)


def test_polygons_of_a_file_are_joined_and_flattened():
    west, east = shapely.box(4, 51, 4.2, 51.1), shapely.force_3d(shapely.box(4.1, 51, 4.4, 51.1), 7.0)
    features = [{"type": "Feature", "geometry": shapely.geometry.mapping(g)} for g in (west, east)]
    found = Area.parse(polygon={"type": "FeatureCollection", "features": features}, dates="2024")
    assert found.bbox == (4.0, 51.0, 4.4, 51.1)
    assert found.polygon.area == pytest.approx(0.04)
    assert not found.polygon.has_z
    islands = shapely.MultiPolygon([west, shapely.box(5, 51, 5.1, 51.1)])
    assert Area.parse(polygon=islands, dates="2024").polygon.area == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("polygon", "says"),
    [
        (shapely.Point(4, 51), "no area"),
        (shapely.LineString([(4, 51), (5, 52)]), "no area"),
        (shapely.Polygon(), "no area"),
        (shapely.Polygon([(4, 51), (5, 52), (5, 51), (4, 52)]), "not valid"),
        (shapely.box(179, 10, 181, 11), "antimeridian"),
        (
            shapely.MultiPolygon([shapely.box(179, 10, 180, 11), shapely.box(-180, 10, -179, 11)]),
            "antimeridian",
        ),
        ({"type": "FeatureCollection", "features": []}, "holds no geometry"),
        ({"type": "Feature", "geometry": None}, "not GeoJSON"),
        ({"type": "Sphere"}, "not GeoJSON"),
        ({"coordinates": []}, "not GeoJSON"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "not GeoJSON"),
        ("POLYGON((4 51, 5 52", "not WKT"),
        ("{not json", "not JSON"),
        ("missing.geojson", "does not exist"),
    ],
)
def test_bad_polygon_is_refused(polygon, says):
    with pytest.raises(AreaError, match=says):
        Area.parse(polygon=polygon, dates="2024")


def test_bad_polygon_files_are_refused_by_name(tmp_path):
    (tmp_path / "a.geojson").write_text("[1, 2")
    (tmp_path / "b.json").write_text("[1, 2]")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really PAR1")
    (tmp_path / "a.shp").write_bytes(b"")
    pandas.DataFrame({"a": [1]}).to_parquet(tmp_path / "b.parquet")
    cases = {
        "a.geojson": "not JSON",
        "b.json": "not GeoJSON",
        "a.parquet": "not GeoParquet",
        "b.parquet": "not GeoParquet",
        "a.shp": "known kind",
    }
    for name, says in cases.items():
        with pytest.raises(AreaError, match=says) as failure:
            Area.parse(polygon=tmp_path / name, dates="2024")
        assert name in str(failure.value)


def test_areas_hash_print_and_go_into_a_manifest():
    plain, shaped = area(), Area.parse(polygon=SQUARE, dates="2024")
    assert hash(plain) == hash(area())
    assert plain != shaped
    assert "4.2" in repr(plain)
    for one in (plain, shaped):
        kept = json.loads(json.dumps(one.to_dict()))
        assert list(kept) == ["bbox", "dates", "polygon"]
        ground = {"polygon": kept["polygon"]} if kept["polygon"] else {"bbox": kept["bbox"]}
        assert Area.parse(**ground, dates=kept["dates"]) == one


@pytest.mark.parametrize(
    ("bbox", "zones"),
    [
        ("4,51,4.2,51.1", [32631]),
        ("0,51,6,51.1", [32631]),
        ("5.9,51,6.1,51.1", [32631, 32632]),
        ("-71,-34,-65,-33", [32719, 32720]),
        ("8,-1,9,1", [32632, 32732]),
        ("5,-1,7,1", [32631, 32731, 32632, 32732]),
        ("179,10,180,11", [32660]),
        ("-180,10,-179,11", [32601]),
        ("5,60,5.5,60.5", [32631]),
    ],
)
def test_utm_zones_go_west_to_east(bbox, zones):
    assert area(bbox).utm_epsgs() == zones


def test_utm_zones_follow_the_polygon_not_its_bounds():
    islands = shapely.MultiPolygon([shapely.box(1, 51, 2, 52), shapely.box(13, 51, 14, 52)])
    assert Area.parse(polygon=islands, dates="2024").utm_epsgs() == [32631, 32633]


def test_beyond_utm_a_crs_must_be_named():
    polar = area("10,85,20,86")
    with pytest.raises(AreaError, match="UTM does not reach"):
        lattices_for(polar, **NANO)
    [(lattice, addresses)] = lattices_for(polar, **NANO, epsg=3413)
    assert lattice.epsg == 3413
    assert len(addresses) * lattice.cell_m**2 / 1e6 == pytest.approx(polar.km2, rel=0.08)


def test_a_cell_lies_in_the_zone_of_its_centre():
    found = lattices_for(area("5.95,51,6.05,51.1"), **NANO)
    assert [lattice.epsg for lattice, _ in found] == [32631, 32632]
    (_, west), (_, east) = found
    assert (west.lonlat_n2[:, 0] < 6).all()
    assert (east.lonlat_n2[:, 0] >= 6).all()
    total = (len(west) + len(east)) * 0.16**2
    assert total == pytest.approx(area("5.95,51,6.05,51.1").km2, rel=0.05)


def test_a_cell_lies_in_the_hemisphere_of_its_centre():
    (north, up), (south, down) = lattices_for(area("8.5,-0.02,8.6,0.02"), **NANO)
    assert (north.epsg, south.epsg) == (32632, 32732)
    assert (up.rows <= -1).all()
    assert (up.lonlat_n2[:, 1] >= 0).all()
    assert (down.lonlat_n2[:, 1] < 0).all()


def test_the_zone_of_a_place_does_not_depend_on_the_area():
    wide = {t for _, a in lattices_for(area("5.9,51,6.1,51.05"), **NANO) for t in a.strings()}
    narrow = {t for _, a in lattices_for(area("5.99,51.01,5.999,51.02"), **NANO) for t in a.strings()}
    assert narrow < wide


def test_no_cell_centre_in_the_zone_is_an_error_with_a_way_out():
    sliver = area("5.99999,50.14,6,50.14001")
    with pytest.raises(AreaError, match="no cell centre"):
        lattices_for(sliver, gsd_m=10, size_px=256, stride_px=256)
    assert len(lattices_for(sliver, gsd_m=10, size_px=256, stride_px=256, epsg=32631)[0][1]) == 1


@pytest.mark.parametrize(
    ("epsg", "says"),
    [(4326, "not projected in metres"), (2263, "not projected in metres"), (999999, "no CRS has the code")],
)
def test_a_crs_must_be_projected_in_metres(epsg, says):
    with pytest.raises(AreaError, match=says) as failure:
        lattices_for(area(), **NANO, epsg=epsg)
    assert str(epsg) in str(failure.value)


def test_a_crs_that_cannot_hold_the_area_is_refused():
    with pytest.raises(AreaError, match="cannot hold"):
        lattices_for(area("-100,-40,-99.9,-39.9"), **NANO, epsg=3035)
    with pytest.raises(AreaError, match="cannot hold"):
        lattices_for(area("12.5,51,12.6,51.1"), **NANO, epsg=32631)


@pytest.mark.parametrize(("bbox", "epsg"), [("6.1,51,6.2,51.1", 32631), ("-179.9,51,-179.8,51.1", 32660)])
def test_a_neighbouring_zone_holds_the_area(bbox, epsg):
    [(_, addresses)] = lattices_for(area(bbox), **NANO, epsg=epsg)
    assert len(addresses) * 0.16**2 == pytest.approx(area(bbox).km2, rel=0.05)


def test_a_cube_across_the_antimeridian_has_a_crs_of_its_own():
    [(lattice, addresses)] = lattices_for(area("-179.9,-44.1,-179.8,-44"), **NANO, epsg=2193)
    assert np.allclose(addresses.lonlat_n2.mean(axis=0), (-179.85, -44.05), atol=1e-3)
    assert lattice.epsg == 2193


def test_1500_km2_of_160_m_cells_take_under_two_seconds():
    wide = area("4,51,4.5,51.4")
    lattices_for(area(), **NANO)
    start = time.perf_counter()
    [(lattice, addresses)] = lattices_for(wide, **NANO)
    assert time.perf_counter() - start < 2
    assert len(addresses) * lattice.cell_m**2 / 1e6 == pytest.approx(wide.km2, rel=0.02)


def test_too_many_cells_are_refused_before_they_are_made():
    with pytest.raises(AreaError, match="split it"):
        lattices_for(area("0,40,6,50"), gsd_m=1, size_px=32, stride_px=16)


def test_a_polygon_selects_less_than_its_bbox():
    triangle = shapely.Polygon([(4, 51), (4.2, 51), (4, 51.1)])
    [(_, of_bbox)] = lattices_for(area(), **NANO)
    [(_, of_triangle)] = lattices_for(Area.parse(polygon=triangle, dates="2024"), **NANO)
    assert set(of_triangle.strings()) < set(of_bbox.strings())
    assert len(of_triangle) / len(of_bbox) == pytest.approx(0.5, abs=0.03)
    assert np.all(np.diff(of_triangle.rows) >= 0)
