"""Clay at its published size against the key list of the published file."""

import json
import re
from pathlib import Path

from geoelle.models.clay import CARDS, CONFIGS, ClayNet
from geoelle.models.networks import on_meta


def full_size() -> dict[str, list[int]]:
    """Return key -> shape of the published network, spelled as in its file."""
    net = on_meta(lambda: ClayNet(CONFIGS["clay.v1.5"]))
    return {f"model.{key}": list(tensor.shape) for key, tensor in net.state_dict().items()}


def test_keys_and_shapes_are_those_of_the_published_file(shared: Path) -> None:
    published = json.loads((shared / "goldens/keys/clay_v1_5.json").read_text())
    computed = published["computed_not_loaded"]
    assert all(ClayNet.IGNORED and re.search(ClayNet.IGNORED, key) for key in computed)
    assert full_size() == {key: v["shape"] for key, v in published["keys"].items() if key not in computed}
    assert len(full_size()) == published["count"]


def test_the_other_key_list_agrees(shared: Path) -> None:
    lines = (shared / "models/keys/clay_keys.txt").read_text().splitlines()
    told = (re.match(r"(\S+) \(([\d, ]*)\) float32$", line) for line in lines if line.startswith("model."))
    assert full_size() == {m[1]: [int(n) for n in m[2].split(",") if n.strip()] for m in told}


def test_parameters_are_as_many_as_published() -> None:
    net = on_meta(lambda: ClayNet(CONFIGS["clay.v1.5"]))
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert count == {"encoder": 311_442_944, "decoder": 15_900_160, "proj": 1_049_600, "teacher": 304_370_688}


def test_the_card_is_of_the_published_model() -> None:
    card = CARDS["clay.v1.5"]
    assert (card.dim, card.patch_px, card.chip_px, card.grid, card.mask_ratio) == (1024, 8, 256, 32, 0.75)
    assert card.target == "loss" and card.objective == "0.9 rec + 0.1 rep" and not card.additive
    assert card.files[0].file == "v1.5/clay-v1.5.ckpt"
