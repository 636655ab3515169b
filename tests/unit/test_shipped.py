"""Probes in the wheel: each is found by its space, and that of the twin is never taken for the model's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from geoelle.embed import space_of
from geoelle.errors import ProbeError, SpaceMismatch
from geoelle.models import load_model
from geoelle.models.nano import BANDS
from geoelle.probe import Probe
from geoelle.shipped import WEIGHTS, probe_of_space, shipped_probes, ships_twin, twin_probe, twin_space

TWINS = sorted(WEIGHTS.glob("*-twin-*.safetensors"))


def test_every_band_set_has_a_probe_of_the_twin() -> None:
    probes = list(shipped_probes("nano"))
    assert len(probes) == len(TWINS) == 6  # three band sets, of chips and of patches
    for probe in probes:
        twin = twin_probe(probe.space)
        assert twin is not None and twin.space["bands"] == probe.space["bands"] and twin.data["unit"]
        assert twin.reach is twin.spread is twin.pixels is None


@pytest.mark.parametrize("path", TWINS, ids=lambda path: path.stem)
def test_the_twin_is_small_and_never_taken_for_the_model_or_for_a_model_without_training(path: Path) -> None:
    twin, bands = Probe.load(path), tuple(str(Probe.load(path).space["bands"]).split())
    assert path.stat().st_size < 10_000
    assert twin.digest not in {probe.digest for probe in shipped_probes()}
    for weights in (None, "untrained"):
        space = space_of(load_model("nano", weights), bands)
        with pytest.raises(SpaceMismatch):
            twin.check_space(space)
    assert probe_of_space(space_of(load_model("nano"), bands)).digest != twin.digest
    with pytest.raises(ProbeError, match="no probe ships"):
        probe_of_space(space)


def test_other_weights_have_no_twin() -> None:
    space = space_of(load_model("nano"), BANDS)
    assert ships_twin("nano") and not ships_twin("presto")
    assert twin_probe({**space, "weights_sha256": "0" * 64}) is None
    assert twin_probe(twin_space(space)) is None
