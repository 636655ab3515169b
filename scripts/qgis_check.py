#!/usr/bin/python3
"""Open a COG of difficulty, of a change or of its classes in QGIS itself and check what a user would see.

    /usr/bin/python3 scripts/qgis_check.py difficulty.tif [--epsg 32618] [--bands difficulty,excess] \\
        [--picture map.png]

Runs under the Python of the QGIS package, needs no display, prints a JSON summary. Exit status: 0 every check
holds, 1 one failed (one line says which), 3 QGIS is not installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("GDAL_PAM_ENABLED", "NO")  # QGIS would leave .aux.xml files beside the COG

try:
    from osgeo import gdal
    from qgis.core import Qgis, QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsRasterLayer
    from qgis.PyQt.QtCore import QSize
    from qgis.PyQt.QtGui import QColor, QImage
except ImportError as missing:
    print(f"QGIS check skipped ({missing}); install it: apt-get install qgis python3-qgis", file=sys.stderr)
    sys.exit(3)

PICTURE_PX = (1200, 900)


class CheckError(Exception):
    """One line on what QGIS does not show as it should."""


@dataclass(frozen=True)
class Expected:
    """What the caller knows about the file; None where it does not matter."""

    epsg: int | None
    bands: tuple[str, ...] | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cog", type=Path)
    parser.add_argument("--epsg", type=int, help="code the CRS must have")
    parser.add_argument("--bands", help="band names it must have, in order, separated by commas")
    parser.add_argument("--picture", type=Path, help=f"PNG to render, {PICTURE_PX[0]} x {PICTURE_PX[1]} px")
    arguments = parser.parse_args()
    bands = tuple(arguments.bands.split(",")) if arguments.bands else None
    application = QgsApplication([], False)
    application.initQgis()
    try:
        summary = check(arguments.cog, Expected(epsg=arguments.epsg, bands=bands), arguments.picture)
    except CheckError as failure:
        print(f"QGIS check failed for {arguments.cog}: {failure}", file=sys.stderr)
        return 1
    finally:
        application.exitQgis()
    print(json.dumps(summary, indent=2))
    return 0


def check(path: Path, expected: Expected, picture: Path | None) -> dict[str, object]:
    """Run every check and return what was seen."""
    layer = QgsRasterLayer(str(path), path.stem)
    require(layer.isValid(), "QGIS cannot open it as a raster layer")
    names = check_grid(layer, expected)
    classes = layer.renderer().type() == "paletted"
    statistics = [] if classes else check_statistics(layer, path)
    style = {"classes": check_classes(layer, path)} if classes else {"ramp": check_style(layer, path)}
    pixels = check_pixels(layer, render(layer, QSize(layer.width(), layer.height()), transparent=True))
    if picture is not None:
        image = render(layer, QSize(*PICTURE_PX), transparent=False)
        require(image.save(str(picture), "PNG"), f"the picture {picture} could not be written")
    return {
        "qgis": Qgis.QGIS_VERSION,
        "gdal": gdal.VersionInfo("RELEASE_NAME"),
        "crs": layer.crs().authid(),
        "size": [layer.width(), layer.height()],
        "bands": names,
        "renderer": layer.renderer().type(),
        **style,
        "statistics": statistics,
        "pixels": pixels,
        "picture": str(picture) if picture else None,
    }


def check_grid(layer: QgsRasterLayer, expected: Expected) -> list[str]:
    authid = layer.crs().authid()
    require(authid.startswith("EPSG:"), f"the CRS has no EPSG code ({authid!r})")
    if expected.epsg is not None:
        require(authid == f"EPSG:{expected.epsg}", f"the CRS is {authid}, not EPSG:{expected.epsg}")
    # QGIS names a band "Band 1: difficulty" after its description
    names = [layer.bandName(i + 1).partition(": ")[2] for i in range(layer.bandCount())]
    require(all(names), f"a band has no description ({names})")
    if expected.bands is not None:
        require(tuple(names) == expected.bands, f"the bands are {names}, not {list(expected.bands)}")
    return names


def check_statistics(layer: QgsRasterLayer, path: Path) -> list[dict[str, float]]:
    """Compare the numbers inside the file with those QGIS computes from its cells."""
    dataset = gdal.Open(str(path))
    found = []
    for i in range(1, layer.bandCount() + 1):
        tags = dataset.GetRasterBand(i).GetMetadata()
        seen = layer.dataProvider().bandStatistics(i)
        if not seen.elementCount and "STATISTICS_MEAN" not in tags:
            continue  # a change without a flag has no day of first detection
        require("STATISTICS_MEAN" in tags, f"band {i} has no statistics inside the file")
        pairs = {
            "minimum": (float(tags["STATISTICS_MINIMUM"]), seen.minimumValue),
            "maximum": (float(tags["STATISTICS_MAXIMUM"]), seen.maximumValue),
            "mean": (float(tags["STATISTICS_MEAN"]), seen.mean),
            "stddev": (float(tags["STATISTICS_STDDEV"]), seen.stdDev),
        }
        cells = max(float(seen.elementCount), 2.0)
        to_sample = math.sqrt(cells / (cells - 1))  # the file has the deviation of the population, QGIS of a sample
        for name, (inside, computed) in pairs.items():
            expected = inside * to_sample if name == "stddev" else inside
            same = math.isclose(expected, computed, rel_tol=1e-3, abs_tol=1e-5)
            require(same, f"the {name} of band {i} is {inside} inside the file and {computed} in QGIS")
        found.append({name: inside for name, (inside, _) in pairs.items()})
    return found


def check_style(layer: QgsRasterLayer, path: Path) -> dict[str, object]:
    """Check that QGIS took the style file up by itself, limits and colours included."""
    style = path.with_suffix(".qml")
    require(style.is_file(), f"there is no style file {style.name} beside it")
    wanted = ElementTree.parse(style).getroot().find("pipe/rasterrenderer")
    renderer = layer.renderer()
    taken = renderer.type() == "singlebandpseudocolor"
    require(taken, f"the renderer is {renderer.type()}, the style was not taken up")
    function = renderer.shader().rasterShaderFunction()
    items = [(item.value, item.color.name(), item.label) for item in function.colorRampItemList()]
    stops = [(float(i.get("value")), i.get("color"), i.get("label")) for i in wanted.iter("item")]
    require(items == stops, f"the ramp has {items}, the style file {stops}")
    limits = [renderer.classificationMin(), renderer.classificationMax()]
    stored = [float(wanted.get("classificationMin")), float(wanted.get("classificationMax"))]
    require(limits == stored, f"the limits are {limits}, the style file says {stored}")
    require(renderer.band() == int(wanted.get("band")), f"band {renderer.band()} is painted")
    require(function.sourceColorRamp() is not None, "the ramp cannot be edited (no source colour ramp)")
    return {"limits": limits, "colours": len(items), "legend": [items[0][2], items[-1][2]]}


def check_classes(layer: QgsRasterLayer, path: Path) -> list[dict[str, object]]:
    """Check that QGIS took the classes of the style file up by itself, and that every value of the file is one."""
    style = path.with_suffix(".qml")
    require(style.is_file(), f"there is no style file {style.name} beside it, so its classes have no names")
    entries = ElementTree.parse(style).getroot().iter("paletteEntry")
    wanted = [(float(entry.get("value")), entry.get("color"), entry.get("label")) for entry in entries]
    seen = [(item.value, item.color.name(), item.label) for item in layer.renderer().classes()]
    require(seen == wanted, f"the classes are {seen}, those of the style file {wanted}")
    dataset = gdal.Open(str(path))  # kept: its band and colour table die with it
    table = dataset.GetRasterBand(1).GetColorTable()
    require(table is not None, "the file has no colour table")
    inside = [QColor(*table.GetColorEntry(int(value))[:3]).name() for value, *_ in seen]
    require(inside == [colour for _, colour, _ in seen], f"the colour table inside the file has {inside}")
    values = set(dataset.ReadAsArray().ravel().tolist())
    nodata = layer.dataProvider().sourceNoDataValue(1)
    codes = {value for value, *_ in seen} | {nodata}
    require(values <= codes, f"the file holds {sorted(values - codes)}, which are no classes")
    return [{"value": value, "colour": colour, "label": label} for value, colour, label in seen]


def check_pixels(layer: QgsRasterLayer, image: QImage) -> dict[str, int]:
    """Check one pixel a cell: nodata transparent, the others opaque and in the colour of their value."""
    renderer = layer.renderer()
    band = renderer.band()
    block = layer.dataProvider().block(band, layer.extent(), layer.width(), layer.height())
    require(layer.dataProvider().sourceHasNoDataValue(band), "no nodata value is declared")
    if renderer.type() == "paletted":
        colours = {item.value: item.color.getRgb() for item in renderer.classes()}

        def wanted_of(value: float) -> list[int]:
            return list(colours[value])
    else:
        function = renderer.shader().rasterShaderFunction()

        def wanted_of(value: float) -> list[int]:
            return list(function.shade(value)[1:])

    counts = {"nodata": 0, "painted": 0}
    for row in range(layer.height()):
        for col in range(layer.width()):
            colour = QColor.fromRgba(image.pixel(col, row))
            if block.isNoData(row, col):
                counts["nodata"] += 1
                require(colour.alpha() == 0, f"nodata cell ({row}, {col}) is painted {colour.name()}")
                continue
            counts["painted"] += 1
            wanted = wanted_of(block.value(row, col))
            seen = [colour.red(), colour.green(), colour.blue(), colour.alpha()]
            where = f"cell ({row}, {col}) of value {block.value(row, col)}"
            require(seen == wanted, f"{where} is {seen}, not {wanted}")
    require(counts["painted"] > 0, "no cell is painted")
    return counts


def render(layer: QgsRasterLayer, size: QSize, *, transparent: bool) -> QImage:
    """Draw the whole layer north up."""
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setOutputSize(size)
    settings.setExtent(layer.extent())
    settings.setBackgroundColor(QColor(0, 0, 0, 0) if transparent else QColor("white"))
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    require(not job.errors(), f"rendering failed ({[error.message for error in job.errors()]})")
    return job.renderedImage()


def require(holds: bool, failure: str) -> None:
    if not holds:
        raise CheckError(failure)


if __name__ == "__main__":
    sys.exit(main())
