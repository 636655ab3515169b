"""The map verb: score a run's embeddings, paint them, and write every form a reader may want.

One raster a zone: COG with its QGIS style, Zarr, STAC item, quicklook and report share a base name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geoelle.bands import Bands
from geoelle.dense import Agreement, PatchScores, agreement
from geoelle.embed import PATCH_POOLING, space_of
from geoelle.embeddings import Embeddings
from geoelle.errors import ProbeError, ReadError, SpaceMismatch
from geoelle.files import sha256, write_bytes
from geoelle.item import ItemFacts, OutputFile, SourceItem, strip_url, write_item
from geoelle.models import Model
from geoelle.patches import offsets_a_side
from geoelle.plan import Plan
from geoelle.probe import Probe
from geoelle.quicklook import CREDIT, MapText, Scene
from geoelle.raster import BandStatistics, geobox_of, paint, write_cog, write_zarr
from geoelle.report import Counts, MapFacts, map_pictures, map_report
from geoelle.run import Outcome, Progress, finish, run_embed
from geoelle.scores import score_rows
from geoelle.shipped import shipped_probes
from geoelle.style import write_qml

__all__ = ["Product", "probe_for", "run_map", "scene_of", "shipped_probe"]

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
ZARR = "application/vnd+zarr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A finished map: its directory, files, counts, and the numbers worth saying aloud."""

    out: Path
    files: tuple[Path, ...]
    counts: dict[str, int]
    lines: tuple[str, ...]
    statistics: dict[str, dict[str, float | None]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "files": [str(f) for f in self.files],
            "counts": self.counts,
            "lines": list(self.lines),
            "statistics": self.statistics,
        }


def probe_for(plan: Plan, path: Path | None) -> Probe:
    """Return the probe named, checked against the plan's space, else the one that ships.

    Raises: ProbeError (none ships), SpaceMismatch, FormatError.
    """
    if path is None:
        return shipped_probe(plan.model, plan.bands, dense=plan.job.dense)
    probe = Probe.load(path)
    _check_kind(probe, path, plan.job.dense)
    probe.check_space(space_of(plan.model, plan.bands, dense=plan.job.dense))
    if probe.pixels is None:
        raise ProbeError(
            f"the probe {path} has no pixel part, so a map would lack complexity and excess; fit it with geoelle fit"
        )
    return probe


def _check_kind(probe: Probe, path: Path, dense: bool) -> None:
    """Refuse a probe of chips for a dense map, and one of patches for another."""
    of_patches = probe.space.get("pooling") == PATCH_POOLING
    if of_patches and not dense:
        raise SpaceMismatch(f"the probe {path} is of patches, which a map of chips has none of; add --dense")
    if dense and not of_patches:
        raise SpaceMismatch(
            f"the probe {path} is of chips, and a dense map needs one of patches; fit one (geoelle embed --loss "
            "--dense, then geoelle fit --dense), or leave out --dense"
        )


def shipped_probe(model: Model, bands: tuple[str, ...], *, dense: bool = False) -> Probe:
    """Return the probe in the wheel for a model and its bands, of chips or of patches (`dense`).

    Raises: ProbeError.
    """
    if probe := _shipped(model, bands, dense):
        return probe
    kind, flag = ("dense probe", " --dense") if dense else ("probe", "")
    raise ProbeError(
        f"no {kind} ships for {model.card.name} with these weights and the bands {' '.join(bands)}; fit one "
        f"(geoelle embed --loss{flag}, then geoelle fit{flag}) and pass it with --probe"
    )


def _shipped(model: Model, bands: tuple[str, ...], dense: bool) -> Probe | None:
    space = space_of(model, bands, dense=dense)
    return next((probe for probe in shipped_probes(model.card.name) if probe.space == space), None)


