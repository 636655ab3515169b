"""Measure how often a false flag is confirmed by the next look: simulated ground, of which a tenth changed.

    python scripts/simulate_confirmations.py

Cells have a level and a spread of their own, years are independent, changes last. All dates after share one date
before (design `difference`) or the mean of one history (`departure`), so flags are not independent.
"""

from __future__ import annotations

import click
import numpy as np

from geoelle.change import Design, fit_null, judge_by, q_values

CELLS = 20_000
DOF = 10.0
CHANGED = 0.1
SIZE_SD = 8.0
RATE = 0.1


def one_map(rng: np.random.Generator, years: int, design: Design, share: float) -> np.ndarray:
    """Return counts of one map: unchanged cells, of these flagged first, flagged second, and both with one sign;
    then the changed cells, flagged first, and both."""
    level_n, sd_n = rng.normal(size=CELLS), np.sqrt(DOF / rng.chisquare(DOF, CELLS))

    def year(change_n: np.ndarray | float = 0.0) -> np.ndarray:
        return level_n + sd_n * (rng.normal(size=CELLS) + change_n)

    change_n = np.where(rng.random(CELLS) < share, SIZE_SD * rng.choice([-1, 1], CELLS), 0.0)
    null, before_n = fit_null(np.array([year() for _ in range(years)])), year()
    looks = [judge_by(null, before_n, year(change_n), design) for _ in range(2)]
    first_n, second_n = (np.where(q_values(look.p_n) <= RATE, np.sign(look.t_n), 0) for look in looks)
    both_n = (first_n != 0) & (first_n == second_n)
    same_n = change_n == 0
    return np.array([
        same_n.sum(), (first_n[same_n] != 0).sum(), (second_n[same_n] != 0).sum(), both_n[same_n].sum(),
        (~same_n).sum(), (first_n[~same_n] != 0).sum(), both_n[~same_n].sum(),
    ])  # fmt: skip


@click.command()
@click.option("--maps", default=40, show_default=True)
def main(maps: int) -> None:
    click.echo(
        "| design | earlier years | changed | false flags per 10,000 | of these confirmed | if independent | ..."
    )
    for design in ("difference", "departure"):
        for years in (3, 5, 8):
            for share in (0.0, CHANGED):
                rng = np.random.default_rng(0)
                total = sum(one_map(rng, years, design, share) for _ in range(maps))
                same, first, second, both, changed, hit, kept = total.tolist()
                click.echo(
                    f"| {design} | {years} | {share:.0%} | {1e4 * first / same:.2f} | {both}/{first} "
                    f"({both / max(first, 1):.1%}) | {second / same:.2%} | "
                    f"recall {hit / max(changed, 1):.0%}, confirmed {kept / max(hit, 1):.0%} of these |"
                )


if __name__ == "__main__":
    main()
