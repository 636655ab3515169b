"""Measure which injected changes Delta sees, and how many of its flags are false; writes into docs/delta-series.json.

    python scripts/evaluate_power.py [--imagery FOLDER] [--weights galileo.nano=FOLDER] [--cache FOLDER]

Patches first, then chips. nano needs nothing but the demo catalogue; another model needs the imagery.
What is measured stands in docs/protocol-delta-series.md, which was committed before any of the results was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import click
import numpy as np
import torch

import delta_page
import delta_series
from delta_inject import AMPLITUDES, KINDS, SIZES_PX, Square, judged_shape, squares, variants
from delta_kits import OTHER_BANDS, nano_kit, other_kit
from delta_nulls import Judges, Kit, Outcome, auroc, merged
from delta_seen import Cells, Reader, cached, laid
from delta_series import Image, Series
from evaluate_false_alarms import likely_cut, seen
from geoelle.bootstrap import Bootstrap, Interval
from given import folders_of

YEARS = 5
"""A month needs so many: three of history, one before, one after."""
EACH = 2
"""Squares a month and size."""
SMALL_PX = 32
"""Larger squares hold most of the judged ground, and are told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What every measure makes of one square, kind and amplitude: numbers by name of the measure.

    `recall` of injected cells, whether any was `found`, `auroc`, and the `false` share of flagged cells (0 where none is);
    `apart`, the same of cells that the model saw without any pixel of the square.
    """

    square: str
    kind: str
    size_px: int
    amplitude: float
    recall: dict[str, float]
    found: dict[str, float]
    auroc: dict[str, float]
    false: dict[str, float]
    apart: dict[str, float]


def readings(image: Image, square: Square, reader: Reader, unit: str = "patches") -> tuple[Cells, ...]:
    """Read the image with every change of the square, kind by kind; only chips that differ are read again."""
    chips = image.chips(unit).select_bands(reader.bands)
    read = reader.chip_parts if unit == "patches" else lambda some: _columns(reader.chip_cells(some))
    base, found = read(chips), []
    for _, _, changed in variants(image, square):
        new = changed.chips(unit).select_bands(reader.bands)
        same_b = (new.pixels_btcyx == chips.pixels_btcyx) | np.isnan(chips.pixels_btcyx)
        at = np.flatnonzero(~same_b.all(axis=(1, 2, 3, 4)))
        parts = {name: value.copy() for name, value in base.items()}
        if len(at):
            for name, value in read(new[at]).items():
                parts[name][at] = value
        found.append(laid(parts, new) if unit == "patches" else Cells(**parts))
    return tuple(found)


def _columns(cells: Cells) -> dict[str, np.ndarray]:
    return {field.name: getattr(cells, field.name) for field in fields(Cells)}


def case(
    outcomes: dict[str, Outcome], injected_n: np.ndarray, unchanged_n: np.ndarray, apart_n: np.ndarray
) -> dict[str, dict[str, float]]:
    """Score every measure of one map: injected cells against unchanged ones; what is neither counts in nothing.

    `apart_n` are the unchanged cells that the model saw without the square.
    """
    rows: dict[str, dict[str, float]] = {"recall": {}, "found": {}, "auroc": {}, "false": {}, "apart": {}}
    for name, out in outcomes.items():
        known_n = np.isfinite(out.p_n)
        true_n, false_n = known_n & injected_n, known_n & unchanged_n
        hits, wrong = out.flag_n[true_n].sum(), out.flag_n[false_n].sum()
        rows["recall"][name] = float(hits / max(true_n.sum(), 1))
        rows["found"][name] = float(hits > 0)
        rows["false"][name] = float(wrong / max(hits + wrong, 1))
        alone = out.flag_n[known_n & apart_n].sum()
        rows["apart"][name] = float(alone / max(hits + alone, 1))
        rows["auroc"][name] = auroc(out.size_n[true_n], out.size_n[false_n])
    return {part: merged(values) for part, values in rows.items()}


def cases(series: Series, reader: Reader, kit: Kit, unit: str, cache: Path | None) -> tuple[list[Case], dict]:
    """Inject into the last year of every month that has enough of them; also what is flagged without a change."""
    dates = seen(series, reader, kit, unit, cache)
    shape = judged_shape(series.images[0], unit)
    cut_n = likely_cut(dates, series) if unit == "patches" else np.zeros(np.prod(shape), bool)
    found, reference = [], {}
    for month, images in series.seasons.items():
        if len(images) < YEARS:
            continue
        *history, before, after = dates[month]
        judges = Judges(before, history)
        reference[month] = _reference(judges.judge(after), cut_n, len(history))
        for size_px in SIZES_PX[unit]:
            for square in squares(images[-1], size_px, EACH, unit):
                told = f"{month} {size_px} {square.row} {square.col}"
                click.echo(f"{reader.model.card.name} {unit}: {told}", err=True)
                cells = _kept(images[-1], square, reader, unit, cache)
                counted = square.cells(shape, unit), *(
                    marked(shape, unit) & ~cut_n for marked in (square.unchanged, square.apart)
                )
                names = ((kind, amplitude) for kind in KINDS for amplitude in AMPLITUDES)
                for (kind, amplitude), one in zip(names, cells, strict=True):
                    rows = case(judges.judge(kit.measure(one)), *counted)
                    found.append(Case(square=told, kind=kind, size_px=size_px, amplitude=amplitude, **rows))
    return found, reference


def _kept(image: Image, square: Square, reader: Reader, unit: str, cache: Path | None) -> tuple[Cells, ...]:
    name = f"power-{unit}-{image.day}-{square.size_px}-{square.row}-{square.col}-{square.seed}-{reader.name}"
    return cached(cache, name, lambda: readings(image, square, reader, unit))


def _reference(outcomes: dict[str, Outcome], cut_n: np.ndarray, years: int) -> dict[str, object]:
    known = {name: np.isfinite(out.p_n) & ~cut_n for name, out in outcomes.items()}
    flagged = merged({name: float(out.flag_n[known[name]].sum()) for name, out in outcomes.items()})
    return {"history": years, "judged": int(known["Delta"].sum()), "flagged": flagged}


def summary(every: Sequence[Case], reference: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Return what is told: by size and amplitude, and by kind with intervals and decisions.

    `quiet` is the false share in months in which Delta flags nothing where nothing was injected.
    """
    small, sizes = [c for c in every if c.size_px <= SMALL_PX], sorted({c.size_px for c in every})
    months = [month for month, found in reference.items() if not found["flagged"]["Delta"]]
    quiet = [c for c in small if c.square.partition(" ")[0] in months]
    return {
        "squares": len({c.square for c in every}),
        "grid": [row for kind in KINDS for row in _grid([c for c in every if c.kind == kind], sizes)],
        "kinds": {kind: compared([c for c in small if c.kind == kind]) for kind in KINDS},
        "sizes": {size: _false([c for c in every if c.size_px == size], "false") for size in sizes},
        "false": _false(small, "false"),
        "apart": _false(small, "apart"),
        "quiet": {"months": months, "false": _false(quiet, "false")["Delta"] if len(months) > 1 else None},
    }


