"""OlmoEarth v1 (Nano, Tiny, Base, Large) on Sentinel-2: encoder, predictor and the frozen targets of pretraining.

Herzog et al. 2025, OlmoEarth: Stable Latent Image Modeling for Multimodal Earth Observation, arXiv:2511.13655. After
github.com/allenai/olmoearth_pretrain at 0a8852e and olmoearth-pretrain-minimal 0.1.5, without a line of them. Weights,
and the code of olmoearth_pretrain: OlmoEarth Artifact License; code of the minimal package: Apache-2.0.

A transformer over one token per frame, band set and patch. Patches of 1 to 8 px are resized to 8 px and projected,
each band set by its own convolution. The chip is resized as a whole, as upstream does, so that two pixels over a border
reach the next patch, hidden or not. Half of the tokens are hidden; a predictor of four cross-attention blocks says
what stands in their place, and the objective is to pick, for each, its own target out of the targets of all hidden
tokens of the chip: patch discrimination, mean of -log softmax * 2 tau. A target is the patch under the projection
the network began with, which was frozen and is in the published file. Two patches that look the same have the same
target: the objective is therefore high on uniform ground, whatever the network knows. It also grows with the
logarithm of the number of hidden tokens, so that only chips of as many frames and band sets compare.

Deviations stand in the card. Later families have one band set and another patch embedding (v1.1), rotary position codes
(v1.2), registers (v1.3); their files are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geoelle.errors import WeightsError
from geoelle.models.base import Adapter, Card, Loss, Tokens
from geoelle.models.networks import draw_weights, months_of, on_meta, scatter_error
from geoelle.models.olmoearth_net import MODALITY, Inputs, OlmoEarthConfig, OlmoEarthNet
from geoelle.models.weights import Remote, digest, load_strict, local_files, read_checkpoint, state_of

if TYPE_CHECKING:
    from pathlib import Path

    from geoelle.chips import Chips

__all__ = ["CARDS", "CONFIGS", "GROUPS", "OlmoEarth", "OlmoEarthConfig", "OlmoEarthNet", "load", "make", "read"]

DN_PER_UNIT = 10_000.0
STATISTICS = (
    {
        "blue": (1188.9412572078477, 1859.1923971769581),
        "green": (1407.7739105458452, 1727.7387413631088),
        "red": (1513.0573882432757, 1740.7757298757895),
        "nir": (2755.481305028308, 1612.2565699990187),
    },
    {
        "rededge1": (1890.9893042634167, 1754.7320388511766),
        "rededge2": (2483.7812315422448, 1622.1172720635755),
        "rededge3": (2722.728248756412, 1621.8226170190276),
        "nir08": (2885.570263047681, 1611.3587521042082),
        "swir16": (2562.852607796968, 1441.5471830655151),
        "swir22": (1914.1383249044113, 1328.8914382756407),
    },
    {
        "coastal": (1115.8494388252218, 1955.6991794280914),
        "nir09": (3269.812554170875, 2651.088425085525),
    },
)
"""Mean and standard deviation of L2A numbers (offset removed) in the three band sets, in the order of the weights."""
GROUPS = tuple(tuple(bands) for bands in STATISTICS)

CONFIGS = {
    "olmoearth.v1-nano": OlmoEarthConfig(dim=128, depth=4, heads=8),
    "olmoearth.v1-tiny": OlmoEarthConfig(dim=192, depth=12, heads=3),
    "olmoearth.v1-base": OlmoEarthConfig(dim=768, depth=12, heads=12),
    "olmoearth.v1-large": OlmoEarthConfig(dim=1024, depth=24, heads=16),
}


class OlmoEarth(Adapter):
    """The adapter: Sentinel-2 chips in reflectance, frames in order of time, whole band sets."""

    net: OlmoEarthNet

    @torch.inference_mode()
    def encode(self, chips: Chips) -> Tokens:
        """Return patch tokens, frames and band sets averaged as upstream pools them; there is no summary token.

        Raises: InputMismatch.
        """
        tokens = self.net.encode(self.inputs(chips)).unflatten(1, self.card.mask_shape(chips))
        return Tokens(patch_bhwd=tokens.mean(dim=(1, 2)))

    @torch.inference_mode()
    def loss(self, chips: Chips, hidden: np.ndarray, visible: np.ndarray | None = None) -> Loss:
        """Return the patch discrimination of the hidden tokens (b, t, g, h, w).

        Raises: InputMismatch.
        """
        inputs, (seen, masked) = self.inputs(chips), self.split(chips, hidden, visible)
        error_bm = self.net.discriminate(inputs, seen, masked)
        total = error_bm.mean(dim=1)
        error = scatter_error(error_bm, masked, hidden.shape)
        return Loss(total_b=total, terms={"patch-discrimination": total}, error=error)

    def inputs(self, chips: Chips) -> Inputs:
        """Return what the network takes.

        Raises: InputMismatch (foreign or part band sets, size, frames; a frame without a time).
        """
        groups = self.card.groups_of(chips.bands)
        pixels = self.pixels(chips, [band for g in groups for band in GROUPS[g]])
        return Inputs(
            pixels_btcyx=normalise(pixels, groups).float(),
            groups=groups,
            months_bt=torch.from_numpy(months_of(chips.times_bt, self.card.name)).to(self.device),
            step=chips.addresses.lattice.gsd_m * self.card.patch_px / self.net.config.base_gsd_m,
        )


def normalise(pixels_btcyx: Tensor, groups: Sequence[int]) -> Tensor:
    """Return reflectance of these band sets such that mean -+ 2 standard deviations become 0 and 1; nothing is cut."""
    table = [STATISTICS[g][band] for g in groups for band in GROUPS[g]]
    mean, std = torch.tensor(table, dtype=pixels_btcyx.dtype, device=pixels_btcyx.device).T[..., None, None]
    return (DN_PER_UNIT * pixels_btcyx - (mean - 2 * std)) / (4 * std)


_FILES = {  # commit and sha256 as torchgeo 0.10.1 pins them; bytes counted from the shapes
    "nano": (
        "529248a4dc3c54014c56b7504641cec98de31d1c",
        "795c68419a658fd22ccf8f2e020607675f963e9ef3b93d8e368bb17646765347",
        14_200_000,
    ),
    "tiny": (
        "885784437d4e2d632b7bf51b4233426c6f4479dc",
        "66b9827af383bc444d7909a406a5b62c072bb08d6804ff47a247c2dce8fad9a4",
        57_000_000,
    ),
    "base": (
        "4bd1392a4539404d2c74276c39f3cb4cfff466cc",
        "551c1cc53337c6faaddead88071d7ebd2bd53ec271600fa6f0ee0a518c8b6e11",
        830_000_000,
    ),
    "large": (
        "b2c9f41de3d8454cb37f0cd9cc3e79ec7c4af435",
        "1adb5026bd520c54bc415a1282386954927623bab81d01be2f5b6379cc039035",
        2_670_000_000,
    ),
}


def _card(name: str, config: OlmoEarthConfig) -> Card:
    size = name.rsplit("-", 1)[-1]
    commit, sha256, bytes_about = _FILES[size]
    repo = f"allenai/OlmoEarth-v1-{size.title()}"
    return Card(
        name=name,
        title=f"OlmoEarth v1 {size.title()}, latent masked image modelling, Sentinel-2",
        dim=config.dim,
        patch_px=config.patch_px,
        chip_px=config.chip_px,
        stride_px=config.chip_px // 2,
        gsd_m=(10.0, 10.0),
        bands=tuple(band for group in GROUPS for band in group),
        band_subset=True,
        min_bands=min(map(len, GROUPS)),
        groups=GROUPS,
        frames=(1, config.max_frames),
        objective="patch-discrimination of Sentinel-2 tokens, without the InfoNCE term",
        unit="cross-entropy of picking the right patch, 0.2 x nats",
        mask_ratio=config.mask_ratio,
        mask_axes=("t", "g", "h", "w"),
        needs=("time", "gsd"),
        reading="High: the hidden patches look alike, so UNIFORM ground (water, snow, bare plains) is high whatever "
        "the network knows. Low: varied ground whose patches the network can tell apart from what surrounds them.",
        code_licence="Apache-2.0 (olmoearth-pretrain-minimal), OlmoEarth Artifact License (olmoearth_pretrain)",
        weights_licence="OlmoEarth Artifact License",
        terms="The OlmoEarth Artifact License forbids military and surveillance use and use for resource extraction; "
        "what is derived from the weights must carry the same limits.",
        files=(
            Remote(repo=repo, file=f"weights-{sha256}.pth", revision=commit, sha256=sha256, bytes_about=bytes_about),
        ),
        source="github.com/allenai/olmoearth_pretrain at 0a8852e; olmoearth-pretrain-minimal 0.1.5",
        citation="Herzog et al. 2025, OlmoEarth: Stable Latent Image Modeling for Multimodal Earth Observation, "
        "arXiv:2511.13655",
        deviations=(
            "the InfoNCE term of training (weight 0.1) contrasts a chip with others of its batch: no quantity of one "
            "chip, and left out",
            "exactly half of the tokens are hidden, drawn over frames, band sets and places; training drew every token "
            "by itself and then left out band sets by chance",
            "Sentinel-2 alone: no Sentinel-1 or Landsat is fed and no map predicted, so the total is one summand of "
            "that of training",
            "a band set that is not there is missing for the network; upstream fills it from the nearest bands",
            "patches of 4 px and chips of 32 px are a choice within what training drew (1 to 8 px, 1 to 12 a side)",
            "the value grows with the logarithm of the hidden tokens: compare chips of as many frames and band sets",
            "patches without valid pixels leave the mean, yet their targets stay among those to choose from",
        ),
    )


CARDS = {name: _card(name, config) for name, config in CONFIGS.items()}


def make(name: str, config: OlmoEarthConfig, *, seed: int = 0) -> OlmoEarth:
    """Return an untrained network of this shape."""
    net = on_meta(lambda: OlmoEarthNet(config))
    draw_weights(net, seed)
    return OlmoEarth(net, _card(name, config), f"untrained-{seed}")


def load(name: str, weights: str | None = None, *, seed: int = 0) -> OlmoEarth:
    """Load the published weights, a local file of them, or an untrained twin.

    Raises: WeightsError.
    """
    if weights == "untrained":
        return make(name, CONFIGS[name], seed=seed)
    (path,) = local_files(name, CARDS[name].files, weights).values()
    return read(name, CONFIGS[name], path)


def read(name: str, config: OlmoEarthConfig, path: Path) -> OlmoEarth:
    """Load a file that holds a network of this shape: encoder, decoder and target encoder.

    Raises: WeightsError.
    """
    state = state_of(read_checkpoint(path), name=path.name, strip=("module.", "model."))
    if found := _foreign(state):
        raise WeightsError(f"{path.name} {found}; give the published file of OlmoEarth v1")
    net = on_meta(lambda: OlmoEarthNet(config))
    load_strict(net, state, name=path.name, ignore=net.IGNORED)
    return OlmoEarth(net, _card(name, config), digest([path]))


def _foreign(state: Mapping[str, Tensor]) -> str:
    """Return what a file is that cannot be the whole of OlmoEarth v1, or "": load_strict has the last word."""
    keys, parts = " ".join(state), {key.split(".", 1)[0] for key in state}
    projection = state.get(f"encoder.patch_embeddings.per_modality_embeddings.{MODALITY}.{MODALITY}__0.proj.weight")
    if "perceiver" in keys:
        return "is of a later family, OlmoEarth v1.3"
    if "rope_mixed_freqs" in keys:
        return "is of a later family, OlmoEarth v1.2 or later"
    if projection is not None and projection.ndim == 2:
        return "is of a later family, OlmoEarth v1.1"
    if "encoder" in parts and (absent := {"decoder", "target_encoder"} - parts):
        return f"lacks the whole {' and '.join(sorted(absent))}"
    return ""
