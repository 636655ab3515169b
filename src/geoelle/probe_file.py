"""The file of a probe: one `.safetensors` whose JSON header has a digest over every number and word of it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from geoelle.errors import FormatError, ProbeError
from geoelle.ridge import Affine

__all__ = ["FORMAT", "VERSION", "affine_of", "canonical", "digest_of", "read_file", "tensors_of", "to_bytes"]

FORMAT, VERSION = "geoelle-probe", 3
_BEFORE = {2: {"twin_alpha": None}}
_BEFORE[1] = {"spread": None, "smearing": None, "reach": None, "trust": {}} | _BEFORE[2]
"""What files of earlier versions do not say."""
_TENSORS = ("weights", "intercept", "mean", "scale")

Words = Mapping[str, object]
Tensors = Mapping[str, np.ndarray]


def tensors_of(prefix: str, part: Affine) -> dict[str, np.ndarray]:
    """Return the numbers of a map by their names in the file, float64."""
    values = (part.weights_d, [part.intercept], part.mean_d, part.scale_d)
    return {prefix + name: np.ascontiguousarray(v, np.float64) for name, v in zip(_TENSORS, values, strict=True)}


def affine_of(prefix: str, alpha: float, tensors: Tensors) -> Affine:
    """Return the map whose numbers have these names."""
    weights, intercept, mean, scale = (tensors[prefix + name] for name in _TENSORS)
    return Affine(weights_d=weights, intercept=float(intercept[0]), mean_d=mean, scale_d=scale, alpha=alpha)


def canonical(words: Words) -> str:
    """Return JSON with sorted keys and no space.

    Raises: ProbeError (what JSON cannot hold).
    """
    try:
        return json.dumps(words, sort_keys=True, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError) as cause:
        raise ProbeError(f"a table of the probe is not JSON ({cause}); use plain finite values") from cause


def digest_of(words: Words, tensors: Tensors) -> str:
    """Return the SHA-256 over every word, and every number with its name, type and shape."""
    digest = hashlib.sha256(canonical(words).encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} {tensors[name].dtype} {tensors[name].shape}\n".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def to_bytes(words: Words, tensors: Tensors) -> bytes:
    """Return the file, its digest among the words."""
    return save(dict(tensors), {"geoelle": canonical({**words, "digest": digest_of(words, tensors)})})


def read_file(path: Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Return words and tensors of a whole file, with what its version did not say yet.

    Raises: FormatError (no probe, of a newer version, or damaged).
    """
    try:
        with safe_open(path, "numpy") as file:
            header = (file.metadata() or {}).get("geoelle")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as cause:
        raise FormatError(f"the probe {path} is unreadable ({cause}); name a whole .safetensors file") from cause
    try:
        words = json.loads(header or "")
    except ValueError as cause:
        raise FormatError(f"{path} is not a geoelle probe (no geoelle header); name another file") from cause
    known = (*_BEFORE, VERSION)
    if not isinstance(words, dict) or words.get("format") != FORMAT or words.get("version") not in known:
        raise FormatError(f"{path} is not a {FORMAT} of version 1 to {VERSION}; use the geoelle that wrote it")
    if digest_of({k: v for k, v in words.items() if k != "digest"}, tensors) != words.get("digest"):
        raise FormatError(f"the probe {path} is damaged (its digest differs); copy or fit it again")
    return _BEFORE.get(words["version"], {}) | words, tensors
