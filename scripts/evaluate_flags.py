"""Measure how well difficulty and its kin flag faulty pixels: faults injected into the demo scene, AUROC side by side.

    python scripts/evaluate_flags.py                       prints the section
    python scripts/evaluate_flags.py --json flags.json     and writes the numbers

Design: the chips of the demo scene, not overlapping, lie in blocks of 2 km, which are dealt by lot into three thirds.
The first is an archive known to be good: surprise (the Mahalanobis distance) and the nearest embedding are taken
against it. The second lends the chips that faults are injected into. The third is clean, and stands against them: so
no faulty chip is told from its own clean self or its neighbour, and neither side has been seen by the archive.
Intervals redraw whole blocks, faulty and clean ones each among themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from eval_demo import DEMO_BLOCK_M, demo_chips
from geoelle.bootstrap import Interval
from geoelle.chips import Chips
from geoelle.embed import embed_chips
from geoelle.embeddings import Embeddings
from geoelle.holdout import blocks_of
from geoelle.measures import Distance
from geoelle.models import Model, load_model
from geoelle.models.nano import BANDS
from geoelle.probe import Probe
from geoelle.products import shipped_probe

DRAWS = 500
SCORES = ("difficulty", "excess", "residual", "surprise", "complexity", "nearest")
Scores = dict[str, np.ndarray]
Fault = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def stripes(share: float) -> Fault:
    """Offset whole detector lines by half of the band's spread in the scene, in all bands alike."""

    def inject(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        lines = rng.random((len(pixels), 1, 1, 1, pixels.shape[-1])) < share
        step = 0.5 * pixels.std(axis=(0, 1, 3, 4), keepdims=True)
        return pixels + lines * step

    return inject


def dead_lines(share: float) -> Fault:
    """Set whole detector lines to 0 in one band, as a dead detector that was not flagged."""

    def inject(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        out = pixels.copy()
        for chip in out:
            band, lines = rng.integers(chip.shape[1]), rng.random(chip.shape[-1]) < share
            lines[rng.integers(len(lines))] = True
            chip[:, band, :, lines] = 0.0
        return out

    return inject


def edge(share: float) -> Fault:
    """Fill a side of the chip with 0 in all bands: the border of a swath whose nodata was not declared."""

    def inject(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        out, size = pixels.copy(), pixels.shape[-1]
        for chip in out:
            filled = np.rot90(np.arange(size)[:, None] < share * size * np.ones(size), rng.integers(4))
            chip[..., filled] = 0.0
        return out

    return inject


def blank(share: float) -> Fault:
    """Replace every band by a constant: its mean in the chip, times `share` of it, the rest as it was."""

    def inject(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mean = pixels.mean(axis=(3, 4), keepdims=True)
        return (share * mean + (1 - share) * pixels).astype(pixels.dtype)

    return inject


def noise(sd: float) -> Fault:
    """Add white noise, of `sd` in reflectance, independent in every pixel and band."""
    return lambda pixels, rng: pixels + rng.normal(0, sd, pixels.shape).astype(np.float32)


def duplicate(shift_px: int) -> Fault:
    """Leave the pixels as they are, rolled by some: chips of a frame that was delivered again as another place."""
    return lambda pixels, rng: np.roll(pixels, shift_px, axis=-1)


FAULTS: dict[str, tuple[str, tuple[tuple[str, Fault], ...]]] = {
    "stripes": ("lines offset by half a standard deviation of the band", tuple(
        (f"{s:.0%} of the lines", stripes(s)) for s in (0.05, 0.2, 0.5))),
    "dead lines": ("lines of one band at 0, at least one", tuple((f"{s:.0%} of the lines", dead_lines(s)) for s in (0.03, 0.1, 0.3))),
    "nodata edge": ("a side of the chip at 0, not declared", tuple(
        (f"{s:.0%} of the chip", edge(s)) for s in (0.05, 0.2, 0.5))),
    "blank": ("contrast taken away, towards the mean of the band in the chip", tuple((f"{s:.0%} of it", blank(s)) for s in (0.5, 0.9, 1.0))),
    "noise": ("white noise, standard deviation in reflectance", tuple(
        (f"{s:g}", noise(s)) for s in (0.002, 0.01, 0.05))),
    "duplicate": ("the same pixels at another place, rolled by some columns", tuple(
        (f"{s} px", duplicate(s)) for s in (0, 4, 16))),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The AUROC of every score for one fault at one strength, and its change by the fault, on the same redraws."""

    fault: str
    strength: str
    auroc: dict[str, Interval]
    change: dict[str, Interval]

    def apart(self, score: str) -> float:
        """Return how far a score is from no use."""
        return abs(self.auroc[score].value - 0.5)

    def sign(self, score: str) -> int:
        """Return 1 where the fault raises the AUROC beyond doubt, -1 where it lowers it, else 0."""
        return int(self.change[score].low > 0) - int(self.change[score].high < 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """Hold the archive, the clean chips and those that faults are injected into, and the block of each."""

    archive_nd: np.ndarray
    distance: Distance
    clean: Embeddings
    clean_blocks_n: np.ndarray
    lent: Chips
    lent_blocks_n: np.ndarray


def make_bench(model: Model, seed: int = 0, most: int | None = None) -> Bench:
    """Deal the blocks of the demo scene into thirds; embed the archive, and the clean chips with their loss.

    Of the clean chips and of those lent, `most` are kept, evenly over the scene.
    """
    chips = demo_chips()
    blocks_n = blocks_of(chips.addresses.lonlat_n2, DEMO_BLOCK_M)
    third_n = np.random.default_rng(seed).permutation(np.arange(blocks_n.max() + 1) % 3)[blocks_n]
    archive = embed_chips(chips[third_n == 0], model)
    lent_n, clean_n = (_thinned(np.flatnonzero(third_n == third), most) for third in (1, 2))
    return Bench(
        archive_nd=archive.vectors_nd, distance=Distance.of(archive.vectors_nd),
        clean=embed_chips(chips[clean_n], model, loss=True), clean_blocks_n=blocks_n[clean_n],
        lent=chips[lent_n], lent_blocks_n=blocks_n[lent_n],
    )  # fmt: skip


def _thinned(rows: np.ndarray, most: int | None) -> np.ndarray:
    """Return at most `most` rows, evenly."""
    return rows if most is None else rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]


def scores_of(table: Embeddings, bench: Bench, probe: Probe, also_nd: np.ndarray | None = None) -> Scores:
    """Return every score of every chip; `nearest` is minus the distance to the nearest embedding of the archive.

    `also_nd` are vectors that the archive holds besides: the first copies of duplicates.
    """
    raw, complexity = probe.score_raw(table.vectors_nd), np.log(probe.complexity(table.features_nf))
    archive = bench.archive_nd if also_nd is None else np.concatenate([bench.archive_nd, also_nd])
    near_n = NearestNeighbors(n_neighbors=1).fit(archive).kneighbors(table.vectors_nd)[0][:, 0]
    return {
        "difficulty": raw, "excess": raw - complexity, "residual": np.log(table.loss_n) - raw,
        "surprise": bench.distance(table.vectors_nd), "complexity": complexity, "nearest": -near_n,
    }  # fmt: skip


def auroc_draws(
    faulty_n: np.ndarray, faulty_blocks_n: np.ndarray, clean_m: np.ndarray, clean_blocks_m: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Return the AUROC (1 + DRAWS,), ties a half, the first of the data itself, the others of blocks redrawn."""
    blocks = [np.unique(b, return_inverse=True) for b in (faulty_blocks_n, clean_blocks_m)]
    # The share of clean chips below each faulty one, summed by pair of blocks: every redraw is then a product.
    below = np.stack([
        _below(faulty_n, clean_m[blocks[1][1] == k]) for k in range(len(blocks[1][0]))
    ], axis=1)  # fmt: skip
    sums = np.stack([below[blocks[0][1] == j].sum(axis=0) for j in range(len(blocks[0][0]))])
    sizes = [np.bincount(index) for _, index in blocks]
    rng = np.random.default_rng(seed)
    out = [sums.sum() / (sizes[0].sum() * sizes[1].sum())]
    for _ in range(DRAWS):
        w, v = (np.bincount(rng.integers(0, len(s), len(s)), minlength=len(s)) for s in sizes)
        out.append(w @ sums @ v / ((w @ sizes[0]) * (v @ sizes[1])))
    return np.array(out)


def _below(values_n: np.ndarray, others_m: np.ndarray) -> np.ndarray:
    """Count the others below each value, ties a half."""
    order = np.sort(others_m)
    return (np.searchsorted(order, values_n, "left") + np.searchsorted(order, values_n, "right")) / 2


def measure(
    bench: Bench, model: Model, probe: Probe, faults: Mapping[str, tuple[str, tuple[tuple[str, Fault], ...]]] = FAULTS
) -> list[Row]:
    """Inject every fault at every strength; return a row each, the first without a fault."""
    clean, base = scores_of(bench.clean, bench, probe), embed_chips(bench.lent, model, loss=True)
    without = _draws(scores_of(base, bench, probe), clean, bench)
    rows = [_row("none", "", without, without)]
    for name, (_, strengths) in faults.items():
        for label, inject in strengths:
            pixels = inject(bench.lent.pixels_btcyx, np.random.default_rng(1)).astype(np.float32)
            table = embed_chips(replace(bench.lent, pixels_btcyx=pixels), model, loss=True)
            also_nd = base.vectors_nd if name == "duplicate" else None
            rows.append(_row(name, label, _draws(scores_of(table, bench, probe, also_nd), clean, bench), without))
    return rows


def _draws(faulty: Scores, clean: Scores, bench: Bench) -> Scores:
    return {
        score: auroc_draws(faulty[score], bench.lent_blocks_n, clean[score], bench.clean_blocks_n) for score in SCORES
    }


def _row(fault: str, strength: str, draws: Scores, without: Scores) -> Row:
    auroc = {score: Interval.of(draws[score]) for score in SCORES}
    change = {score: Interval.of(draws[score] - without[score]) for score in SCORES}
    return Row(fault=fault, strength=strength, auroc=auroc, change=change)


def section(rows: list[Row], bench: Bench) -> str:
    """Return the markdown section."""
    blocks = len(np.unique(bench.lent_blocks_n)), len(np.unique(bench.clean_blocks_n))
    head = (
        "## Data-quality flags", "",
        f"Faults injected into {len(bench.lent):,} chips of {blocks[0]} blocks of {DEMO_BLOCK_M / 1000:g} km of the demo scene, "
        f"against {len(bench.clean):,} clean chips of {blocks[1]} other blocks: no faulty chip stands against its own clean self. "
        f"A third set of blocks ({len(bench.archive_nd):,} chips) is the archive that is known to be good. AUROC with 95% intervals "
        "from redrawing whole blocks; 0.5 is no use, below 0.5 the fault *lowers* the score (a flag may look at either end, but must "
        "know which). `surprise` is the Mahalanobis distance from the archive; `nearest` minus the distance to the nearest embedding "
        "in it, which for duplicates also holds the first copy. The row without a fault says what the two sets of blocks differ by "
        "anyhow. A star: the fault changes the AUROC against that row, the interval of the difference on the same redraws leaves "
        "out 0. Bold: furthest from 0.5 in its row.", "",
        *summary(rows), "",
        f"| fault | strength | {' | '.join(SCORES)} |", f"| --- | --- |{' --- |' * len(SCORES)}",
    )  # fmt: skip
    body = []
    for row in rows:
        best = "" if row is rows[0] else max(SCORES, key=row.apart)
        texts = {s: _text(row.auroc[s]) + " ★" * (row.sign(s) != 0) for s in SCORES}
        cells = [f"**{texts[s]}**" if s == best else texts[s] for s in SCORES]
        body.append(f"| {row.fault} | {row.strength} | {' | '.join(cells)} |")
    kinds = [f"- {name}: {told}." for name, (told, _) in FAULTS.items()]
    return "\n".join([*head, *body, "", "Faults:", "", *kinds, ""])


def summary(rows: list[Row]) -> list[str]:
    """Say of each score how often it is the best, how often a fault moves it and which way, and where it does best."""
    faults = rows[1:]
    lines = []
    for score in SCORES:
        up, down = (sum(row.sign(score) == way for row in faults) for way in (1, -1))
        first = sum(max(SCORES, key=row.apart) == score for row in faults)
        best = max(faults, key=lambda row: row.apart(score))
        useful = sum(row.apart(score) > 0.3 and row.sign(score) != 0 for row in faults)
        lines.append(
            f"- {score}: best in {first} of {len(faults)} rows; moved by the fault in {up + down} ({up} up, {down} down), beyond "
            f"0.8 or under 0.2 in {useful}; furthest for {best.fault}, {best.strength}: {_text(best.auroc[score])}."
        )
    return lines


def _text(value: Interval) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


@click.command()
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the numbers here.")
@click.option("--threads", default=1, show_default=True)
def main(out: Path | None, threads: int) -> None:
    torch.set_num_threads(threads)
    model = load_model("nano")
    probe = shipped_probe(model, BANDS)
    bench = make_bench(model)
    rows = measure(bench, model, probe)
    if out:
        out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    click.echo(section(rows, bench))


if __name__ == "__main__":
    main()
