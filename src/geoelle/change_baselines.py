"""Judge plainer measures of change by the same cells, dates and years: what Delta has to beat, and its own nulls.

A measure with a number a date (an index, a band, the complexity, a random direction of the embedding, what a probe of
the untrained twin predicts) is treated as difficulty is. A distance has no number of one date: that from before to
after is compared with those from before to each earlier year, which have the date before in common as well, on the
scale of logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from geoelle.change import MIN_REPLICATES, false_alarms, fit_null, q_values
from geoelle.complexity import INDICES
from geoelle.delta import Delta, Scored, judge
from geoelle.dense import PatchScores
from geoelle.embeddings import Embeddings
from geoelle.errors import ProbeError
from geoelle.lattice import Addresses
from geoelle.patches import keys_of
from geoelle.probe import TWIN, Probe

__all__ = ["Measured", "baselines", "gap_of", "in_words", "of_delta"]

Table = Embeddings | PatchScores

_SEED = 0
_LEAST = 1e-12
"""A distance of nothing has no logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """One measure of change: `size_n` ranks the cells, a change has much of it; `flag_n` where years could judge it.

    `unchanged` is the mean share of cells that are flagged in years judged by the others.
    """

    name: str
    size_n: np.ndarray
    flag_n: np.ndarray | None = None
    unchanged: float | None = None

    @property
    def share(self) -> float | None:
        """Return the share of judged cells that are flagged, None where none was judged."""
        judged = self.flag_n is not None and np.isfinite(self.flag_n).any()
        return float(np.nanmean(self.flag_n)) if judged else None

    def row(self) -> dict[str, object]:
        """Return the columns of a report."""
        return {
            "measure": self.name,
            "flagged": None if self.share is None else f"{self.share:.1%}",
            "in unchanged years": None if self.unchanged is None else f"{self.unchanged:.2%}",
        }


def of_delta(delta: Delta) -> Measured:
    """Return Delta as a measure beside the others."""
    size_n = delta.delta_n - delta.shift if delta.tested is None else delta.tested.t_n
    unchanged = None if delta.unchanged is None else float(np.mean(delta.unchanged.shares))
    return Measured(name="Delta", size_n=np.abs(size_n), flag_n=delta.flag_n, unchanged=unchanged)


def baselines(
    delta: Delta, scored: Sequence[Scored], tables: Sequence[Table], probe: Probe
) -> Iterator[Measured]:
    """Measure every baseline that the tables can tell, on the cells that Delta has.

    `scored` and `tables` are before, after, then the history; what they lack
    `gap_of` says. A measure whose years do not vary is ranked and not tested.
    """
    scored = [table.at(delta.addresses) for table in scored]
    known_n = np.isfinite(delta.delta_n if delta.tested is None else delta.tested.t_n)
    if all(table.complexity_n is not None for table in scored):
        complexity_rn = np.array([table.complexity_n for table in scored])
        yield _number("complexity (pixels alone)", complexity_rn, known_n, delta)
        yield _number("excess", np.array([t.difficulty_n for t in scored]) - complexity_rn, known_n, delta)
    places = [_places(table.addresses, delta.addresses) for table in tables]
    for name, of in (*_band_numbers(tables[0]), *_vector_numbers(tables, probe)):
        values_rn = np.array([_taken(of(table), at_n) for table, at_n in zip(tables, places, strict=True)])
        yield _number(name, values_rn, known_n, delta)
    for name, of, distance in _DISTANCES:
        if all(of(table) is not None for table in tables):
            rows = [_taken(of(table), at_n) for table, at_n in zip(tables, places, strict=True)]
            apart_rn = np.array([distance(rows[0], other) for other in rows[1:]])
            yield _distance(name, np.log(np.maximum(apart_rn, _LEAST)), known_n, delta)


