"""Draw the masks of the pretraining objective so that a place is always masked the same way.

One permutation of the patches is seeded by the chip's address. Draw j of k hides `m` consecutive entries of it from
`j * n // k`, circularly: the count is fixed, and every patch is hidden at least once when `m >= n / k`. The
permutation comes from a counter hash (splitmix64) rather than from a library's generator, whose stream may change
between versions.
"""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["hidden_count", "hidden_patches", "permutations", "seeds_of", "visible_patches"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def seeds_of(addresses: list[str], stream: int = 0) -> np.ndarray:
    """Return one uint64 a chip from its address; another `stream` gives an independent permutation."""
    digests = (hashlib.sha256(f"{stream}|{a}".encode()).digest()[:8] for a in addresses)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def permutations(seeds_n: np.ndarray, patches: int) -> np.ndarray:
    """Return int64 (n, patches): a permutation of the patches for each seed."""
    with np.errstate(over="ignore"):
        state = seeds_n[:, None] + _GOLDEN * np.arange(1, patches + 1, dtype=np.uint64)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(state ^ (state >> np.uint64(31)), axis=1, kind="stable")


def hidden_count(patches: int, ratio: float) -> int:
    """Return how many tokens a mask hides, as MAE counts: all but int(n (1 - ratio)); never none, never all."""
    return min(max(patches - int(patches * (1 - ratio)), 1), patches - 1)


def hidden_patches(order_np: np.ndarray, hidden: int, draw: int, draws: int) -> np.ndarray:
    """Return bool (n, patches): the patches that draw `draw` of `draws` hides under these permutations."""
    return _marked(order_np, draw * order_np.shape[1] // draws, hidden)


def visible_patches(order_np: np.ndarray, hidden: int, visible: int, draw: int, draws: int) -> np.ndarray:
    """Return bool (n, patches): the patches that follow those draw `draw` hides, for models that see only these.

    Raises: ValueError (more than there are).
    """
    patches = order_np.shape[1]
    if hidden + visible > patches:
        raise ValueError(f"{hidden} hidden and {visible} visible patches are more than {patches}")
    return _marked(order_np, draw * patches // draws + hidden, visible)


def _marked(order_np: np.ndarray, start: int, count: int) -> np.ndarray:
    out = np.zeros(order_np.shape, dtype=bool)
    np.put_along_axis(out, order_np[:, np.arange(start, start + count) % order_np.shape[1]], True, axis=1)
    return out
