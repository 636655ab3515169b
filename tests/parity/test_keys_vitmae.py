"""ViT-MAE at its published size has the keys, shapes and bytes of the published file."""

import json
import re
from pathlib import Path

from geoelle.models.networks import on_meta
from geoelle.models.vitmae import CARDS, CONFIGS, VitMaeNet


def test_keys_are_those_of_the_file(shared: Path) -> None:
    listed = json.loads((shared / "goldens/keys/vitmae_base.json").read_text("utf-8"))
    computed = [key for key in listed["keys"] if VitMaeNet.IGNORED and re.search(VitMaeNet.IGNORED, key)]
    assert computed == listed["computed_not_loaded"] == []
    ours = {key: list(t.shape) for key, t in on_meta(lambda: VitMaeNet(CONFIGS["vitmae.base"])).state_dict().items()}
    assert ours == {key: entry["shape"] for key, entry in listed["keys"].items()}
    assert len(ours) == listed["count"]


def test_a_file_of_these_keys_has_the_published_size() -> None:
    """The spelling of every key shows in the length of a safetensors header."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    net = on_meta(lambda: VitMaeNet(CONFIGS["vitmae.base"]))
    for key, tensor in sorted(net.state_dict().items()):
        end = offset + 4 * tensor.numel()
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":")))
    assert 8 + length + -length % 8 + offset == CARDS["vitmae.base"].files[0].bytes
