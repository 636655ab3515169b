"""Join the difficulty of two dates on its addresses, and judge the change by earlier years: tables in, arrays out.

Delta is difficulty after less difficulty before, on the linear scale of the probe: of a probe of log-loss the logarithm
of a ratio. Its null is the same season of earlier years, a table a year. Where before and after are of one season the
difference is compared with the differences that years make; where they are not, Delta holds the season as well, and the
test is of the date after against other years of its own season.

The area of applicability gates the date before and the history. It does not gate the date after: a burn scar should
look unlike anything before.

Later dates are each judged as the date after is, by the same date before and the same history. All share the date
before, so their flags are not independent: a second flag makes a change surer, and its false-alarm rate is not the
square of that of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np

from geoelle.change import (
    MIN_CELLS,
    MIN_REPLICATES,
    MIN_YEARS,
    Design,
    Null,
    Tested,
    false_alarms,
    judge,
    judge_by,
    q_values,
)
from geoelle.change_blocks import BlockCheck, YearCheck, check_blocks, check_years
from geoelle.change_states import Followed, follow
from geoelle.dense import PatchScores
from geoelle.embeddings import Embeddings
from geoelle.errors import AreaError, ProbeError, SpaceMismatch
from geoelle.lattice import Addresses
from geoelle.measures import percentiles
from geoelle.patches import keys_of
from geoelle.probe import Probe
from geoelle.seasonal import SEASON_DAYS, season_gap

__all__ = [
    "RATE", "STATES", "Delta", "Design", "Look", "Scored", "Unchanged", "compare", "judge",
]  # fmt: skip

RATE = 0.1
"""Of the flagged cells, the share that may be false."""
_APART_DAYS = 180.0
"""Years that are replicates lie further apart."""
STATES = ("judged", "outside", "gated", "short history", "no look before", "no look after")
"""`outside`: judged, but the date after is outside the area of applicability. `gated`: not judged, the date before is.
`short history`: not judged, fewer than four earlier years have the cell (all cells, where no history is given)."""

_PARTS = ("difficulty_n", "complexity_n", "inside_n", "days_n")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """What a probe says of the cells of one date, all float64 (n,), NaN where a cell was not seen.

    `difficulty_n` and `complexity_n` are on the probe's linear scale; `inside_n` is 1 in the area of applicability,
    else 0; `days_n` are days since 1970-01-01. `complexity_n` and `inside_n` are None where the probe cannot tell.
    `probe` is the digest.
    """

    addresses: Addresses
    difficulty_n: np.ndarray
    days_n: np.ndarray
    probe: str
    complexity_n: np.ndarray | None = None
    inside_n: np.ndarray | None = None

    @classmethod
    def of_chips(cls, table: Embeddings, probe: Probe) -> Self:
        """Score chips.

        Raises: SpaceMismatch (the probe is of another space, or knows other pixel features).
        """
        probe.check_space(table.header.space)
        days_n = (table.times_n - np.datetime64("1970-01-01", "s")) / np.timedelta64(1, "D")
        inside_n = None if probe.reach is None else probe.reach.inside(probe.reach.dissimilarity(table.vectors_nd))
        return cls(
            addresses=table.addresses, difficulty_n=probe.score_raw(table.vectors_nd),
            complexity_n=_complexity(table, probe), days_n=np.where(table.valid_n, days_n, np.nan),
            probe=probe.digest, inside_n=None if inside_n is None else inside_n.astype(np.float64),
        )  # fmt: skip

    @classmethod
    def of_patches(cls, table: PatchScores, probe: Probe) -> Self:
        """Take the scores of patches as they are; inside is what the chip says that has the patch in its middle."""
        inside_n = None if probe.reach is None else probe.reach.inside(table.dissimilarity_n).astype(np.float64)
        return cls(
            addresses=table.addresses, difficulty_n=table.mean_n, complexity_n=table.complexity_n.astype(np.float64),
            days_n=table.days_n.astype(np.float64), probe=table.probe, inside_n=inside_n,
        )  # fmt: skip

    def at(self, addresses: Addresses) -> Self:
        """Return the rows of these addresses, in their order; NaN for those there are not.

        Raises: AreaError (another lattice).
        """
        if addresses.lattice != self.addresses.lattice:
            pair = f"{self.addresses.lattice}, {addresses.lattice}"
            raise AreaError(f"dates lie on two lattices ({pair}); give runs of one model, --stride and --crs")
        order = np.argsort(keys_of(self.addresses))
        mine, wanted = keys_of(self.addresses)[order], keys_of(addresses)
        place = np.minimum(np.searchsorted(mine, wanted), max(len(mine) - 1, 0))
        held = mine[place] == wanted if len(mine) else np.zeros(len(wanted), bool)
        taken = {}
        for name in _PARTS:
            if (array := getattr(self, name)) is not None:
                taken[name] = np.full(len(addresses), np.nan)
                taken[name][held] = array[order[place[held]]]
        return replace(self, addresses=addresses, **taken)

    @property
    def day(self) -> float:
        """Return the median day, days since 1970-01-01; NaN where no cell was seen or none has a time."""
        seen = self.days_n[np.isfinite(self.days_n)]
        return float(np.median(seen)) if seen.size else float("nan")

    @property
    def gated_n(self) -> np.ndarray:
        """Return the difficulty where the probe applies, NaN elsewhere."""
        return self.difficulty_n if self.inside_n is None else np.where(self.inside_n > 0, self.difficulty_n, np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """What the same test says of years in which nothing is looked for, each judged by the others.

    `shares` are the shares of cells flagged, a year each, the earliest first; `below` the share of p under 0.05, which
    is 0.05 where p holds.
    """

    shares: tuple[float, ...]
    below: float

    @property
    def maps(self) -> int:
        """Return how many of the years have any flag."""
        return sum(share > 0 for share in self.shares)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """A date after, tested, all float64 (n,): `signed_n` is 0 or the sign of a flagged change, NaN where not judged."""

    delta_n: np.ndarray
    days_n: np.ndarray
    q_n: np.ndarray
    signed_n: np.ndarray
    shift: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delta:
    """The change of every cell, all float64 (n,), NaN where it is not known.

    `sign_n` is that of the change less the shift of the whole map, -1 where the ground became easier. `rank_n` is the
    percentile of its size. `state_n` counts `STATES`. `tested`, `q_n` and `flag_n` are None without a history, and then
    there is a ranking and nothing is claimed. `shift` is the median Delta; `unchanged` is None for fewer than three
    years that can be judged by each other. `years` and `blocks` are the checks of the flags against other years, None
    where years or ground are too few. With later dates `looks` are all dates after, the earliest first, and `followed`
    what became of each cell's flag.
    """

    addresses: Addresses
    delta_n: np.ndarray
    excess_n: np.ndarray | None
    sign_n: np.ndarray
    rank_n: np.ndarray
    state_n: np.ndarray
    days_n2: np.ndarray
    shift: float
    design: Design
    rate: float
    null: Null | None = None
    tested: Tested | None = None
    q_n: np.ndarray | None = None
    flag_n: np.ndarray | None = None
    unchanged: Unchanged | None = None
    years: YearCheck | None = None
    blocks: BlockCheck | None = None
    looks: tuple[Look, ...] = ()
    followed: Followed | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Count the cells of every state, and the flagged ones."""
        counts = {name: int((self.state_n == i).sum()) for i, name in enumerate(STATES)}
        return counts if self.flag_n is None else counts | {"flagged": int(np.nansum(self.flag_n))}


