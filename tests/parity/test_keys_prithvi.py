"""Every published Prithvi, at its full size and without memory: its keys and shapes are those of the file."""

import json
import re
from pathlib import Path

import pytest
import torch

from geoelle.models.prithvi import CONFIGS, PrithviNet

LISTS = {
    "prithvi.v1-100m": "prithvi_eo_v1_100",
    "prithvi.v2-tiny-tl": "prithvi_eo_v2_tiny_tl",
    "prithvi.v2-100m-tl": "prithvi_eo_v2_100_tl",
    "prithvi.v2-300m": "prithvi_eo_v2_300",
    "prithvi.v2-300m-tl": "prithvi_eo_v2_300_tl",
    "prithvi.v2-600m": "prithvi_eo_v2_600",
    "prithvi.v2-600m-tl": "prithvi_eo_v2_600_tl",
}
BYTES = {
    "prithvi.v1-100m": 453_671_052,
    "prithvi.v2-tiny-tl": 129_000_000,
    "prithvi.v2-100m-tl": 454_660_610,
    "prithvi.v2-300m-tl": 1_326_660_716,
    "prithvi.v2-600m-tl": 2_638_217_218,
}


def keys_of(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        net = PrithviNet(CONFIGS[name])
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def test_every_name_is_listed() -> None:
    assert set(LISTS) == set(CONFIGS)


@pytest.mark.parametrize("name", LISTS)
def test_keys_of_the_golden_lists(name: str, shared: Path) -> None:
    """Every key of the file, less the two tables that are computed here."""
    told = json.loads((shared / "goldens" / "keys" / f"{LISTS[name]}.json").read_text())
    listed = {key: tuple(entry["shape"]) for key, entry in told["keys"].items()}
    assert len(listed) == told["count"]
    ignored = {key for key in listed if re.search(PrithviNet.IGNORED, key)}
    assert ignored == set(told["computed_not_loaded"])
    assert keys_of(name) == {key: shape for key, shape in listed.items() if key not in ignored}


@pytest.mark.parametrize("name", LISTS)
def test_keys_of_the_dump(name: str, shared: Path) -> None:
    """The same from the second list, which was written apart."""
    lines = (shared / "models" / "keys" / "prithvi_keys.txt").read_text().splitlines()
    found = [re.match(rf"{LISTS[name]} (\S+) \(([\d, ]*)\)", line) for line in lines]
    listed = {m[1]: tuple(int(n) for n in re.findall(r"\d+", m[2])) for m in found if m}
    assert listed
    assert keys_of(name) == {k: shape for k, shape in listed.items() if not re.search(PrithviNet.IGNORED, k)}


@pytest.mark.parametrize("name", BYTES)
def test_the_published_size_is_that_of_encoder_decoder_and_tables(name: str) -> None:
    """Nothing is missing from a file and nothing else is in it: what is left over is the index of the archive.

    Of the tiny model only a rounded size is known; tables of one frame, as terratorch has it, would miss it by 1.6 MB.
    """
    config, keys = CONFIGS[name], keys_of(name)
    tables = (config.frames * config.grid**2 + 1) * (config.dim + config.decoder_dim)
    told = BYTES[name] - 4 * (sum(torch.Size(shape).numel() for shape in keys.values()) + tables)
    assert abs(told) < 0.5e6 if "tiny" in name else 0 < told < 500 * (len(keys) + 2)
