"""Find the probe in the wheel that is of a space, and the one of its untrained twin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from geoelle.errors import ProbeError
from geoelle.probe import Probe

__all__ = ["TWIN", "WEIGHTS", "probe_of_space", "shipped_probes", "ships_twin", "twin_probe", "twin_space"]

WEIGHTS = Path(__file__).parent / "weights"
TWIN = "twin0"
"""The twin that ships a probe: the column of embeddings that holds its vectors."""


def shipped_probes(model: str = "*") -> Iterator[Probe]:
    """Load the probes in the wheel, of one model or of all, by name."""
    return map(Probe.load, sorted(WEIGHTS.glob(f"{model}-probe-*.safetensors")))


def probe_of_space(space: Mapping[str, object]) -> Probe:
    """Return the probe whose space is that of a table.

    Raises: ProbeError (none ships).
    """
    if probe := next((probe for probe in shipped_probes() if probe.space == space), None):
        return probe
    raise ProbeError(
        f"no probe ships for {space['model']} with these weights and the bands {space.get('bands', '')}; fit one with "
        "geoelle fit and pass it with --probe"
    )


def twin_space(space: Mapping[str, object]) -> dict[str, object]:
    """Return the space of the untrained twin of a model, from the space of the model itself.

    Its weights name both, so that no embedding of the model, nor of the twin on its own, is of this space.
    """
    return {**space, "weights_sha256": f"untrained-{TWIN.removeprefix('twin')}, twin of {space['weights_sha256']}"}


def ships_twin(model: str) -> bool:
    """Say whether probes of the untrained twin of a model ship."""
    return any(WEIGHTS.glob(f"{model}-twin-*.safetensors"))


def twin_probe(space: Mapping[str, object]) -> Probe | None:
    """Return the probe of the twin of the model of a space, None where none ships."""
    probes = map(Probe.load, sorted(WEIGHTS.glob(f"{space['model']}-twin-*.safetensors")))
    return next((probe for probe in probes if probe.space == twin_space(space)), None)
