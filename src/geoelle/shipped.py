"""Find the probe in the wheel that is of a space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from geoelle.errors import ProbeError
from geoelle.probe import Probe

__all__ = ["WEIGHTS", "probe_of_space", "shipped_probes"]

WEIGHTS = Path(__file__).parent / "weights"


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