def compare(
    before: Scored, after: Scored, history: Sequence[Scored] = (), *, later: Sequence[Scored] = (), rate: float = RATE
) -> Delta:
    """Compare two dates cell by cell, judged by `history`, earlier years of the season of `after`.

    Cells are those of either date, by row, then column. `later` dates, of the season of `after` too, follow its flags.

    Raises: SpaceMismatch (two probes), AreaError (two lattices), ProbeError (dates in the wrong order or season, no
    cell seen on both, a history of fewer than four years, or later dates without a history).
    """
    every = (before, after, *history, *later)
    if len({table.probe for table in every}) > 1:
        raise SpaceMismatch("dates were scored by two probes; score all with one (--probe)")
    design = _design(before, after, history)
    later = _in_order(after, later, design)
    cells = _union(before.addresses, after.addresses)
    before, after = before.at(cells), after.at(cells)
    history, later = ([table.at(cells) for table in tables] for tables in (history, later))
    found = _ranked(before, after, design, rate)
    return found if design == "none" else _tested(found, before, [after, *later], history)


def _ranked(before: Scored, after: Scored, design: Design, rate: float) -> Delta:
    """Return Delta without a test."""
    delta_n = after.difficulty_n - before.difficulty_n
    if not np.isfinite(delta_n).any():
        raise ProbeError(f"no cell of {len(delta_n)} was seen before and after; choose clearer dates, or one place")
    shift = float(np.nanmedian(delta_n))
    complexity = None if before.complexity_n is None else after.complexity_n - before.complexity_n
    return Delta(
        addresses=before.addresses, delta_n=delta_n, excess_n=None if complexity is None else delta_n - complexity,
        sign_n=np.sign(delta_n - shift), rank_n=percentiles(np.abs(delta_n - shift)),
        state_n=_states(before, after, None), days_n2=np.stack([before.days_n, after.days_n], axis=1), shift=shift,
        design=design, rate=rate,
    )  # fmt: skip


