"""Colour a band: `Ramp` for maps and legends, `Classes` for codes, and the QGIS style files that carry them.

The stops are samples of matplotlib's perceptually uniform `cividis`, `magma` and `viridis` and of
ColorBrewer's diverging `RdBu`, linear in sRGB between stops, so that a COG in QGIS, a quicklook and a report
show one value in one colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from geoelle.errors import FormatError
from geoelle.files import write_bytes

__all__ = ["CLASS_NODATA", "DIVERGING", "SEQUENTIAL", "Classes", "Ramp", "write_class_qml", "write_qml"]

SEQUENTIAL = {
    "cividis": "00224e 083370 35456c 4f576c 666970 7d7c78 948e77 aea371 c8b866 e5cf52 fee838",
    "magma": "000004 140e36 3b0f70 641a80 8c2981 b73779 de4968 f7705c fe9f6d fecf92 fcfdbf",
    "viridis": "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725",
}
DIVERGING = {"RdBu_r": "053061 2065ab 4393c3 90c4dd d1e5f0 f7f6f6 fddbc7 f3a481 d6604d b1182b 67001f"}

CLASS_NODATA = 255
"""The code of a cell that has no class."""
_PERCENTILES = (2.0, 98.0)
_DIGITS = 3
_OPEN = """\
<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology">
  <pipe>
    <provider>
      <resampling enabled="false" zoomedInResamplingMethod="nearestNeighbour" \
zoomedOutResamplingMethod="nearestNeighbour" maxOversampling="2"/>
    </provider>
"""
_WHOLE = """\
      <rasterTransparency/>
      <minMaxOrigin>
        <limits>None</limits>
        <extent>WholeRaster</extent>
        <statAccuracy>Exact</statAccuracy>
      </minMaxOrigin>
"""
_CLOSE = """\
    <brightnesscontrast brightness="0" contrast="0" gamma="1"/>
    <huesaturation saturation="0" grayscaleMode="0" colorizeOn="0"/>
    <rasterresampler maxOversampling="2"/>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""
