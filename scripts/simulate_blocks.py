"""Measure how often a map without a change stands out among maps of earlier years, and one with a change does.

    python scripts/simulate_blocks.py

Ground of 40 x 40 cells with levels and spreads of their own; the noise of a year is alike over some cells, and each year
is shifted as a whole. With `--changed N` a square of N x N cells changes by 7 sd.
"""

from __future__ import annotations

import click
import numpy as np
from scipy import ndimage

from geoelle.change import judge
from geoelle.change_blocks import BlockCheck, check_blocks
from geoelle.lattice import Addresses, Lattice

SIDE, YEARS, ALIKE_CELLS, DOF, SIZE_SD = 40, 4, 2.0, 8.0, 7.0
MARGIN = 20
MESH = Addresses(
    lattice=Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16),
    rows=np.repeat(np.arange(SIDE), SIDE) + 31_000, cols=np.tile(np.arange(SIDE), SIDE) + 3_100,
)  # fmt: skip


def one_map(seed: int, rate: float, changed: int) -> BlockCheck:
    """Draw earlier years, a date before and one after, and check its flags."""
    rng = np.random.default_rng(seed)
    sd_n, level_n = np.sqrt(DOF / rng.chisquare(DOF, SIDE**2)), rng.normal(size=SIDE**2)

    def year() -> np.ndarray:
        wide = ndimage.gaussian_filter(rng.normal(size=(SIDE + 2 * MARGIN,) * 2), ALIKE_CELLS)
        noise_yx = wide[MARGIN:-MARGIN, MARGIN:-MARGIN] * 2 * np.sqrt(np.pi) * ALIKE_CELLS
        return level_n + sd_n * noise_yx.ravel() + 0.3 * rng.normal()

    years_rn = np.array([year() for _ in range(YEARS + 1)])
    change_yx = np.zeros((SIDE, SIDE))
    change_yx[5 : 5 + changed, 5 : 5 + changed] = SIZE_SD
    _, tested = judge(years_rn[-1], year() + change_yx.ravel() * sd_n, years_rn[:-1], "difference")
    found = check_blocks(years_rn, years_rn, tested, MESH, design="difference", rate=rate)
    if found is None:
        raise click.ClickException(f"map {seed} is too small for its blocks")
    return found


@click.command()
@click.option("--maps", default=80, show_default=True)
@click.option("--rate", default=0.1, show_default=True)
@click.option("--changed", default=0, show_default=True)
def main(maps: int, rate: float, changed: int) -> None:
    found = [one_map(seed, rate, changed) for seed in range(maps)]
    click.echo(
        f"rate {rate:g}, {changed} x {changed} cells changed, {maps} maps: range {np.median([f.range_m for f in found]):.0f} m, "
        f"blocks of {np.median([f.block_m for f in found]):.0f} m, flags on {np.mean([f.flagged > 0 for f in found]):.0%}"
    )
    for name in ("p_flagged", "p_largest"):
        p = np.array([getattr(f, name) for f in found])
        click.echo(f"{name}: " + ", ".join(f"at most {at:g} on {np.mean(p <= at):.1%}" for at in (0.05, 0.1, 0.2)))


if __name__ == "__main__":
    main()