def in_words(measures: Sequence[Measured]) -> str:
    """Return what each measure flags, now and in unchanged years, as one text; those that are only ranked are left out.

    >>> red = Measured(name="red", size_n=np.ones(4), flag_n=np.array([0.0, 1.0, 0.0, 0.0]), unchanged=0.01)
    >>> in_words([red, Measured(name="nir", size_n=np.ones(4))])
    'red 25.0% (1.00% in unchanged years)'
    """
    rows = [measure.row() for measure in measures]
    return "; ".join(
        f"{row['measure']} {row['flagged']}"
        + ("" if row["in unchanged years"] is None else f" ({row['in unchanged years']} in unchanged years)")
        for row in rows
        if row["flagged"] is not None
    )


def gap_of(tables: Sequence[Table], probe: Probe) -> str:
    """Return which of the baselines are missing, why, and what helps; "" where none is."""
    if isinstance(tables[0], PatchScores) and any(table.token_nd is None for table in tables):
        return (
            "The untrained twin, the true loss, a random direction and distances of tokens are not among the "
            "baselines: a dense map does not keep tokens; give --bbox, and the runs of the change do"
        )
    lossless = any(table.loss_n is None for table in tables)
    loss = "The true loss is not among the baselines: a run holds none (geoelle embed --loss and delta --bbox keep it)"
    return "; ".join(filter(None, (_twin_gap(tables, probe), loss if lossless else "")))


def _twin_gap(tables: Sequence[Table], probe: Probe) -> str:
    missing = "The untrained twin is not among the baselines: "
    if probe.twin is None:
        return missing + "the probe has no map of it; fit one on runs of embed --loss, which keep its vectors"
    are_patches = isinstance(tables[0], PatchScores)
    if any(table.twin_n is None if are_patches else TWIN not in table.twins for table in tables):
        return missing + "a run holds no vectors of it; embed all dates with --twins 1"
    return ""


def _band_numbers(table: Table) -> Iterator[tuple[str, Callable[[Table], np.ndarray]]]:
    """Name the indices and bands that a table can tell, and how to take the number of a date from it."""
    if isinstance(table, PatchScores):
        bands = _names(table)
        for index, pair in INDICES.items():
            if set(pair) <= set(bands):
                yield index.upper(), partial(_index, *map(bands.index, pair))
        yield from ((band, partial(_mean, at)) for at, band in enumerate(bands))
        return
    names = table.header.feature_names
    wanted = [(f"{i.upper()}", f"{i}_mean") for i in INDICES] + [(b, f"mean_{b}") for b in table.header.bands]
    for name, column in wanted:
        if column in names:
            yield name, partial(_feature, names.index(column))


def _vector_numbers(
    tables: Sequence[Table], probe: Probe
) -> Iterator[tuple[str, Callable[[Table], np.ndarray]]]:
    """Name the measures that are read from embeddings or tokens, and the true loss."""
    first_nd = _vectors(tables[0])
    if all(_vectors(table) is not None for table in tables):
        direction_d = np.random.default_rng(_SEED).normal(size=first_nd.shape[1])
        direction_d /= np.linalg.norm(direction_d)
        yield "random direction", lambda t: _vectors(t) @ direction_d
    if not _twin_gap(tables, probe):
        yield "untrained twin", partial(_twin, probe)
    if all(t.loss_n is not None for t in tables):
        yield "true loss", lambda t: np.log(np.maximum(t.loss_n, _LEAST))


def _twin(probe: Probe, table: Table) -> np.ndarray:
    return table.twin_n if isinstance(table, PatchScores) else probe.twin(table.twins[TWIN])


def _feature(column: int, table: Embeddings) -> np.ndarray:
    return table.features_nf[:, column].astype(np.float64)


def _names(table: PatchScores) -> list[str]:
    return str(table.space["bands"]).split()


def _mean(column: int, table: PatchScores) -> np.ndarray:
    return table.means_nc[:, column].astype(np.float64)


def _index(one: int, other: int, table: PatchScores) -> np.ndarray:
    """Return the normalised difference of two bands, NaN where both are 0."""
    a_n, b_n = _mean(one, table), _mean(other, table)
    return np.divide(a_n - b_n, a_n + b_n, out=np.full(len(a_n), np.nan), where=a_n + b_n != 0)


