"""How far can a probe be trusted? Intervals, the mean loss, dissimilarity and density, measured on places held out."""

from __future__ import annotations

from collections.abc import Mapping

from eval_cases import Case
from geoelle.holdout import PlaceKFold
from geoelle.probe import fit_probe
from geoelle.trust import Trust, fit_trust
from nano_samples import Labelled

FOLDS = 5


def trust_of(found: Labelled) -> Trust:
    """Fit a probe on every chip, and measure its intervals, smearing factor and reach on whole places held out."""
    sample, cv, places_n = found.sample, PlaceKFold(FOLDS), found.places_n
    probe = fit_probe(sample.vectors_nd, sample.loss_n, groups=places_n, space=found.tables[0].header.space, scale="log", cv=cv)
    return fit_trust(probe, sample.vectors_nd, sample.loss_n, cv=cv, groups=places_n, halves_n2=sample.loss_rel_n2)


def section(trusts: Mapping[str, tuple[Case, Trust]]) -> str:
    """Return the tables of intervals, of the two scales, of dissimilarity and of density."""
    lines = [
        "## How far to trust a probe", "",
        "Intervals of 90% for the loss under the masks drawn, conformal with the place as the unit; coverage is of places that "
        "neither the probe nor the interval has seen, each place weighing the same. Width: of the interval of log-loss.", "",
        "| model | coverage of 90% | of 50% | width | noise of the masks widens it by |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for case, trust in trusts.values():
        levels = {round(point.level, 2): point for point in trust.coverage.curve}
        shown = [str(levels[level].places) if level in levels else "too few places" for level in (0.9, 0.5)]
        width = f"{levels[0.9].width:.2f}" if 0.9 in levels else "-"
        wider = "-" if trust.noise is None or trust.noise.widening is None else f"{trust.noise.widening:.1%}"
        lines.append(f"| {case.title} | {' | '.join(shown)} | {width} | {wider} |")
    lines += [
        "", "Which scale? Predictions of the loss itself, places held out: the typical loss (exp of the log-loss read), the same "
        "times the smearing factor (the mean loss), and a ridge on the loss. Bias is of the mean, each place weighing the same.", "",
        "| model | predictor | R² | bias |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for case, trust in trusts.values():
        lines += [f"| {case.title} | {row.name} | {row.r2} | {_percent(row.bias)} |" for row in trust.scales]
    lines += [
        "", "Does dissimilarity (distance to the nearest chip of other folds, over the mean distance between chips) go with the "
        "error? Where the interval holds 0, the map says \"not informative\".", "",
        "| model | Spearman with the absolute residual | inside: chips, mean error | outside: chips, mean error | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for case, trust in trusts.values():
        told = trust.informativeness
        if told is None:
            lines.append(f"| {case.title} | - | - | - | {'; '.join(trust.notes)} |")
            continue
        sides = [f"{told.n_inside:,}, {told.inside}", f"{told.n_outside:,}, {told.outside}"]
        verdict = "informative" if told.is_informative else "not informative"
        lines.append(f"| {case.title} | {told.spearman} | {' | '.join(sides)} | {verdict} |")
    lines += [
        "", "Does density (chips of the fit, other folds, within the threshold of the area of applicability) go with the error? Fewer errors "
        "where it is high is a correlation below 0.", "",
        "| model | Spearman with the absolute residual | verdict |", "| --- | --- | --- |",
    ]  # fmt: skip
    for case, trust in trusts.values():
        told = trust.density
        verdict = "-" if told is None else "informative" if told.is_informative else "not informative"
        lines.append(f"| {case.title} | {'-' if told is None else told.spearman} | {verdict} |")
    return "\n".join([*lines, ""])


def short(case: Case, trust: Trust) -> list[str]:
    """Return what a reader needs first."""
    point = trust.coverage.measured
    covered = "too few places to measure" if point is None else str(point.places)
    return [f"{case.title}: intervals of 90% cover {covered} of ground held out."]


def _percent(share: object) -> str:
    return f"{share.value:+.1%} [{share.low:+.1%}, {share.high:+.1%}]"
