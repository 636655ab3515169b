"""The rank verb: a directory with the extreme chips of a run as a table, as pictures, and as a way to visit them.

The directory holds ranked.parquet, a PNG a list, gallery.html, for a route clusters.parquet, route.geojson and
route.png, and last rank.json, by which it is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from geoelle.area import Area
from geoelle.embeddings import Embeddings
from geoelle.errors import GeoelleError
from geoelle.extremes import Asked, Chosen, Ranking, rank_chips
from geoelle.files import fresh_directory, sha256, write_bytes
from geoelle.gallery import Entry, Stretch, contact_sheet, route_map
from geoelle.models import model_card
from geoelle.probe import Probe
from geoelle.quicklook import CREDIT
from geoelle.report import GalleryFacts, Picture, gallery_report
from geoelle.run import Progress, load_manifest
from geoelle.scores import score_rows
from geoelle.shipped import probe_of_space
from geoelle.style import Ramp
from geoelle.thumbnails import SIDE_PX, Imagery, Thumbnails, read_thumbnails

__all__ = ["Ranked", "choose_chips", "rank_run"]

_FORMAT = "geoelle-rank", 1
_MARKER = "rank.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """What was written, what is worth saying aloud, and every list in plain values."""

    out: Path
    files: tuple[Path, ...]
    lines: tuple[str, ...]
    facts: Mapping[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {"out": str(self.out), "files": [str(f) for f in self.files], **self.facts}


def choose_chips(run: Path, probe: Path | None = None, asked: Asked | None = None) -> Ranking:
    """Choose the extreme chips of a finished run, with its own probe or the one that ships; reads no pixel.

    Raises: FormatError (the run is unfinished or damaged), ProbeError (no probe ships for its space), and as
    `rank_chips`.
    """
    load_manifest(run)
    tables = Embeddings.read_each(run)
    return rank_chips(tables, Probe.load(probe) if probe else probe_of_space(tables[0].header.space), asked or Asked())


def rank_run(
    run: Path, ranking: Ranking, out: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Ranked:
    """Read the pictures of the chosen chips and write the directory, whole or not at all.

    Raises: GeoelleError (`out` exists and `overwrite` is false, or it holds something else than a ranking).
    """
    _check_out(out, overwrite)
    manifest = load_manifest(run)
    pictures = read_thumbnails(_imagery(run, manifest), ranking.measures, ranking.chips, progress=progress)
    table = ranking.table
    rows = json.loads(table.drop(columns="geometry").to_json(orient="records", date_format="iso", double_precision=12))
    facts = ranking.to_dict() | {"run": str(run), "unread": dict(pictures.reasons), "rows": rows}
    with fresh_directory(out, overwrite=out.exists()) as folder:
        table.to_parquet(folder / "ranked.parquet")
        sheets = _sheets(ranking, pictures, _credit(manifest, table["time"]))
        for each, sheet in zip(ranking.lists, sheets, strict=True):
            write_bytes(folder / f"{each.listing.name}.png", sheet.png)
        if ranking.route is not None:
            sheets.append(_write_route(ranking, folder))
        page = gallery_report(_facts(ranking, pictures, manifest, folder), sheets)
        write_bytes(folder / "gallery.html", page.encode())
        hashes = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        about = {
            "format": _FORMAT[0], "version": _FORMAT[1], "fingerprint": manifest["plan"]["fingerprint"],
            "probe": ranking.probe.digest, "space": dict(ranking.probe.space),
            "versions": {"geoelle": version("geoelle")}, **facts, "sha256": hashes,
        }  # fmt: skip
        write_bytes(folder / _MARKER, (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
    files = tuple(out / name for name in (*hashes, _MARKER))
    return Ranked(out=out, files=files, lines=(*ranking.notes, *_unread(pictures)), facts=facts)


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse to replace anything but a ranking."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / _MARKER).is_file():
        raise GeoelleError(f"output {out} holds other files and no {_MARKER}; name a new directory with -o")
    if not overwrite:
        raise GeoelleError(f"output {out} holds a ranking; use another -o, or --overwrite to replace it")


def _imagery(run: Path, manifest: Mapping[str, Any]) -> Imagery:
    job = manifest["job"]
    area = Area.parse(bbox=None if job["polygon"] else job["bbox"], polygon=job["polygon"], dates=job["dates"])
    return Imagery(items=run / "items.json", sensor=job["sensor"] or manifest["plan"]["sensor"], area=area)


def _sheets(ranking: Ranking, pictures: Thumbnails, credit: str) -> list[Picture]:
    stretch = Stretch.of(pictures)
    sheets = []
    for each in ranking.lists:
        listing = each.listing
        meaning = f"{listing.meaning} {_unit(ranking, listing.measure)}. No two chips overlap."
        png = contact_sheet(listing.title, meaning, _entries(ranking, each), pictures, stretch, credit=credit)
        sheets.append(Picture(title=listing.title, caption=listing.meaning, png=png))
    return sheets


def _entries(ranking: Ranking, each: Chosen) -> list[Entry]:
    measure = each.listing.measure
    form = "+.2f" if measure in ("excess", "residual") else "#.3g"
    entries = []
    for chip, value in zip(each.chips.tolist(), ranking.measures.values(measure)[each.chips], strict=True):
        table, row = ranking.measures.at(chip)
        lon, lat = table.addresses[row].lonlat
        date = str(table.times_n[row])[:10]
        entries.append(Entry(chip=chip, value=format(value, form).rstrip("."), lon=lon, lat=lat, date=date))
    return entries


def _unit(ranking: Ranking, measure: str) -> str:
    unit, log = str(ranking.probe.data.get("unit", "")), ranking.probe.scale == "log"
    told = {
        "difficulty": f"Difficulty, {'typical' if log else 'expected'} loss",
        "excess": "Excess, ln(difficulty / complexity)" if log else "Excess, difficulty minus complexity",
        "residual": "Residual, ln(loss / difficulty)" if log else "Residual, loss minus difficulty",
        "surprise": "Surprise, no unit",
    }[measure]
    return f"{told} [{unit}]" if unit and (measure == "difficulty" or (not log and measure != "surprise")) else told


def _write_route(ranking: Ranking, folder: Path) -> Picture:
    route, measure = ranking.route, ranking.asked.measure
    route.clusters.to_parquet(folder / "clusters.parquet")
    write_bytes(folder / "route.geojson", route.to_geojson())
    ramp = Ramp.sequential(route.clusters["mean"].to_numpy(), label=f"mean {measure} of the cluster")
    drawn = route_map(f"Cells above percentile {ranking.asked.above:g} of {measure}", route, ramp)
    write_bytes(folder / "route.png", drawn)
    told = (
        f"{len(route.clusters)} clusters of cells above percentile {ranking.asked.above:g} of {measure} "
        f"({ranking.threshold:.3g} and more), {route.clusters['area_km2'].sum():.3g} km² in all; "
        f"{len(route.line_m2)} stops, {route.km:.4g} km as the crow flies."
    )
    return Picture(title="A way to visit the worst cells", caption=told, png=drawn)


def _facts(ranking: Ranking, pictures: Thumbnails, manifest: Mapping[str, Any], folder: Path) -> GalleryFacts:
    plan, probe, measures = manifest["plan"], ranking.probe, ranking.measures
    card = model_card(str(probe.space["model"]))
    fit = dict(probe.scores).get("tables", [])
    held_out = (f"The probe behind these lists, on places held out: {fit[0]['sentence']}",) if fit else ()
    size_px = measures.tables[0].addresses.lattice.size_px
    frame = f"; the frame is the chip of {size_px} pixels" if size_px < SIDE_PX else ""
    return GalleryFacts(
        title=f"The extremes of {card.name}: where to look",
        summary=f"{_days(ranking)} · {plan['sensor']} · {len(measures):,} valid chips",
        reading=card.reading,
        more={
            "Run": f"{plan['model']}, {len(measures):,} valid chips of {plan['chip_m']:g} m, {plan['sensor']}",
            "Lists": "extremes of the run, best first; a chip that overlaps a better one of its list is left out",
            "Percentile": "100 (rank - 1/2) / n among all valid chips of the run, equals sharing their mean rank",
            "Surprise": "Mahalanobis distance of the embedding from the mean of the run, dimensions scaled to unit "
            "variance, covariance shrunk by Ledoit and Wolf",
            "Pictures": f"{' '.join(pictures.bands)}, one stretch for all, from the darkest of each band{frame}; "
            "light grey: nodata or masked",
            "Space": ", ".join(f"{k}: {v}" for k, v in sorted(probe.space.items())),
        },
        warnings=(*_unread(pictures), *ranking.notes, *held_out),
        scores=score_rows(fit[0]) if fit else (),
        items=tuple(plan["items"]),
        versions=dict(probe.versions),
        files={file.name: sha256(file) for file in sorted(folder.iterdir())},
        credit=_credit(manifest, ranking.table["time"]),
    )  # fmt: skip


def _days(ranking: Ranking) -> str:
    """Return the first and the last day any valid chip was seen."""
    times_n = np.concatenate([table.times_n for table in ranking.measures.tables])
    first, last = str(np.nanmin(times_n))[:10], str(np.nanmax(times_n))[:10]
    return first if first == last else f"{first} to {last}"


def _unread(pictures: Thumbnails) -> tuple[str, ...]:
    return tuple(
        f"{count} pictures could not be read again, a hatched square has the chip's mean colour instead: {reason}"
        for reason, count in pictures.reasons.items()
    )


def _credit(manifest: Mapping[str, Any], times: Any) -> str:
    sensor = str(manifest["plan"]["sensor"])
    if not sensor.startswith("sentinel"):
        return f"Imagery: {sensor}"
    return " ".join([CREDIT, *(str(year) for year in np.unique(times.dt.year.dropna().astype(int)))])