def _bands(table: Table) -> np.ndarray | None:
    if isinstance(table, PatchScores):
        return table.means_nc.astype(np.float64)
    names = table.header.feature_names
    at = [names.index(f"mean_{band}") for band in table.header.bands if f"mean_{band}" in names]
    return table.features_nf[:, at].astype(np.float64) if at else None


def _vectors(table: Table) -> np.ndarray | None:
    if isinstance(table, PatchScores):
        return None if table.token_nd is None else table.token_nd.astype(np.float64)
    return table.vectors_nd.astype(np.float64)


def _euclidean(a_nd: np.ndarray, b_nd: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a_nd - b_nd, axis=1)


def _cosine(a_nd: np.ndarray, b_nd: np.ndarray) -> np.ndarray:
    return 1 - np.einsum("nd,nd->n", a_nd, b_nd) / (np.linalg.norm(a_nd, axis=1) * np.linalg.norm(b_nd, axis=1))


_DISTANCES = (
    ("pixel difference", _bands, _euclidean),
    ("embedding cosine", _vectors, _cosine),
    ("embedding Euclidean", _vectors, _euclidean),
)
"""Cosine distance of embeddings is how RaVAEn finds change (Ruzicka et al. 2022, doi:10.1038/s41598-022-19437-5)."""


def _number(name: str, values_rn: np.ndarray, known_n: np.ndarray, delta: Delta) -> Measured:
    before_n, after_n, history_rn = (
        np.where(known_n, rows, np.nan) for rows in (values_rn[0], values_rn[1], values_rn[2:])
    )
    apart_n = after_n - before_n
    ranked = Measured(name=name, size_n=np.abs(apart_n - np.nanmedian(apart_n)))
    if delta.design == "none":
        return ranked
    years_rn = [*history_rn, *([before_n] if delta.design == "difference" else [])]
    try:
        _, tested = judge(before_n, after_n, history_rn, delta.design)
    except ProbeError:  # the years do not vary
        return ranked
    return replace(ranked, size_n=np.abs(tested.t_n), flag_n=_flags(tested.p_n, delta.rate),
                   unchanged=_unchanged(np.array(years_rn), delta.rate))  # fmt: skip


def _distance(name: str, log_rn: np.ndarray, known_n: np.ndarray, delta: Delta) -> Measured:
    """Judge distances from before: to after, first, by those to the earlier years. Only a larger one is a change."""
    log_rn = np.where(known_n, log_rn, np.nan)
    ranked = Measured(name=name, size_n=log_rn[0])
    if delta.design == "none":
        return ranked
    try:
        tested = fit_null(log_rn[1:]).test(log_rn[0])
    except ProbeError:
        return ranked
    flag_n = _flags(tested.p_n, delta.rate)
    larger_n = np.where(np.isnan(flag_n), np.nan, (flag_n == 1) & (tested.t_n > 0))
    return replace(ranked, size_n=tested.t_n, flag_n=larger_n, unchanged=_unchanged(log_rn[1:], delta.rate))


def _flags(p_n: np.ndarray, rate: float) -> np.ndarray:
    q_n = q_values(p_n)
    return np.where(np.isnan(q_n), np.nan, q_n <= rate)


def _unchanged(years_rn: np.ndarray, rate: float, *, larger: bool = False) -> float | None:
    """Return the mean share of cells flagged in years judged by the others, None where none can be."""
    shares_k = false_alarms(years_rn, rate, larger=larger)[1] if len(years_rn) > MIN_REPLICATES else np.empty(0)
    return float(np.mean(shares_k)) if len(shares_k) else None


def _places(mine: Addresses, wanted: Addresses) -> np.ndarray:
    """Return the row of each wanted address, -1 where there is none."""
    order = np.argsort(keys_of(mine))
    keys = keys_of(mine)[order]
    at_n = np.minimum(np.searchsorted(keys, keys_of(wanted)), len(keys) - 1)
    return np.where(keys[at_n] == keys_of(wanted), order[at_n], -1)


def _taken(values: np.ndarray, at_n: np.ndarray) -> np.ndarray:
    taken = values[at_n].astype(np.float64)
    taken[at_n < 0] = np.nan
    return taken
