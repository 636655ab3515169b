"""OlmoEarth v1 at full size holds exactly the tensors of the published files, and the counts upstream states."""

import json
import re
from pathlib import Path

import pytest

from geoelle.models.networks import on_meta
from geoelle.models.olmoearth import CONFIGS, OlmoEarthNet

PARAMETERS = {
    "olmoearth.v1-nano": (1_361_024, 827_520),
    "olmoearth.v1-tiny": (6_202_560, 1_855_680),
    "olmoearth.v1-base": (88_953_600, 29_541_120),
    "olmoearth.v1-large": (307_770_368, 52_495_360),
}
"""Of the encoder and of the decoder, fixed tables of months (12 x dim / 4) included."""


def listed(shared: Path, name: str) -> dict[str, tuple[int, ...]]:
    path = shared / "goldens" / "keys" / f"{re.sub('[.-]', '_', name)}.json"
    return {key: tuple(entry["shape"]) for key, entry in json.loads(path.read_text())["keys"].items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_keys_and_shapes_are_those_of_the_published_file(name: str, shared: Path) -> None:
    config, theirs = CONFIGS[name], listed(shared, name)
    net = on_meta(lambda: OlmoEarthNet(config))
    ours = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    computed = {key for key in theirs if re.search(net.IGNORED, key)}
    assert computed == {f"{part}.composite_encodings.month_embed.weight" for part in dict(net.named_children())}
    assert ours == {key: shape for key, shape in theirs.items() if key not in computed}
    months = 12 * config.dim // 4
    for part, count in zip((net.encoder, net.decoder), PARAMETERS[name], strict=True):
        assert sum(p.numel() for p in part.parameters()) + months == count


def test_the_two_lists_agree(shared: Path) -> None:
    lines = (shared / "models" / "keys" / "olmoearth_keys.txt").read_text().splitlines()
    rows = [re.match(r"(\w+) (\S+) \(([\d, ]*)\) float32$", line) for line in lines if not line.startswith("#")]
    for name in CONFIGS:
        size = name.rsplit("-", 1)[-1]
        found = {row[2]: tuple(map(int, re.findall(r"\d+", row[3]))) for row in rows if row and row[1] == size}
        assert found == listed(shared, name)
