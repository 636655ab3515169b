"""Describe what a foundation model needs and gives: `Card`, `Tokens`, `Loss`, `Model`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from geoelle.errors import InputMismatch

if TYPE_CHECKING:
    import torch

    from geoelle.chips import Chips

__all__ = ["Card", "Loss", "Model", "Tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """State everything a caller must know about a model; data only.

    `reading` says in one sentence what a high value means; legends print it. `mask_axes` names the axes that the
    pretraining mask runs over. `additive` is true when the loss of a chip is the plain mean of its patch errors,
    so that patches without valid pixels can leave the mean exactly.
    """

    name: str
    title: str
    dim: int
    patch_px: int
    chip_px: int
    stride_px: int
    gsd_m: tuple[float, float]
    """Trained range of ground sampling distances, metres."""
    bands: tuple[str, ...]
    band_subset: bool
    """Whether any subset of `bands` is a legal input."""
    min_bands: int = 1
    frames: tuple[int, int] = (1, 1)
    target: str = "loss"
    """`loss` where the true pretraining objective is computed, else the name of the proxy."""
    objective: str = ""
    unit: str = ""
    """Unit of the target, in words."""
    mask_ratio: float
    mask_axes: tuple[str, ...] = ("h", "w")
    additive: bool = True
    needs: tuple[str, ...] = ()
    """Inputs besides pixels: any of `time`, `lonlat`, `gsd`, `wavelength`."""
    reading: str
    code_licence: str
    weights_licence: str
    download_bytes: int
    embedded: bool = False
    """Whether the weights ship in the wheel."""
    source: str
    citation: str
    deviations: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def grid(self) -> int:
        """Patches along one side of a chip."""
        return self.chip_px // self.patch_px

    def check(self, chips: Chips) -> None:
        """Raise `InputMismatch` where chips are of another size, frame count or band set than the model takes."""
        _, frames, _, height, width = chips.pixels_btcyx.shape
        if (height, width) != (self.chip_px, self.chip_px):
            raise InputMismatch(
                f"{self.name} takes chips of {self.chip_px} x {self.chip_px} px, not {height} x {width}; "
                f"cut them with a lattice of size_px={self.chip_px}"
            )
        if not self.frames[0] <= frames <= self.frames[1]:
            raise InputMismatch(
                f"{self.name} takes {self.frames[0]} to {self.frames[1]} frames, not {frames}; select frames first"
            )
        unknown = [b for b in chips.bands if b not in self.bands]
        if unknown:
            raise InputMismatch(
                f"{self.name} does not know bands {', '.join(unknown)}; it takes {', '.join(self.bands)}"
            )
        missing = [b for b in self.bands if b not in chips.bands]
        if (missing and not self.band_subset) or len(chips.bands) < self.min_bands:
            raise InputMismatch(
                f"{self.name} needs bands {', '.join(missing)} that the chips lack "
                f"(it takes {'at least ' + str(self.min_bands) if self.band_subset else 'all'} of its bands)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Hold the encoder's output for a batch.

    `patch_bhwd`: patch tokens, row-major and north-up, CLS and registers removed. `summary_bd`: the model's own
    summary token, or None.
    """

    patch_bhwd: torch.Tensor
    summary_bd: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Hold the pretraining objective for a batch under one mask.

    `total_b` is the exact objective per sample. `terms` are its named summands, each (b,). `error_bhw` is the mean
    error over the hidden tokens at each place, NaN where none was hidden; its spatial mean is the total only when
    `Card.additive` says so.
    """

    total_b: torch.Tensor
    terms: dict[str, torch.Tensor]
    error_bhw: torch.Tensor


class Model(Protocol):
    """A network with its card. `encode` never masks; `loss` masks exactly as told."""

    card: Card
    weights_sha256: str

    def to(self, device: str) -> Model: ...

    def encode(self, chips: Chips) -> Tokens:
        """Return tokens of (b, t, c, y, x) chips without NaN, physical units."""
        ...

    def loss(self, chips: Chips, hidden_bhw: np.ndarray) -> Loss:
        """Return the objective where `hidden_bhw` (bool) says what the encoder may not see."""
        ...
