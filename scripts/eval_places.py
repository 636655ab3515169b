"""Score a model and every null with whole places held out: the tables of docs/evaluation.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval_cases import Case
from geoelle.holdout import PlaceKFold
from geoelle.nulls import evaluate
from geoelle.scores import Row, Scores, Table
from nano_samples import Labelled

FOLDS = 5
NULLS = ("untrained twins", "pixel ridge", "pixel boosted trees", "pixel SVR")


def score(found: Labelled) -> Scores:
    """Score ELLE and every null, whole places held out."""
    return evaluate(found.sample, cv=PlaceKFold(FOLDS), groups=found.places_n)


def matrix(scores: Mapping[str, tuple[Case, Scores]]) -> str:
    """Return one line a model and scale: r of ELLE, of the strongest nulls, and what ELLE does to each."""
    lines = [
        f"| model | target | chips, places | ELLE r | random folds | {' | '.join(NULLS)} | r within places | ceiling |",
        f"| --- | --- | --- | --- | --- |{' --- |' * len(NULLS)} --- | --- |",
    ]
    for case, found in scores.values():
        for table in found.tables:
            name = case.title if table.subset == "all chips" else f"{case.title}, {table.subset}"
            cells = [_against(table, null) for null in NULLS]
            lines.append(
                f"| {name} | {'log-loss' if table.scale == 'log' else 'loss'} | {table.n_chips:,}, {table.n_places} "
                f"| {table.rows[0].metrics.r} | {table.row('ELLE on random folds').metrics.r.value:.3f} | {' | '.join(cells)} "
                f"| {table.rows[0].metrics.within} | {table.reliability.ceiling if table.reliability else float('nan'):.3f} |"
            )
    return "\n".join([*lines, ""])


def _against(table: Table, null: str) -> str:
    row = table.row(null)
    return f"{row.metrics.r.value:.3f} ({row.verdict})"


def section(case: Case, scores: Scores) -> str:
    """Return the tables of the scale that is fitted, and of the loss itself, over all chips."""
    tables = [scores.table(scale) for scale in ("log", "raw")]
    notes = "".join(f"- {note}\n" for note in scores.notes)
    return "\n".join(
        [
            f"### {case.title}",
            "",
            f"{case.note} {FOLDS} folds of whole places.",
            "",
            *(t.to_markdown() for t in tables),
            notes,
        ]
    )


def best_pixel_null(table: Table) -> Row:
    """Return the strongest model of the pixels."""
    return max((row for row in table.rows if row.name in NULLS[1:]), key=lambda row: row.metrics.r.value)


def short(case: Case, scores: Scores) -> list[str]:
    """Return the sentences on a model that a reader needs first; what ELLE loses to comes first."""
    table = scores.table()
    pixels, twins = best_pixel_null(table), table.row(NULLS[0])
    flattered = table.row("ELLE on random folds").metrics.r
    gains = "; ".join(f"{gain.name} {gain.value}" for gain in table.adds if gain.name.startswith("R²"))
    return [
        f"**{case.title}**, log-loss, places held out: ELLE r = {table.rows[0].metrics.r}; it {pixels.verdict} the best pixel null "
        f"({pixels.name}, {pixels.metrics.r.value:.3f}; difference {pixels.minus.r}) and {twins.verdict} the untrained twins "
        f"({twins.metrics.r.value:.3f}; difference {twins.minus.r}). Random folds would have said {flattered.value:.3f}. "
        f"Added to the pixels: {gains}."
    ]


def order(cases: Sequence[tuple[Case, Scores]]) -> list[tuple[Case, Scores]]:
    """Put the models that lose to a null first, by the difference to their best pixel null."""
    return sorted(cases, key=lambda pair: best_pixel_null(pair[1].table()).minus.r.value)
