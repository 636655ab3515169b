"""How fast chips are embedded, beside the rate at which this machine multiplies matrices."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import mosaic
import torch
from timing import Row, Section, race
from torch.utils.flop_counter import FlopCounterMode

from geoelle.chips import Chips
from geoelle.embed import BATCH, embed_chips
from geoelle.models import Model, load_model
from geoelle.read import cut, read_window

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDE = 2048
"""Of the square matrices whose product is the limit."""


def measure(repeats: int, *, quick: bool) -> Section:
    """Encode and embed real chips on one and on two threads, at both precisions."""
    plan, addresses, box = mosaic.one_part(8 if quick else 24)
    model, twin = plan.model, load_model(plan.model.card.name, "untrained", seed=0)
    chips = cut(read_window(plan.looks, box, plan.found.sensor, plan.bands), addresses)
    flops = _flops(model, chips[:BATCH])
    threads_before = torch.get_num_threads()
    rows: list[Row] = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rows += _rows(model, twin, chips, flops, threads, repeats)
    torch.set_num_threads(threads_before)
    return Section(
        title="Embedding",
        text=(
            f"{len(chips)} chips of 32 px in {len(chips.bands)} bands through nano, {BATCH} at a time on each core. "
            "`encode` is the network; `embed_chips` adds missing pixels, pooling and pixel complexity; `with twin "
            "and loss` is what each date of a change costs: the untrained twin and the true loss under every mask. "
            "The network "
            f"takes {flops / 1e6:.0f} million floating-point operations a chip (counted by torch); the limit is how "
            f"many chips that would be at the rate of one bare product of {SIDE} x {SIDE} matrices."
        ),
        ratio="share of the limit",
        rows=rows,
    )


def _rows(model: Model, twin: Model, chips: Chips, flops: float, threads: int, repeats: int) -> list[Row]:
    tasks: dict[str, Callable[[], object]] = {}
    for name, kind in TYPES.items():
        left = torch.rand(SIDE, SIDE).to(kind)
        tasks[f"limit {name}"] = lambda left=left: left @ left
        tasks[f"encode {name}"] = lambda name=name: _encode(model, chips, name, threads)
        tasks[f"embed_chips {name}"] = lambda name=name: embed_chips(chips, model, precision=name)
    tasks["with twin and loss fp32"] = lambda: embed_chips(chips, model, loss=True, twins={"twin0": twin})
    seconds = race(tasks, repeats)
    speed = {
        name: [(2 * SIDE**3 / flops if name.startswith("limit") else len(chips)) / s for s in each]
        for name, each in seconds.items()
    }
    limit = {kind: median(speed[f"limit {kind}"]) for kind in TYPES}
    label = f"{threads} thread{'s' if threads > 1 else ''}"
    return [
        Row(name=f"{name}, {label}", unit="chips/s", values=each, ratio=median(each) / limit[name.split()[-1]])
        for name, each in speed.items()
    ]


def _encode(model: Model, chips: Chips, precision: str, threads: int) -> None:
    """Encode as `embed_chips` does: each core has a batch of its own."""

    def one(start: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            model.encode(chips[start : start + BATCH])

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(one, range(0, len(chips), BATCH)))
    torch.set_num_threads(threads)


def _flops(model: Model, chips: Chips) -> float:
    with FlopCounterMode(display=False) as counter:
        model.encode(chips)
    return counter.get_total_flops() / len(chips)
