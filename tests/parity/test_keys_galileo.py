"""Galileo and Presto have the keys and shapes of their published files, and nothing else."""

import re
from pathlib import Path

import pytest

from geoelle.models import galileo, presto
from geoelle.models.networks import on_meta

ROW = re.compile(r"^([\w.]+)\t\(([\d, ]*)\)\tfloat32$", re.M)
Shapes = dict[str, tuple[int, ...]]


def listed(shared: Path, name: str) -> Shapes:
    text = (shared / "models" / "keys" / f"{name}_keys.txt").read_text().split("## full listing")[1]
    return {key: tuple(int(n) for n in sizes.split(",") if n.strip()) for key, sizes in ROW.findall(text)}


def of(net: object, ignored: str, shapes: Shapes) -> tuple[Shapes, Shapes]:
    """Return what the network has, and what a file must then hold: its listed keys less the tables computed here."""
    held = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    return held, {key: shape for key, shape in shapes.items() if not re.search(ignored, key)}


@pytest.mark.parametrize("part", ["encoder", "target_encoder", "second_decoder"])
def test_galileo_nano(part: str, shared: Path) -> None:
    net = on_meta(lambda: galileo.GalileoNet(galileo.CONFIGS["galileo.nano"]))
    shapes = listed(shared, f"galileo_nano_{part}")
    held, wanted = of(getattr(net, part), net.IGNORED, shapes)
    assert held == wanted
    assert shapes.keys() - wanted.keys() == {"pos_embed", "month_embed.weight"}


@pytest.mark.parametrize(("name", "blocks"), [("galileo.tiny", (12, 4)), ("galileo.base", (12, 4))])
@pytest.mark.parametrize("part", ["encoder", "second_decoder"])
def test_larger_galileo(name: str, blocks: tuple[int, int], part: str, shared: Path) -> None:
    """Their lists are not at hand: nano's, at their width and depth, which upstream's own configs state."""
    config = galileo.CONFIGS[name]
    widths = {128: config.dim, 512: 4 * config.dim, 32: config.dim // 4}
    wanted: Shapes = {}
    for key, shape in listed(shared, f"galileo_nano_{part}").items():
        for i in range(blocks[part == "second_decoder"]) if key.startswith("blocks.0.") else (0,):
            wanted[key.replace("blocks.0.", f"blocks.{i}.")] = tuple(widths.get(size, size) for size in shape)
    held, wanted = of(getattr(on_meta(lambda: galileo.GalileoNet(config)), part), galileo.GalileoNet.IGNORED, wanted)
    assert held == wanted


def test_presto(shared: Path) -> None:
    shapes = listed(shared, "presto_default_model")
    held, wanted = of(on_meta(lambda: presto.PrestoNet(presto.CONFIGS["presto"])), presto.PrestoNet.IGNORED, shapes)
    assert held == wanted
    assert len(shapes) - len(wanted) == 4
