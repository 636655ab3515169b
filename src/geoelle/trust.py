"""Fit what tells how far to trust a probe: intervals, the mean loss, the ground it reaches; each measured.

Everything rests on predictions out of fold, on the folds that the probe was scored on, and is measured on ground that
neither the probe nor the part itself has seen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import BaseCrossValidator

from geoelle.applicability import Informativeness, Reach, fit_reach, informativeness
from geoelle.bootstrap import Bootstrap, Interval
from geoelle.density import DensityTold, density_told, held_out_density
from geoelle.errors import HoldoutError, ProbeError
from geoelle.intervals import Calibration, Coverage, HeldOut, Spread, calibrate, check_level, hold_out, place_weights
from geoelle.probe import Probe, on_scale
from geoelle.ridge import cross_predict

__all__ = ["LEVEL", "MaskNoise", "ScaleRow", "Trust", "fit_trust", "smearing_factor"]

LEVEL = 0.9
COVERS = "the loss under the masks drawn, not its noise-free mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskNoise:
    """How much of the residual is noise of the masks: both standard deviations on the probe's scale.

    `widening` is by which share an interval of the loss is wider than one of its noise-free mean would be, None
    where the noise is not smaller than the residual.
    """

    noise_sd: float
    residual_sd: float

    @property
    def widening(self) -> float | None:
        share = (self.noise_sd / self.residual_sd) ** 2
        return (1 - share) ** -0.5 - 1 if share < 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRow:
    """How one prediction does on the loss itself: R2 over all chips, and the share by which its mean is too high.

    In the mean every place weighs the same.
    """

    name: str
    r2: Interval
    bias: Interval


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trust:
    """A probe with the parts that tell how far to trust it, and what was measured of them.

    `probe` carries `spread`, `smearing`, `reach` and the table `trust`; what it lacks is in `notes`, with the reason.
    `residual_n`, `dissimilarity_n` and `density_n` (None without a reach) are out of fold, `place_n` the place of each.
    """

    probe: Probe
    coverage: Coverage
    noise: MaskNoise | None
    scales: tuple[ScaleRow, ...]
    informativeness: Informativeness | None
    density: DensityTold | None
    residual_n: np.ndarray
    dissimilarity_n: np.ndarray | None
    density_n: np.ndarray | None
    place_n: np.ndarray
    notes: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """Return what a reader has to know, a sentence each."""
        return (*sentences_of(self.probe).values(), *self.notes)


def sentences_of(probe: Probe) -> Mapping[str, str]:
    """Return what the probe says about its parts: "interval", "smearing", "reach" and "density", where it has them."""
    return probe.trust.get("sentences", {})


def fit_trust(
    probe: Probe,
    vectors_nd: np.ndarray,
    loss_n: np.ndarray,
    *,
    cv: BaseCrossValidator,
    groups: np.ndarray,
    place_n: np.ndarray | None = None,
    level: float = LEVEL,
    halves_n2: np.ndarray | None = None,
) -> Trust:
    """Fit spread, smearing factor and reach for a probe of these very rows, and measure each on ground held out.

    `cv` and `groups` are those of the fit; `halves_n2` the loss under two independent permutations. `place_n` are the
    units of the intervals where these are not what `cv` never divides: the folds of kNNDM are a handful of clusters,
    its units blocks. Fewer than 1 / (1 - level) places, or coefficients that are all 0, leave a part out and say why in
    `notes`.

    Raises `ProbeError` for a constant loss or a level outside 0 .. 1, `HoldoutError` without places to hold out.
    """
    y_n, alpha = on_scale(loss_n, probe.scale), round(1 - level, 12)
    check_level(alpha)
    learned = calibrate(vectors_nd, y_n, cv=cv, groups=groups, place_n=place_n, embedding=probe.embedding)
    held_out = hold_out(vectors_nd, y_n, cv=cv, groups=groups, place_n=place_n)
    place_n = learned.place_n
    coverage = Coverage.of(held_out, y_n, place_n, alpha=alpha)
    spread, few = _spread(learned, alpha)
    reach, dissimilarity_n, density_n, flat = _reach(probe, vectors_nd, cv, groups)
    error_n = np.abs(learned.residual_n)
    trust = Trust(
        probe=probe,
        coverage=coverage,
        noise=_mask_noise(halves_n2, probe, learned.residual_n),
        scales=tuple(_scale_rows(probe, vectors_nd, loss_n, cv, groups, held_out, place_n)),
        informativeness=None
        if reach is None
        else informativeness(dissimilarity_n, error_n, place_n, threshold=reach.threshold),
        density=None if reach is None else density_told(density_n, error_n, place_n),
        residual_n=learned.residual_n,
        dissimilarity_n=dissimilarity_n,
        density_n=density_n,
        place_n=place_n,
        notes=(*few, *flat),
    )
    smearing = smearing_factor(learned.residual_n, place_n) if probe.scale == "log" else None
    carrying = replace(probe, spread=spread, smearing=smearing, reach=reach)
    return replace(trust, probe=replace(carrying, trust=_table(trust, carrying)))


def smearing_factor(residual_n: np.ndarray, place_n: np.ndarray) -> float:
    """Return the mean of exp(residual), each place weighing the same: mean loss over typical loss.

    Residuals are of log-loss and out of fold; those of the fit itself are too small. Duan (1983), "Smearing estimate: a
    nonparametric retransformation method", doi:10.1080/01621459.1983.10478017. One factor for all ground.

    >>> smearing_factor(np.log([1.0, 3.0, 2.0]), np.array(["fen", "fen", "dune"]))
    2.0
    """
    return float(np.average(np.exp(residual_n), weights=place_weights(place_n)))


def _spread(learned: Calibration, alpha: float) -> tuple[Spread | None, list[str]]:
    try:
        return learned.spread(alpha), []
    except HoldoutError as few:
        return None, [f"no intervals: {few}"]


def _reach(
    probe: Probe, vectors_nd: np.ndarray, cv: BaseCrossValidator, groups: np.ndarray
) -> tuple[Reach | None, np.ndarray | None, np.ndarray | None, list[str]]:
    folds = list(cv.split(vectors_nd, None, groups))
    try:
        reach, dissimilarity_n = fit_reach(vectors_nd, probe.embedding.weights_d, folds)
    except ProbeError as undefined:
        return None, None, None, [f"no area of applicability: {undefined}"]
    return reach, dissimilarity_n, held_out_density(reach, vectors_nd, folds), []


def _mask_noise(halves_n2: np.ndarray | None, probe: Probe, residual_n: np.ndarray) -> MaskNoise | None:
    """Estimate the noise of the loss, the mean of both halves, from how far they lie apart."""
    if halves_n2 is None or not np.isfinite(halves_n2).all() or (probe.scale == "log" and not (halves_n2 > 0).all()):
        return None
    apart_n = np.diff(on_scale(halves_n2, probe.scale), axis=1)[:, 0]
    noise, residual = (float(np.sqrt(np.mean(np.square(v)))) for v in (apart_n / 2, residual_n))
    return MaskNoise(noise_sd=noise, residual_sd=residual)


def _scale_rows(
    probe: Probe,
    vectors_nd: np.ndarray,
    loss_n: np.ndarray,
    cv: BaseCrossValidator,
    groups: np.ndarray,
    held_out: HeldOut,
    place_n: np.ndarray,
) -> Iterator[ScaleRow]:
    """Compare on the loss itself: typical loss, mean loss and a ridge on the loss, each from other folds' ground."""
    if probe.scale != "log":
        return
    bootstrap, weight_n = Bootstrap(place_n), place_weights(place_n)
    factor_k = np.array([smearing_factor(one.residual_n, one.place_n) for one in held_out.learned])
    typical_n = np.exp(held_out.predicted_n)
    each = {
        "typical loss, exp of the log-loss read": typical_n,
        "mean loss, the same times the smearing factor": typical_n * factor_k[held_out.fold_n],
        "ridge on the loss": cross_predict(vectors_nd, loss_n, cv, groups),
    }
    mean_d = bootstrap.mean(loss_n, weight_n)
    for name, predicted_n in each.items():
        yield ScaleRow(
            name=name,
            r2=Interval.of(bootstrap.score(loss_n, predicted_n).r2),
            bias=Interval.of(bootstrap.mean(predicted_n, weight_n) / mean_d - 1),
        )


