"""Read published checkpoints without running their code, and load them strictly or not at all.

A published file is one of: safetensors; a flat `torch.save` of a state dict; a training checkpoint that holds the
state dict among other things (`model`, `state_dict`), sometimes beside an `argparse.Namespace` or a
`pathlib.PosixPath`. All are read with `weights_only=True`; those two harmless classes are the only ones allowed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from geoelle.errors import WeightsError

__all__ = [
    "Remote",
    "arguments_of",
    "cache_folder",
    "cached_file",
    "config_beside",
    "digest",
    "hold_to",
    "keep_of",
    "load_strict",
    "local_files",
    "read_checkpoint",
    "state_of",
]

_ALLOWED = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath]
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Name one published file on the Hugging Face hub.

    `revision` is the commit to fetch; `main` where none could be verified (the commit found is then recorded at the
    first download). `sha256` and `bytes` are of the file, "" and 0 where unknown; `bytes_about` is a size as published,
    rounded, for the table of models.
    """

    repo: str
    file: str
    revision: str = "main"
    sha256: str = ""
    bytes: int = 0
    bytes_about: int = 0
    optional: bool = False
    """Whether the model embeds without it."""

    @property
    def name(self) -> str:
        """Return the last part of the file's path."""
        return self.file.rsplit("/", 1)[-1]


def local_files(name: str, files: Sequence[Remote], given: str | None = None) -> dict[str, Path]:
    """Return where the files of a model lie, by their published path; optional ones that are not there are left out.

    `given` is what the user passed as weights: a file where the model has one, or a folder that holds them all under
    their published names. Without it, the user's Hugging Face cache is looked into; nothing is downloaded.

    Raises: WeightsError (a file is not there; the text says how to get it).
    """
    needed = [f for f in files if not f.optional]
    if given is not None and not (folder := Path(given)).is_dir():
        if len(needed) > 1:
            names = ", ".join(f.name for f in needed)
            raise WeightsError(f"{name} has several weights files; give a folder that holds {names}, not {given}")
        return {needed[0].file: folder}
    if given is not None:
        found = {f.file: folder / f.name for f in files if (folder / f.name).is_file()}
        told = f"{folder} lacks {{}}; a folder of weights for {name} holds {', '.join(f.name for f in needed)}"
    else:
        found = {f.file: path for f in files if (path := cached_file(f)) is not None}
        told = (
            f"the weights of {name} are not on this machine ({{}}); run: geoelle models pull {name}, or give --weights"
        )
    if absent := [f.file for f in needed if f.file not in found]:
        raise WeightsError(told.format(", ".join(absent)))
    return found


def cache_folder() -> str | None:
    """Return the Hugging Face cache the environment names now, or None for the library's default."""
    return os.environ.get("HF_HUB_CACHE") or None


