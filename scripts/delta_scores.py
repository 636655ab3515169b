"""Turn patches of two dates into scores of damage, and rank them against the mask: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from delta_pairs import Pairs
from error_scores import Errors
from geoelle.bootstrap import Interval
from geoelle.models.nano import BANDS
from geoelle.probe import Probe, on_scale
from geoelle.ridge import RidgeProbeCV

AREA = 0.05
"""Share of the patches that score highest, for the share of the damage that they hold."""
DIRECTIONS = 100
_DRAWS = 50  # at a time
FALLS = frozenset({"NDVI", "NBR", "NDMI", "rededge2", "rededge3", "nir", "nir08"})
"""What falls where forest is damaged; the other bands rise."""
INDICES = {"NDVI": ("nir", "red"), "NBR": ("nir", "swir22"), "NDMI": ("nir", "swir16")}
DELTA = "Delta (shipped probe)"
FITTED = "Delta (probe fitted here)"
TWIN = "Delta (probe of the untrained twin)"
TWO, HARDER, EASIER = ", two-sided", ", harder", ", easier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What a score is worth, and `beaten`: AUROC of Delta less its AUROC, in pairs."""

    auroc: Interval
    within: Interval
    auprc: Interval
    lift: Interval
    caught: Interval
    beaten: Interval

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Return plain JSON data, NaN as None."""
        return {name: getattr(self, name).to_dict() for name in self.__slots__}


def centred(values_n: np.ndarray, file_n: np.ndarray) -> np.ndarray:
    """Take the median of each pair of files from its values.

    >>> centred(np.array([1.0, 2.0, 9.0, 5.0]), np.array(["a", "a", "a", "b"])).tolist()
    [-1.0, 0.0, 7.0, 0.0]
    """
    at_n = np.unique(file_n, return_inverse=True)[1]
    medians = np.array([np.median(values_n[at_n == k]) for k in range(at_n.max() + 1)])
    return values_n - medians[at_n]


def of_change(name: str, change_n: np.ndarray, file_n: np.ndarray) -> dict[str, np.ndarray]:
    """Return a change as two scores: its size, and the direction that damage is taken to have."""
    size_n = centred(change_n, file_n)
    return {f"{name}{TWO}": np.abs(size_n), f"{name}, signed": -size_n if name in FALLS else size_n}


def of_delta(name: str, change_n: np.ndarray, file_n: np.ndarray) -> dict[str, np.ndarray]:
    """Return a change of difficulty as three scores: its size, harder, easier."""
    size_n = centred(change_n, file_n)
    return {f"{name}{TWO}": np.abs(size_n), f"{name}{HARDER}": size_n, f"{name}{EASIER}": -size_n}


def of_bands(pairs: Pairs) -> dict[str, np.ndarray]:
    """Return what every index and every band tells by itself."""
    band = dict(zip(BANDS, np.moveaxis(pairs.bands_2nc.astype(np.float64), -1, 0), strict=True))
    index = {name: (band[a] - band[b]) / (band[a] + band[b]) for name, (a, b) in INDICES.items()}
    scores = {}
    for name, value_2n in (index | band).items():
        scores |= of_change(name, value_2n[1] - value_2n[0], pairs.file_n)
    return scores


def of_model(pairs: Pairs, probe: Probe | None) -> dict[str, np.ndarray]:
    """Return what needs the model, its loss or its tokens, and the shipped probe where there is one."""
    loss_2n, scores = on_scale(pairs.loss_2n, "log"), {}
    if probe is not None:
        pixels_2n, difficulty_2n = probe.pixels(pairs.features_2nf), probe.score_raw(pairs.tokens_2nd)
        parts = {DELTA: difficulty_2n, "Delta excess": difficulty_2n - pixels_2n, "Delta of complexity": pixels_2n}
        for name, value_2n in parts.items():
            scores |= of_delta(name, value_2n[1] - value_2n[0], pairs.file_n)
    scores |= of_delta("Delta of the true loss", loss_2n[1] - loss_2n[0], pairs.file_n)
    for name, (one_nd, other_nd) in (("token", pairs.tokens_2nd), ("untrained twin", pairs.twin_2nd)):
        scores[f"{name}, cosine distance"] = centred(_cosine(one_nd, other_nd), pairs.file_n)
        scores[f"{name}, Euclidean distance"] = centred(np.linalg.norm(other_nd - one_nd, axis=1), pairs.file_n)
    apart_n = np.linalg.norm(pairs.bands_2nc[1] - pairs.bands_2nc[0], axis=1)
    scores["Euclidean difference of the bands"] = centred(apart_n, pairs.file_n)
    return scores | {"random numbers": np.random.default_rng(0).random(len(pairs.damaged_n))}


def of_fits(pairs: Pairs) -> dict[str, np.ndarray]:
    """Return Delta of probes of the first date of train places; they mean something on test places only."""
    clear_n, loss_n = pairs.clear_n, on_scale(pairs.loss_2n[0], "log")
    scores = {}
    for name, inputs_2nd in ((FITTED, pairs.tokens_2nd), (TWIN, pairs.twin_2nd)):
        inputs_2nd = inputs_2nd.astype(np.float64)
        probe = RidgeProbeCV().fit(inputs_2nd[0, clear_n], loss_n[clear_n], groups=pairs.block_n[clear_n])
        before_n, after_n = (probe.predict(x_nd) for x_nd in inputs_2nd)
        scores |= of_delta(name, after_n - before_n, pairs.file_n)
    return scores


def readings(pairs: Pairs, probe: Probe | None) -> dict[str, float]:
    """Return how probe and complexity follow the true loss here: r on each date, and of the changes."""
    if probe is None:
        return {}
    loss_2n, found = on_scale(pairs.loss_2n, "log"), {}
    for name, value_2n in (
        ("difficulty", probe.score_raw(pairs.tokens_2nd)),
        ("complexity", probe.pixels(pairs.features_2nf)),
    ):
        pairs_of = {"before": (value_2n[0], loss_2n[0]), "after": (value_2n[1], loss_2n[1])}
        pairs_of["change"] = (value_2n[1] - value_2n[0], loss_2n[1] - loss_2n[0])
        found |= {f"{name}, {when}": float(np.corrcoef(*both)[0, 1]) for when, both in pairs_of.items()}
    return found


def directions(pairs: Pairs) -> np.ndarray:
    """Return the AUROC, two-sided, of unit directions of token space drawn at random."""
    change_nd = (pairs.tokens_2nd[1] - pairs.tokens_2nd[0]).astype(np.float64)
    drawn_kd = np.random.default_rng(0).normal(size=(DIRECTIONS, change_nd.shape[1]))
    sizes = (np.abs(centred(change_nd @ d, pairs.file_n)) for d in drawn_kd / np.linalg.norm(drawn_kd, axis=1)[:, None])
    return np.array([roc_auc_score(pairs.damaged_n, size_n) for size_n in sizes])


def rank(scores: dict[str, np.ndarray], pairs: Pairs, primary: str) -> dict[str, Ranking]:
    """Rank the patches by every score; blocks are redrawn, the same ones for all."""
    errors = Errors(pairs.damaged_n, pairs.block_n)
    flat_d = auprc(errors, np.zeros(len(pairs.damaged_n)))
    reference_d = errors.auroc(scores[primary])
    found = {}
    for name, score_n in scores.items():
        auroc_d, auprc_d = errors.auroc(score_n), auprc(errors, score_n)
        parts = {
            "auroc": auroc_d, "within": errors.within(score_n), "auprc": auprc_d, "lift": auprc_d / flat_d,
            "caught": errors.caught(score_n, AREA), "beaten": reference_d - auroc_d,
        }  # fmt: skip
        found[name] = Ranking(**{part: Interval.of(draws_d) for part, draws_d in parts.items()})
    return found


def auprc(errors: Errors, score_n: np.ndarray) -> np.ndarray:
    """Return the average precision in every draw; equal scores are taken together."""
    order = np.argsort(-score_n, kind="stable")
    first = np.flatnonzero(np.concatenate([[True], np.diff(score_n[order]) != 0]))
    true_n, place_n = errors.error_n[order], errors.place_n[order]
    some = (errors.counts_dp[i : i + _DRAWS, place_n] for i in range(0, len(errors.counts_dp), _DRAWS))
    return np.concatenate([_auprc(weight_dn, true_n, first) for weight_dn in some])


def _auprc(weight_dn: np.ndarray, true_n: np.ndarray, first: np.ndarray) -> np.ndarray:
    true_dg = np.cumsum(np.add.reduceat(weight_dn * true_n, first, axis=1), axis=1)
    every_dg = np.cumsum(np.add.reduceat(weight_dn, first, axis=1), axis=1)
    precision_dg = np.divide(true_dg, every_dg, out=np.zeros_like(true_dg), where=every_dg > 0)
    gained_dg, total_d = np.diff(true_dg, axis=1, prepend=0), true_dg[:, -1]
    found_d = np.full(len(total_d), np.nan)
    return np.divide((gained_dg * precision_dg).sum(axis=1), total_d, out=found_d, where=total_d > 0)


def gap(one_n: np.ndarray, other_n: np.ndarray, pairs: Pairs) -> Interval:
    """Return the AUROC of one score less that of another, in pairs."""
    errors = Errors(pairs.damaged_n, pairs.block_n)
    return Interval.of(errors.auroc(one_n) - errors.auroc(other_n))


def best_of(scores: dict[str, np.ndarray], pairs: Pairs) -> str:
    """Return the score of the highest AUROC on the places that a fit may learn from."""

    def auroc(name: str) -> float:
        return float(roc_auc_score(pairs.damaged_n[pairs.clear_n], scores[name][pairs.clear_n]))

    return max(scores, key=auroc)


def _cosine(one_nd: np.ndarray, other_nd: np.ndarray) -> np.ndarray:
    one_nd, other_nd = one_nd.astype(np.float64), other_nd.astype(np.float64)
    lengths_n = np.linalg.norm(one_nd, axis=1) * np.linalg.norm(other_nd, axis=1)
    return 1 - (one_nd * other_nd).sum(axis=1) / lengths_n
