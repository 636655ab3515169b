"""Keys and shapes of the DINOs, SatCLIP and RemoteCLIP at published size, against lists made of upstream's networks."""

import ast
import re
from pathlib import Path

import pytest
import torch

from geoelle.models import dino, remoteclip, satclip
from geoelle.models.networks import on_meta

LISTS = {
    "dinov2.base": (dino.DinoNet, dino.CONFIGS, "dinov2_base_hf_keys.txt", ""),
    "dinov3.sat-large": (dino.DinoNet, dino.CONFIGS, "dinov3_vitl16_sat493m_hf_keys.txt", ""),
    "remoteclip.vit-l-14": (remoteclip.RemoteClipNet, remoteclip.CONFIGS, "remoteclip_vitl14_openclip_keys.txt", ""),
    "satclip.vit16-l40": (satclip.SatClipNet, satclip.CONFIGS, "satclip_vit16_l40_keys.txt", "model."),
}
"""Name -> network, its configs, the list, and the prefix that all its keys have."""


def listed(path: Path, prefix: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and type by key."""
    rows = [line.split("\t") for line in path.read_text("utf-8").split("## full listing\n")[1].splitlines() if line]
    assert all(key.startswith(prefix) for key, _, _ in rows)
    return {key.removeprefix(prefix): (ast.literal_eval(shape), kind) for key, shape, kind in rows}


@pytest.mark.parametrize("name", LISTS)
def test_keys_shapes_and_types_are_those_of_the_published_file(name: str, shared: Path) -> None:
    kind, configs, file, prefix = LISTS[name]
    net = on_meta(lambda: kind(configs[name]))
    found = {k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in net.state_dict().items()}
    whole = listed(shared / "models" / "keys" / file, prefix)
    unread = {k: v for k, v in whole.items() if net.IGNORED and re.search(net.IGNORED, k)}
    assert not set(unread) & set(found)
    assert found | unread == whole
    assert all(t.is_meta for t in net.state_dict().values())


def test_what_is_left_unread_is_known(shared: Path) -> None:
    """The text tower and its scale, and the second copy of SatCLIP's encoder of places; nothing else."""
    for name, heads in {
        "remoteclip.vit-l-14": {
            "positional_embedding", "text_projection", "logit_scale", "token_embedding", "transformer", "ln_final",
        },
        "satclip.vit16-l40": {"nnet"},
    }.items():  # fmt: skip
        kind, _, file, prefix = LISTS[name]
        keys = listed(shared / "models" / "keys" / file, prefix)
        assert {k.split(".")[0] for k in keys if re.search(kind.IGNORED, k)} == heads


@pytest.mark.parametrize("name", ["dinov2.base", "dinov3.sat-large"])
def test_all_speak_the_same_names(name: str) -> None:
    """Drawing weights goes by `named_parameters`, loading by `state_dict`: both have the names of the file."""
    net = on_meta(lambda: dino.DinoNet(dino.CONFIGS[name]))
    assert [k for k, _ in net.named_parameters()] == list(net.state_dict())
    assert (
        sum(p.numel() for p in net.parameters()) == {"dinov2.base": 86_580_480, "dinov3.sat-large": 303_129_600}[name]
    )
    assert not list(net.buffers())
    assert all(isinstance(p, torch.nn.Parameter) for p in net.parameters())
