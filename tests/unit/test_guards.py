"""What differs between the items of two dates is found, worded and refused by thresholds."""

import pytest

from geoelle.errors import InputMismatch
from geoelle.guards import SUN_REFUSE_DEG, SUN_WARN_DEG, compare_items, refuse
from scenes import bare_item


def item(collection: str = "sentinel-2-l2a", **properties: object) -> dict:
    found = bare_item("a", properties=properties, collection=collection).to_dict(include_self_link=False)
    return {**found, "properties": {k: v for k, v in found["properties"].items() if v is not None}}


def verdicts(before: dict, after: dict) -> dict[str, str]:
    return {check.what: check.verdict for check in compare_items([before], [after])}


def test_equal_items_differ_in_nothing_and_what_is_not_recorded_is_said() -> None:
    found = verdicts(item(), item())
    assert found["processing baseline"] == found["satellite"] == found["grid"] == "same"
    assert found["relative orbit"] == found["sun elevation"] == found["level"] == "not recorded"
    assert not {"warn", "refuse"} & set(found.values())


URI = "S2A_MSIL2A_20200804T093041_N0214_R{:03d}_T34TFQ_20200804T120000.SAFE"


@pytest.mark.parametrize(
    ("what", "key", "one", "other", "verdict"),
    [
        ("processing baseline", "s2:processing_baseline", "03.01", "05.10", "warn"),
        ("satellite", "platform", "sentinel-2a", "sentinel-2b", "warn"),
        ("relative orbit", "sat:relative_orbit", 36, 79, "warn"),
        ("relative orbit", "sat:relative_orbit", 36, None, "not recorded"),
        ("relative orbit", "s2:product_uri", URI.format(136), URI.format(93), "warn"),
        ("relative orbit", "s2:product_uri", URI.format(136), URI.format(136), "same"),
        ("relative orbit", "s2:product_id", URI.format(136), URI.format(93), "warn"),
        ("grid", "proj:code", "EPSG:32631", "EPSG:32632", "warn"),
        ("level", "s2:product_type", "S2MSI1C", "S2MSI2A", "refuse"),
        ("level", "s2:product_type", "S2MSI2A", None, "not recorded"),
        ("level", "s2:product_type", None, "S2MSI2A", "not recorded"),
        ("level", "processing:level", "l2a", "S2MSI2Ap", "same"),
        ("level", "processing:level", "L2A", "S2MSI2A", "same"),
        ("level", "processing:level", "L2A", "L1C", "refuse"),
        ("sun elevation", "view:sun_elevation", 60.0, 60 - SUN_WARN_DEG, "same"),
        ("sun elevation", "view:sun_elevation", 60.0, 59.9 - SUN_WARN_DEG, "warn"),
        ("sun elevation", "view:sun_elevation", 60.0, 59.9 - SUN_REFUSE_DEG, "refuse"),
        ("sun elevation", "s2:mean_solar_zenith", 20.0, 60.0, "refuse"),
        ("view angle", "view:off_nadir", 0.0, 9.0, "warn"),
    ],
)
def test_each_condition(what: str, key: str, one: object, other: object, verdict: str) -> None:
    assert verdicts(item(**{key: one}), item(**{key: other}))[what] == verdict


def test_radar_from_another_orbit_is_refused_with_the_reason() -> None:
    pair = [[item("sentinel-1-rtc", **{"sat:relative_orbit": orbit})] for orbit in (8, 81)]
    with pytest.raises(InputMismatch, match=r"before and after \(relative orbit: 8 before, 81 after; the"):
        refuse(compare_items(*pair), pair="before and after")
    refuse(compare_items(pair[0], pair[0]), pair="before and after")


def test_an_orbit_is_one_whether_a_field_states_it_or_the_name_of_the_product() -> None:
    named = {**item(), "id": "S2A_MSIL2A_20200804T093041_R093_T34TFQ_20200804T120000"}
    assert verdicts(named, item(**{"sat:relative_orbit": 93}))["relative orbit"] == "same"
    assert verdicts(named, item(**{"sat:relative_orbit": 136}))["relative orbit"] == "warn"


def test_a_level_is_spelled_in_many_ways_and_of_other_sensors_left_as_it_is() -> None:
    pair = [item(**{"s2:product_type": "S2MSI2A"}), item(**{"processing:level": "L2A"})]
    assert verdicts(*pair)["level"] == "same"
    other = {"platform": "landsat-8", "s2:processing_baseline": None}
    landsat = [item("landsat-c2-l2", **other, **{"processing:level": text}) for text in ("L1C", "L2A")]
    found = {check.what: check for check in compare_items(*([one] for one in landsat))}["level"]
    assert (found.before, found.after, found.verdict) == ("L1C", "L2A", "refuse")


def test_several_items_a_side_are_compared_as_sets_and_means() -> None:
    a, b = (item(platform=name, **{"view:sun_elevation": sun}) for name, sun in (("s2a", 40.0), ("s2b", 60.0)))
    found = {check.what: check for check in compare_items([a, b], [b])}
    assert (found["satellite"].before, found["satellite"].after) == ("s2a, s2b", "s2b")
    assert found["satellite"].verdict == "warn"
    assert found["sun elevation"].before == "50.0°" and found["sun elevation"].verdict == "same"
