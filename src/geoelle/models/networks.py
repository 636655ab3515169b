"""Pieces that vision transformers share: fixed position codes, masked gathering, untrained weights."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.errors import CapabilityError, InputMismatch

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "as_picture",
    "blocks",
    "discriminate",
    "draw_weights",
    "fill_masked",
    "gather_tokens",
    "month_codes",
    "months_of",
    "ndvi",
    "needs_extra",
    "on_meta",
    "patchify",
    "place_codes",
    "scatter_error",
    "sincos_1d",
    "sincos_2d",
    "split_order",
    "standardise",
    "z_scores",
]


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, in brightness 0-1."""


def blocks(dim: int, heads: int, depth: int, *, mlp_ratio: float = 4.0, eps: float = 1e-6) -> nn.Sequential:
    """Return pre-norm transformer blocks, one after another."""
    from timm.models.vision_transformer import Block  # takes more than a second, and nano needs none of it

    norm = partial(nn.LayerNorm, eps=eps)
    return nn.Sequential(
        *(Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(depth))
    )


def sincos_1d(values: Tensor, dim: int) -> Tensor:
    """Return (..., dim) float64: [sin | cos] of values times 10000^(-k / (dim / 2)), k = 0 .. dim / 2 - 1.

    The code of Vaswani et al. (2017) as MAE writes it: sines first, then cosines.
    """
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64, device=values.device) / (dim / 2))
    angle = values.double()[..., None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def sincos_2d(rows: Tensor, cols: Tensor, dim: int) -> Tensor:
    """Return (len(rows) * len(cols), dim) float64: codes of places, row-major, **column code first** as in MAE."""
    col = sincos_1d(cols, dim // 2)[None].expand(len(rows), -1, -1)
    row = sincos_1d(rows, dim // 2)[:, None].expand(-1, len(cols), -1)
    return torch.cat([col, row], dim=-1).flatten(0, 1)


@lru_cache(maxsize=64)
def place_codes(dim: int, height: int, width: int, device: torch.device, cls: bool = True) -> Tensor:
    """Return (1, 1 + height * width, dim) float32: MAE's fixed table, unless not `cls` after a zero row for CLS."""
    with torch.inference_mode(False):
        table = sincos_2d(torch.arange(height), torch.arange(width), dim)
        if cls:
            table = torch.cat([torch.zeros(1, dim, dtype=table.dtype), table])
        return table.float()[None].to(device)


def split_order(hidden_bn: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return int64 (b, visible) and (b, hidden): flat token indices, ascending.

    Raises: ValueError (chips of a batch mark different counts).
    """
    flat = hidden_bn.reshape(len(hidden_bn), -1)
    count = int(flat[0].sum())
    if not (flat.sum(axis=1) == count).all():
        raise ValueError("every chip of a batch must hide, and see, the same number of tokens as the others")
    order = torch.from_numpy(np.argsort(flat, axis=1, kind="stable")).to(device)
    return order[:, : flat.shape[1] - count], order[:, flat.shape[1] - count :]


def scatter_error(error_bm: Tensor, index_bm: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return `shape` (b, ...): errors of hidden tokens at their flat indices, NaN elsewhere."""
    out = torch.full((shape[0], math.prod(shape[1:])), torch.nan, device=error_bm.device, dtype=error_bm.dtype)
    return out.scatter_(1, index_bm, error_bm).view(shape)


def gather_tokens(tokens_bnd: Tensor, index_bv: Tensor) -> Tensor:
    """Return (b, v, d): the tokens at these indices."""
    return tokens_bnd.gather(1, index_bv[..., None].expand(-1, -1, tokens_bnd.shape[-1]))


def fill_masked(seen_bvd: Tensor, index_bv: Tensor, mask_token: Tensor, count: int) -> Tensor:
    """Return (b, count, d): the seen tokens at their indices, the mask token everywhere else."""
    masked = mask_token.to(seen_bvd.dtype).expand(len(seen_bvd), count, -1)
    return masked.scatter(1, index_bv[..., None].expand_as(seen_bvd), seen_bvd)


def standardise(target_bne: Tensor, eps: float = 1e-6) -> Tensor:
    """Return each token's target less its mean, over its deviation: MAE's `norm_pix_loss`, **unbiased** variance."""
    variance, mean = torch.var_mean(target_bne, dim=-1, keepdim=True)
    return (target_bne - mean) / (variance + eps).sqrt()


def discriminate(predicted_bmd: Tensor, target_bmd: Tensor, temperature: float) -> Tensor:
    """Return (b, m): the cross entropy of telling each prediction's target from those of the chip's other tokens.

    Patch discrimination: cosines over the temperature, in float32 whatever the precision around it.
    """
    with torch.autocast(predicted_bmd.device.type, enabled=False):
        predicted, target = (F.normalize(x.float(), dim=-1) for x in (predicted_bmd, target_bmd))
        logits = predicted @ target.transpose(1, 2) / temperature
        return logits.logsumexp(-1) - logits.diagonal(dim1=1, dim2=2)


def months_of(times_bt: np.ndarray, name: str) -> np.ndarray:
    """Return int64 (b, t): the month of each frame, January is 0; `name` is the model's, for the error.

    Raises: InputMismatch (a frame without a time).
    """
    if np.isnat(times_bt).any():
        raise InputMismatch(f"{name} needs the time of every frame; give chips with times_bt, none of them NaT")
    return times_bt.astype("datetime64[M]").astype(np.int64) % 12


@lru_cache(maxsize=64)
def month_codes(dim: int, device: torch.device) -> Tensor:
    """Return (12, dim) float32: the sine of the time of year dim / 2 times over, then its cosine (as Presto)."""
    with torch.inference_mode(False):
        angle = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12)
        return torch.stack([angle.sin(), angle.cos()], dim=1).repeat_interleave(dim // 2, dim=1).float().to(device)


def ndvi(nir: Tensor, red: Tensor) -> Tensor:
    """Return (nir - red) / (nir + red), 0 where the sum is not positive."""
    total = nir + red
    return torch.where(total > 0, (nir - red) / torch.where(total > 0, total, 1), 0)


def patchify(pixels_bcyx: Tensor, patch: int, order: str = "pqc") -> Tensor:
    """Return (b, h * w, patch * patch * c): pixels of each patch, row-major; `order` says how a patch is laid out.

    `pqc`: channel last (MAE, Prithvi); `cpq`: channel first (Clay).
    """
    b, c, y, x = pixels_bcyx.shape
    cut = pixels_bcyx.reshape(b, c, y // patch, patch, x // patch, patch)
    axes = {"pqc": (0, 2, 4, 3, 5, 1), "cpq": (0, 2, 4, 1, 3, 5)}[order]
    return cut.permute(*axes).reshape(b, (y // patch) * (x // patch), patch * patch * c)


def z_scores(pixels_bcyx: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return float32: pixels less the mean of their band, over its deviation; exact in the type they come in."""
    mean, std = (pixels_bcyx.new_tensor(values)[:, None, None] for values in (mean, std))
    return ((pixels_bcyx - mean) / std).float()


PICTURES = ("naip", "linz")
"""Sensors whose numbers are the brightness 0 to 1 of a picture, as a camera or a mapper made it, not reflectance."""


def as_picture(pixels: Tensor, sensor: str, white: float, *, name: str) -> Tensor:
    """Return brightness 0 to 1 as in a photograph: that of `PICTURES` as it is, reflectance over `white`; both clipped.

    `name` is the model's, for the error.

    Raises: InputMismatch (it is not known whose pixels these are).
    """
    if not sensor:
        raise InputMismatch(
            f"{name} needs the sensor of the chips: reflectance is stretched, pictures ({', '.join(PICTURES)}) are "
            "not; name it, sentinel-2-l2a say"
        )
    return (pixels if sensor in PICTURES else pixels / white).clamp(0, 1)


@contextlib.contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Say what to install where the import inside fails: some networks are those of another package.

    Raises: CapabilityError.
    """
    try:
        yield
    except ImportError as cause:
        told = f"the network of {name} needs another package ({cause}); run: pip install 'geoelle[models]'"
        raise CapabilityError(told) from cause


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network without memory for its weights: `load_strict` assigns them, `draw_weights` draws them."""
    with torch.device("meta"):
        return make()


def draw_weights(net: nn.Module, seed: int) -> None:
    """Give a network (on the meta device, or not) the start of training that MAE uses, from one seed.

    Matrices and convolutions uniform after Glorot, biases 0, norm weights 1, everything else (tokens, tables) normal
    with standard deviation 0.02. Every tensor has a generator of its own, seeded by the seed and its name, so that
    twins of two versions of a network agree where their tensors do.
    """
    if any(p.is_meta for p in [*net.parameters(), *net.buffers()]):
        net.to_empty(device="cpu")
    norms = {id(m.weight) for m in net.modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d))}
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            word = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]
            generator = torch.Generator().manual_seed(int.from_bytes(word, "little") >> 1)
            if not tensor.is_floating_point():
                tensor.zero_()
            elif id(tensor) in norms or name.endswith(("gamma", "lambda1")):
                tensor.fill_(1.0)
            elif name.rsplit(".", 1)[-1].endswith("bias"):
                tensor.zero_()
            elif tensor.ndim >= 2 and name.rsplit(".", 1)[-1].endswith("weight"):
                fan_in, fan_out = tensor[0].numel(), tensor.shape[0]
                bound = math.sqrt(6.0 / (fan_in + fan_out))
                tensor.uniform_(-bound, bound, generator=generator)
            else:
                tensor.normal_(0.0, 0.02, generator=generator)
