"""Pool the tokens of a network in more ways than their mean, for the candidates of docs/protocol.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import nano_samples
from geoelle.chips import Chips
from geoelle.models import Model
from geoelle.models.galileo import Galileo
from geoelle.models.nano import Nano

BATCH = 32
LOG_FLOOR = 1e-6
Pools = dict[str, np.ndarray]

POOLINGS: dict[str, tuple[str, ...]] = {
    "mean": ("mean",),
    "pool-sd": ("mean", "sd"),
    "pool-log-sd": ("mean", "log_sd"),
    "pool-max": ("mean", "sd", "max"),
    "pool-layers": ("layers",),
    "pool-layers-log-sd": ("layers", "layers_log_sd"),
    "pool-groups": ("groups",),
    "pool-groups-log-sd": ("groups", "groups_log_sd"),
}
"""Candidate -> statistics of the tokens that it puts side by side."""


def inputs_of(pools: Mapping[str, np.ndarray], pooling: str) -> np.ndarray:
    """Return the inputs (n, d) of a pooling."""
    return np.concatenate([pools[name] for name in POOLINGS[pooling]], axis=1)


def statistics(layers: list[Tensor]) -> Pools:
    """Return the statistics of tokens (b, g, p, d), g groups of p patches, after each layer; the last is the encoder's output.

    Patch tokens are the mean over groups, as `encode` gives them. `variance` is the old proxy: the variance over the
    dimensions of a patch token, mean over patches.
    """
    last = layers[-1].double()
    patch = last.mean(1)
    each = [layer.double().mean(1) for layer in layers]
    pools = {
        "mean": patch.mean(1),
        "sd": patch.std(1, correction=0),
        "log_sd": _log_sd(patch),
        "max": patch.amax(1),
        "layers": torch.cat([layer.mean(1) for layer in each], 1),
        "layers_log_sd": torch.cat([_log_sd(layer) for layer in each], 1),
        "groups": last.mean(2).flatten(1),
        "groups_log_sd": torch.cat([_log_sd(group) for group in last.unbind(1)], 1),
        "variance": patch.var(-1).mean(1, keepdim=True),
    }
    return {name: value.cpu().numpy() for name, value in pools.items()}


def pools_of(
    model: Model, imagery: Path, sets: tuple[str, ...], cap: int, folder: Path | None, mean_nd: np.ndarray
) -> Pools:
    """Return the statistics of every chip that `nano_samples.labelled` embeds, in its order; kept in `folder` where given.

    `mean_nd` are the embeddings of those chips: statistics of other chips, or of another network, are refused.
    """
    kept = None if folder is None else folder / f"pools-{'-'.join(sets)}-{model.weights_sha256[:12]}.npz"
    if kept is not None and kept.is_file():
        with np.load(kept) as file:
            pools = dict(file)
    else:
        bands = nano_samples.BANDS
        scenes = nano_samples.scenes_of(imagery, sets, bands)
        each = [_of_chips(nano_samples.chips_of(scene, model, bands, cap), model) for scene in scenes]
        pools = {name: np.concatenate([part[name] for part in each]).astype(np.float32) for name in each[0]}
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, **pools)
    if pools["mean"].shape != mean_nd.shape or not np.allclose(pools["mean"], mean_nd, atol=1e-4):
        raise SystemExit(f"{kept or 'the pools'} are not of the chips embedded; remove the cache and run again")
    return pools


def _of_chips(chips: Chips, model: Model) -> Pools:
    groups = len(model.card.groups_of(chips.bands)) or 1
    each = []
    for start in range(0, len(chips), BATCH):
        with _hooked(_layers(model)) as seen:
            model.encode(chips[start : start + BATCH])
        each.append(statistics([tokens.unflatten(1, (groups, -1)) for tokens in seen]))
    return {name: np.concatenate([part[name] for part in each]) for name in each[0]}


def _layers(model: Model) -> list[nn.Module]:
    """Return the blocks of the encoder and its last norm."""
    if isinstance(model, Nano):
        return [*model.net.encoder, model.net.norm]
    if isinstance(model, Galileo):
        return [*model.net.encoder.blocks, model.net.encoder.norm]
    raise SystemExit(f"the layers of {model.card.name} are not known here; pool nano or galileo")


@contextmanager
def _hooked(layers: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what these modules put out, in the order in which they run."""
    seen: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda _module, _inputs, out: seen.append(out)) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _log_sd(tokens_bpd: Tensor) -> Tensor:
    return (tokens_bpd.std(1, correction=0) + LOG_FLOOR).log()
