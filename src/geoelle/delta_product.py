"""Write a change of finished runs: rasters, style, alerts, picture, page, item, and last the manifest.

    out/  plan.json  delta.tif  delta.zarr  delta.qml  delta.png  delta_flagged.tif  delta_flagged.qml
          delta_state.tif ...  alerts.parquet  alerts.geojson  report.html  item.json  run.json

`plan.json` is written first and names the comparison by its fingerprint; `run.json` is written last. One raster a zone.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from geopandas import GeoDataFrame
from odc.geo.geobox import GeoBox

from geoelle.alert_pictures import Side, alert_pictures
from geoelle.alerts import to_geojson, told_alerts, zone_alerts
from geoelle.change_scores import ZoneScores, score_zones
from geoelle.claims import TEMPORARY, Written, claim_output
from geoelle.class_raster import write_class_cog
from geoelle.dated import Comparison, Dated
from geoelle.delta_bands import CLASS_BANDS, CLASSES, DeltaBands
from geoelle.errors import CatalogError, ReadError
from geoelle.files import sha256, write_bytes
from geoelle.item import ItemFacts, OutputFile, SourceItem, write_item
from geoelle.lattice import Lattice
from geoelle.models import model_card
from geoelle.products import COG, ZARR, scene_of
from geoelle.quicklook import CREDIT, MapText, Scene
from geoelle.raster import geobox_of, paint, write_cog, write_zarr
from geoelle.report import GalleryFacts, Picture, change_report, map_pictures
from geoelle.style import write_class_qml, write_qml
from geoelle.thumbnails import Imagery, read_ground

__all__ = ["claim", "write_delta"]

_FORMAT = "geoelle-delta", 1
MOST_PX = 600
"""Pixels a side of the scene beside a map, at most: more are read coarser."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PRODUCT = re.compile(
    r"((delta|report|item)(_\d+)?(_(flagged|state|status))?|alerts)\.(tif|tif\.aux\.xml|zarr|qml|png|html|json|parquet|geojson)"
)


