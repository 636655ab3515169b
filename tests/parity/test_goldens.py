"""Every adapter against numbers that the upstream code computed: `pytest tests/parity --goldens DIR`.

A golden is an .npz with a `config` (JSON: model, shapes, seed and scale of stand-in weights, sizes) and arrays. A
family's module `golden_FAMILY.py` rebuilds the network from the config, of whatever width, depth, size and bands, and
returns every array it can; an array of the file that nobody computes fails the test.
"""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from stand_in import digest, fill

FAMILIES = {
    "clay-v1.5": "golden_clay",
    "prithvi": "golden_prithvi",
    "dofa-v1": "golden_dofa",
    "olmoearth-v1": "golden_olmoearth",
    "satmae-group-channel": "golden_satmae",
    "scalemae": "golden_scalemae",
    "fgmae": "golden_fgmae",
    "vit-mae": "golden_vitmae",
}
"""Start of `config["model"]` -> the module that knows the family: `INPUTS`, `TOLERANCES` and `compute`."""
COMMON_INPUTS = {"config", "pixels_btcyx", "times_bt", "lonlat_b2", "pred_index"}
RTOL = 1e-5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" in metafunc.fixturenames:
        files = sorted(metafunc.config.goldens.glob("*.npz"))
        metafunc.parametrize("golden", files, ids=lambda p: p.stem)


def family_of(model: str | None, file: str) -> str:
    """Return the module that knows a golden's model."""
    for start, module in FAMILIES.items():
        if model is not None and model.startswith(start):
            return module
    pytest.fail(f"{file} is of model {model!r}, which no family knows; these are known: {', '.join(FAMILIES)}")


@pytest.mark.parametrize("model", ["terramind-v1", None])
def test_a_golden_of_an_unknown_model_fails_and_says_so(model: str | None) -> None:
    with pytest.raises(pytest.fail.Exception, match=rf"new\.npz is of model {model!r}.*known: clay-v1\.5, prithvi"):
        family_of(model, "new.npz")


def test_there_are_goldens(pytestconfig: pytest.Config) -> None:
    assert list(pytestconfig.goldens.glob("*.npz")), f"no .npz in {pytestconfig.goldens}; give --goldens DIR"


def test_golden(golden: Path) -> None:
    with np.load(golden) as file:
        arrays = {name: file[name] for name in file.files}
    assert "config" in arrays, f"{golden.name} holds no config, so it is no golden of a model"
    config = json.loads(str(arrays["config"]))
    handler = importlib.import_module(family_of(config.get("model"), golden.name))
    weights = fill(config["shapes"], config["seed"], config["weight_scale"])
    assert digest(weights) == config["weights_sha256"], "the stand-in weights are not those of the golden"
    found = handler.compute(config, arrays, weights)
    left_out = set(arrays) - COMMON_INPUTS - handler.INPUTS - set(found)
    assert not left_out, f"nobody computes {sorted(left_out)}"
    assert set(arrays) & set(found), f"{golden.name} holds inputs alone: there is nothing to compare"
    wrong = {}
    for name in sorted(set(arrays) & set(found)):
        ours, theirs = np.asarray(found[name]), arrays[name]
        assert ours.shape == theirs.shape, f"{name} is {ours.shape}, not {theirs.shape}"
        bound = next(atol for start, atol in handler.TOLERANCES.items() if name.startswith(start))
        if not np.allclose(ours, theirs, rtol=RTOL, atol=bound, equal_nan=True):
            wrong[name] = f"{np.nanmax(np.abs(ours.astype(float) - theirs)):.2e} (bound {bound:g})"
    assert not wrong, wrong