def cached_file(remote: Remote) -> Path | None:
    """Return where a published file lies in the user's cache, None where it does not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(remote.repo, remote.file, cache_dir=cache_folder(), revision=remote.revision)
    return Path(found) if isinstance(found, str) else None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a file holds: tensors by key for safetensors, else the pickled dict, read without running code.

    Raises: WeightsError (absent, truncated, a git-lfs pointer, a web page, a pickle with foreign classes).
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as cause:
        raise WeightsError(f"cannot read weights {path} ({cause.strerror}); give an existing file") from cause
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path.name} is a git-lfs pointer, not the weights; download the file itself")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path.name} is a web page, not weights; download the file itself")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        with torch.serialization.safe_globals(_ALLOWED):
            zipped = head.startswith(b"PK")
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as cause:
        told = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise WeightsError(
            f"cannot read weights {path.name} ({told}); it is truncated, damaged or no checkpoint: fetch it again"
        ) from cause
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path.name} holds a {type(found).__name__}, not a state dict; give the published file")
    return dict(found)


def state_of(checkpoint: Mapping[str, Any], *, name: str, strip: Iterable[str] = ("module.",)) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by key, out of whatever wraps them, less a prefix that all keys share.

    `name` is the file's, for the error; `strip` the prefixes to take off.

    Raises: WeightsError.
    """
    inner: Any = checkpoint
    for key in _WRAPPERS:
        if isinstance(inner.get(key), Mapping):
            inner = inner[key]
            break
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        held = ", ".join(map(str, list(checkpoint)[:5])) or "nothing"
        raise WeightsError(f"{name} holds no tensors (it has {held}); give the published file")
    for prefix in strip:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def arguments_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the training script that wrote a checkpoint, empty where it does not tell."""
    told = checkpoint.get("args")
    return dict(vars(told)) if isinstance(told, argparse.Namespace) else {}


def load_strict(
    net: nn.Module, state: Mapping[str, Tensor], *, name: str, ignore: str = "", hints: Mapping[str, str] | None = None
) -> None:
    """Put every tensor in its place; a missing, foreign or wrongly shaped one is an error that names it.

    `net` may lie on the meta device: tensors are assigned, as float32 where the file holds another float type.
    `ignore` is a pattern of keys a published file may hold that are computed here instead. `hints` maps a pattern of
    foreign keys to what such a file is ("a later family, OlmoEarth v1.1").

    Raises: WeightsError.
    """
    wanted = net.state_dict()
    given = {k: v for k, v in state.items() if not (ignore and re.search(ignore, k) and k not in wanted)}
    for pattern, meaning in (hints or {}).items():
        if any(re.search(pattern, key) for key in given):
            raise WeightsError(f"{name} is {meaning}; this model cannot take it")
    missing, foreign = [k for k in wanted if k not in given], [k for k in given if k not in wanted]
    shapes = [k for k in wanted if k in given and given[k].shape != wanted[k].shape]
    told = [_few("lacks", missing), _few("has foreign", foreign)]
    if shapes:
        first = shapes[0]
        told.append(
            f"has {len(shapes)} tensors of another shape ({first} is {tuple(given[first].shape)}, "
            f"not {tuple(wanted[first].shape)})"
        )
    if problems := [t for t in told if t]:
        raise WeightsError(f"{name} {' and '.join(problems)}; give the published file of this very model")
    net.load_state_dict({k: given[k].to(wanted[k].dtype) for k in wanted}, strict=True, assign=True)


def config_beside(path: Path, name: str = "config.json") -> dict[str, Any]:
    """Return what a JSON file in the folder of a weights file says, empty where there is none.

    Raises: WeightsError (it is no JSON object).
    """
    beside = path.with_name(name)
    if not beside.is_file():
        return {}
    try:
        found = json.loads(beside.read_text("utf-8"))
    except ValueError as cause:
        raise WeightsError(f"{beside} is no JSON ({cause}); fetch it again, or remove it") from cause
    if not isinstance(found, dict):
        raise WeightsError(f"{beside} holds a {type(found).__name__}, no config; fetch it again, or remove it")
    return found


def hold_to(told: Mapping[str, Any], expected: Mapping[str, Any], *, name: str) -> None:
    """Refuse weights that say other numbers of themselves than the network has; what they leave unsaid is not held.

    Needed where tensors cannot tell: a head count shows in no shape. `name` is of whatever says it, for the error.

    Raises: WeightsError.
    """
    for word, ours in expected.items():
        said = _frozen(told.get(word))
        if said not in (None, (), ours):
            raise WeightsError(f"{name} says {word} is {said}, not {ours}; give the published file of this very model")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def keep_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under a prefix, the prefix taken off."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def digest(paths: Iterable[Path | str]) -> str:
    """Return the sha256 of a file, or of the sha256s of several in order: the identity of a model's weights."""
    found = []
    for path in paths:
        with Path(os.fspath(path)).open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()


def _few(verb: str, keys: list[str]) -> str:
    if not keys:
        return ""
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{verb} {len(keys)} tensor{'s' * (len(keys) > 1)} ({shown})"
