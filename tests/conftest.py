"""What every test may use: the shared data, where present, and hypothesis without a clock."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers of two threads each would wait on one another

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the directory of data, weights and goldens that is too large for the repository."""
    path = Path(os.environ.get("GEOELLE_SHARED") or Path(__file__).parents[2] / "shared")
    if not path.is_dir():
        pytest.skip("GEOELLE_SHARED / ../shared not present; set GEOELLE_SHARED=DIR to run")
    return path
