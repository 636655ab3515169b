"""Draw the log of a training as PNG: losses of held-out ground, and how hard a probe finds it at each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from geoelle.errors import FormatError
from geoelle.figures import DPI, GRID, INK, MUTED, house_style, png

__all__ = ["difficulty_ridges", "loss_bands"]

COLOURS = ("#8c2981", "#5f6570", "#1f7a8c", "#c77700")
BANDS = ((5, 95), (25, 75))


def loss_bands(steps: Sequence[int], percentiles: Sequence[int], losses_sp: np.ndarray, mean_s: np.ndarray) -> bytes:
    """Draw how the losses of held-out chips are distributed at every checkpoint, from their percentiles.

    `losses_sp` has a row a step, NaN where a checkpoint kept none; `mean_s` is the mean over places. To the right,
    the share of chips below each loss at the first, the middle and the last checkpoint that has percentiles.

    Raises:
        FormatError: no checkpoint, or arrays that do not match.
    """
    if not len(steps) or losses_sp.shape != (len(steps), len(percentiles)) or len(mean_s) != len(steps):
        sizes = f"{len(steps)} steps, {np.shape(losses_sp)} losses and {len(mean_s)} means"
        raise FormatError(f"a training cannot be drawn from {sizes}; give one row a step")
    known = np.flatnonzero(np.isfinite(losses_sp).all(1)) if len(percentiles) else np.empty(0, int)
    steps_s = np.asarray(steps)
    with house_style():
        figure = Figure(figsize=(8.4, 3.7), dpi=DPI, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        if len(known):
            _bands(left, steps_s[known], dict(zip(percentiles, losses_sp[known].T, strict=True)))
            _distributions(right, steps_s[known], np.asarray(percentiles) / 100, losses_sp[known])
        else:
            right.annotate(
                "no checkpoint kept percentiles", (0.5, 0.5), xycoords="axes fraction", ha="center", color=MUTED
            )
            right.set_axis_off()
        left.plot(steps_s, mean_s, color=INK, lw=1, ls=(0, (4, 2)), label="mean over places")
        left.set(xlabel="training step", ylabel="loss on held-out places", yscale="log")
        for side in (left.yaxis, right.xaxis):
            low, high = side.get_view_interval()
            side.set_major_formatter(lambda v, _: f"{v:g}")
            side.set_minor_formatter((lambda v, _: f"{v:.3g}") if high < 10 * low else NullFormatter())
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color=GRID, lw=0.6)
        figure.legend(*left.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower left", ncols=4)
        return png(figure)


def difficulty_ridges(
    steps: Sequence[int],
    edges: np.ndarray,
    difficulty_se: np.ndarray,
    loss_se: np.ndarray,
    r_s: Mapping[str, Sequence[float]],
) -> bytes:
    """Draw at every checkpoint the histograms of held-out difficulty and of the true loss, and r of each predictor.

    `difficulty_se` and `loss_se` are counts, a row a step and a column a bin between `edges` (e + 1,), which are
    losses; `r_s` maps a predictor to its held-out r, one a step. The first predictor is ELLE, the others its nulls.

    Raises:
        FormatError: no checkpoint, no chip, or arrays that do not match.
    """
    counted, scored = {difficulty_se.shape, loss_se.shape}, {len(r) for r in r_s.values()}
    if counted != {(len(steps), len(edges) - 1)} or scored != {len(steps)} or not (difficulty_se + loss_se).any():
        sizes = f"{len(steps)} steps, {difficulty_se.shape} and {loss_se.shape} counts in {len(edges) - 1} bins"
        raise FormatError(f"histograms cannot be drawn from {sizes}; give one row and one r a step")
    with house_style():
        figure = Figure(figsize=(8.4, 1.6 + 0.42 * len(steps)), dpi=DPI, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
        _ridges(left, steps, edges, {"true loss": (loss_se, COLOURS[1]), "difficulty": (difficulty_se, COLOURS[0])})
        for colour, (name, values) in zip((COLOURS[0], COLOURS[3], COLOURS[2]), r_s.items(), strict=False):
            right.plot(steps, values, color=colour, marker="o", ms=3.2, lw=1.4, label=name)
        right.set(xlabel="training step", ylabel="r of log-loss, places held out")
        right.set_ylim(min(0.0, *(min(values) for values in r_s.values())), 1)
        right.legend(frameon=False, fontsize=7.5, loc="lower left")
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color=GRID, lw=0.6)
        return png(figure)


def _ridges(axis: Axes, steps: Sequence[int], edges: np.ndarray, layers: Mapping[str, tuple[np.ndarray, str]]) -> None:
    """Draw a histogram a step, the first on top, all to one scale: the highest bar is one row and a half high."""
    tallest = max(float(counts_se.max()) for counts_se, _ in layers.values())
    for row in range(len(steps)):
        base = len(steps) - 1 - row
        for name, (counts_se, colour) in layers.items():
            axis.stairs(
                base + 1.5 * counts_se[row] / tallest, edges, baseline=base, fill=True, color=colour, alpha=0.45, lw=0,
                label=None if row else name, zorder=2 + row,
            )  # fmt: skip
        axis.axhline(base, color=MUTED, lw=0.5, zorder=2 + row)
    used = np.flatnonzero(sum(counts_se.sum(0) for counts_se, _ in layers.values()))
    axis.set(xscale="log", xlim=(edges[used[0]], edges[used[-1] + 1]), xlabel="loss on held-out places")
    axis.set(yticks=range(len(steps)), yticklabels=[f"{step:,}" for step in reversed(steps)], ylabel="training step")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.legend(frameon=False, fontsize=7.5, loc="upper left")


def _bands(axis: Axes, steps_s: np.ndarray, losses: Mapping[int, np.ndarray]) -> None:
    for (low, high), alpha in zip(BANDS, (0.15, 0.3), strict=True):
        label = f"{low} to {high}% of chips"
        axis.fill_between(steps_s, losses[low], losses[high], color=COLOURS[0], alpha=alpha, lw=0, label=label)
    axis.plot(steps_s, losses[50], color=COLOURS[0], lw=1.4, label="median chip")


def _distributions(axis: Axes, steps_s: np.ndarray, share_p: np.ndarray, losses_sp: np.ndarray) -> None:
    chosen = sorted({0, len(steps_s) // 2, len(steps_s) - 1})
    for colour, s in zip((COLOURS[1], COLOURS[2], COLOURS[0]), chosen, strict=False):
        axis.plot(losses_sp[s], share_p, color=colour, lw=1.4, label=f"step {steps_s[s]:,}")
    axis.set(xlabel="loss on held-out places", ylabel="share of chips below", xscale="log", ylim=(0, 1))
    axis.legend(frameon=False, fontsize=7.5, loc="lower right")
