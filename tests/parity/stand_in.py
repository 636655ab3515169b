"""Stand-in weights that anyone can make again: each value depends on a seed, the key and the shape alone.

The rule: the first 8 bytes of sha256("{seed}:{key}"), little-endian, seed numpy's default generator; z is standard
normal, float32. Norm weights (one-dimensional `weight` or `gamma`) are 1 + 0.1 z, a `scale` is 0.1 + 0.02 z,
anything else is scale * z. Tables that a model computes are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

import numpy as np

COMPUTED = re.compile(
    r"^encoder\.pos_embed$|^(decoder\.)?decoder_pos_embed$|composite_encodings\.(month_embed\.weight|pos_embed)$"
)


def fill(shapes: Mapping[str, Iterable[int]], seed: int, scale: float) -> dict[str, np.ndarray]:
    """Return float32 arrays by key, computed tables left out."""
    out = {}
    for key, shape in shapes.items():
        if COMPUTED.search(key):
            continue
        start = int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "little")
        z = np.random.default_rng(start).standard_normal(tuple(shape), dtype=np.float32)
        last = key.rsplit(".", 1)[-1]
        if z.ndim == 1 and last in ("weight", "gamma"):
            z = np.float32(1) + np.float32(0.1) * z
        elif last == "scale":
            z = np.float32(0.1) + np.float32(0.02) * z
        else:
            z = np.float32(scale) * z
        out[key] = z.astype(np.float32)
    return out


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 over keys and little-endian bytes, keys sorted."""
    found = hashlib.sha256()
    for key in sorted(weights):
        found.update(key.encode())
        found.update(np.ascontiguousarray(weights[key], dtype="<f4").tobytes())
    return found.hexdigest()
