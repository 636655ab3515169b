"""How fast a probe scores vectors that exist, beside numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge
from timing import Section, race, rates

from geoelle.probe import Affine, Probe, RidgeProbe

DIM = 128
OURS = "Probe.score"


def measure(repeats: int, *, quick: bool) -> Section:
    """Score random vectors; what scikit-learn says is checked to be the same."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((100_000 if quick else 1_000_000, DIM), np.float32)
    some = vectors[:4096]
    target = some @ rng.standard_normal(DIM, np.float32) / DIM
    ours = Probe(embedding=Affine.of(RidgeProbe(1.0).fit(some, target)), space={"model": "random numbers"})
    theirs = Ridge(1.0).fit(some, target)
    weights = ours.embedding.weights_d.astype(np.float32)
    np.testing.assert_allclose(np.log(ours.score(some)), theirs.predict(some), atol=1e-3)
    seconds = race(
        {
            OURS: lambda: ours.score(vectors),
            "sklearn Ridge.predict": lambda: theirs.predict(vectors),
            "numpy vectors @ weights": lambda: vectors @ weights,
        },
        repeats,
    )
    return Section(
        title="Scoring",
        text=(
            f"{len(vectors):,} float32 vectors of {DIM} numbers in memory. `Probe.score` adds in float64 and takes "
            "the exponential, since difficulty is a loss and not its logarithm. scikit-learn's ridge (checked to "
            "say the same) and the bare float32 product of numpy, which is as fast as the memory is read, do "
            "neither."
        ),
        ratio="geoelle / it",
        rows=rates(seconds, len(vectors), "rows/s", against=OURS),
    )