def _grid(every: Sequence[Case], sizes: Sequence[int]) -> Iterator[dict[str, object]]:
    for size in sizes:
        for amplitude in AMPLITUDES:
            some = [c for c in every if (c.size_px, c.amplitude) == (size, amplitude)]
            parts = {part: means(some, part) for part in ("recall", "auroc")} | {"found": means(some, "found")["Delta"]}
            yield {"kind": some[0].kind, "size_px": size, "amplitude": amplitude, "cases": len(some), **parts}


def means(every: Sequence[Case], part: str) -> dict[str, float]:
    """Return the mean of one number over cases, by measure."""
    rows = [getattr(c, part) for c in every]
    return {name: round(float(np.nanmean([row[name] for row in rows])), 4) for name in rows[0]}


def compared(every: Sequence[Case]) -> dict[str, dict[str, object]]:
    """Return AUROC and recall of every measure, and Delta less it, in pairs; squares are redrawn."""
    boot = Bootstrap(np.array([c.square for c in every]))
    told: dict[str, dict[str, object]] = {}
    for part in ("auroc", "recall"):
        value = {name: np.array([getattr(c, part)[name] for c in every]) for name in every[0].auroc}
        draws = {name: boot.mean(value_k) for name, value_k in value.items()}
        for name, drawn in draws.items():
            told.setdefault(name, {})[part] = Interval.of(drawn).to_dict()
            gap = Interval.of(draws["Delta"] - drawn)
            told[name][f"{part}_gap"] = gap.to_dict() | {"verdict": gap.verdict if name != "Delta" else ""}
    return told


def _false(every: Sequence[Case], part: str) -> dict[str, dict[str, float | None]]:
    boot, rows = Bootstrap(np.array([c.square for c in every])), [getattr(c, part) for c in every]
    return {
        name: Interval.of(boot.mean([row[name] for row in rows])).to_dict() | {"maps": len(every)} for name in rows[0]
    }


def of_model(reader: Reader, kit: Kit, unit: str, cache: Path | None) -> dict[str, object]:
    """Measure one model on the forest of the demo catalogue."""
    series = delta_series.romania().of_bands(reader.bands)
    every, reference = cases(series, reader, kit, unit, cache)
    return {
        "model": reader.model.card.name,
        "unit": unit,
        "bands": list(reader.bands),
        "place": series.place,
        "reference": reference,
        **summary(every, reference),
    }


@click.command()
@click.option("--imagery", type=click.Path(exists=True, path_type=Path), help="Folder of the places of the data card.")
@click.option("--weights", multiple=True, metavar="MODEL=FOLDER", help="A published model to measure too; repeatable.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps what the models gave.")
def main(imagery: Path | None, weights: tuple[str, ...], cache: Path | None) -> None:
    torch.set_num_threads(1)
    if weights and imagery is None:
        raise click.UsageError("--weights needs --imagery: the probe of another model is fitted on its places")
    found = []
    for unit in SIZES_PX:
        found.append(of_model(*nano_kit(delta_series.BAND_SETS["6"], unit), unit, cache))
        for name, folder in folders_of(weights).items():
            found.append(of_model(*other_kit(name, folder, OTHER_BANDS, unit, imagery, cache), unit, cache))
    delta_page.keep("power", found)


if __name__ == "__main__":
    main()
