"""Probes in the wheel: each is found by its space, and knows the untrained twin of the model."""

from __future__ import annotations

import pytest

from geoelle.embed import space_of
from geoelle.errors import ProbeError
from geoelle.models import load_model
from geoelle.models.nano import BANDS
from geoelle.shipped import probe_of_space, shipped_probes


def test_every_band_set_has_a_probe_of_chips_and_one_of_patches_and_all_know_the_twin() -> None:
    probes = list(shipped_probes("nano"))
    assert len(probes) == 6 and len({(probe.space["bands"], probe.space["pooling"]) for probe in probes}) == 6
    for probe in probes:
        assert probe_of_space(probe.space).digest == probe.digest
        assert probe.twin is not None and probe.twin.weights_d.shape == probe.embedding.weights_d.shape
        assert not (probe.twin.weights_d == probe.embedding.weights_d).any()


def test_neither_other_weights_nor_a_model_without_training_have_a_probe() -> None:
    for weights in ({"weights_sha256": "0" * 64}, space_of(load_model("nano", "untrained"), BANDS)):
        with pytest.raises(ProbeError, match="no probe ships"):
            probe_of_space({**space_of(load_model("nano"), BANDS), **weights})
    assert not list(shipped_probes("presto"))
