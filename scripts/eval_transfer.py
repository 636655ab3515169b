"""Does a probe carry over: to another level, another source, fewer bands, another sensor?

Whole places are held out throughout: a probe never sees the places it is scored on, whatever level or sensor it was
fitted on there. Bias is the mean of predicted minus measured log-loss: a probe may rank a new sensor well and be off by
a factor all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold

from eval_cases import rows_of
from geoelle.bootstrap import Bootstrap
from geoelle.holdout import PlaceKFold
from geoelle.ridge import RidgeProbeCV
from nano_samples import Labelled

FOLDS = 5
HEAD = (
    "| fitted on | scored on | chips, places | ELLE r | ELLE R² | ELLE bias | pixel ridge r | pixel ridge bias |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One way across: what the probe was fitted on and what it was scored on; `pixels`, whether their features match."""

    fitted_on: str
    scored_on: str
    train: Labelled
    test: Labelled
    pixels: bool = True

    def line(self) -> str:
        """Return the row of the table; an underivable score is a dash."""
        y_n = np.log(self.test.sample.loss_n)
        boot = Bootstrap(self.test.places_n)
        cells = [self.fitted_on, self.scored_on, f"{len(y_n):,}, {boot.n_places}"]
        for name in ("vectors_nd", *(["features_nf"] if self.pixels else [])):
            predicted_n = carried(self.train, self.test, name)
            draws = boot.score(y_n, predicted_n)
            cells += [
                str(draws.metrics().r),
                *([str(draws.metrics().r2)] if name == "vectors_nd" else []),
                f"{(predicted_n - y_n).mean():+.3f}",
            ]
        return f"| {' | '.join([*cells, *([] if self.pixels else ['-', '-'])])} |"


def carried(train: Labelled, test: Labelled, name: str) -> np.ndarray:
    """Predict log-loss of every test chip by a probe fitted on the training chips of other places, float64 (n,)."""
    places = np.unique(np.concatenate([train.places_n, test.places_n]))
    fold_of = {}
    for k, (_, out) in enumerate(GroupKFold(FOLDS).split(places, groups=places)):
        fold_of |= dict.fromkeys(places[out].tolist(), k)
    train_k, test_k = (np.array([fold_of[p] for p in found.places_n.tolist()]) for found in (train, test))
    x_nd, y_n, unseen = getattr(train.sample, name), np.log(train.sample.loss_n), getattr(test.sample, name)
    out_n = np.full(len(test_k), np.nan)
    for k in np.unique(test_k):
        rows = train_k != k
        groups = train.places_n[rows]
        cv = PlaceKFold(min(FOLDS, len(np.unique(groups))))
        probe = RidgeProbeCV(cv=cv).fit(x_nd[rows].astype(np.float64), y_n[rows], groups)
        out_n[test_k == k] = probe.predict(unseen[test_k == k].astype(np.float64))
    return out_n


def levels(found: Labelled, model: str) -> list[Transfer]:
    """Return both ways between L1C and L2A, and each level onto itself for comparison."""
    of = {level: rows_of(found, found.levels_n == level) for level in ("L1C", "L2A")}
    return [
        Transfer(fitted_on=f"{model}, {a}", scored_on=f"{model}, {b}", train=of[a], test=of[b])
        for a, b in (("L1C", "L1C"), ("L2A", "L1C"), ("L2A", "L2A"), ("L1C", "L2A"))
    ]


def sources(found: Labelled) -> str:
    """Return r and bias with one source held out at a time."""
    y_n, sources_n = np.log(found.sample.loss_n), found.sources_n
    cv = PlaceKFold(len(np.unique(sources_n)))
    predicted = {}
    for name in ("vectors_nd", "features_nf"):
        x_nd, out_n = getattr(found.sample, name).astype(np.float64), np.full(len(y_n), np.nan)
        for train, test in cv.split(x_nd, None, sources_n):
            inner = PlaceKFold(FOLDS)
            out_n[test] = RidgeProbeCV(cv=inner).fit(x_nd[train], y_n[train], found.places_n[train]).predict(x_nd[test])
        predicted[name] = out_n
    lines = ["| source held out | places | chips | ELLE r | ELLE bias | pixel ridge r | pixel ridge bias |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for source in (*sorted(set(sources_n)), None):
        rows = np.ones(len(y_n), bool) if source is None else sources_n == source
        cells = []
        for out_n in predicted.values():
            varied = np.std(y_n[rows]) > 0 and np.std(out_n[rows]) > 0
            r = np.corrcoef(y_n[rows], out_n[rows])[0, 1] if varied else np.nan
            cells += [f"{r:.3f}", f"{(out_n[rows] - y_n[rows]).mean():+.3f}"]
        lines.append(
            f"| {source or '**all**'} | {len(set(found.places_n[rows]))} | {rows.sum():,} | {' | '.join(cells)} |"
        )
    return "\n".join([*lines, ""])


def table(ways: list[Transfer]) -> str:
    """Return the table of several ways across."""
    return "\n".join([*HEAD, *(way.line() for way in ways), ""])
