"""Train nano on the pretraining places of docs/nano-data.json; resumable, and the same on any machine but for rounding.

    python scripts/train_nano.py IMAGERY_FOLDER --objective latent --steps 20000 -o runs/latent

Stop it at any time and start it again with the same arguments: it goes on from the last checkpoint. Prints the loss on
training places and on places never trained on (the `fit` set), which is the generalisation gap of the docs, and keeps both
in log.jsonl with the percentiles of the held-out chips and, of a few chips a place, the histograms of their loss and of
the difficulty that a probe of this checkpoint reads on places held out; scripts/plot_training.py draws them.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import load_file, save_file

import nano_data
from checkpoint_probe import Watched
from geoelle.models import masks
from geoelle.models.nano import BANDS, NanoConfig, NanoNet

SUBSETS = (("blue", "green", "red", "nir"), ("blue", "green", "red", "nir", "nir08", "swir16"))
FULL_SHARE, DROP_SHARE = 0.75, 0.35
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


class Crops:
    """Draw batches of 32 px crops; all crops of a batch share their bands, places weigh by the root of their area."""

    def __init__(self, scenes: list[nano_data.Scene], size: int) -> None:
        self.size = size
        self.full = [s for s in scenes if len(s.bands) == len(BANDS)]
        self.groups = {bands: [s for s in scenes if s.bands == bands] for bands in {s.bands for s in scenes}}
        self.partial = sorted(b for b in self.groups if len(b) < len(BANDS))

    def batch(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, tuple[str, ...]]:
        if rng.random() < FULL_SHARE:
            pixels = self._crops(self.full, n, rng)
            bands = self._drop(rng) if rng.random() < DROP_SHARE else BANDS
            return pixels[:, [BANDS.index(b) for b in bands]], bands
        bands = self.partial[rng.integers(len(self.partial))]
        return self._crops(self.groups[bands], n, rng), bands

    @staticmethod
    def _drop(rng: np.random.Generator) -> tuple[str, ...]:
        if rng.random() < 0.5:
            return SUBSETS[rng.integers(len(SUBSETS))]
        keep = np.sort(rng.choice(len(BANDS), rng.integers(3, len(BANDS)), replace=False))
        return tuple(BANDS[i] for i in keep)

    def _crops(self, scenes: list[nano_data.Scene], n: int, rng: np.random.Generator) -> np.ndarray:
        weight = np.array([math.sqrt(s.pixels_cyx[0].size) for s in scenes])
        out = np.empty((n, len(scenes[0].bands), self.size, self.size), np.float32)
        for i in range(n):
            while True:
                pixels = scenes[rng.choice(len(scenes), p=weight / weight.sum())].pixels_cyx
                y, x = (rng.integers(0, side - self.size + 1) for side in pixels.shape[1:])
                crop = pixels[:, y : y + self.size, x : x + self.size]
                if np.isfinite(crop).all():
                    break
            crop = np.rot90(crop, rng.integers(4), axes=(1, 2))
            out[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
        return out


def band_statistics(scenes: list[nano_data.Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each band over the pretraining places, every place weighing the same."""
    per_place = [
        (np.nanmean(s.pixels_cyx, (1, 2)), np.nanmean(s.pixels_cyx**2, (1, 2)))
        for s in scenes
        if len(s.bands) == len(BANDS)
    ]
    mean, square = (np.mean([p[i] for p in per_place], axis=0) for i in (0, 1))
    return torch.tensor(mean).float(), torch.tensor(np.sqrt(square - mean**2)).float()


@torch.inference_mode()
def chip_losses(net: NanoNet, scenes: list[nano_data.Scene]) -> dict[str, list[np.ndarray]]:
    """Return the loss of every chip under fixed masks, all bands: an array (n,) a file, by place."""
    bands = torch.arange(len(BANDS))
    patches, losses = net.config.grid**2, {}
    hidden = masks.hidden_count(patches, net.config.mask_ratio)
    for scene in scenes:
        if scene.bands != BANDS:
            continue
        chips, where = scene.chips(net.config.chip_px, 64)
        order = masks.permutations(masks.seeds_of([f"{scene.path}/{r}/{c}" for r, c in where]), patches)
        errors = net.errors(net.patchify(torch.from_numpy(chips), bands), bands, torch.from_numpy(order), hidden)
        losses.setdefault(scene.place, []).append(errors.mean(1).numpy())
    return losses


