"""FG-MAE at its full size and without memory: its keys and shapes are those of the published file, and of its kin."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from geoelle.models.fgmae import CONFIGS, ENCODER, FgMaeConfig, FgMaeNet

BASE = CONFIGS["fgmae.s2-base"]
DUMPS = {
    "fgmae_B13_vitb16": BASE,
    "fgmae_B13_vits16": replace(BASE, dim=384, heads=6),
    "fgmae_B2_vitb16": replace(BASE, bands=("vv", "vh"), indices=False),
}


def keys_of(config: FgMaeConfig, *, decoder: bool = True) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        net = FgMaeNet(config, decoder=decoder)
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def test_keys_of_the_golden_list(shared: Path) -> None:
    """Every key of the file, less the constants of the gradients; the tables are loaded."""
    told = json.loads((shared / "goldens" / "keys" / "fgmae_b13_vitb16.json").read_text())
    listed = {key: tuple(entry["shape"]) for key, entry in told["keys"].items()}
    assert len(listed) == told["count"] == 259
    ignored = {key for key in listed if re.search(FgMaeNet.IGNORED, key)}
    assert ignored == set(told["computed_not_loaded"])
    assert keys_of(BASE) == {key: shape for key, shape in listed.items() if key not in ignored}


@pytest.mark.parametrize("name", DUMPS)
def test_keys_of_the_dumps(name: str, shared: Path) -> None:
    text = (shared / "models" / "keys" / f"{name}_keys.txt").read_text()
    lines = [line.split("\t") for line in text.split("## full listing")[1].splitlines() if "\t" in line]
    listed = {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape, _ in lines}
    assert keys_of(DUMPS[name]) == {k: shape for k, shape in listed.items() if not re.search(FgMaeNet.IGNORED, k)}


def test_the_encoder_file_is_the_encoder_and_its_table() -> None:
    """Its size is known to a megabyte: no decoder, no head."""
    keys = keys_of(BASE, decoder=False)
    assert abs(4 * sum(torch.Size(shape).numel() for shape in keys.values()) - ENCODER.bytes_about) < 1e6