def _tested(ranked: Delta, before: Scored, afters: Sequence[Scored], history: Sequence[Scored]) -> Delta:
    """Add to Delta what its history says, and what became of its flags at later dates."""
    design, rate = ranked.design, ranked.rate
    null, tested = judge(before.gated_n, afters[0].difficulty_n, _enough(history), design)
    q_n, size_n = q_values(tested.p_n), tested.t_n
    years = sorted([*history, *([before] if design == "difference" else [])], key=lambda table: table.day)
    raw_rn, gated_rn = (np.array([getattr(y, name) for y in years]) for name in ("difficulty_n", "gated_n"))
    known_n = np.isfinite(tested.p_n)
    looks = tuple(_look(null, before, after, design, rate) for after in afters) if len(afters) > 1 else ()
    return replace(
        ranked, null=null, tested=tested, q_n=q_n, flag_n=np.where(np.isnan(q_n), np.nan, q_n <= rate),
        sign_n=np.sign(np.where(known_n, size_n, ranked.delta_n - ranked.shift)), rank_n=percentiles(np.abs(size_n)),
        state_n=_states(before, afters[0], null), unchanged=_judge(gated_rn, rate),
        years=check_years(np.where(known_n, raw_rn, np.nan), np.where(known_n, afters[0].difficulty_n, np.nan), rate),
        blocks=check_blocks(raw_rn, gated_rn, tested, ranked.addresses, design=design, rate=rate), looks=looks,
        followed=follow(*(np.array([getattr(k, n) for k in looks]) for n in ("signed_n", "days_n"))) if looks else None,
    )  # fmt: skip


def _enough(history: Sequence[Scored]) -> np.ndarray:
    """Return the difficulty of earlier years, (r, n), NaN in cells that fewer than four of them have.

    Raises: ProbeError (next to no cell is left).
    """
    seen_rn = np.array([year.gated_n for year in history])
    few_n = np.isfinite(seen_rn).sum(axis=0) < MIN_YEARS
    if (~few_n).sum() < MIN_CELLS:
        raise ProbeError(
            f"only {(~few_n).sum()} of {len(few_n)} cells are clear, and applicable, in {MIN_YEARS} earlier years "
            f"({MIN_CELLS} are needed); give a longer --history or clearer dates, or none for a ranking"
        )
    return np.where(few_n, np.nan, seen_rn)


def _look(null: Null, before: Scored, after: Scored, design: Design, rate: float) -> Look:
    tested = judge_by(null, before.gated_n, after.difficulty_n, design)
    q_n = q_values(tested.p_n)
    signed_n = np.where(np.isnan(q_n), np.nan, np.where(q_n <= rate, np.sign(tested.t_n), 0.0))
    return Look(delta_n=after.difficulty_n - before.difficulty_n, days_n=after.days_n, q_n=q_n, signed_n=signed_n,
                shift=tested.shift)  # fmt: skip


