from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import LinearSegmentedColormap, to_rgb

from geoelle.errors import FormatError, GeoelleError
from geoelle.style import DIVERGING, SEQUENTIAL, Ramp, write_qml


@pytest.mark.parametrize("name", [*SEQUENTIAL, *DIVERGING])
def test_stops_are_samples_of_the_named_colour_map(name: str) -> None:
    ramp = Ramp(name=name, low=0, high=1, label="x")
    ours = LinearSegmentedColormap.from_list(name, ramp.colours, N=256)(np.linspace(0, 1, 256))
    theirs = matplotlib.colormaps[name](np.linspace(0, 1, 256))
    assert np.abs(ours - theirs).max() < 0.06
    stops = np.array([to_rgb(colour) for colour in ramp.colours])
    assert np.abs(stops - matplotlib.colormaps[name](np.linspace(0, 1, 11))[:, :3]).max() < 0.005


def test_sequential_limits_are_percentiles_of_the_finite_values() -> None:
    values = np.append(np.arange(101.0), [np.nan, np.inf])
    ramp = Ramp.sequential(values, label="difficulty", unit="ln loss")
    assert (ramp.low, ramp.high) == (2.0, 98.0)
    assert (ramp.stops[0], ramp.stops[5], ramp.stops[-1]) == (2.0, 50.0, 98.0)
    assert ramp.legend == "difficulty [ln loss]"
    assert not ramp.is_diverging


def test_diverging_limits_are_symmetric_about_zero() -> None:
    ramp = Ramp.diverging(np.linspace(-1, 3, 401), label="excess")
    assert ramp.low == -ramp.high
    assert ramp.high == pytest.approx(np.percentile(np.abs(np.linspace(-1, 3, 401)), 98))
    assert ramp.stops[5] == 0.0
    assert ramp.is_diverging
    assert ramp.legend == "excess"


@pytest.mark.parametrize("constant", [0.0, -3.5, 1e6])
def test_a_constant_layer_gets_a_ramp_around_it(constant: float) -> None:
    ramp = Ramp.sequential(np.full(9, constant), label="flat")
    assert ramp.low < constant < ramp.high


def test_nothing_finite_cannot_be_coloured() -> None:
    with pytest.raises(FormatError, match="no finite value to colour for difficulty"):
        Ramp.sequential(np.full(4, np.nan), label="difficulty")


@pytest.mark.parametrize(
    ("name", "low", "high"), [("jet", 0, 1), ("magma", 1, 1), ("magma", float("nan"), 1)]
)
def test_ramps_that_make_no_sense_are_refused(name: str, low: float, high: float) -> None:
    with pytest.raises(FormatError, match="difficulty"):
        Ramp(name=name, low=low, high=high, label="difficulty")


def test_qml_holds_the_ramp_and_hides_nodata(tmp_path: Path) -> None:
    ramp = Ramp(name="magma", low=-2.0, high=-1.0, label="difficulty", unit='ln "loss" <&>')
    write_qml(tmp_path / "difficulty.qml", ramp, band=2)
    root = ElementTree.parse(tmp_path / "difficulty.qml").getroot()
    renderer = root.find("pipe/rasterrenderer")
    assert renderer.attrib | {"type": "singlebandpseudocolor", "band": "2", "opacity": "1"} == renderer.attrib
    assert renderer.get("nodataColor") == ""
    assert (float(renderer.get("classificationMin")), float(renderer.get("classificationMax"))) == (
        -2.0,
        -1.0,
    )
    assert renderer.find("minMaxOrigin/limits").text == "None"
    items = renderer.findall("rastershader/colorrampshader/item")
    assert [item.get("color") for item in items] == list(ramp.colours)
    assert [float(item.get("value")) for item in items] == list(ramp.stops)
    assert {item.get("alpha") for item in items} == {"255"}
    assert items[0].get("label") == '-2.000 ln "loss" <&>'
    options = {o.get("name"): o.get("value") for o in renderer.iter("Option")}
    assert options["color1"] == "0,0,4,255"
    assert options["stops"].startswith("0.1;20,14,54,255:0.2;")


def test_qml_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    ramp = Ramp(name="magma", low=0.0, high=1.0, label="x")
    first = write_qml(tmp_path / "x.qml", ramp).read_bytes()
    with pytest.raises(GeoelleError, match="it exists"):
        write_qml(tmp_path / "x.qml", ramp)
    assert write_qml(tmp_path / "x.qml", ramp, overwrite=True).read_bytes() == first
