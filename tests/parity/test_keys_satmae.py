"""SatMAE at its published sizes has the keys and shapes of the published files, and knows its cousins' files."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

from geoelle.errors import WeightsError
from geoelle.models.networks import on_meta
from geoelle.models.satmae import CONFIGS, HINTS, SatMaeNet
from geoelle.models.weights import load_strict


def net_of(name: str) -> SatMaeNet:
    return on_meta(lambda: SatMaeNet(CONFIGS[name]))


def keys_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of a listing: lines of key, shape and type."""
    rows = (line.split("\t") for line in path.read_text("utf-8").split("## full listing\n")[1].splitlines())
    return {row[0]: ast.literal_eval(row[1]) for row in rows if len(row) == 3}


@pytest.mark.parametrize("name", CONFIGS)
def test_keys_are_those_of_the_file(name: str, shared: Path) -> None:
    listed = json.loads((shared / f"goldens/keys/{name.replace('.', '_')}_multispec_pretrain.json").read_text("utf-8"))
    computed = [key for key in listed["keys"] if SatMaeNet.IGNORED and re.search(SatMaeNet.IGNORED, key)]
    assert computed == listed["computed_not_loaded"] == []
    ours = {key: list(tensor.shape) for key, tensor in net_of(name).state_dict().items()}
    assert ours == {key: entry["shape"] for key, entry in listed["keys"].items()}
    assert len(ours) == listed["count"]


@pytest.mark.parametrize(("name", "letter"), [("satmae.base", "b"), ("satmae.large", "l")])
def test_keys_are_those_of_a_second_listing(name: str, letter: str, shared: Path) -> None:
    listed = keys_of(shared / f"models/keys/satmae_vit{letter}_multispec_pretrain_keys.txt")
    assert {key: tuple(tensor.shape) for key, tensor in net_of(name).state_dict().items()} == listed


@pytest.mark.parametrize(
    ("name", "listing", "told"),
    [
        ("satmae.base", "satmae_vitb_multispec_finetune", "fine-tuned on labels"),
        ("satmae.large", "satmae_vitl_fmow_rgb_pretrain", "RGB or time series"),
        ("satmae.base", "satmae_vitl_multispec_pretrain", "has foreign .*blocks"),
    ],
)
def test_other_files_of_the_family_are_refused(name: str, listing: str, told: str, shared: Path) -> None:
    shapes = keys_of(shared / f"models/keys/{listing}_keys.txt")
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with pytest.raises(WeightsError, match=told):
        load_strict(net_of(name), state, name="model.safetensors", hints=HINTS)
