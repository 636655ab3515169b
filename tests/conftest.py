"""What every test may use: the shared data, where present, and hypothesis without a clock."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers of two threads each would wait on one another

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def _shared_dir() -> Path:
    return Path(os.environ.get("GEOELLE_SHARED") or Path(__file__).parents[2] / "shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--goldens", type=Path, help="folder of .npz references for the models (tests/parity)")
    for name in ("galileo", "presto"):
        parser.addoption(f"--{name}", type=Path, help=f"numbers of upstream's {name} with its published weights (.npz)")


def pytest_configure(config: pytest.Config) -> None:
    """Settle where the goldens are: as told, else the shared ones, else the few that are copied here."""
    places = [
        config.getoption("--goldens"),
        _shared_dir() / "goldens" / "open",
        Path(__file__).parent / "fixtures/goldens",
    ]
    config.goldens = next(p for p in places if p is not None and (p is places[0] or p.is_dir()))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the directory of data, weights and goldens that is too large for the repository."""
    path = _shared_dir()
    if not path.is_dir():
        pytest.skip("GEOELLE_SHARED / ../shared not present; set GEOELLE_SHARED=DIR to run")
    return path