def claim(out: Path, fingerprint: str, *, overwrite: bool = False) -> None:
    """Take a directory for a comparison, or go on with it.

    Raises: GeoelleError (it holds something else, or is finished and `overwrite` is false).
    """

    def clear(_: bool) -> None:
        for path in [p for p in out.iterdir() if _PRODUCT.fullmatch(p.name) or p.match(TEMPORARY)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    claim_output(out, fingerprint, clear, form=_FORMAT, kind="change", overwrite=overwrite)


def write_delta(found: Comparison, out: Path, *, labels: Path | None = None) -> Written:
    """Write all files of a comparison into a claimed directory, the manifest last; over older ones.

    With `labels`, polygons of what changed, Delta and every baseline are scored against them.

    Raises: FormatError (labels that cannot be read, or of other ground).
    """
    card = model_card(str(found.probe.space["model"]))
    scored = {} if labels is None else score_zones(labels, found.zones, found.measures, chip_px=card.chip_px)
    files: list[Path] = []
    seen = [name for run in (found.after, *found.later) for name in run.item_ids]
    table, by_zone = zone_alerts(found.zones, items_before=found.before.item_ids, items_after=seen)
    for lattice, delta in found.zones.items():
        bands = DeltaBands(delta=delta, probe=found.probe)
        files += _write_zone(found, bands, lattice, out, scored.get(lattice), by_zone[lattice])
    if table is not None:
        table.to_parquet(out / "alerts.parquet")
        files += [out / "alerts.parquet", write_bytes(out / "alerts.geojson", to_geojson(table), overwrite=True)]
    count = None if table is None else len(table)
    facts = found.to_dict(out) | {"alerts": count, "measures": _measured(found, scored)}
    inside = [f for path in files for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
    manifest = {
        "format": _FORMAT[0], "version": _FORMAT[1], **facts,
        "probe": {"digest": found.probe.digest, "space": dict(found.probe.space), "scores": dict(found.probe.scores)},
        "versions": {name: version(name) for name in ("geoelle", "rasterio", "numpy", "scipy")},
        "sha256": {f.relative_to(out).as_posix(): sha256(f) for f in sorted(inside)},
    }  # fmt: skip
    files.append(write_bytes(out / "run.json", _json(manifest), overwrite=True))
    lines = [line for delta in found.zones.values() for line in DeltaBands(delta=delta, probe=found.probe).sentences()]
    told = [] if table is None else [f"{len(table):,} alerts, {table['area_km2'].sum():.3g} km²"]
    return Written(out=out, files=tuple(files), lines=(*lines, *found.notes, *told), facts=facts)


def _sheets(found: Comparison, alerts: GeoDataFrame) -> tuple[Picture, ...]:
    before, *afters = (
        Side(imagery=_imagery(run), tables=list(run.chips.values()))
        for run in (found.before, found.after, *sorted(found.later, key=_when))
    )
    return alert_pictures(alerts, before, afters, credit=_credit(found))


def _write_zone(
    found: Comparison, bands: DeltaBands, lattice: Lattice, out: Path, scored: ZoneScores | None, alerts: GeoDataFrame
) -> list[Path]:
    """Write the files of one zone beside each other; the STAC item last, since it holds their hashes."""
    stem, delta, units = out / found.stem(lattice), bands.delta, tuple(bands.units.values())
    raster, shown = paint(delta.addresses, bands.values()), paint(delta.addresses, bands.drawn())
    ramps = bands.ramps(shown)
    texts = {"descriptions": tuple(bands.units), "units": units, "tags": _tags(found, bands), "overwrite": True}
    pictures = _pictures(found, bands, lattice, shown)
    written = [
        ("delta", write_cog(raster, stem.with_suffix(".tif"), classes=CLASS_BANDS, **texts), COG, "data", "Change map"),
        ("zarr", write_zarr(raster, stem.with_suffix(".zarr"), classes=CLASS_BANDS, **texts), ZARR, "data",
         "The same map as Zarr"),
        ("style", write_qml(stem.with_suffix(".qml"), ramps["delta"], overwrite=True), "application/xml", "metadata",
         "QGIS style"),
        ("overview", write_bytes(stem.with_suffix(".png"), pictures[0].png, overwrite=True), "image/png", "overview",
         "Quicklook"),
    ]  # fmt: skip
    facts = _facts(found, bands, lattice, [path for _, path, *_ in written], scored)
    rows, more = told_alerts(alerts)
    page = change_report(facts, [*pictures, *_sheets(found, alerts)], alerts=rows, more=more)
    report = stem.with_name(stem.name.replace("delta", "report") + ".html")
    written.append(("report", write_bytes(report, page.encode(), overwrite=True), "text/html", "metadata", "Report"))
    files = [
        OutputFile(key=key, path=path, media_type=kind, roles=(role,), title=title, is_raster=role == "data")
        for key, path, kind, role, title in written
    ]
    files += _write_classes(found, bands, stem)
    start, end = (_EPOCH + timedelta(days=int(d)) for d in (np.nanmin(delta.days_n2), np.nanmax(delta.days_n2)))
    item = write_item(
        stem.with_name(stem.name.replace("delta", "item") + ".json"),
        ItemFacts(id=stem.name, start=start, end=end, descriptions=tuple(bands.units), units=units,
                  properties={"geoelle:space": dict(found.probe.space), "geoelle:counts": delta.counts}),
        raster, files=files, sources=[SourceItem(id=name, href=None) for run in found.dates for name in run.item_ids],
        overwrite=True,
    )  # fmt: skip
    return [*(file.path for file in files), item]


def _write_classes(found: Comparison, bands: DeltaBands, stem: Path) -> list[OutputFile]:
    """Write each band of classes as a raster of its own, for QGIS to open with names and colours."""
    codes, files = bands.codes(), []
    raster, tags = paint(bands.delta.addresses, codes), _tags(found, bands)
    for name in codes:
        classes, path = CLASSES[name], stem.with_name(f"{stem.name}_{name}.tif")
        write_class_cog(raster, path, band=name, classes=classes, tags=tags, overwrite=True)
        style = write_class_qml(path.with_suffix(".qml"), classes, overwrite=True)
        named = tuple(zip(classes.names, classes.colours, strict=True))
        title = classes.label.capitalize()
        files += [
            OutputFile(key=name, path=path, media_type=COG, roles=("data",), title=title, classes=named),
            OutputFile(key=f"{name}-style", path=style, media_type="application/xml", roles=("metadata",),
                       title=f"QGIS style of {name}"),
        ]  # fmt: skip
    return files


def _imagery(run: Dated) -> Imagery:
    sensor = run.manifest["job"]["sensor"] or run.manifest["plan"]["sensor"]
    return Imagery(items=run.path / "items.json", sensor=sensor, area=run.area)


def _rows(found: Comparison, lattice: Lattice, scored: ZoneScores | None) -> tuple[dict[str, object], ...]:
    """Return the table of the page: Delta first, then what it has to beat."""
    measures = found.measures[lattice]
    if scored is None:
        return tuple(each.row() for each in measures)
    return tuple(each.row() | score.row() for each, score in zip(measures, scored.detections, strict=True))


def _measured(found: Comparison, scored: Mapping[Lattice, ZoneScores]) -> dict[str, Any]:
    """Return the same for the manifest, by the name of the raster."""
    told = {}
    for lattice, measures in found.measures.items():
        score = scored.get(lattice)
        rows = [
            {"measure": each.name, "flagged": each.share, "unchanged": each.unchanged}
            | ({} if score is None else score.detections[i].to_dict())
            for i, each in enumerate(measures)
        ]
        told[found.stem(lattice)] = {"rows": rows} | ({} if score is None else score.to_dict())
    return told


def _pictures(found: Comparison, bands: DeltaBands, lattice: Lattice, shown: xr.DataArray) -> tuple[Picture, ...]:
    card, box = model_card(str(found.probe.space["model"])), geobox_of(shown)
    text = MapText(
        title=f"Where the ground changed for {card.name}",
        subtitle=f"{found.after.manifest['plan']['sensor']}, {_when(found.before)} to {_when(found.after)}; cells of "
        f"{box.resolution.x:g} m, EPSG:{box.crs.epsg}",
        reading=f"{bands.claim()} {_colours(bands)}",
        credit=_credit(found),
    )
    scenes = {}
    for title, run in (("before", found.before), ("after", found.after)):
        scenes |= _scene(run, title, box) or scene_of(
            next(table for grid, table in run.chips.items() if grid.epsg == lattice.epsg), title
        )
    return map_pictures(shown, bands.ramps(shown), text, scenes=scenes)


def _colours(bands: DeltaBands) -> str:
    """Say what red and blue mean, and which layers hold the shift of the whole map."""
    without = "sign and rank" if bands.delta.tested is None else "t, sign and flags"
    return (
        "Red: harder for the model than before; blue: easier. Delta holds the shift of the whole map, "
        f"{bands.delta.shift:+.2g} {bands.linear}; {without} are without it."
    )


def _scene(run: Dated, title: str, box: GeoBox) -> dict[str, Scene]:
    """Return the ground as the items show it, empty where they cannot be read any more."""
    bounds = box.boundingbox
    gsd_m = max(next(iter(run.chips)).gsd_m, max(bounds.span_x, bounds.span_y) / MOST_PX)
    window = GeoBox.from_bbox(tuple(bounds.bbox), box.crs, resolution=gsd_m)
    try:
        ground_yx3 = read_ground(_imagery(run), [look["items"] for look in run.manifest["plan"]["looks"]], window)
    except (CatalogError, ReadError):
        return {}
    return {title: Scene(rgb_yx3=ground_yx3, bounds=tuple(window.boundingbox.bbox))}


def _facts(
    found: Comparison,
    bands: DeltaBands,
    lattice: Lattice,
    files: Sequence[Path],
    scored: ZoneScores | None,
) -> GalleryFacts:
    plan, probe, card = found.after.manifest["plan"], found.probe, model_card(str(found.probe.space["model"]))
    seen = {
        name: f"{_when(run)}: {', '.join(run.item_ids)}"
        for name, run in [
            ("Before", found.before),
            ("After", found.after),
            *((run.name.capitalize(), run) for run in (*found.history, *found.later)),
        ]
    }
    unknown = sorted({c.what for checks in found.checks.values() for c in checks if c.verdict == "not recorded"})
    clear = next(check for check in next(iter(found.checks.values())) if check.what == "clear ground")
    return GalleryFacts(
        title=f"Where the ground changed for {card.name}",
        summary=f"{_when(found.before)} to {_when(found.after)} · {plan['sensor']} · {card.name}",
        reading=f"Delta is difficulty after less difficulty before, on the linear scale of the probe. {card.reading} "
        f"Ground often gets easier in a disaster: both signs count. {_colours(bands)}",
        more={**seen, "Cell": f"{lattice.cell_m:g} m, EPSG:{lattice.epsg}", **bands.facts(),
              "Clear ground": f"{clear.before} before, {clear.after} after; {clear.reason}",
              "Compared": f"{len(next(iter(found.checks.values())))} conditions of items and ground; not recorded: "
              f"{', '.join(unknown) or 'none'}",
              **({} if scored is None else scored.facts()),
              "Space": ", ".join(f"{k}: {v}" for k, v in sorted(probe.space.items()))},
        warnings=(*bands.sentences(), *found.notes, f"Clouds: {plan['masks_clouds']}"),
        scores=_rows(found, lattice, scored),
        items=tuple(name for run in found.dates for name in run.item_ids),
        versions={"geoelle": version("geoelle")},
        files={path.name: sha256(path) for path in files if path.is_file()},
        credit=_credit(found),
    )  # fmt: skip


def _tags(found: Comparison, bands: DeltaBands) -> dict[str, str]:
    return bands.tags() | {
        "GEOELLE_SPACE": found.probe.space_text,
        "GEOELLE_PROBE": found.probe.digest,
        "GEOELLE_FINGERPRINT": found.fingerprint,
        "GEOELLE_BEFORE": f"{_when(found.before)}: {' '.join(found.before.item_ids)}",
        "GEOELLE_AFTER": f"{_when(found.after)}: {' '.join(found.after.item_ids)}",
        "GEOELLE_HISTORY": "; ".join(f"{_when(run)}: {' '.join(run.item_ids)}" for run in found.history) or "none",
        **({} if not found.later else {"GEOELLE_LATER": "; ".join(f"{_when(run)}: {' '.join(run.item_ids)}"
                                                                  for run in found.later)}),
        "COPYRIGHT": _credit(found),
    }  # fmt: skip


def _when(run: Dated) -> str:
    days = sorted({look["date"][:10] for look in run.manifest["plan"]["looks"]})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _credit(found: Comparison) -> str:
    sensor = str(found.after.manifest["plan"]["sensor"])
    if not sensor.startswith("sentinel"):
        return f"Imagery: {sensor}"
    years = {look["date"][:4] for run in found.dates for look in run.manifest["plan"]["looks"]}
    return " ".join([CREDIT, *sorted(years)])


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
