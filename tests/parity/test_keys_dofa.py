"""At full published size, on the meta device: keys and shapes are those of the published files, no more and no less."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from geoelle.models.dofa import CONFIGS, TEACHER, DofaNet
from geoelle.models.networks import on_meta

PARTS = {
    "official": {},
    "torchgeo": {"extras": False},
}


def keys_of(name: str, **changes) -> dict[str, tuple[int, ...]]:
    net = on_meta(lambda: DofaNet(replace(CONFIGS[name], **changes)))
    return {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}


def listed(path: Path) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    told = json.loads(path.read_text("utf-8"))
    assert {entry["dtype"] for entry in told["keys"].values()} == {"float32"}
    return {key: tuple(entry["shape"]) for key, entry in told["keys"].items()}, told["computed_not_loaded"]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("part", PARTS)
def test_keys_are_those_of_the_file(shared, name, part):
    wanted, computed = listed(shared / "goldens/keys" / f"dofa_v1_{name.rsplit('-', 1)[1]}_{part}.json")
    assert not computed
    assert keys_of(name, teacher_depth=0, **PARTS[part]) == wanted


@pytest.mark.parametrize("name", CONFIGS)
def test_a_decoder_adds_the_listed_keys(shared, name):
    wanted, computed = listed(shared / "goldens/keys" / f"dofa_v1_{name.rsplit('-', 1)[1]}_decoder_if_present.json")
    added = keys_of(name, teacher_depth=0, decoder=True)
    for key in keys_of(name, teacher_depth=0):
        del added[key]
    assert added == {key: shape for key, shape in wanted.items() if key not in computed}
    assert all(re.search(DofaNet.IGNORED, key) for key in computed)
    assert not any(re.search(DofaNet.IGNORED, key) for key in added)


@pytest.mark.parametrize("name", CONFIGS)
def test_keys_are_those_of_torchgeos_class(shared, name):
    """The dump of torchgeo 0.10.1, less the head and its norm, which no file has."""
    model = f"dofa_{name.rsplit('-', 1)[1]}_patch16_224"
    lines = (shared / "models/keys/dofa_keys.txt").read_text("utf-8").splitlines()
    rows = [line.split(" ", 2)[1:] for line in lines if line.startswith(f"{model} ")]
    wanted = {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in rows}
    wanted = {key: shape for key, shape in wanted.items() if not key.startswith(("fc_norm.", "head."))}
    assert keys_of(name, teacher_depth=0, extras=False) == wanted


def test_the_teacher_has_the_keys_of_the_published_one():
    """Its repository is the one timm names; its classifier is not needed."""
    arch = TEACHER.repo.removeprefix("timm/")
    assert timm.get_pretrained_cfg(arch).hf_hub_id == TEACHER.repo
    with torch.device("meta"):
        published = timm.create_model(arch, pretrained=False).state_dict()
    wanted = {f"teacher.{key}": tuple(tensor.shape) for key, tensor in published.items()}
    ours = {key: shape for key, shape in keys_of("dofa.v1-base").items() if key.startswith("teacher.")}
    assert ours == {key: shape for key, shape in wanted.items() if not re.search(DofaNet.IGNORED, key)}
    assert len(wanted) - len(ours) == 2
