"""Describe what a foundation model needs and gives: `Card`, `Tokens`, `Loss`, `Model` and their base `Adapter`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from geoelle.errors import CapabilityError, InputMismatch
from geoelle.models.networks import split_order
from geoelle.models.weights import Remote

if TYPE_CHECKING:
    from geoelle.chips import Chips

__all__ = ["Adapter", "Card", "Loss", "Model", "Tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """State everything a caller must know about a model; data only.

    `reading` says in a sentence or two what a high value means on the ground; legends print it. `mask_axes` names the
    axes that the pretraining mask runs over, in this order: t frames, g band groups, h and w patches. `additive` is
    true when the loss of a chip is the plain mean of its token errors, so that patches without valid pixels can leave
    it exactly.
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
    groups: tuple[tuple[str, ...], ...] = ()
    """Band groups that have a token each (axis g). A subset of the bands is then a set of whole groups."""
    frames: tuple[int, int] = (1, 1)
    target: str = "loss"
    """`loss` where the true pretraining objective is computed, the name of a proxy, or `none`."""
    objective: str = ""
    unit: str = ""
    """Unit of the target, in words."""
    mask_ratio: float
    visible_ratio: float | None = None
    """Share of the tokens that the encoder sees under the mask, where that is less than all that are not hidden."""
    mask_axes: tuple[str, ...] = ("h", "w")
    additive: bool = True
    needs: tuple[str, ...] = ()
    """Inputs besides pixels: any of `time`, `lonlat`, `gsd`, `wavelength`, `sensor`."""
    reading: str
    code_licence: str
    weights_licence: str
    terms: str = ""
    """What a restrictive licence forbids, in a sentence; shown before the first download."""
    files: tuple[Remote, ...] = ()
    """The published files, in the order `load` takes them."""
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

    @property
    def download_bytes(self) -> int:
        """Bytes of the published files, as far as they are known."""
        return sum(f.bytes or f.bytes_about for f in self.files)

    def groups_of(self, bands: Sequence[str]) -> tuple[int, ...]:
        """Return the positions in `groups` of those whose bands are all there."""
        return tuple(i for i, group in enumerate(self.groups) if set(group) <= set(bands))

    def whole_groups(self, bands: Sequence[str]) -> tuple[str, ...]:
        """Return those of the bands that are in a group whose bands are all there; all where there are no groups."""
        if not self.groups:
            return tuple(bands)
        whole = {band for i in self.groups_of(bands) for band in self.groups[i]}
        return tuple(band for band in bands if band in whole)

    def mask_shape(self, chips: Chips) -> tuple[int, ...]:
        """Return the sizes of `mask_axes` for these chips."""
        sizes = {"t": chips.shape[1], "g": len(self.groups_of(chips.bands)), "h": self.grid, "w": self.grid}
        return tuple(sizes[axis] for axis in self.mask_axes)

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
        if alone := [b for b in chips.bands if b not in self.whole_groups(chips.bands)]:
            sets = "; ".join(", ".join(group) for group in self.groups)
            raise InputMismatch(f"{self.name} takes bands in whole groups ({sets}); {', '.join(alone)} lacks its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Hold the encoder's output for a batch.

    `patch_bhwd`: patch tokens, row-major and north-up, CLS and registers removed. `summary_bd`: the model's own
    summary token, or None.
    """

    patch_bhwd: Tensor
    summary_bd: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Hold the pretraining objective for a batch under one mask.

    `total_b` is the exact objective per sample. `terms` are its named summands, each (b,). `error` is the error of
    every token, NaN where it was visible: axes b, then t and g where `Card.mask_axes` has them, then h and w. The mean
    over its tokens is the total only when `Card.additive` says so.
    """

    total_b: Tensor
    terms: dict[str, Tensor]
    error: Tensor

    @property
    def error_bhw(self) -> Tensor:
        """Return the mean error over the hidden tokens at each place, NaN where none was hidden."""
        inner = tuple(range(1, self.error.ndim - 2))
        return self.error.nanmean(dim=inner) if inner else self.error


class Model(Protocol):
    """A network with its card. `encode` never masks; `loss` masks exactly as told."""

    card: Card
    weights_sha256: str

    def to(self, device: str) -> Model: ...

    def encode(self, chips: Chips) -> Tokens:
        """Return tokens of (b, t, c, y, x) chips without NaN, physical units."""
        ...

    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the objective where `hidden` (bool: b, then `card.mask_axes`) is what the encoder may not see.

        `visible` is what it does see, by default all that is not hidden; what is neither is not seen and not scored.
        """
        ...

    def proxy(self, chips: Chips) -> Tensor:
        """Return (b,): the proxy that `card.target` names."""
        ...


class Adapter:
    """What the adapters of published models share: a network ready for inference, its card, and band order.

    A subclass gives `encode`, and `loss` or `proxy` where the published files permit them.
    """

    def __init__(self, net: nn.Module, card: Card, weights_sha256: str) -> None:
        self.net, self.card, self.weights_sha256 = net.eval().requires_grad_(False), card, weights_sha256

    @property
    def device(self) -> torch.device:
        """Return where the network lies."""
        return next(self.net.parameters()).device

    def to(self, device: str) -> Self:
        """Move the network; returns self."""
        self.net.to(device)
        return self

    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Refuse: no published file permits the true loss.

        Raises: CapabilityError.
        """
        known = {"loss": "its decoder is not among these weights", "none": "its files permit no proxy either"}
        other = known.get(self.card.target, f"the proxy {self.card.target!r} can be computed instead")
        raise CapabilityError(f"{self.card.name} has no true pretraining loss with these weights; {other}")

    def encoder_alone(self) -> CapabilityError:
        """Return the error of a loss that is asked of weights without the decoder."""
        return CapabilityError(
            f"{self.card.name} has no true pretraining loss with these weights, an encoder alone; "
            f"give {self.card.files[0].name}, which has the decoder"
        )

    def proxy(self, chips: Chips) -> Tensor:
        """Refuse: this model has no proxy.

        Raises: CapabilityError.
        """
        raise CapabilityError(f"{self.card.name} has no proxy (target: {self.card.target})")

    def pixels(self, chips: Chips, bands: Sequence[str]) -> Tensor:
        """Check the chips and return (b, t, c, y, x) float64 pixels of these bands, in this order, on the device."""
        self.card.check(chips)
        chosen = chips.pixels_btcyx[:, :, [chips.bands.index(band) for band in bands]]
        return torch.from_numpy(np.ascontiguousarray(chosen)).to(self.device).double()

    def split(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Return int64 (b, visible) and (b, hidden): flat indices of the tokens seen, and of those hidden.

        Raises: ValueError (a mask of another shape or type, tokens seen that are hidden, chips of unlike counts).
        """
        shape = (len(chips), *self.card.mask_shape(chips))
        for mask in (hidden, visible):
            if mask is not None and (mask.shape != shape or mask.dtype != bool):
                axes = ", ".join(("b", *self.card.mask_axes))
                raise ValueError(f"{self.card.name} takes bool masks {shape} ({axes}), not {mask.shape} {mask.dtype}")
        seen, masked = split_order(hidden, self.device)
        if visible is None:
            return seen, masked
        if (hidden & visible).any():
            raise ValueError(f"a mask for {self.card.name} shows tokens that it hides; make visible a part of ~hidden")
        return split_order(visible, self.device)[1], masked