def mean_of_places(losses: dict[str, list[np.ndarray]]) -> float:
    return float(np.mean([np.mean([file.mean() for file in files]) for files in losses.values()]))


def percentiles(losses: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """Return how the losses of all chips are distributed, every chip weighing the same."""
    every = np.concatenate([file for files in losses.values() for file in files])
    return {str(p): float(v) for p, v in zip(PERCENTILES, np.percentile(every, PERCENTILES), strict=True)}


def save(path: Path, net: NanoNet, extra: dict[str, torch.Tensor], meta: dict[str, str]) -> None:
    temporary = path.with_suffix(".partial")
    save_file({**net.state_dict(), **extra}, temporary, metadata={"config": json.dumps(net.config.to_dict()), **meta})
    temporary.replace(path)


@click.command()
@click.argument("imagery", type=click.Path(exists=True, path_type=Path))
@click.option("--objective", type=click.Choice(["pixel", "pixel-norm", "latent"]), required=True)
@click.option("--steps", default=20_000, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--every", default=250, show_default=True, help="Steps between checkpoints.")
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def main(
    imagery: Path,
    objective: str,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    every: int,
    threads: int,
    device: str,
    out: Path,
) -> None:
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    train, held = nano_data.load(imagery, "pretrain"), nano_data.load(imagery, "fit")
    crops = Crops(train, NanoConfig().chip_px)
    net = NanoNet(NanoConfig(objective=objective)).init(seed)
    net.mean, net.std = band_statistics(train)
    watched = Watched.of(held, net)
    net.to(device)
    named = dict(net.named_parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in named.values() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=lr,
        betas=(0.9, 0.95),
    )
    step, average = 0, {k: v.detach().clone() for k, v in named.items()}
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        step, average = state["step"], state["average"]
    patches = net.config.grid**2
    hidden = masks.hidden_count(patches, net.config.mask_ratio)
    began, running = time.time(), []
    while step < steps:
        rng = np.random.default_rng([seed, step])
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 500) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-6
        pixels, bands = crops.batch(batch, rng)
        index = torch.tensor([BANDS.index(b) for b in bands], device=device)
        order = torch.from_numpy(rng.permuted(np.tile(np.arange(patches), (batch, 1)), axis=1)).to(device)
        with torch.autocast(device, torch.bfloat16):
            loss = net.errors(net.patchify(torch.from_numpy(pixels).to(device), index), index, order, hidden).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(0.999, step / (step + 10))
        with torch.no_grad():
            for name, value in named.items():
                average[name].lerp_(value, 1 - decay)
        running.append(loss.item())
        if step % every == 0 or step == steps:
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "average": average},
                partial,
            )
            partial.replace(checkpoint)
            smooth = NanoNet(net.config)
            smooth.load_state_dict({**net.state_dict(), **average})
            smooth.to("cpu")
            held_out = chip_losses(smooth, held)
            row = {
                "step": step,
                "train_batches": float(np.mean(running)),
                "train_places": mean_of_places(chip_losses(smooth, train)),
                "held_out_places": mean_of_places(held_out),
                "held_out_loss_percentiles": percentiles(held_out),
                "probe": watched.read(smooth),
                "seconds": round(time.time() - began, 1),
            }
            running.clear()
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            click.echo(json.dumps(row))
            save(out / "nano.safetensors", smooth, {}, {"steps": str(step), "seed": str(seed), "licence": "CC-BY-4.0"})
    reread = load_file(out / "nano.safetensors")
    click.echo(f"{sum(v.numel() for v in reread.values()):,} values -> {out / 'nano.safetensors'}")


if __name__ == "__main__":
    main()
