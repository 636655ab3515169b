"""Evaluate nano on the embedded scene: the shipped probe, one fitted there, missing pixels, and the maps side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import nano_samples
from geoelle.area import Area, lattices_for
from geoelle.bootstrap import Bootstrap, Interval
from geoelle.catalog import search
from geoelle.chips import Chips
from geoelle.embed import embed_chips
from geoelle.embeddings import Embeddings
from geoelle.holdout import SpatialKFold, blocks_of
from geoelle.models import load_model
from geoelle.models.nano import BANDS, Nano
from geoelle.nulls import evaluate
from geoelle.probe import Probe
from geoelle.quicklook import MapText, quicklook
from geoelle.raster import paint
from geoelle.read import cut, plan_looks, read_window
from geoelle.sample import Sample
from geoelle.style import Ramp

PICTURE = Path(__file__).parents[1] / "docs" / "img" / "truth.png"
DEMO = {"bbox": "-75.71,37.60,-75.53,37.75", "dates": "2015/2018"}
DEMO_BLOCK_M = 2_000.0
MISSING = (0.01, 0.05, 0.10)


def demo_chips(stride_px: int = 32) -> Chips:
    """Return the chips of the demo scene, not overlapping by default."""
    area = Area.parse(**DEMO)
    found = search(area, catalog="demo")
    ((lattice, addresses),) = lattices_for(area, 10, 32, stride_px)
    looks = plan_looks(found.items, area.geometry)
    box = lattice.union_geobox(addresses.rows, addresses.cols)
    window = read_window(looks, box, found.sensor, BANDS, sign=found.access)
    chips = cut(window, addresses)
    return chips[chips.valid_b]


def demo_section(model: Nano, probe: Probe) -> tuple[str, list[str]]:
    """Score the shipped probe, and a probe fitted within the scene, on the demo scene; return text and summary."""
    chips = demo_chips()
    twins = {f"twin{s}": load_model("nano", "untrained", seed=s) for s in range(nano_samples.TWINS)}
    table = embed_chips(chips, model, loss=True, twins=twins)
    blocks = blocks_of(table.addresses.lonlat_n2, DEMO_BLOCK_M)
    cv = SpatialKFold(5, block_m=DEMO_BLOCK_M, buffer_m=450.0)
    scores = evaluate(Sample.of(table), cv=cv)
    y = np.log(table.loss_n)
    difficulty, complexity = probe.score_raw(table.vectors_nd), np.log(probe.complexity(table.features_nf))
    PICTURE.write_bytes(draw(table, difficulty, complexity))
    boot = Bootstrap(blocks)
    lines = [
        "## The demo scene", "",
        f"The embedded scene of the Virginia coast, {len(table):,} chips that do not overlap, {len(set(blocks))} blocks of "
        f"{DEMO_BLOCK_M / 1000:g} km. It is in neither the pretraining nor the fit.", "",
        f"![Difficulty, true loss, residual and excess](img/{PICTURE.name})", "",
        "### The shipped probe, applied as it is", "",
        "| predictor of log-loss | r | R² | Spearman |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, predicted in (("ELLE (difficulty)", difficulty), ("pixel ridge (complexity)", complexity)):
        m = boot.score(y, predicted).metrics()
        lines.append(f"| {name} | {m.r} | {m.r2} | {m.spearman} |")
    gap = Interval.of(boot.r(y, difficulty) - boot.r(y, complexity))
    excess = boot.score(y - complexity, difficulty - complexity).metrics().r
    of_elle = boot.score(y, difficulty).metrics().r
    summary = [
        f"On the demo scene the shipped probe reads log-loss at r = {of_elle} and {gap.verdict} the pixel ridge (difference {gap}).",
        f"The `excess` band of the demo map follows the true excess at r = {excess}.",
        "A probe fitted on the demo scene itself, blocks held out: " + scores.table().sentence(),
    ]
    lines += [
        "", f"ELLE minus pixel ridge, r: {gap}. ELLE {gap.verdict} the pixel ridge on this scene.", "",
        f"What `excess` is good for: the excess that the map shows (ln difficulty minus ln complexity) against the excess that "
        f"is true (ln loss minus ln complexity): r = {excess}.", "",
        "### A probe fitted on the scene itself, blocks held out", "", scores.to_markdown(),
    ]  # fmt: skip
    return "\n".join([*lines, missing_section(chips[:1024], model, probe)]), summary


def draw(table: Embeddings, difficulty_n: np.ndarray, complexity_n: np.ndarray) -> bytes:
    """Draw difficulty, true loss, residual and excess side by side; all but the loss are on the log scale."""
    loss_n = np.log(table.loss_n)
    layers = {
        "difficulty": np.exp(difficulty_n),
        "true loss": table.loss_n,
        "residual": loss_n - difficulty_n,
        "excess": difficulty_n - complexity_n,
        "true excess": loss_n - complexity_n,
    }
    raster = paint(table.addresses, {name: values.astype(np.float32) for name, values in layers.items()})
    both = np.concatenate([layers["difficulty"], layers["true loss"]])
    ramps = {
        "difficulty": Ramp.sequential(both, label="typical loss"),
        "true loss": Ramp.sequential(both, label="loss, mean of 8 masks"),
        "residual": Ramp.diverging(layers["residual"], label="ln(loss / difficulty)"),
        "excess": Ramp.diverging(layers["true excess"], label="ln(difficulty / complexity)"),
        "true excess": Ramp.diverging(layers["true excess"], label="ln(loss / complexity)"),
    }
    text = MapText(
        title="What the map says, and what is true",
        subtitle="nano and its shipped probe on the demo scene; chips of 320 m side by side",
        reading="Difficulty is predicted from the embedding; the loss is computed with the decoder. One scale for each pair.",
    )
    return quicklook(raster, ramps, text)


def missing_section(chips: Chips, model: Nano, probe: Probe) -> str:
    """Measure what missing pixels do to the embedding and to difficulty."""
    base = embed_chips(chips, model)
    rng = np.random.default_rng(0)
    lines = ["### Missing pixels", "", "Pixels set to nodata at random, then filled with the chip's band mean:", "",
             "| missing | chips | change of the embedding (relative) | change of ln difficulty, mean | 95th percentile of its size |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for share in MISSING:
        pixels = chips.pixels_btcyx.copy()
        hole = rng.random((len(chips), 1, 1, *pixels.shape[-2:])) < share
        pixels[np.broadcast_to(hole, pixels.shape)] = np.nan
        found = embed_chips(replace(chips, pixels_btcyx=pixels), model)
        ok = found.valid_n
        moved = (
            np.linalg.norm(found.vectors_nd - base.vectors_nd, axis=1)[ok] / np.linalg.norm(base.vectors_nd, axis=1)[ok]
        )
        shift = (probe.score_raw(found.vectors_nd) - probe.score_raw(base.vectors_nd))[ok]
        lines.append(
            f"| {share:.0%} | {ok.sum():,} of {len(ok):,} valid | {moved.mean():.3f} | {shift.mean():+.3f} | {np.percentile(np.abs(shift), 95):.3f} |"
        )
    return "\n".join([*lines, ""])
