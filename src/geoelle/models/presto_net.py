"""The network of Presto, keys as published: series of band groups, and a decoder of hidden ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from geoelle.models.networks import (
    blocks,
    fill_masked,
    gather_tokens,
    month_codes,
)

__all__ = ["CHANNELS", "LAND_COVER", "PrestoConfig", "PrestoNet", "Series"]

CHANNELS = {
    "S1": 2,
    "S2_RGB": 3,
    "S2_Red_Edge": 3,
    "S2_NIR_10m": 1,
    "S2_NIR_20m": 1,
    "S2_SWIR": 2,
    "ERA5": 2,
    "SRTM": 2,
    "NDVI": 1,
}
"""Every group of values the network knows, and its channels, in the order of the group codes."""
LAND_COVER = len(CHANNELS)
"""Where the Dynamic World class stands in that order: last."""
LAND_COVER_CLASSES = 9


@dataclass(frozen=True, kw_only=True)
class PrestoConfig:
    """Fix the shape of the network and the objective."""

    dim: int = 128
    depth: int = 2
    heads: int = 8
    decoder_dim: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 8
    mlp_ratio: int = 4
    frames: int = 24
    chip_px: int = 16
    hidden_ratio: float = 0.75

    @property
    def group_dim(self) -> int:
        """Return the width of a group's code, a quarter of the encoder's in both networks."""
        return self.dim // 4


@dataclass(frozen=True, kw_only=True)
class Series:
    """Hold n pixels: values by group (n, t, c), normalised, months (n, t), and where they are (n, 3), a unit vector."""

    values: dict[str, Tensor]
    months_nt: Tensor
    place_n3: Tensor

    def __len__(self) -> int:
        return len(self.months_nt)

    def __getitem__(self, rows: slice) -> Series:
        values = {name: value[rows] for name, value in self.values.items()}
        return Series(values=values, months_nt=self.months_nt[rows], place_n3=self.place_n3[rows])


@lru_cache(maxsize=64)
def _frame_codes(dim: int, frames: int, device: torch.device) -> Tensor:
    """Return (t, dim): sines and cosines of the frame's number in turn, with wavelengths up to 1,000 x 2 pi."""
    with torch.inference_mode(False):
        rate = 1000.0 ** (-2 * torch.arange(dim // 2, dtype=torch.float64) / dim)
        angle = torch.arange(frames, dtype=torch.float64)[:, None] * rate
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float().to(device)


def _codes(group_codes: nn.Embedding, rows: Sequence[int], months_nt: Tensor, width: int, month_dim: int) -> Tensor:
    """Return (n, t, g, width): the codes of month, group and frame side by side."""
    n, t = months_nt.shape
    device, groups = months_nt.device, group_codes.weight[list(rows)]
    parts = (
        month_codes(month_dim, device)[months_nt][:, :, None],
        groups[None, None],
        _frame_codes(width - month_dim - groups.shape[1], t, device)[None, :, None],
    )
    return torch.cat([part.expand(n, t, len(groups), -1) for part in parts], dim=-1)


class Encoder(nn.Module):
    """Encode what is seen of a pixel, and where it lies."""

    def __init__(self, config: PrestoConfig) -> None:
        super().__init__()
        dim = config.dim
        self.eo_patch_embed = nn.ModuleDict({name: nn.Linear(count, dim) for name, count in CHANNELS.items()})
        self.dw_embed = nn.Embedding(LAND_COVER_CLASSES + 1, dim)
        self.latlon_embed = nn.Linear(3, dim)
        self.channel_embed = nn.Embedding(len(CHANNELS) + 1, config.group_dim)
        self.blocks = blocks(dim, config.heads, config.depth, mlp_ratio=config.mlp_ratio, eps=1e-5)
        self.norm = nn.LayerNorm(dim)

    def forward(self, series: Series, seen_nv: Tensor | None = None) -> Tensor:
        """Return (n, 1 + v, d) before the last norm: the place, then what is seen (all without `seen_nv`, t x g)."""
        tokens = torch.stack([self.eo_patch_embed[name](value) for name, value in series.values.items()], dim=2)
        dim, quarter = tokens.shape[-1], self.channel_embed.embedding_dim
        codes = _codes(self.channel_embed, _rows(series.values), series.months_nt, dim, quarter)
        tokens = (tokens + codes).flatten(1, 2)
        if seen_nv is not None:
            tokens = gather_tokens(tokens, seen_nv)
        x = torch.cat([self.latlon_embed(series.place_n3)[:, None], tokens], dim=1)
        return self.blocks(x)


class Decoder(nn.Module):
    """Fill in every token of every group, whether chips have the group or not."""

    def __init__(self, config: PrestoConfig, group_codes: nn.Embedding) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.decoder_embed = nn.Linear(config.dim, dim)
        self.channel_embeddings = group_codes  # the encoder's own: the file holds it twice
        self.decoder_blocks = blocks(
            dim, config.decoder_heads, config.decoder_depth, mlp_ratio=config.mlp_ratio, eps=1e-5
        )
        self.decoder_norm = nn.LayerNorm(dim)
        self.eo_decoder_pred = nn.ModuleDict({name: nn.Linear(dim, count) for name, count in CHANNELS.items()})
        self.dw_decoder_pred = nn.Linear(dim, LAND_COVER_CLASSES)

    def forward(self, encoded_nvd: Tensor, months_nt: Tensor, seen_nv: Tensor) -> Tensor:
        """Return (n, t, 10, d): decoded tokens of every group and of land cover.

        `seen_nv` says which of t x 10 the encoder saw; `encoded_nvd` begins with the place. Terrain is one token for
        all frames, without month and frame.
        """
        n, t = months_nt.shape
        encoded = self.decoder_embed(encoded_nvd)
        groups, dim, group_dim = LAND_COVER + 1, encoded.shape[-1], self.channel_embeddings.embedding_dim
        tokens = fill_masked(encoded[:, 1:], seen_nv, self.mask_token, t * groups)
        codes = _codes(self.channel_embeddings, range(groups), months_nt, dim, (dim - group_dim) // 2)
        terrain = list(CHANNELS).index("SRTM")
        codes[:, 0, terrain, : (dim - group_dim) // 2] = 0
        codes[:, 0, terrain, (dim + group_dim) // 2 :] = 0
        kept = torch.ones(t, groups, dtype=torch.bool, device=tokens.device)
        kept[1:, terrain] = False
        kept = kept.flatten()
        x = torch.cat([encoded[:, :1], (tokens + codes.flatten(1, 2))[:, kept]], dim=1)
        x = self.decoder_norm(self.decoder_blocks(x)[:, 1:])
        out = x.new_zeros(n, t * groups, dim)
        out[:, kept] = x
        out = out.unflatten(1, (t, groups))
        out[:, 1:, terrain] = out[:, :1, terrain]
        return out


class PrestoNet(nn.Module):
    """Encoder and decoder, with the keys of the published file."""

    IGNORED = r"^(en|de)coder\.(pos_embed|month_embed\.weight)$"

    def __init__(self, config: PrestoConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, self.encoder.channel_embed)

    def embed(self, series: Series) -> Tensor:
        """Return (n, d): the embedding of each pixel."""
        return self.encoder.norm(self.encoder(series).mean(dim=1))

    def decode(self, series: Series, seen_nv: Tensor) -> Tensor:
        """Return (n, t, 10, d): every token decoded from those at `seen_nv` (of t x the groups there are)."""
        rows = torch.tensor(_rows(series.values), device=seen_nv.device)
        frame, group = seen_nv // len(rows), rows[seen_nv % len(rows)]
        encoded = self.encoder.norm(self.encoder(series, seen_nv))
        return self.decoder(encoded, series.months_nt, frame * (LAND_COVER + 1) + group)

    def reconstruct(self, decoded: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return (n, t, c) by group: the values predicted."""
        heads = self.decoder.eo_decoder_pred
        return {name: heads[name](decoded[:, :, list(CHANNELS).index(name)]) for name in names}


def _rows(names: Mapping[str, object]) -> list[int]:
    return [list(CHANNELS).index(name) for name in names]