def run_map(
    plan: Plan, probe: Probe, out: Path, *, expected: bool = False, overwrite: bool = False,
    progress: Progress | None = None,
) -> Product:  # fmt: skip
    """Embed what is missing, then write the map of each zone that holds a valid chip, and the manifest.

    With `expected`, difficulty is the mean loss instead of the typical one.

    Raises: as `run_embed`; ProbeError (no smearing factor for `expected`); ReadError (no chip is valid).
    """
    dense = plan.job.dense
    bands = Bands(probe=probe, expected=expected, dense=dense)
    outcome = run_embed(plan, out, overwrite=overwrite, progress=progress, probe=probe if dense else None)
    if not outcome.counts["read"]:
        raise ReadError(
            "no map can be made: none of {planned} chips has enough valid pixels, {skipped} assets were skipped; "
            "choose other --dates or --bbox".format(**outcome.counts)
        )
    files: list[Path] = []
    statistics: dict[str, dict[str, float | None]] = {}
    compared: dict[str, Agreement] = {}
    for lattice, cells in plan.cells:
        stem = "difficulty" if len(plan.cells) == 1 else f"difficulty_{lattice.epsg}"
        parts, patches = (
            [p for p in files_of if p.name.startswith(f"part-{lattice.epsg}_")]
            for files_of in (outcome.parts, outcome.patches)
        )
        embeddings = Embeddings.read(parts)
        values = bands.of_patches(PatchScores.read(patches).at(cells)) if dense else bands.values(embeddings)
        if not np.isfinite(values["difficulty"]).any():
            continue
        raster = paint(cells if dense else embeddings.addresses, values)
        if dense and (of_chips := _shipped(plan.model, plan.bands, dense=False)):
            compared[stem] = agreement(values["difficulty"], cells, embeddings, of_chips)
        files += _write_zone(plan, bands, outcome, embeddings, raster, out / stem, compared.get(stem))
        for band, layer in zip(bands.names, raster.values, strict=True):
            statistics[f"{stem}:{band}"] = asdict(BandStatistics.of(layer))
    if not files:
        raise ReadError(
            "no map can be made: no cell of the area lies in a valid chip ({read} of {planned} chips are); "
            "choose other --dates or --bbox".format(**outcome.counts)
        )
    finish(
        outcome,
        plan,
        files,
        {
            "probe": {
                "digest": probe.digest,
                "space": dict(probe.space),
                "scores": dict(probe.scores),
                "trust": dict(probe.trust),
            },
            "statistics": statistics,
            **({"chip_map": {name: asdict(found) for name, found in compared.items()}} if dense else {}),
        },
    )
    lines = (*(_told(found) for found in compared.values()), *_lines(plan, bands, statistics))
    return Product(out=out, files=tuple(files), counts=outcome.counts, lines=lines, statistics=statistics)


def _told(found: Agreement) -> str:
    """Say how a dense map agrees with the chip-level one."""
    r = "no r" if found.r is None else f"r = {found.r:.3f}"
    return f"averaged over {found.chips} whole chips, against the chip probe that ships: {r}"


def _write_zone(
    plan: Plan, bands: Bands, outcome: Outcome, embeddings: Embeddings, raster: xr.DataArray, stem: Path,
    compared: Agreement | None,
) -> list[Path]:  # fmt: skip
    """Write the files of one zone beside each other; the STAC item last, since it holds their hashes."""
    units, probe = tuple(bands.units.values()), bands.probe
    texts = {"descriptions": bands.names, "units": units, "tags": _tags(plan, bands), "overwrite": True}
    ramps = bands.ramps(raster)
    card, box = plan.model.card, geobox_of(raster)
    text = MapText(
        title=f"Where {card.name} finds the ground hard",
        subtitle=f"{plan.found.sensor.title}, {_when(plan)}; cells of {box.resolution.x:g} m, EPSG:{box.crs.epsg}",
        reading=card.reading,
        credit=_credit(plan),
    )
    pictures = map_pictures(raster, ramps, text, scenes=scene_of(embeddings))
    files = [
        OutputFile(
            key="difficulty",
            path=write_cog(raster, stem.with_suffix(".tif"), **texts),
            media_type=COG,
            roles=("data",),
            title="Difficulty map",
            is_raster=True,
        ),
        OutputFile(
            key="zarr",
            path=write_zarr(raster, stem.with_suffix(".zarr"), **texts),
            media_type=ZARR,
            roles=("data",),
            title="The same map as Zarr",
            is_raster=True,
        ),
        OutputFile(
            key="style",
            path=write_qml(stem.with_suffix(".qml"), ramps["difficulty"], overwrite=True),
            media_type="application/xml",
            roles=("metadata",),
            title="QGIS style",
        ),
        OutputFile(
            key="overview",
            path=write_bytes(stem.with_suffix(".png"), pictures[0].png, overwrite=True),
            media_type="image/png",
            roles=("overview",),
            title="Quicklook",
        ),
    ]
    page = map_report(_facts(plan, bands, outcome, box, {f.path.name: f.path for f in files}, compared), pictures)
    report = stem.with_name(stem.name.replace("difficulty", "report") + ".html")
    files.append(
        OutputFile(
            key="report",
            path=write_bytes(report, page.encode(), overwrite=True),
            media_type="text/html",
            roles=("metadata",),
            title="Report",
        )
    )
    item = write_item(
        stem.with_name(stem.name.replace("difficulty", "item") + ".json"),
        ItemFacts(id=stem.name, **_period(plan), descriptions=bands.names, units=units,
                  properties={"geoelle:space": dict(probe.space), "geoelle:counts": outcome.counts}),
        raster,
        files=files,
        sources=[SourceItem(id=i.id, href=_self_href(i)) for look in plan.looks for i in look.items],
        overwrite=True,
    )  # fmt: skip
    return [*(f.path for f in files), item]


