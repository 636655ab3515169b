"""Show the surest alerts before and when first detected: the ground around the chip nearest to each, read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import geopandas
import numpy as np

from geoelle.embeddings import Embeddings
from geoelle.gallery import Entry, Stretch, contact_sheet
from geoelle.measures import Measures
from geoelle.report import Picture
from geoelle.thumbnails import Imagery, Thumbnails, read_thumbnails

__all__ = ["MOST_ALERTS", "Side", "alert_pictures"]

MOST_ALERTS = 6
"""One row of a sheet; pixels of each are read twice."""
_Seen = tuple[Thumbnails, list[Entry]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One date to show: its imagery and its chips."""

    imagery: Imagery
    tables: Sequence[Embeddings]

    def days_from(self, day: np.datetime64) -> float:
        """Return how many days its nearest valid chip was seen from a day; infinite where none was."""
        apart = (np.abs(table.times_n[table.valid_n] - day) / np.timedelta64(1, "D") for table in self.tables)
        return min((float(days_n.min()) for days_n in apart if len(days_n)), default=float("inf"))


def alert_pictures(
    alerts: geopandas.GeoDataFrame, before: Side, afters: Sequence[Side], *, credit: str
) -> tuple[Picture, ...]:
    """Draw one sheet before and one after, alerts in the same order, under one stretch; none without an alert.

    `afters` are all dates after, the earliest first: each alert is shown as its date of first detection has it, of
    equals the last, which shows what the others do. Pixels that cannot be read any more are replaced by the chip's mean
    colour, and the caption says so.
    """
    shown = alerts.head(MOST_ALERTS)
    if not len(shown):
        return ()
    seen = [_read(before, shown), _first_seen(afters, shown)]
    stretch = Stretch.of(seen[0][0])
    sheets = []
    for (pictures, entries), name in zip(seen, ("before", "when first detected"), strict=True):
        title, lost = f"The surest alerts {name}", sum(pictures.reasons.values())
        meaning = (
            "The ground around the chip nearest to each alert; the value is mean Delta less the shift of the whole "
            "map, the same on both sheets."
        )
        told = f" {lost} could not be read again: their mean colour." if lost else ""
        png = contact_sheet(title, meaning + told, entries, pictures, stretch, credit=credit)
        sheets.append(Picture(title=title, caption=f"{', '.join(pictures.bands)}, least q first.{told}", png=png))
    return tuple(sheets)


def _first_seen(afters: Sequence[Side], alerts: geopandas.GeoDataFrame) -> _Seen:
    """Read each alert from the date of its first detection; pictures are numbered by alert."""
    days = alerts["first_detected"].to_numpy().astype("datetime64[s]") + np.timedelta64(12, "h")
    apart_ad = np.array([[side.days_from(day) for side in afters] for day in days])
    chosen = apart_ad.shape[1] - 1 - np.argmin(apart_ad[:, ::-1], axis=1)
    of, reasons, entries = {}, Counter(), {}
    for date in np.unique(chosen):
        rows = np.flatnonzero(chosen == date)
        pictures, found = _read(afters[date], alerts.iloc[rows])
        reasons.update(pictures.reasons)
        for row, entry in zip(rows.tolist(), found, strict=True):
            of[row], entries[row] = pictures.of[entry.chip], replace(entry, chip=row)
    merged = Thumbnails(of=of, bands=pictures.bands, reasons=reasons)
    return merged, [entries[row] for row in range(len(alerts))]


def _read(side: Side, alerts: geopandas.GeoDataFrame) -> _Seen:
    tables = tuple(table[table.valid_n] for table in side.tables)
    nothing_n = np.zeros(sum(map(len, tables)))
    measures = Measures(tables=tables, difficulty_n=nothing_n, surprise_n=nothing_n)  # for the places alone
    lonlat_n2 = np.concatenate([table.addresses.lonlat_n2 for table in tables])
    stops_m2 = alerts[["stop_lon", "stop_lat"]].to_numpy()
    narrow = np.array([np.cos(np.radians(stops_m2[:, 1].mean())), 1.0])
    chips = np.array([np.argmin(np.linalg.norm((lonlat_n2 - stop) * narrow, axis=1)) for stop in stops_m2])
    pictures = read_thumbnails(side.imagery, measures, chips)
    entries = []
    for chip, (lon, lat), value in zip(chips.tolist(), stops_m2.tolist(), alerts["mean_delta_less_shift"], strict=True):
        table, row = measures.at(chip)
        entries.append(Entry(chip=chip, value=f"{value:+.2f}", lon=lon, lat=lat, date=str(table.times_n[row])[:10]))
    return pictures, entries
