"""How fast a strength is chosen on held-out ground, beside one fit and scikit-learn, and what a stream of rows takes.

python benchmarks/fitting.py [--full] [--repeats N]     without --full a smaller table, within two minutes on one core
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import click
import numpy as np
from peak import peak_bytes
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timing import Row, Section, race

from geoelle.batches import fit_batches
from geoelle.holdout import SpatialKFold
from geoelle.ridge import RidgeProbe, RidgeProbeCV, cross_predict

FULL, USUAL, QUICK = (40_000, 768), (12_000, 384), (3_000, 64)
ALPHAS = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
BLOCK_M = 10_000.0
BATCH = 2_000
OURS = "RidgeProbeCV, 5 blocked folds x 6 alphas"
DIRECTIONS_FALL_BY = 1e3


def measure(repeats: int, *, quick: bool, full: bool = False) -> Section:
    """Fit a table whose directions fall off as those of embeddings do; all fits are checked to agree."""
    n, d = FULL if full else QUICK if quick else USUAL
    x_nd, y_n, lonlat_n2 = (np.concatenate(each) for each in zip(*_batches(n, d), strict=True))
    x_nd = x_nd.astype(np.float64)  # as scikit-learn's own ridge works on it
    cv, near = SpatialKFold(5, block_m=BLOCK_M), SpatialKFold(5, block_m=BLOCK_M, buffer_m=BLOCK_M / 10)
    theirs = make_pipeline(StandardScaler(), Ridge())
    folds = list(cv.split(x_nd, groups=lonlat_n2))
    search = GridSearchCV(theirs, {"ridge__alpha": list(ALPHAS)}, cv=folds, scoring="neg_mean_squared_error")
    _check(x_nd, y_n, lonlat_n2, RidgeProbeCV(ALPHAS, cv).fit(x_nd, y_n, lonlat_n2))
    tasks = {
        OURS: lambda: RidgeProbeCV(ALPHAS, cv).fit(x_nd, y_n, lonlat_n2),
        "the same, buffer of a tenth of a block": lambda: RidgeProbeCV(ALPHAS, near).fit(x_nd, y_n, lonlat_n2),
        "the same from batches": lambda: fit_batches(lambda: _cut(x_nd, y_n), lonlat_n2, cv=cv, alphas=ALPHAS),
        "cross_predict, 5 x 5 folds x 6 alphas": lambda: cross_predict(x_nd, y_n, cv, lonlat_n2, ALPHAS),
        "one fit of RidgeProbe": lambda: RidgeProbe().fit(x_nd, y_n),
        "one fit of sklearn StandardScaler, Ridge": lambda: theirs.fit(x_nd, y_n),
    }
    seconds = race(tasks, repeats)
    began = time.perf_counter()
    search.fit(x_nd, y_n)  # once: it takes longer than all others together, and is compared by a factor of ten and more
    seconds |= {"sklearn GridSearchCV, same folds and alphas": [time.perf_counter() - began]}
    rows = [Row(name=name, unit="s", values=each) for name, each in seconds.items()]
    memory = [_peak(n, d), _peak(4 * n, d), _peak(4 * n, d, whole=True)]
    return Section(
        title="Fitting",
        text=(
            f"{n:,} x {d} float64 in memory. A fit is the Gram matrix and one reduction of it; choosing a strength "
            "takes the same Gram matrix fold by fold, and one more reduction a fold. Predictions, in memory and from "
            "batches, are checked to equal scikit-learn's to 1e-8. Memory is the peak of a process of its own, "
            f"libraries included, that makes float32 batches of {BATCH:,} rows as they are asked for; it is compared "
            "with the first."
        ),
        ratio="geoelle / it",
        rows=[
            *(replace(row, ratio=rows[0].median / row.median) for row in rows),
            *(replace(row, ratio=memory[0].median / row.median) for row in memory),
        ],
    )


def _batches(n: int, d: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield inputs, float32, targets and places: the same rows whenever called."""
    rng = np.random.default_rng(0)
    mix_dd = np.linalg.qr(rng.standard_normal((d, d)))[0] * np.geomspace(1, 1 / DIRECTIONS_FALL_BY, d)[:, None]
    mix_dd, mean_d, weights_d = mix_dd.astype(np.float32), rng.normal(size=d), rng.normal(size=d)
    for at in range(0, n, BATCH):
        rows = min(BATCH, n - at)
        x_bd = rng.standard_normal((rows, d), np.float32) @ mix_dd + mean_d.astype(np.float32)
        yield x_bd, (x_bd - mean_d) @ weights_d + 0.3 * rng.normal(size=rows), rng.uniform(0, 1, (rows, 2))


def _cut(x_nd: np.ndarray, y_n: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((x_nd[at : at + BATCH], y_n[at : at + BATCH]) for at in range(0, len(x_nd), BATCH))


def _check(x_nd: np.ndarray, y_n: np.ndarray, lonlat_n2: np.ndarray, ours: RidgeProbeCV) -> None:
    some = x_nd[:2_000]
    theirs = make_pipeline(StandardScaler(), Ridge(ours.alpha_)).fit(x_nd, y_n).predict(some)
    streamed = fit_batches(lambda: _cut(x_nd, y_n), lonlat_n2, cv=ours.cv, alphas=ALPHAS)
    for found in (ours, streamed):
        np.testing.assert_allclose(found.predict(some), theirs, rtol=1e-8, atol=1e-8 * np.abs(theirs).max())


def _peak(n: int, d: int, *, whole: bool = False) -> Row:
    """Fit in a process of its own, and return the most memory it held."""
    command = [sys.executable, "-W", "ignore", __file__, "--peak", str(n), str(d), *(["--whole"] if whole else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the fit of {n} rows failed: {done.stderr.strip().splitlines()[-1]}")
    name = f"{'RidgeProbeCV' if whole else 'fit_batches'} on {n:,} x {d}"
    return Row(name=name, unit="MB at the peak", values=[int(done.stdout) / 1e6])


def _fit_once(n: int, d: int, whole: bool) -> None:
    if whole:
        x_nd, y_n, lonlat_n2 = (np.concatenate(each) for each in zip(*_batches(n, d), strict=True))
        RidgeProbeCV(ALPHAS, SpatialKFold(5, block_m=BLOCK_M)).fit(x_nd, y_n, lonlat_n2)
    else:
        lonlat_n2 = np.concatenate([place for *_, place in _batches(n, d)])
        batches = lambda: ((x_bd, y_b) for x_bd, y_b, _ in _batches(n, d))  # noqa: E731
        fit_batches(batches, lonlat_n2, cv=SpatialKFold(5, block_m=BLOCK_M), alphas=ALPHAS)


@click.command()
@click.option("--full", is_flag=True, help="40,000 x 768 rows.")
@click.option("--repeats", type=click.IntRange(1), default=3)
@click.option("--peak", "shape", type=(int, int), help="Only fit so many rows and inputs, and print the peak in bytes.")
@click.option("--whole", is_flag=True, help="With --peak: hold all rows.")
def main(full: bool, repeats: int, shape: tuple[int, int] | None, whole: bool) -> None:
    """Print the table of fits, or with --peak the memory of one."""
    if shape:
        _fit_once(*shape, whole)
        click.echo(peak_bytes())
    else:
        click.echo(measure(repeats, quick=False, full=full).to_markdown())


if __name__ == "__main__":
    main()
