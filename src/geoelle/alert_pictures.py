"""Show the surest alerts before and after: the ground around the chip nearest to each, read again from the items."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas
import numpy as np

from geoelle.embeddings import Embeddings
from geoelle.gallery import Entry, Stretch, contact_sheet
from geoelle.measures import Measures
from geoelle.report import Picture
from geoelle.thumbnails import Imagery, Thumbnails, read_thumbnails

__all__ = ["MOST_ALERTS", "alert_pictures"]

MOST_ALERTS = 6
"""One row of a sheet; pixels of each are read twice."""


def alert_pictures(
    alerts: geopandas.GeoDataFrame, sides: Sequence[tuple[Imagery, Sequence[Embeddings]]], *, credit: str
) -> tuple[Picture, ...]:
    """Draw one sheet before and one after, alerts in the same order, under one stretch; none without an alert.

    `sides` are the imagery and the chips of both dates. Pixels that cannot be read any more are replaced by the chip's
    mean colour, and the caption says so.
    """
    shown = alerts.head(MOST_ALERTS)
    if not len(shown):
        return ()
    seen = [_read(imagery, chips, shown) for imagery, chips in sides]
    stretch = Stretch.of(seen[0][0])
    sheets = []
    for (pictures, entries), name in zip(seen, ("before", "after"), strict=True):
        title, lost = f"The surest alerts {name}", sum(pictures.reasons.values())
        meaning = "The ground around the chip nearest to each alert; the value is mean Delta, the same on both sheets."
        told = f" {lost} could not be read again: their mean colour." if lost else ""
        png = contact_sheet(title, meaning + told, entries, pictures, stretch, credit=credit)
        sheets.append(Picture(title=title, caption=f"{', '.join(pictures.bands)}, least q first.{told}", png=png))
    return tuple(sheets)


def _read(
    imagery: Imagery, tables: Sequence[Embeddings], alerts: geopandas.GeoDataFrame
) -> tuple[Thumbnails, list[Entry]]:
    tables = tuple(table[table.valid_n] for table in tables)
    nothing_n = np.zeros(sum(map(len, tables)))
    measures = Measures(tables=tables, difficulty_n=nothing_n, surprise_n=nothing_n)  # for the places alone
    lonlat_n2 = np.concatenate([table.addresses.lonlat_n2 for table in tables])
    stops_m2 = alerts[["stop_lon", "stop_lat"]].to_numpy()
    narrow = np.array([np.cos(np.radians(stops_m2[:, 1].mean())), 1.0])
    chips = np.array([np.argmin(np.linalg.norm((lonlat_n2 - stop) * narrow, axis=1)) for stop in stops_m2])
    pictures = read_thumbnails(imagery, measures, chips)
    entries = []
    for chip, (lon, lat), value in zip(chips.tolist(), stops_m2.tolist(), alerts["mean_delta"], strict=True):
        table, row = measures.at(chip)
        entries.append(Entry(chip=chip, value=f"{value:+.2f}", lon=lon, lat=lat, date=str(table.times_n[row])[:10]))
    return pictures, entries
