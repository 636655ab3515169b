"""Keep the scores of a fit and of its nulls in tables that print themselves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from geoelle.bootstrap import METRICS, Interval, Metrics, Reliability, Verdict
from geoelle.errors import ProbeError

__all__ = ["Gain", "Kind", "Row", "Scores", "Table", "Terms", "plain_json", "score_rows"]

Kind = Literal["probe", "flattered", "null", "joint"]

_HEADS = ("predictor", "r", "R²", "Spearman", "r within places", "ELLE minus it (r)", "ELLE ... it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The words a table is printed in; pairs that are not of the ground have words of their own.

    `target` and `held_out` say what was predicted and on what; `rows` and `places` what is counted ("": places are not
    told); `inputs` what the nulls of the table read.
    """

    target: str = "loss"
    held_out: str = "ground held out"
    rows: str = "chips"
    places: str = "places"
    inputs: str = "pixels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One predictor's scores and the paired differences ELLE minus it.

    `kind`: the "probe" itself; "flattered", the probe on random folds; a "null"; "joint", the probe together
    with a null. Only nulls have a verdict.
    """

    name: str
    kind: Kind
    metrics: Metrics
    minus: Metrics | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Say whether ELLE beats, ties with or loses to this null, by the interval of the difference in r."""
        return self.minus.r.verdict if self.kind == "null" and self.minus is not None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What the embedding adds on top of pixel complexity, by one measure."""

    name: str
    value: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All rows for one scale of the target ("log" or "raw") and one subset of the chips.

    `alphas` are those that ELLE chose in each outer fold; `reliability` bounds every r of the table.
    """

    scale: str
    subset: str
    n_chips: int
    n_places: int
    rows: tuple[Row, ...]
    adds: tuple[Gain, ...] = ()
    alphas: tuple[float, ...] = ()
    reliability: Reliability | None = None
    terms: Terms = Terms()

    def row(self, name: str) -> Row:
        """Return the row of that name; raises `ProbeError` for another."""
        for row in self.rows:
            if row.name == name:
                return row
        raise ProbeError(f"no row {name!r} in the scores; there are {', '.join(r.name for r in self.rows)}")

    def sentence(self) -> str:
        """Say in one line what the table shows."""
        r = self.rows[0].metrics.r
        verdicts = {row.name: row.verdict for row in self.rows if row.verdict}
        told = [
            f"{verb} {_listed([name for name, verdict in verdicts.items() if verdict == verb])}"
            for verb in ("beats", "ties with", "loses to")
            if verb in verdicts.values()
        ]
        told = f" ELLE {'; '.join(told)}." if told else ""
        ceiling = f" The loss itself allows r = {self.reliability.ceiling:.3f}." if self.reliability else ""
        target = f"log-{self.terms.target}" if self.scale == "log" else self.terms.target
        return f"{target}, {self.subset}: r = {r} on {self.terms.held_out}.{told}{ceiling}"

    def to_markdown(self) -> str:
        """Print the table under its sentence."""
        lines = [_line(_HEADS), _line(["---"] * len(_HEADS))]
        for row in self.rows:
            name = f"{row.name} ({row.note})" if row.note else row.name
            minus = "" if row.minus is None else str(row.minus.r)
            lines.append(_line([name, *(str(getattr(row.metrics, m)) for m in METRICS), minus, row.verdict]))
        places = f", {self.n_places} {self.terms.places}" if self.terms.places else ""
        head = f"**{self.sentence()}** {self.n_chips:,} {self.terms.rows}{places}.\n"
        gains = [f"- {gain.name}: {gain.value}" for gain in self.adds]
        gains = ["", f"What the embedding adds to the {self.terms.inputs}:", "", *gains] if gains else []
        return "\n".join([head, *lines, *gains]) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of one fit: a table for each scale and subset, the fit's own scale and all chips first.

    `holdout` says how the ground was held out; `notes` say what was left out or subsampled.
    """

    tables: tuple[Table, ...]
    holdout: str
    notes: tuple[str, ...] = ()

    def table(self, scale: str | None = None, subset: str = "all chips") -> Table:
        """Return the table of a scale (None: that of the fit) and subset; raises `ProbeError` for another."""
        scale = scale or self.tables[0].scale
        for table in self.tables:
            if (table.scale, table.subset) == (scale, subset):
                return table
        had = "; ".join(f"{t.scale}, {t.subset}" for t in self.tables)
        raise ProbeError(f"no scores for {scale}, {subset}; there are {had}")

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON data, NaN as None, a verdict beside each difference."""
        plain = asdict(self)
        for table, data in zip(self.tables, plain["tables"], strict=True):
            data["sentence"] = table.sentence()
            for row, row_data in zip(table.rows, data["rows"], strict=True):
                row_data["verdict"] = row.verdict
        return plain_json(plain)

    def to_markdown(self) -> str:
        """Print every table, then the notes."""
        notes = "".join(f"- {note}\n" for note in (f"Held out: {self.holdout}.", *self.notes))
        return "\n".join([*(table.to_markdown() for table in self.tables), notes])


def score_rows(table: Mapping[str, object]) -> tuple[dict[str, str], ...]:
    """Return the rows of one table of `Scores.to_dict` as texts a column, for the reports."""
    rows = []
    for row in table["rows"]:
        cells = {"predictor": f"{row['name']} ({row['note']})" if row["note"] else row["name"]}
        cells |= {head: _interval(row["metrics"][name]) for head, name in zip(_HEADS[1:], METRICS, strict=False)}
        minus = "" if row["minus"] is None else _interval(row["minus"]["r"])
        rows.append(cells | {_HEADS[-2]: minus, _HEADS[-1]: row["verdict"]})
    return tuple(rows)


def _interval(plain: Mapping[str, float | None]) -> str:
    return str(Interval(**{name: float("nan") if value is None else value for name, value in plain.items()}))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plain_json(value: object) -> object:
    """Return nested dicts and lists as JSON can hold them: NaN and infinity as None."""
    if isinstance(value, dict):
        return {k: plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
