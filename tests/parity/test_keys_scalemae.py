"""ScaleMAE at its full size and without memory: its keys and shapes are those of both published files."""

import json
import re
from pathlib import Path

import pytest
import torch

from geoelle.models.scalemae import CONFIGS, ENCODER, ScaleMaeNet

DUMPS = {True: "scalemae_vitl_fmow800_fullrepo_defaults_keys.txt", False: "scalemae_vitl_torchgeo_keys.txt"}


def keys_of(*, decoder: bool) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        net = ScaleMaeNet(CONFIGS["scalemae.large"], decoder=decoder)
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def read_dump(path: Path) -> dict[str, tuple[int, ...]]:
    lines = [line.split("\t") for line in path.read_text().split("## full listing")[1].splitlines() if "\t" in line]
    return {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape, _ in lines}


def test_keys_of_the_golden_list(shared: Path) -> None:
    """Every key of the file, less the tables and the token that the network never uses."""
    told = json.loads((shared / "goldens" / "keys" / "scalemae_large_full.json").read_text())
    listed = {key: tuple(entry["shape"]) for key, entry in told["keys"].items()}
    assert len(listed) == told["count"] == 393
    ignored = {key for key in listed if re.search(ScaleMaeNet.IGNORED, key)}
    assert ignored == {*told["computed_not_loaded"], "mask_token_decoder"}
    assert keys_of(decoder=True) == {key: shape for key, shape in listed.items() if key not in ignored}


@pytest.mark.parametrize("decoder", DUMPS)
def test_keys_of_the_dumps(decoder: bool, shared: Path) -> None:
    """torchgeo's model has a classification head of its own; its file has none, as the size tells."""
    listed = read_dump(shared / "models" / "keys" / DUMPS[decoder])
    unused = rf"{ScaleMaeNet.IGNORED}|^head\."
    assert keys_of(decoder=decoder) == {key: shape for key, shape in listed.items() if not re.search(unused, key)}


def test_the_encoder_file_is_the_encoder_and_its_table() -> None:
    """Nothing is missing from the file and nothing else is in it: what is left over is the index of the archive."""
    keys = keys_of(decoder=False)
    numbers = sum(torch.Size(shape).numel() for shape in keys.values()) + 197 * 1024
    assert 0 < ENCODER.bytes - 4 * numbers < 500 * (len(keys) + 1)