def _table(trust: Trust, probe: Probe) -> dict[str, object]:
    """Return what the probe's file, reports and maps say, plain JSON."""
    noise, informative = trust.noise, trust.informativeness
    return {
        "level": trust.coverage.level,
        "covers": COVERS,
        "coverage": trust.coverage.to_dict(),
        "mask_noise": noise
        and {"noise_sd": noise.noise_sd, "residual_sd": noise.residual_sd, "widening": noise.widening},
        "scales": [{"name": s.name, "r2": s.r2.to_dict(), "bias": s.bias.to_dict()} for s in trust.scales],
        "dissimilarity": informative and informative.to_dict(),
        "density": trust.density and trust.density.to_dict(),
        "sentences": dict(_sentences(trust, probe)),
        "notes": list(trust.notes),
    }


def _sentences(trust: Trust, probe: Probe) -> Iterator[tuple[str, str]]:
    if probe.spread is not None:
        point = trust.coverage.measured
        told = (
            "their coverage is not measured: a fold trains on too few places"
            if point is None
            else f"on ground held out they cover {point.places} of it, each place weighing the same"
        )
        wider = trust.noise.widening if trust.noise else None
        by = f"; noise of the masks makes them {wider:.0%} wider" if wider is not None else ""
        yield "interval", f"intervals of {100 * trust.coverage.level:g}% cover {COVERS}; {told}{by}"
    if probe.smearing is not None:
        typical, mean, _ = trust.scales
        yield (
            "smearing",
            f"the mean loss is {probe.smearing:.3f} times the typical loss; on ground held out the mean of the typical "
            f"loss is off by {_percent(typical.bias)}, with the factor by {_percent(mean.bias)}",
        )
    if probe.reach is not None:
        yield (
            "reach",
            f"applicable is a dissimilarity of at most {probe.reach.threshold:.3g}; {trust.informativeness.sentence()}",
        )
        yield "density", f"{probe.reach.counted()}; {trust.density.sentence()}"


def _percent(share: Interval) -> str:
    return f"{share.value:+.1%} [{share.low:+.1%}, {share.high:+.1%}]"