_QML = (
    _OPEN
    + """\
    <rasterrenderer type="singlebandpseudocolor" band="{band}" opacity="1" alphaBand="-1" nodataColor="" \
classificationMin="{low!r}" classificationMax="{high!r}">
"""
    + _WHOLE
    + """\
      <rastershader>
        <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" \
minimumValue="{low!r}" maximumValue="{high!r}" labelPrecision="{digits}">
          <colorramp type="gradient" name="[source]">
            <Option type="Map">
              <Option type="QString" name="color1" value="{first}"/>
              <Option type="QString" name="color2" value="{last}"/>
              <Option type="QString" name="discrete" value="0"/>
              <Option type="QString" name="rampType" value="gradient"/>
              <Option type="QString" name="stops" value="{middle}"/>
            </Option>
          </colorramp>
{items}
          <rampLegendSettings useContinuousLegend="1" orientation="2" direction="0" \
minimumLabel="" maximumLabel="" prefix="" suffix={suffix}>
            <numericFormat id="basic">
              <Option type="Map">
                <Option type="int" name="decimals" value="{digits}"/>
                <Option type="int" name="rounding_type" value="0"/>
                <Option type="bool" name="show_trailing_zeros" value="true"/>
              </Option>
            </numericFormat>
          </rampLegendSettings>
        </colorrampshader>
      </rastershader>
    </rasterrenderer>
"""
    + _CLOSE
)
_CLASS_QML = (
    _OPEN
    + """\
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
"""
    + _WHOLE
    + """\
      <colorPalette>
{entries}
      </colorPalette>
    </rasterrenderer>
"""
    + _CLOSE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Name and colour the codes 0, 1, ... of a band; colours are "#rrggbb".

    Raises:
        FormatError: not one colour a name.
    """

    label: str
    names: tuple[str, ...]
    colours: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colours):
            raise FormatError(
                f"{self.label} has {len(self.names)} classes and {len(self.colours)} colours; give one each"
            )

    @property
    def rgb(self) -> tuple[tuple[int, int, int], ...]:
        """Return red, green and blue of each code, 0-255."""
        return tuple(tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in self.colours)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """Map values to colours: `low` and `high` are values of the band, `name` is a key of the stop tables.

    Values outside the limits take the end colours. `label` says what the band is; `unit` may be "".

    Raises:
        FormatError: a ramp of no such name, or limits that are not finite and increasing.
    """

    name: str
    low: float
    high: float
    label: str
    unit: str = ""

    def __post_init__(self) -> None:
        if self.name not in SEQUENTIAL and self.name not in DIVERGING:
            known = ", ".join([*SEQUENTIAL, *DIVERGING])
            raise FormatError(f"no colour ramp is called {self.name!r} for {self.label}; use one of {known}")
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise FormatError(f"limits of the ramp of {self.label} are {self.low} to {self.high}; give low < high")

    @classmethod
    def sequential(cls, values: np.ndarray, *, label: str, unit: str = "", name: str = "magma") -> Ramp:
        """Fit the limits to the 2nd and 98th percentile of the finite values of any shape.

        Raises:
            FormatError: no value is finite.
        """
        low, high = _percentiles(values, _PERCENTILES, label)
        return cls(name=name, low=low, high=high, label=label, unit=unit)

    @classmethod
    def diverging(cls, values: np.ndarray, *, label: str, unit: str = "", name: str = "RdBu_r") -> Ramp:
        """Centre the ramp on zero and fit its half width to the 98th percentile of |value|.

        Raises:
            FormatError: no value is finite.
        """
        _, half = _percentiles(np.abs(values), (0.0, _PERCENTILES[1]), label)
        return cls(name=name, low=-half, high=half, label=label, unit=unit)

    @property
    def is_diverging(self) -> bool:
        """Return whether the middle of the ramp is a neutral colour."""
        return self.name in DIVERGING

    @property
    def colours(self) -> tuple[str, ...]:
        """Return the stops as "#rrggbb", evenly spaced from `low` to `high`."""
        return tuple(f"#{stop}" for stop in (SEQUENTIAL | DIVERGING)[self.name].split())

    @property
    def stops(self) -> tuple[float, ...]:
        """Return the value of each colour."""
        return tuple(np.linspace(self.low, self.high, len(self.colours)).tolist())

    @property
    def legend(self) -> str:
        """Return the label with its unit in brackets."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


def write_qml(path: str | Path, ramp: Ramp, *, band: int = 1, overwrite: bool = False) -> Path:
    """Write a QGIS layer style that paints one band (1-based) in pseudocolour, nodata transparent.

    QGIS applies it by itself to a raster of the same base name. It holds the symbology alone, with its limits
    fixed, so QGIS neither guesses a stretch nor loses its own settings for the rest of the layer.

    Raises:
        GeoelleError: the file exists and `overwrite` is false, or cannot be written.
    """
    suffix = f" {ramp.unit}" if ramp.unit else ""
    items = "\n".join(
        f'          <item value="{value!r}" color="{colour}" alpha="255" '
        f"label={quoteattr(f'{value:.{_DIGITS}f}{suffix}')}/>"
        for value, colour in zip(ramp.stops, ramp.colours, strict=True)
    )
    rgba = [_rgba(colour) for colour in ramp.colours]
    share = np.linspace(0, 1, len(rgba))
    middle = ":".join(f"{at:.6g};{colour}" for at, colour in zip(share[1:-1], rgba[1:-1], strict=True))
    text = _QML.format(
        band=band, low=ramp.low, high=ramp.high, digits=_DIGITS, items=items, suffix=quoteattr(suffix),
        first=rgba[0], last=rgba[-1], middle=middle,
    )  # fmt: skip
    return write_bytes(path, text.encode(), overwrite=overwrite)


def write_class_qml(path: str | Path, classes: Classes, *, overwrite: bool = False) -> Path:
    """Write a QGIS layer style that paints the codes of band 1 as classes with names, nodata transparent.

    Raises:
        GeoelleError: the file exists and `overwrite` is false, or cannot be written.
    """
    entries = "\n".join(
        f'        <paletteEntry value="{code}" color="{colour}" alpha="255" label={quoteattr(name)}/>'
        for code, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True))
    )
    return write_bytes(path, _CLASS_QML.format(entries=entries).encode(), overwrite=overwrite)


def _rgba(colour: str) -> str:
    return ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5)) + ",255"


def _percentiles(values: np.ndarray, shares: tuple[float, float], label: str) -> tuple[float, float]:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        raise FormatError(f"no finite value to colour for {label}; check how many cells were read")
    low, high = (float(v) for v in np.percentile(finite, shares))
    if low < high:
        return low, high
    margin = max(abs(low), 1.0) * 0.01
    return low - margin, high + margin
