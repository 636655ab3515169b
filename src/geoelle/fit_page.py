"""Say and draw what a fit rests on: facts, scores, folds, and how far to trust the probe."""

from __future__ import annotations

import numpy as np

from geoelle.diagnostic_figures import coverage_curve, error_over_density, error_over_dissimilarity
from geoelle.diagnostics import Task, score_places
from geoelle.embeddings import Header
from geoelle.figures import Score
from geoelle.fold_figures import distances, fold_map
from geoelle.held import Held
from geoelle.models import model_card
from geoelle.probe import Probe
from geoelle.report import FitFacts, Picture, fit_pictures
from geoelle.scores import Scores, Table, score_rows
from geoelle.trust import Trust

__all__ = ["fit_facts", "fold_pictures", "score_bars_of", "score_pictures", "trust_pictures"]


def score_bars_of(table: Table) -> tuple[Score, ...]:
    """Return r of every predictor with its interval, for the figure."""
    return tuple(
        Score(
            name=row.name,
            r=row.metrics.r.value,
            low=row.metrics.r.low,
            high=row.metrics.r.high,
            is_null=row.kind == "null",
        )
        for row in table.rows
    )


def score_pictures(task: Task, scores: Scores, lonlat_n2: np.ndarray, unit: str) -> tuple[Picture, ...]:
    """Draw scores beside their nulls, calibration and the score by place."""
    places = score_places(task.y_n, task.predicted_n, task.label_n)
    middles = np.stack([np.bincount(places.place_n, degrees) / places.rows_m for degrees in lonlat_n2.T], axis=1)
    return fit_pictures(
        task.predicted_n,
        task.y_n,
        score_bars_of(scores.table()),
        unit=unit,
        place_lonlat_m2=middles,
        place_r_m=places.r_m,
    )


def fold_pictures(held: Held, lonlat_n2: np.ndarray) -> dict[str, Picture]:
    """Draw, by file stem, the map of the folds and, where there is an area to be mapped, the distances that decide."""
    matching, domain = held.matching, held.cv.domain_lonlat_m2 if held.matching is not None else None
    drawn = {
        "folds": Picture(
            title="Folds",
            caption=f"Chips by the fold that tests them: {held.text}.",
            png=fold_map(lonlat_n2, held.fold_n, domain),
        )
    }
    if matching is not None:
        drawn["distances"] = Picture(
            title="Distances",
            caption="Folds are fair to the map where held-out chips are as far from their training part as the "
            "area to be mapped is from the sample; W is the area between these two lines, in km.",
            png=distances(matching.sample_s, matching.domain_m, matching.fold_s, matching.w_m),
        )
    return drawn


def trust_pictures(trust: Trust, unit: str) -> dict[str, Picture]:
    """Draw, by file stem, coverage of the intervals, error over dissimilarity and over density, where there are any."""
    drawn, found = {}, trust.informativeness
    curve = [(c.level, c.places.value, c.places.low, c.places.high) for c in trust.coverage.curve]
    if trust.probe.spread is not None and curve:
        drawn["coverage"] = Picture(
            title="Coverage of the intervals",
            caption="Share of held-out ground inside its interval against the level asked for, each place weighing the "
            "same; band: 95%, from redrawing places. Above the line, intervals are wider than they need be.",
            png=coverage_curve(curve),
        )
    if found is not None:
        told = found.sentence()
        drawn["dissimilarity"] = Picture(
            title="Error over dissimilarity",
            caption=f"{told[:1].upper()}{told[1:]}. Points: ten groups of equal size, median dissimilarity and mean "
            "error; the line is the threshold of the area of applicability.",
            png=error_over_dissimilarity(
                trust.dissimilarity_n, np.abs(trust.residual_n), found.groups, trust.probe.reach.threshold, unit=unit
            ),
        )
        told = trust.density.sentence()
        drawn["density"] = Picture(
            title="Error over density",
            caption=f"{told[:1].upper()}{told[1:]}. {trust.probe.reach.counted().capitalize()}; here, those of other "
            "folds. Points: groups of nearly equal size, median density and mean error.",
            png=error_over_density(trust.density_n, np.abs(trust.residual_n), trust.density.groups, unit=unit),
        )
    return drawn


def fit_facts(scores: Scores, probe: Probe, held: Held, header: Header, told: tuple[str, ...]) -> FitFacts:
    """State what the fit rests on; `told` are sentences on how far to trust it."""
    card, table = model_card(str(header.space["model"])), scores.table()
    return FitFacts(
        title=f"Does {card.name} know what it does not know?",
        model=card.name,
        space=header.space_id,
        target=probe.target,
        reading=card.reading,
        sensor=header.sensor,
        chips=table.n_chips,
        places=table.n_places,
        held_out=held.text,
        folds=held.count,
        alpha=f"{probe.embedding.alpha:.3g}",
        scores=score_rows(scores.to_dict()["tables"][0]),
        warnings=(table.sentence(), *scores.notes, *told),
        versions=dict(probe.versions),
    )
