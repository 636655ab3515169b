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

from geoelle.area import Lattice
from geoelle.bands import Bands
from geoelle.embed import space_of
from geoelle.embeddings import Embeddings
from geoelle.errors import ProbeError, ReadError
from geoelle.files import sha256, write_bytes
from geoelle.item import ItemFacts, OutputFile, SourceItem, strip_url, write_item
from geoelle.models import Model
from geoelle.plan import Plan
from geoelle.probe import Probe
from geoelle.quicklook import CREDIT, MapText, Scene
from geoelle.raster import BandStatistics, geobox_of, paint, write_cog, write_zarr
from geoelle.report import Counts, MapFacts, map_pictures, map_report
from geoelle.run import Outcome, Progress, finish, run_embed
from geoelle.scores import score_rows
from geoelle.style import write_qml

__all__ = ["Product", "probe_for", "run_map", "shipped_probe"]

WEIGHTS = Path(__file__).parent / "weights"
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
        return shipped_probe(plan.model, plan.bands)
    probe = Probe.load(path)
    probe.check_space(space_of(plan.model, plan.bands))
    if probe.pixels is None:
        raise ProbeError(
            f"the probe {path} has no pixel part, so a map would lack complexity and excess; fit it with geoelle fit"
        )
    return probe


def shipped_probe(model: Model, bands: tuple[str, ...]) -> Probe:
    """Return the probe in the wheel for a model and its bands.

    Raises: ProbeError.
    """
    space = space_of(model, bands)
    for file in sorted(WEIGHTS.glob(f"{model.card.name}-probe-*.safetensors")):
        if (probe := Probe.load(file)).space == space:
            return probe
    raise ProbeError(
        f"no probe ships for {model.card.name} with these weights and the bands {' '.join(bands)}; fit one "
        "(geoelle embed --loss, then geoelle fit) and pass it with --probe"
    )


def run_map(
    plan: Plan, probe: Probe, out: Path, *, expected: bool = False, overwrite: bool = False,
    progress: Progress | None = None,
) -> Product:  # fmt: skip
    """Embed what is missing, then write the map of each zone that holds a valid chip, and the manifest.

    With `expected`, difficulty is the mean loss instead of the typical one.

    Raises: as `run_embed`; ProbeError (no smearing factor for `expected`); ReadError (no chip is valid).
    """
    bands = Bands(probe=probe, expected=expected)
    outcome = run_embed(plan, out, overwrite=overwrite, progress=progress)
    if not outcome.counts["read"]:
        raise ReadError(
            "no map can be made: none of {planned} chips has enough valid pixels, {skipped} assets were skipped; "
            "choose other --dates or --bbox".format(**outcome.counts)
        )
    files: list[Path] = []
    statistics: dict[str, dict[str, float | None]] = {}
    for lattice, _ in plan.zones:
        stem = "difficulty" if len(plan.zones) == 1 else f"difficulty_{lattice.epsg}"
        parts = [p for p in outcome.parts if p.name.startswith(f"part-{lattice.epsg}_")]
        embeddings = Embeddings.read(parts)
        if not embeddings.valid_n.any():
            continue
        raster = paint(embeddings.addresses, bands.values(embeddings))
        files += _write_zone(plan, bands, outcome, embeddings, raster, out / stem)
        for band, values in zip(bands.names, raster.values, strict=True):
            statistics[f"{stem}:{band}"] = asdict(BandStatistics.of(values))
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
        },
    )
    return Product(
        out=out, files=tuple(files), counts=outcome.counts, lines=_lines(plan, bands, statistics), statistics=statistics
    )


def _write_zone(
    plan: Plan, bands: Bands, outcome: Outcome, embeddings: Embeddings, raster: xr.DataArray, stem: Path
) -> list[Path]:
    """Write the files of one zone beside each other; the STAC item last, since it holds their hashes."""
    units, probe = tuple(bands.units.values()), bands.probe
    texts = {"descriptions": bands.names, "units": units, "tags": _tags(plan, bands), "overwrite": True}
    ramps = bands.ramps(raster)
    card, lattice = plan.model.card, embeddings.addresses.lattice
    text = MapText(
        title=f"Where {card.name} finds the ground hard",
        subtitle=f"{plan.found.sensor.title}, {_when(plan)}; cells of {lattice.cell_m:g} m, EPSG:{lattice.epsg}",
        reading=card.reading,
        credit=_credit(plan),
    )
    pictures = map_pictures(raster, ramps, text, scene=_scene(embeddings, raster))
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
    page = map_report(_facts(plan, bands, outcome, lattice, {f.path.name: f.path for f in files}), pictures)
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


def _facts(plan: Plan, bands: Bands, outcome: Outcome, lattice: Lattice, files: dict[str, Path]) -> MapFacts:
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
        epsg=(lattice.epsg,),
        cell_m=lattice.cell_m,
        counts=Counts(planned=outcome.counts["planned"], read=outcome.counts["read"], empty=outcome.counts["empty"],
                      skipped=reasons),
        items=tuple(sorted({i.id for look in plan.looks for i in look.items})),
        warnings=(
            f"Clouds: {plan.found.sensor.note}",
            *((f"The probe behind this map, on places held out: {fit[0]['sentence']}",) if fit else ()),
            *bands.warnings(),
        ),
        scores=score_rows(fit[0]) if fit else (),
        versions=dict(probe.versions),
        files={name: sha256(path) for name, path in files.items() if path.is_file()},
        credit=_credit(plan),
    )  # fmt: skip


def _tags(plan: Plan, bands: Bands) -> dict[str, str]:
    """Return the provenance inside the file, plain text a value."""
    probe = bands.probe
    return bands.tags() | {
        "GEOELLE_SPACE": " | ".join(f"{k}={v}" for k, v in sorted(probe.space.items())),
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


def _scene(embeddings: Embeddings, raster: xr.DataArray) -> Scene | None:
    """Return the mean colour of each chip, at its cell; None where the bands have no red, green and blue."""
    names = embeddings.header.feature_names
    wanted = [f"mean_{c}" for c in ("red", "green", "blue")]
    if not set(wanted) <= set(names):
        return None
    colours = {w: embeddings.features_nf[:, names.index(w)] for w in wanted}
    rgb = paint(embeddings.addresses, colours)
    return Scene(rgb_yx3=np.moveaxis(rgb.values, 0, -1), bounds=tuple(geobox_of(raster).boundingbox.bbox))


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
