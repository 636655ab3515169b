"""Decide by docs/protocol.md which candidates survive and which are confirmed: functions of predictions and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geoelle.bootstrap import Bootstrap, Interval, Metrics

LEVEL = 0.025
DRAWS = 9_999
OBJECTIVES = ("pixel", "pixel-norm", "latent")
ELIGIBLE = ("target", "pooling", "centring", "weights")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Predictions (n,) of log-loss by one candidate, by its twins, and by the two curved pixel models treated alike.

    `ridges` are a ridge on pixels, and one on the candidate's inputs and pixels, where the candidate is a ridge itself.
    """

    elle_n: np.ndarray
    twins: Sequence[np.ndarray]
    pixels: Mapping[str, np.ndarray]
    ridges: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one candidate scores beside the baseline and its own nulls; `p` is that of the lift before Holm.

    `twin_gain` and `pixel_gain` say by how much the margin over the twins and over the best pixel null exceeds that of the
    baseline over its own, in Fisher's z. `over_*` are differences in r.
    """

    key: str
    family: str
    metrics: Metrics
    partial: Interval
    lift: Interval
    p: float
    twins_r: float
    over_twins: Interval
    twin_gain: float
    pixels: str
    pixels_r: float
    over_pixels: Interval
    p_over_pixels: float
    pixel_gain: float
    adds_r2: Interval | None = None

    def holds(self, adjusted_p: float, *, estimates: bool = False) -> bool:
        """Say whether the three points of the rule hold; with `estimates`, point 2 by its estimate (confirmation)."""
        trained = self.over_twins.value if estimates else self.over_twins.low
        lifts = self.lift.value > 0 and adjusted_p <= LEVEL
        return bool(lifts and trained > 0 and self.twin_gain >= 0 and self.pixel_gain > 0)


class Referee:
    """Score candidates against one baseline on the same draws of places."""

    def __init__(self, log_n: np.ndarray, places_n: np.ndarray, fold_n: np.ndarray, baseline: Predictions) -> None:
        self.log_n, self.fold_n, self.baseline = log_n, fold_n, baseline
        self.few, self.many = Bootstrap(places_n), Bootstrap(places_n, n_draws=DRAWS)
        self._baseline_r = self.many.r(log_n, baseline.elle_n)

    def verdict(self, key: str, family: str, found: Predictions) -> Verdict:
        """Score one candidate, or the baseline itself."""
        r_d = self.many.r(self.log_n, found.elle_n)
        twins_d = self._twins(found)
        name, pixels_n = self._best_pixels(found)
        pixels_d = self.many.r(self.log_n, pixels_n)
        base_twins, base_pixels = self._twins(self.baseline)[0], self._best_pixels(self.baseline)[1]
        base_z = np.arctanh(self._baseline_r[0])
        z = np.arctanh(r_d[0])
        return Verdict(
            key=key,
            family=family,
            metrics=self.few.score(self.log_n, found.elle_n).metrics(),
            partial=Interval.of(self.few.partial_r(*(self._centred(v) for v in (self.log_n, found.elle_n, pixels_n)))),
            lift=Interval.of(r_d - self._baseline_r),
            p=one_sided(r_d - self._baseline_r),
            twins_r=float(twins_d[0]),
            over_twins=Interval.of(r_d - twins_d),
            twin_gain=float(z - np.arctanh(twins_d[0]) - (base_z - np.arctanh(base_twins))),
            pixels=name,
            pixels_r=float(pixels_d[0]),
            over_pixels=Interval.of(r_d - pixels_d),
            p_over_pixels=one_sided(r_d - pixels_d),
            pixel_gain=float(z - np.arctanh(pixels_d[0]) - (base_z - np.arctanh(self._r(base_pixels)))),
            adds_r2=None if found.ridges is None else self._adds(*found.ridges),
        )

    def _adds(self, alone_n: np.ndarray, joint_n: np.ndarray) -> Interval:
        alone, joint = (self.few.score(self.log_n, p) for p in (alone_n, joint_n))
        return joint.minus(alone).r2

    def _r(self, predicted_n: np.ndarray) -> float:
        return float(np.corrcoef(self.log_n, predicted_n)[0, 1])

    def _twins(self, found: Predictions) -> np.ndarray:
        return np.mean([self.many.r(self.log_n, p) for p in found.twins], axis=0)

    def _best_pixels(self, found: Predictions) -> tuple[str, np.ndarray]:
        """Return the best of the curved pixel models, treated as the candidate or as the baseline."""
        entries = [(name, p) for name, p in (*found.pixels.items(), *self.baseline.pixels.items())]
        return max(entries, key=lambda entry: self._r(entry[1]))

    def _centred(self, values_n: np.ndarray) -> np.ndarray:
        """Return deviations from the means of each fold, as the evaluation does for partial r."""
        return values_n - (np.bincount(self.fold_n, values_n) / np.bincount(self.fold_n))[self.fold_n]


def one_sided(difference_d: np.ndarray) -> float:
    """Return the share of draws in which a difference is 0 or less; the first entry is the data itself, not a draw.

    >>> one_sided(np.array([1.0, 1, 2, -1]))
    0.5
    """
    draws = difference_d[1:]
    return float((1 + (~(draws > 0)).sum()) / (1 + len(draws)))


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values in the order given (Holm 1979, Scand. J. Statist. 6, 65-70).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return [round(float(value), 12) for value in out]


def survivors(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the keys of the candidates that survive, best r first."""
    adjusted = holm([v.p for v in verdicts])
    alive = [v for v, p in zip(verdicts, adjusted, strict=True) if v.holds(p)]
    return [v.key for v in sorted(alive, key=lambda v: -v.metrics.r.value)]


def entries(verdicts: Sequence[Verdict], alive: Sequence[str]) -> list[tuple[str, ...]]:
    """Return what goes to confirmation: the best eligible survivor, and the best of each family combined."""
    by_key = {v.key: v for v in verdicts}
    eligible = [key for key in alive if by_key[key].family in ELIGIBLE]
    best: dict[str, str] = {}
    for key in eligible:
        best.setdefault(by_key[key].family, key)
    combined = tuple(best[family] for family in ELIGIBLE if family in best)
    return [(eligible[0],), *([combined] if len(combined) > 1 else [])] if eligible else []


def outcomes(verdicts: Sequence[Verdict]) -> list[Literal["confirmed", "not refuted", "not confirmed"]]:
    """Say of each entry what the confirmation places say."""
    adjusted = holm([v.p for v in verdicts])
    return [
        "confirmed" if v.holds(p, estimates=True) else "not refuted" if v.lift.value > 0 else "not confirmed"
        for v, p in zip(verdicts, adjusted, strict=True)
    ]
