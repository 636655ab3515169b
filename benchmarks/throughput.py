"""Measure how many chips a second each published model embeds on an accelerator; write docs/throughput.{csv,md}.

    python benchmarks/throughput.py [--device cuda] [--seconds 5] [--models NAME ...] [-o docs/throughput]

The protocol is that of ThroughputBench: a batch that already lies on the device, 20 rounds that are not counted, then
whole rounds until the time is up; chips over wall time; nothing else on the device; float32 products in TF32 where the
device has it. Weights are drawn, not trained: speed does not depend on them. What is timed is `encode`: normalisation
and network. Compiled means that torch.compile took each repeated block. The limit is what the counted floating-point
operations would take at the rate of one bare product of two large matrices, measured in the same run.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import platform
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.models import Model, list_models, load_model, model_card

PAGE = Path(__file__).parents[1] / "docs" / "throughput"
MODES = (("fp32", None, False), ("bf16", torch.bfloat16, False), ("bf16 compiled", torch.bfloat16, True))
WARM = 20
SIDE = 8192
FIELDS = ("model", "mode", "input", "batch", "chips_per_second", "megapixels_per_second", "gflop_per_chip",
          "share_of_limit", "peak_memory_mb", "cosine_to_fp32")  # fmt: skip


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Time counted for each figure.")
@click.option("--batch", default=512, show_default=True, help="Halved until it fits.")
@click.option("--models", "names", multiple=True, help="Default: one of each network; repeat the option for several.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=PAGE, help="Without suffix.")
def main(device: str, seconds: float, batch: int, names: tuple[str, ...], out: Path) -> None:
    """Time every model; rows that are there already for other models stay."""
    warnings.simplefilter("ignore")
    torch.set_float32_matmul_precision("high")
    if device == "cuda" and (busy := _others_on_gpu()):
        raise click.ClickException(f"the GPU is in use by {busy}; nothing was measured")
    limits = {name: _limit(kind, device) for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    rows = {(r["model"], r["mode"]): r for r in _read(out.with_suffix(".csv"))}
    for name in names or list_models():
        for row in _measure(name, device, seconds, batch, limits):
            rows[row["model"], row["mode"]] = row
            click.echo("  ".join(f"{row[k]}" for k in FIELDS))
            _write(out, list(rows.values()), device, limits, seconds)


def _measure(name: str, device: str, seconds: float, batch: int, limits: dict[str, float]) -> Iterator[dict]:
    card = model_card(name)
    model = load_model(name, None if card.embedded else "untrained").to(device)
    flops = _flops(model, device)
    reference = None
    for mode, kind, compiled in MODES:
        if compiled:
            _compile(model)
        size = batch
        while True:
            try:
                rate, peak, tokens = _time(model, size, kind, device, seconds)
                break
            except torch.OutOfMemoryError:
                size //= 2
            finally:
                _empty(device)
        reference = tokens if reference is None else reference
        bands = len(_bands(name))
        pixels = bands * card.frames[0] * card.chip_px**2
        yield {
            "model": name,
            "mode": mode,
            "input": f"{card.frames[0]}x{bands}x{card.chip_px}x{card.chip_px}",
            "batch": size,
            "chips_per_second": _three(rate),
            "megapixels_per_second": _three(rate * pixels / 1e6),
            "gflop_per_chip": _three(flops / 1e9),
            "share_of_limit": f"{rate * flops / limits[mode.split()[0]]:.3f}",
            "peak_memory_mb": round(peak / 1e6),
            "cosine_to_fp32": f"{float(torch.cosine_similarity(tokens.flatten(1), reference.flatten(1)).min()):.5f}",
        }
    del model
    _empty(device)


def _time(
    model: Model, batch: int, kind: torch.dtype | None, device: str, seconds: float
) -> tuple[float, int, torch.Tensor]:
    """Return chips a second, the peak memory in bytes, and the tokens of the first chips."""
    chips = _chips(model.card.name, batch)
    held = {}
    fresh = type(model).pixels

    def on_device(chips: Chips, bands: tuple[str, ...]) -> torch.Tensor:
        key = tuple(bands)
        if key not in held:
            held[key] = fresh(model, chips, bands)
        return held[key]

    if hasattr(model, "pixels"):
        model.pixels = on_device  # the batch lies on the device before the clock starts
    cast = torch.autocast(device, kind) if kind else contextlib.nullcontext()
    with cast:
        for _ in range(WARM):
            tokens = model.encode(chips).patch_bhwd
        _wait(device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        done, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            model.encode(chips)
            _wait(device)
            done += batch
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return done / spent, peak, tokens[:8].float().cpu()


def _compile(model: Model) -> None:
    """Compile every block that a network repeats; blocks of one kind share their code."""
    torch._dynamo.reset()
    for module in model.net.modules():
        if isinstance(module, torch.nn.ModuleList | torch.nn.Sequential):
            alike = len({type(child) for child in module}) == 1
            for child in module if alike and len(module) > 1 else ():
                # Clay's blocks are lists of two parts, which have no forward of their own.
                for part in child if isinstance(child, torch.nn.ModuleList) else (child,):
                    part.compile()


def _flops(model: Model, device: str) -> float:
    with FlopCounterMode(display=False) as counter:
        model.encode(_chips(model.card.name, 2))
    return counter.get_total_flops() / 2


def _limit(kind: torch.dtype, device: str) -> float:
    """Return floating-point operations a second of one bare matrix product, the best of ten."""
    side = SIDE if device == "cuda" else SIDE // 8
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(13):
        began = time.perf_counter()
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _bands(name: str) -> tuple[str, ...]:
    card = model_card(name)
    return tuple(b for b in card.bands if b not in ("vv", "vh", "sur_refl_b05")) or card.bands


def _chips(name: str, n: int) -> Chips:
    card, bands = model_card(name), _bands(name)
    rng = np.random.default_rng(0)
    few = rng.gamma(2.0, 0.06, (8, card.frames[0], len(bands), card.chip_px, card.chip_px)).astype(np.float32)
    lattice = Lattice(epsg=32618, gsd_m=card.gsd_m[0], size_px=card.chip_px, stride_px=card.stride_px)
    addresses = Addresses(lattice=lattice, rows=np.full(n, -2_600), cols=np.full(n, 260))
    return Chips(
        pixels_btcyx=np.resize(few, (n, *few.shape[1:])), addresses=addresses,
        times_bt=np.full((n, card.frames[0]), "2020-06-01T10:30:00", "datetime64[s]"),
        lonlat_b2=np.tile([-75.6, 37.7], (n, 1)), bands=bands, items=((),) * n, sensor="sentinel-2-l2a",
    )  # fmt: skip


def _others_on_gpu() -> str:
    query = ["nvidia-smi", "--query-compute-apps=pid,name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _empty(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _read(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(out: Path, rows: list[dict], device: str, limits: dict[str, float], seconds: float) -> None:
    rows = sorted(rows, key=lambda r: (r["model"], [m for m, *_ in MODES].index(r["mode"])))
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    side = SIDE if device == "cuda" else SIDE // 8
    heads = ["model", "mode", "input (t x c x y x x)", "batch", "chips/s", "Mpx/s", "GFLOP a chip",
             "share of the limit", "peak MB", "cosine to fp32"]  # fmt: skip
    lines = [heads, ["---", "---", "---", *["---:"] * 7], *([str(r[k]) for k in FIELDS] for r in rows)]
    text = [
        "# Throughput of the models", "",
        "Written by `benchmarks/throughput.py`, which says what is timed (the protocol of ThroughputBench, with "
        f"{seconds:g} s counted a figure instead of 30). One machine, one day; reading imagery is not in it.", "",
        f"Device: {name}; torch {torch.__version__}. A bare product of two {side} x {side} matrices: "
        f"{limits['fp32'] / 1e12:.1f} TFLOP/s fp32 (TF32 where the device has it), {limits['bf16'] / 1e12:.1f} TFLOP/s "
        "bf16. Cosine: the worst of eight chips against fp32, weights not trained.", "",
        *(f"| {' | '.join(line)} |" for line in lines), "",
    ]  # fmt: skip
    out.with_suffix(".md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
