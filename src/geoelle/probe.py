"""Turn embeddings into difficulty: `RidgeProbe` to fit one, `Probe` to keep, share and apply it.

A `Probe` is one affine map of the raw embedding, w'x + b, on the scale it was fitted on ("log": the logarithm
of the loss), a second one of the pixel features, a third one of the vectors of the untrained twin, what tells how
far to trust the first (a spread, a smearing factor, its reach), and the account of where they come from. Its file
is one `.safetensors` with a JSON header: no pickle, no code. A digest in the header covers every number and word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from sklearn.model_selection import BaseCrossValidator

from geoelle.applicability import Reach
from geoelle.errors import FormatError, ProbeError, SpaceMismatch
from geoelle.files import write_bytes
from geoelle.intervals import Spread
from geoelle.probe_file import FORMAT, VERSION, affine_of, canonical, digest_of, read_file, tensors_of, to_bytes
from geoelle.ridge import ALPHAS, Affine, RidgeProbe, RidgeProbeCV, cross_predict

__all__ = [
    "ALPHAS",
    "TWIN",
    "Affine",
    "Probe",
    "RidgeProbe",
    "RidgeProbeCV",
    "Scale",
    "cross_predict",
    "fit_probe",
    "on_scale",
    "with_twin",
]

Scale = Literal["log", "raw"]

TWIN = "twin0"
"""The untrained twin that a probe has a map for: the column of embeddings with its vectors."""

_TABLES = ("scores", "trust", "folds", "versions", "data")
_WORDS = ("space", "target", "scale", "feature_names", "smearing", *_TABLES, "licence")
_SPREAD = ("low", "high", "alpha", "threshold")
_REACH = ("mean_distance", "threshold")
_ABOUT_THE_LOSS = ("target", "masking")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """What maps are painted with: embedding -> difficulty, in one space.

    `embedding` and `pixels` (or None) are affine maps to the target on its `scale`: "log" or "raw" loss. So is `twin`,
    of the vectors of the untrained twin of seed 0 (None where the fit had none): the null that a map is shown beside.
    `space` says which model, weights, pooling, target and masking the numbers belong to; `target` is "loss"
    or a proxy's name. `scores`, `trust`, `folds`, `versions` and `data` are JSON tables for the reader.
    `spread` makes intervals, `smearing` (the mean of exp(residual) on the log scale) the mean loss, `reach`
    tells ground like that of the fit; each is None where the probe does not have it (`trust.fit_trust`).
    """

    embedding: Affine
    space: Mapping[str, object]
    target: str = "loss"
    scale: Scale = "log"
    pixels: Affine | None = None
    feature_names: tuple[str, ...] = ()
    twin: Affine | None = None
    spread: Spread | None = None
    smearing: float | None = None
    reach: Reach | None = None
    trust: Mapping[str, object] = field(default_factory=dict)
    scores: Mapping[str, object] = field(default_factory=dict)
    folds: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, object] = field(default_factory=dict)
    licence: str = ""

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if self.reach is not None and not np.array_equal(self.reach.weights_d, np.abs(self.embedding.weights_d)):
            raise ProbeError("the reach is of another probe (its weights are not these coefficients); fit it again")
        n_features = 0 if self.pixels is None else len(self.pixels.weights_d)
        if len(self.feature_names) != n_features:
            raise ProbeError(
                f"the pixel part fails for {len(self.feature_names)} names ({n_features} weights); name each"
            )

    def score(self, vectors: np.ndarray) -> np.ndarray:
        """Return difficulty, float32, over the last axis of `vectors`: on the log scale exp(w'x + b).

        That is the typical (median) loss of ground that looks like this to the model; NaN vectors give NaN.
        """
        return self._in_units(self.score_raw(vectors))

    def score_raw(self, vectors: np.ndarray) -> np.ndarray:
        """Return w'x + b, float64: on the log scale the logarithm of difficulty."""
        return self.embedding(vectors)

    def complexity(self, features: np.ndarray) -> np.ndarray:
        """Return the difficulty that the pixels alone predict, float32, in the units of `score`.

        `features` are those of `complexity.features`. Raises `ProbeError` where the probe has no pixel part.
        """
        return self._in_units(self._complexity_raw(features))

    def excess(self, vectors: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Return how much harder the ground is than its texture warrants, float32.

        The difference on the probe's linear scale: log(difficulty / complexity), or loss units on the raw
        scale.
        """
        return (self.score_raw(vectors) - self._complexity_raw(features)).astype(np.float32)

    def interval(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and the upper end of the interval of the loss, float32, in the units of `score`.

        It covers the loss under the masks drawn with probability 1 - `spread.alpha`, not its noise-free mean.
        Raises `ProbeError` where the probe has no spread.
        """
        if self.spread is None:
            raise ProbeError(f"the probe of {self.space.get('model')!r} has no intervals; fit on more blocks")
        middle, half = self.score_raw(vectors), self.spread.half_width(vectors)
        return self._in_units(middle - half), self._in_units(middle + half)

    def expected(self, vectors: np.ndarray) -> np.ndarray:
        """Return the mean loss, float32: on the log scale difficulty times `smearing`, else difficulty itself.

        Raises `ProbeError` on the log scale without a smearing factor (Duan 1983,
        doi:10.1080/01621459.1983.10478017).
        """
        self.check_expected()
        return self.score(vectors) * np.float32(self.smearing if self.scale == "log" else 1)

    def check_expected(self) -> None:
        """Raise `ProbeError` where `expected` cannot be answered."""
        if self.scale == "log" and self.smearing is None:
            raise ProbeError(
                f"the probe of {self.space.get('model')!r} has no smearing factor, so no expected loss; fit it again"
            )

    def check_space(self, space: Mapping[str, object]) -> None:
        """Accept embeddings of this probe's space only.

        Embeddings without a loss have no target or masking (absent or None); these are then not compared.
        Raises `SpaceMismatch` naming both spaces and the keys that differ.
        """
        keys = sorted({*self.space, *space} - {k for k in _ABOUT_THE_LOSS if space.get(k) is None})
        wrong = [k for k in keys if self.space.get(k) != space.get(k)]
        if wrong:
            told = "; ".join(f"{k}: {self.space.get(k)!r} against {space.get(k)!r}" for k in wrong)
            raise SpaceMismatch(
                f"the probe of {self.space.get('model')!r} cannot score embeddings of {space.get('model')!r} "
                f"(probe against embeddings: {told}); fit a probe there or embed with the probe's model"
            )

    @property
    def space_text(self) -> str:
        """Return the space as one line, as the tag `GEOELLE_SPACE` of a raster has it."""
        return " | ".join(f"{key}={value}" for key, value in sorted(self.space.items()))

    @property
    def digest(self) -> str:
        """Return the SHA-256 over every number and word, as it stands in the file."""
        return digest_of(self._words(), self._all_tensors())

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write one `.safetensors` file, all of it or nothing.

        Raises `ProbeError` for tables that JSON cannot hold, `GeoelleError` where the file exists.
        """
        return write_bytes(path, to_bytes(self._words(), self._all_tensors()), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file written by `save`; raises `FormatError` for any other, a damaged or a newer one."""
        words, tensors = read_file(Path(path))
        try:
            embedding = affine_of("", words["alpha"], tensors)
            return cls(
                embedding=embedding,
                pixels=None if words["pixels_alpha"] is None else affine_of("pixels.", words["pixels_alpha"], tensors),
                twin=None if words["twin_alpha"] is None else affine_of("twin.", words["twin_alpha"], tensors),
                spread=None if words["spread"] is None else _spread(words["spread"], tensors),
                reach=None if words["reach"] is None else _reach(words["reach"], tensors, embedding),
                **{k: words[k] for k in _WORDS if k != "feature_names"},
                feature_names=tuple(words["feature_names"]),
            )
        except (KeyError, TypeError, ValueError, ProbeError) as cause:
            raise FormatError(f"the probe {path} breaks the format ({cause!r}); fit it again") from cause

    def to_json(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write weights and bias as plain JSON, for a device that has neither numpy nor geoelle.

        Keys: `weights`, `bias`, `scale` ("log": take exp of w'x + b), `target`, `space`, `licence`.
        """
        plain = {
            "format": f"{FORMAT}-json",
            "version": 1,
            "weights": self.embedding.weights_d.tolist(),
            "bias": self.embedding.intercept,
            "scale": self.scale,
            "target": self.target,
            "space": dict(self.space),
            "licence": self.licence,
        }
        return write_bytes(path, canonical(plain).encode(), overwrite=overwrite)

    def _all_tensors(self) -> dict[str, np.ndarray]:
        tensors = tensors_of("", self.embedding)
        if self.pixels is not None:
            tensors |= tensors_of("pixels.", self.pixels)
        if self.twin is not None:
            tensors |= tensors_of("twin.", self.twin)
        if self.spread is not None:
            tensors |= tensors_of("spread.", self.spread.log_spread)
        if self.reach is not None:
            tensors["reach.points"] = np.ascontiguousarray(self.reach.points_md, np.float32)
            tensors["reach.counts"] = np.ascontiguousarray(self.reach.counts_m, np.int64)
        return tensors

    def _words(self) -> dict[str, object]:
        words = {k: getattr(self, k) for k in _WORDS}
        alphas = {
            "alpha": self.embedding.alpha,
            "pixels_alpha": None if self.pixels is None else self.pixels.alpha,
            "twin_alpha": None if self.twin is None else self.twin.alpha,
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            **alphas,
            **words,
            "feature_names": list(self.feature_names),
            "spread": None
            if self.spread is None
            else {k: getattr(self.spread, k) for k in _SPREAD} | {"ridge_alpha": self.spread.log_spread.alpha},
            "reach": None if self.reach is None else {k: getattr(self.reach, k) for k in _REACH},
        }

    def _in_units(self, linear: np.ndarray) -> np.ndarray:
        return (np.exp(linear) if self.scale == "log" else linear).astype(np.float32)

    def _complexity_raw(self, features: np.ndarray) -> np.ndarray:
        if self.pixels is None:
            raise ProbeError(f"the probe of {self.space.get('model')!r} has no pixel part; fit with features")
        return self.pixels(features)


def fit_probe(
    vectors_nd: np.ndarray,
    loss_n: np.ndarray,
    *,
    groups: np.ndarray,
    space: Mapping[str, object],
    target: str = "loss",
    scale: Scale = "log",
    cv: BaseCrossValidator | None = None,
    features: tuple[np.ndarray, tuple[str, ...]] | None = None,
) -> Probe:
    """Fit a probe, and its pixel part from `features` = ((n, f) values, names); alpha from held-out ground.

    `groups` are (n, 2) lon, lat or (n,) places, as `RidgeProbeCV` takes them. Scores, folds, versions, data
    and licence are added with `dataclasses.replace`.

    Raises `ProbeError` for a loss without a logarithm on the log scale, `HoldoutError` without ground to hold
    out.
    """
    y_n = on_scale(loss_n, scale)
    pixels, names = (None, ()) if features is None else features
    return Probe(
        embedding=Affine.of(RidgeProbeCV(cv=cv).fit(vectors_nd, y_n, groups)),
        pixels=None if pixels is None else Affine.of(RidgeProbeCV(cv=cv).fit(pixels, y_n, groups)),
        feature_names=tuple(names),
        space=dict(space),
        target=target,
        scale=scale,
    )


def with_twin(
    probe: Probe,
    vectors_nd: np.ndarray,
    loss_n: np.ndarray,
    *,
    groups: np.ndarray,
    cv: BaseCrossValidator | None = None,
) -> Probe:
    """Return a probe with a map of the vectors of the untrained twin, float (n, d), to the losses of the model itself.

    Raises: as `fit_probe`.
    """
    return replace(probe, twin=Affine.of(RidgeProbeCV(cv=cv).fit(vectors_nd, on_scale(loss_n, probe.scale), groups)))


def on_scale(loss: np.ndarray, scale: Scale) -> np.ndarray:
    """Put losses on the scale they are fitted on, float64: "raw" as they are, "log" their natural logarithm.

    Raises `ProbeError` for another scale and for losses that are not positive on the log scale.
    """
    _check_scale(scale)
    loss = np.asarray(loss, np.float64)
    if scale == "raw":
        return loss
    if not (loss > 0).all():
        worst = float(np.nanmin(loss)) if np.isfinite(loss).any() else float("nan")
        raise ProbeError(
            f"log-loss fails for {int((~(loss > 0)).sum())} of {loss.size} losses (least {worst:g}); "
            'losses must be positive, or use scale="raw"'
        )
    return np.log(loss)


def _check_scale(scale: str) -> None:
    if scale not in ("log", "raw"):
        raise ProbeError(f'no such scale ({scale!r}); use "log" or "raw"')


def _spread(words: Mapping[str, float], tensors: Mapping[str, np.ndarray]) -> Spread:
    ridge = affine_of("spread.", words["ridge_alpha"], tensors)
    return Spread(log_spread=ridge, **{k: words[k] for k in _SPREAD})


def _reach(words: Mapping[str, float], tensors: Mapping[str, np.ndarray], embedding: Affine) -> Reach:
    return Reach(
        points_md=tensors["reach.points"],
        counts_m=tensors["reach.counts"],
        weights_d=np.abs(embedding.weights_d),
        **{k: words[k] for k in _REACH},
    )