def _facts(
    plan: Plan, bands: Bands, outcome: Outcome, box: GeoBox, files: dict[str, Path], compared: Agreement | None
) -> MapFacts:
    card, area, probe = plan.model.card, plan.job.area, bands.probe
    reasons = Counter(row["cause"] for row in outcome.skipped)
    fit = dict(probe.scores).get("tables", [])
    return MapFacts(
        title=f"Where {card.name} finds the ground hard",
        bbox=area.bbox,
        km2=area.km2,
        dates=_when(plan),
        model=card.name,
        space=", ".join(f"{k}: {v}" for k, v in sorted(probe.space.items())),
        target=f"{'log-' if probe.scale == 'log' else ''}{probe.target}",
        reading=card.reading,
        sensor=plan.found.sensor.title,
        source=plan.found.endpoint,
        epsg=(box.crs.epsg,),
        cell_m=box.resolution.x,
        counts=Counts(planned=outcome.counts["planned"], read=outcome.counts["read"], empty=outcome.counts["empty"],
                      skipped=reasons),
        items=tuple(sorted({i.id for look in plan.looks for i in look.items})),
        warnings=(
            f"Clouds: {plan.found.sensor.note}",
            *((f"The probe behind this map, on places held out: {fit[0]['sentence']}",) if fit else ()),
            *bands.warnings(),
        ),
        scores=score_rows(fit[0]) if fit else (),
        more=_dense_facts(plan, compared) if plan.job.dense else {},
        versions=dict(probe.versions),
        files={name: sha256(path) for name, path in files.items() if path.is_file()},
        credit=_credit(plan),
    )  # fmt: skip


def _dense_facts(plan: Plan, compared: Agreement | None) -> dict[str, str]:
    """Return what only the page of a dense map says."""
    lattice = plan.zones[0][0]
    seen = offsets_a_side(lattice) ** 2
    rows = {
        "Patches": f"each the mean of up to {seen} chips, {lattice.cell_m:g} m apart, that see it; "
        "shift_sd is the spread over them, which is no uncertainty of the difficulty",
        "Scores": "those of the probe are scores of single patches, of one offset",
    }
    return rows if compared is None else rows | {"Chip-level map": _told(compared)}


def _tags(plan: Plan, bands: Bands) -> dict[str, str]:
    """Return the provenance inside the file, plain text a value."""
    probe = bands.probe
    return bands.tags() | {
        "GEOELLE_SPACE": probe.space_text,
        "GEOELLE_FINGERPRINT": plan.fingerprint,
        "GEOELLE_READING": plan.model.card.reading,
        "GEOELLE_PROBE": probe.digest,
        "GEOELLE_ITEMS": " ".join(sorted({i.id for look in plan.looks for i in look.items})),
        "GEOELLE_CLOUDS": plan.found.sensor.note,
        "GEOELLE_DATE": "; ".join(
            f"{look.date} ± {look.date_half_width_days:g} days" if look.date_half_width_days else str(look.date)
            for look in plan.looks
        ),
        "COPYRIGHT": _credit(plan),
    }


def _credit(plan: Plan) -> str:
    sensor = plan.found.sensor
    if not sensor.name.startswith("sentinel"):
        return f"Imagery: {sensor.title}"
    years = sorted({str(t)[:4] for t in _span(plan)})
    return " ".join([CREDIT, *years])


def _when(plan: Plan) -> str:
    """Return the dates in words: one date, a span of dates, or an interval where the item records no more."""
    if len(plan.looks) > 1:
        days = sorted(str(look.date)[:10] for look in plan.looks)
        return f"{days[0]} to {days[-1]}, the clearest look of {len(days)} in each chip"
    start, end = (str(t)[:10] for t in _span(plan))
    return start if start == end else f"between {start} and {end}, date not recorded"


def _span(plan: Plan) -> tuple[np.datetime64, np.datetime64]:
    half = [np.timedelta64(int(look.date_half_width_days * 86_400), "s") for look in plan.looks]
    return (
        min(look.date - h for look, h in zip(plan.looks, half, strict=True)),
        max(look.date + h for look, h in zip(plan.looks, half, strict=True)),
    )


def _period(plan: Plan) -> dict[str, datetime]:
    start, end = (t.astype("datetime64[s]").item().replace(tzinfo=UTC) for t in _span(plan))
    return {"start": start, "end": end}


def _self_href(item: Any) -> str | None:
    href = item.get_self_href()
    return strip_url(href) if href else None


def scene_of(embeddings: Embeddings, title: str = "scene") -> dict[str, Scene]:
    """Return the mean colour of each chip, at its cell, by title; empty where the bands have no red, green and blue."""
    names = embeddings.header.feature_names
    wanted = [f"mean_{c}" for c in ("red", "green", "blue")]
    if not set(wanted) <= set(names):
        return {}
    colours = {w: embeddings.features_nf[:, names.index(w)] for w in wanted}
    rgb = paint(embeddings.addresses, colours)
    return {title: Scene(rgb_yx3=np.moveaxis(rgb.values, 0, -1), bounds=tuple(geobox_of(rgb).boundingbox.bbox))}


def _lines(plan: Plan, bands: Bands, statistics: dict[str, dict[str, float | None]]) -> tuple[str, ...]:
    lines = []
    for name, s in statistics.items():
        if name.endswith(":difficulty") and s["mean"] is not None:
            lines.append(
                f"{name.split(':')[0]}: difficulty {s['minimum']:.3g} to {s['maximum']:.3g}, "
                f"mean {s['mean']:.3g} {bands.unit}"
            )
        if name.endswith(":applicable") and s["mean"] is not None:
            lines.append(f"{name.split(':')[0]}: {s['mean']:.1%} of the cells are in the area of applicability")
    return (*lines, f"How to read it: {plan.model.card.reading}")