def _design(before: Scored, after: Scored, history: Sequence[Scored]) -> Design:
    if before.day >= after.day:
        raise ProbeError(f"the date before ({_date(before.day)}) is not before {_date(after.day)}; swap them")
    days = sorted(table.day for table in history)  # NaN sorts anyhow, and is refused below
    if not days:
        return "none"
    if len(days) < MIN_YEARS:
        raise ProbeError(
            f"a history too short ({len(days)} of {MIN_YEARS} earlier years) cannot keep a false-alarm rate; give "
            f"{MIN_YEARS} or more, or none for a ranking without p-values"
        )
    if np.isnan([before.day, after.day, *days]).any():
        raise ProbeError("one of the dates has no clear look, or no time; choose clearer dates, and give arrays a time")
    for day in days:
        if season_gap(day, after.day) > SEASON_DAYS:
            raise ProbeError(
                f"the history of {_date(day)} is of another season than {_date(after.day)} (more than {SEASON_DAYS:g} "
                "days of the year apart); give the same season of earlier years"
            )
    same = season_gap(before.day, after.day) <= SEASON_DAYS
    taken = sorted([*days, after.day, *([before.day] if same else [])])
    if any(b - a < _APART_DAYS for a, b in pairwise(taken)):
        told = ", ".join(map(_date, taken))
        raise ProbeError(f"two of the dates are of one year ({told}); years are the replicates, give each once")
    if days[-1] > before.day:
        raise ProbeError(f"the history of {_date(days[-1])} is after {_date(before.day)}; give earlier years")
    return "difference" if same else "departure"


def _in_order(after: Scored, later: Sequence[Scored], design: Design) -> list[Scored]:
    """Return the later dates, the earliest first, or say why they cannot follow a change."""
    if later and design == "none":
        raise ProbeError("later dates are judged by the history, and none was given; give --history, or no --later")
    later = sorted(later, key=lambda table: table.day)
    days = [after.day, *(table.day for table in later)]
    if np.isnan(days[1:]).any():
        raise ProbeError("one of the later dates has no clear look, or no time; leave it out, or give arrays a time")
    for one, other in pairwise(days):
        if one >= other:
            raise ProbeError(f"the later date {_date(other)} is not after {_date(one)}; give dates after, each once")
    for day in days[1:]:
        if season_gap(day, after.day) > SEASON_DAYS:
            raise ProbeError(
                f"the later date {_date(day)} is of another season than {_date(after.day)} (more than {SEASON_DAYS:g} "
                "days of the year apart), which the history does not tell of; give the same season, of any year after"
            )
    return later


def _judge(years_rn: np.ndarray, rate: float) -> Unchanged | None:
    if len(years_rn) <= MIN_REPLICATES:
        return None
    p_kn, shares_k = false_alarms(years_rn, rate)
    if not len(shares_k):
        return None
    below = float((p_kn[np.isfinite(p_kn)] < 0.05).mean())
    return Unchanged(shares=tuple(shares_k.tolist()), below=below)


def _states(before: Scored, after: Scored, null: Null | None) -> np.ndarray:
    """Return the state of each cell; of several the one that decides."""
    state_n = np.zeros(len(before.addresses))
    if after.inside_n is not None:
        state_n[after.inside_n == 0] = STATES.index("outside")
    state_n[True if null is None else ~np.isfinite(null.sd_n)] = STATES.index("short history")
    state_n[np.isnan(before.gated_n)] = STATES.index("gated")
    state_n[np.isnan(after.difficulty_n)] = STATES.index("no look after")
    state_n[np.isnan(before.difficulty_n)] = STATES.index("no look before")
    return state_n


def _union(one: Addresses, other: Addresses) -> Addresses:
    if one.lattice != other.lattice:
        pair = f"{one.lattice}, {other.lattice}"
        raise AreaError(f"dates lie on two lattices ({pair}); give runs of one model, --stride and --crs")
    every = one.concat(other)
    return every[np.unique(keys_of(every), return_index=True)[1]]


def _complexity(table: Embeddings, probe: Probe) -> np.ndarray | None:
    if probe.pixels is None or table.features_nf is None:
        return None
    if table.header.feature_names != probe.feature_names:
        raise SpaceMismatch("the probe knows other pixel features than the run has; embed again with this geoelle")
    return np.asarray(probe.pixels(table.features_nf), np.float64)


def _date(day: float) -> str:
    return str(np.datetime64("1970-01-01") + int(day))
