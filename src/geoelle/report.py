"""Make the HTML page of a map, of a change, of a fit or of ranked chips: one file, warnings first, nulls beside scores.

The pictures travel inside the page as base64, there is no script, nothing is fetched, every text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import jinja2
import numpy as np
import xarray as xr

from geoelle.figures import DPI, Score, calibration, histogram, places, score_bars
from geoelle.quicklook import CREDIT, MapText, Scene, quicklook
from geoelle.scores import Terms
from geoelle.style import Classes, Ramp

__all__ = [
    "Counts",
    "FitFacts",
    "GalleryFacts",
    "MapFacts",
    "Picture",
    "change_report",
    "fit_pictures",
    "fit_report",
    "gallery_report",
    "map_pictures",
    "map_report",
]

_SCALE = (
    "Numbers compare within this space only (model, weights, pooling, target and masking); across spaces "
    "compare ranks or z-scores."
)
_SCORE_NOTE = (
    "Every row has the same folds and the same target, and every ridge the same search for alpha. "
    "A score is news only above its nulls."
)
_CHANGE_NOTE = (
    "Every row is of the same cells and dates, and is judged by the same years in the same way. A flag of Delta is "
    "news only where these have none."
)
_ALERT_NOTE = "Joined cells of one sign, the least q first; mean Delta is less the shift of the whole map."
_CSS_PX = 120  # an inch of every figure, so type has one size throughout: a quarter over print


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Picture:
    """Hold a PNG with its title and a caption that says what to see."""

    title: str
    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        """Return the PNG as text for a data URL."""
        return base64.b64encode(self.png).decode("ascii")

    @property
    def css_px(self) -> int:
        """Return the width to show it at, from the width in the PNG header."""
        return round(int.from_bytes(self.png[16:20], "big") / DPI * _CSS_PX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Count chips: planned, read, without enough valid pixels; and assets skipped, with each reason's count."""

    planned: int
    read: int
    empty: int
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        skipped = sum(self.skipped.values())
        return f"{self.planned:,} planned, {self.read:,} read, {self.empty:,} empty; {skipped:,} assets skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFacts:
    """State what a map is made of; texts are printed as they are.

    `bbox` is (west, south, east, north) in degrees; `cell_m` metres. `scores` are the rows of the fit behind
    the map, the score itself first, then its nulls; their keys are the columns. `more` adds rows of facts.
    """

    title: str
    bbox: tuple[float, float, float, float]
    km2: float
    dates: str
    model: str
    space: str
    target: str
    reading: str
    sensor: str
    source: str
    epsg: tuple[int, ...]
    cell_m: float
    counts: Counts
    items: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    scores: tuple[Mapping[str, object], ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by file name."""
    credit: str = CREDIT


@dataclass(frozen=True, slots=True, kw_only=True)
class FitFacts:
    """State what a fit rests on; texts are printed as they are.

    `held_out` says what was held out, `folds` how many times. `sensor` is empty where there is no imagery. `scores` as
    in `MapFacts`.
    """

    title: str
    model: str
    space: str
    target: str
    reading: str
    sensor: str
    chips: int
    places: int
    held_out: str
    folds: int
    alpha: str
    scores: tuple[Mapping[str, object], ...]
    terms: Terms = field(default_factory=Terms)
    items: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    credit: str = CREDIT


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryFacts:
    """State what lists of chips are of; texts are printed as they are."""

    title: str
    summary: str
    reading: str
    more: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    scores: tuple[Mapping[str, object], ...] = ()
    items: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    credit: str = CREDIT


def map_report(facts: MapFacts, figures: Sequence[Picture]) -> str:
    """Return the page of a map: warnings, first figure, how to read it, scores, other figures, facts."""
    lost = [
        f"{count:,} assets could not be read and were skipped: {reason}"
        for reason, count in facts.counts.skipped.items()
    ]
    corners = ", ".join(f"{degrees:g}" for degrees in facts.bbox)
    rows = {
        "What": f"{facts.target} of {facts.model}, predicted from its embedding",
        "Where": f"{corners} (west, south, east, north, degrees); {facts.km2:,.4g} km²",
        "When": facts.dates,
        "Space": facts.space,
        "Imagery": f"{facts.sensor}, {len(facts.items)} items from {facts.source}",
        "Chips": str(facts.counts),
        "Cell": f"{facts.cell_m:g} m",
        "CRS": ", ".join(f"EPSG:{code}" for code in facts.epsg),
    }
    return _page(facts, rows, figures, summary=f"{facts.dates} · {facts.sensor} · {facts.model}", lost=lost)


def fit_report(facts: FitFacts, figures: Sequence[Picture]) -> str:
    """Return the page of a fit: warnings, first figure, how to read it, scores, other figures, facts."""
    terms = facts.terms
    places = f"{facts.places:,} {terms.places}" if terms.places else ""
    rows = {
        "What": f"{facts.target} of {facts.model}, read linearly from its embedding",
        "Space": facts.space,
        "Imagery": facts.sensor,
        terms.rows.capitalize(): f"{facts.chips:,} of {places}" if places else f"{facts.chips:,}",
        "Held out": facts.held_out,
        "Alpha": facts.alpha,
    }
    rows = {name: text for name, text in rows.items() if text}
    told = [f"{facts.chips:,} {terms.rows}", places, f"{facts.folds} folds", facts.model]
    summary = " · ".join(text for text in told if text)
    return _page(facts, rows, figures, summary=summary, lost=[])


def gallery_report(facts: GalleryFacts, figures: Sequence[Picture]) -> str:
    """Return the page of ranked chips: warnings, first sheet, how to read it, scores, other sheets, facts."""
    return _page(facts, {}, figures, summary=facts.summary, lost=[])


def change_report(
    facts: GalleryFacts, figures: Sequence[Picture], *, alerts: Sequence[Mapping[str, object]] = (), more: int = 0
) -> str:
    """Return the page of a change: warnings, maps, how to read it, the change beside its baselines, alerts, facts.

    `alerts` are the rows of their table; `more` of them are only in the file.
    """
    scores = ("The change beside its baselines", _CHANGE_NOTE)
    left = f" {more:,} more are in alerts.parquet." if more else ""
    tables = [_Table.of("Alerts", alerts, _ALERT_NOTE + left, kind="alerts")]
    return _page(facts, {}, figures, summary=facts.summary, lost=[], scores=scores, tables=tables)


def map_pictures(
    raster: xr.DataArray, ramps: Mapping[str, Ramp | Classes], text: MapText, *,
    scenes: Mapping[str, Scene] | None = None,
) -> tuple[Picture, ...]:  # fmt: skip
    """Draw the scenes, keyed by title, the map of every ramp or classes, keyed by band, and the first ramp's values.

    Raises:
        FormatError: not a raster, no ramp, or a ramp of a band it does not have.
    """
    drawn = quicklook(raster, ramps, text, scenes=scenes)
    name, ramp = next(iter(ramps.items()))
    spread = histogram(raster.sel(band=name).values, ramp)
    seen = f"The scene{'s' * (len(scenes) > 1)}, then each" if scenes else "Each"
    beyond = "; striped: outside the area of applicability" if "applicable" in raster["band"].values else ""
    return (
        Picture(title="Map", caption=f"{seen} layer at one pixel a cell; hatched: no data{beyond}.", png=drawn),
        Picture(title=f"Distribution of {name}", caption="Cells by value, in the map's colours.", png=spread),
    )


def fit_pictures(
    predicted_n: np.ndarray, measured_n: np.ndarray, scores: Sequence[Score], *, unit: str,
    place_lonlat_m2: np.ndarray, place_r_m: np.ndarray,
) -> tuple[Picture, ...]:  # fmt: skip
    """Draw the scores beside their nulls, the calibration and the score by place, all of held-out chips.

    `predicted_n` and `measured_n` are in `unit`, each predicted by a probe that did not see the chip's place;
    `place_r_m` is the r within each of m places, NaN where it has none.

    Raises:
        FormatError: nothing finite to draw, or not one r a place.
    """
    ramp = Ramp(name="viridis", low=0.0, high=1.0, label="r within the place")
    return (
        Picture(
            title="Score and nulls",
            caption="Correlation of predicted and measured on held-out places, with its interval.",
            png=score_bars(scores, axis_label="r, chips of held-out places"),
        ),
        Picture(
            title="Calibration",
            caption="Chips by predicted and measured value; points: medians and quartiles of equal groups.",
            png=calibration(predicted_n, measured_n, label="measured loss", unit=unit),
        ),
        Picture(
            title="Score by place",
            caption="Correlation within each held-out place; a ring has too few chips.",
            png=places(place_lonlat_m2, place_r_m, ramp),
        ),
    )


def _page(
    facts: MapFacts | FitFacts | GalleryFacts, rows: Mapping[str, str], figures: Sequence[Picture], *,
    summary: str, lost: list[str], scores: tuple[str, str] = ("Score beside its nulls", _SCORE_NOTE),
    tables: Sequence[_Table] = (),
) -> str:  # fmt: skip
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("geoelle"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("report.html").render(
        title=facts.title,
        summary=summary,
        warnings=[*facts.warnings, *lost],
        leading=figures[:1],
        following=figures[1:],
        reading=facts.reading,
        scale=_SCALE,
        tables=[table for table in (_Table.of(scores[0], facts.scores, scores[1]), *tables) if table.rows],
        facts=[*rows.items(), *facts.more.items()],
        lists=[
            ("Items", facts.items),
            ("Files", [f"{name}  sha256 {digest}" for name, digest in facts.files.items()]),
            ("Versions", [f"{name} {version}" for name, version in facts.versions.items()]),
        ],
        credit=facts.credit,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A table of the page, its cells as text; of the style `scores` the first row stands out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str
    kind: str

    @classmethod
    def of(cls, title: str, rows: Sequence[Mapping[str, object]], note: str, kind: str = "scores") -> Self:
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
        cells = tuple(tuple(_cell(row.get(name)) for name in columns) for row in rows)
        return cls(title=title, columns=columns, rows=cells, note=note, kind=kind)


def _cell(value: object) -> str:
    """Print one cell: an interval as [low, high], a missing value as a dash."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_cell(part) for part in value)}]"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return f"{value:.3f}"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    return str(value)
