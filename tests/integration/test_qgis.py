"""The QGIS of the system opens a difficulty COG, a change and its classes styled, as a user would see them."""

import json
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from geoelle.class_raster import write_class_cog
from geoelle.delta_bands import CLASSES
from geoelle.lattice import Addresses, Lattice
from geoelle.raster import paint, write_cog
from geoelle.style import Ramp, write_class_qml, write_qml

PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).parents[2] / "scripts" / "qgis_check.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the check under the Python of the QGIS package, or skip saying how to get it."""
    if not Path(PYTHON).exists():
        pytest.skip(f"{PYTHON} not present; apt-get install qgis python3-qgis to run")
    done = subprocess.run(
        [PYTHON, str(SCRIPT), *map(str, arguments)],
        capture_output=True, text=True, timeout=240, env={"PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    if done.returncode == 3:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    return done


@pytest.fixture
def cog(tmp_path: Path) -> Path:
    rows, cols = np.divmod(np.arange(40 * 50), 50)
    keep = (rows - 20) ** 2 + (cols - 20) ** 2 > 49
    lattice = Lattice(epsg=32618, gsd_m=10, size_px=32, stride_px=16)
    addresses = Addresses(lattice=lattice, rows=rows[keep] - 26250, cols=cols[keep] + 1600)
    difficulty = np.sin(rows / 6) * np.cos(cols / 9) - 1.5
    raster = paint(addresses, {"difficulty": difficulty[keep], "excess": difficulty[keep] * 0.1})
    path = write_cog(
        raster, tmp_path / "difficulty.tif", descriptions=["difficulty", "excess"], units=["ln loss"] * 2,
        tags={"GEOELLE_SPACE": "nano/abc"},
    )  # fmt: skip
    write_qml(tmp_path / "difficulty.qml", Ramp.sequential(difficulty, label="difficulty", unit="ln loss"))
    return path


def test_qgis_shows_the_map_styled(cog: Path, tmp_path: Path) -> None:
    done = run(cog, "--epsg", 32618, "--bands", "difficulty,excess", "--picture", tmp_path / "map.png")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["crs"] == "EPSG:32618"
    assert summary["bands"] == ["difficulty", "excess"]
    assert summary["renderer"] == "singlebandpseudocolor"
    assert summary["ramp"]["legend"][0].endswith(" ln loss")
    assert summary["pixels"]["nodata"] + summary["pixels"]["painted"] == 40 * 50
    assert 100 < summary["pixels"]["nodata"] < 200
    picture = matplotlib.image.imread(tmp_path / "map.png")
    assert picture.shape[:2] == (900, 1200)
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 100
    assert not list(tmp_path.glob("*.aux.xml"))


def test_a_diverging_style_of_another_band_is_taken_up(cog: Path) -> None:
    ramp = Ramp.diverging(np.array([-0.2, 0.25]), label="excess", unit="ln loss")
    write_qml(cog.with_suffix(".qml"), ramp, band=2, overwrite=True)
    done = run(cog)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ramp"]["limits"] == [ramp.low, ramp.high]


def test_each_failure_is_one_clear_line(cog: Path, tmp_path: Path) -> None:
    style = cog.with_suffix(".qml").read_text()
    for arguments, text in (
        ((cog, "--epsg", 32619), "the CRS is EPSG:32618, not EPSG:32619"),
        ((cog, "--bands", "difficulty"), "the bands are ['difficulty', 'excess']"),
        ((tmp_path / "nowhere.tif",), "QGIS cannot open it as a raster layer"),
    ):
        done = run(*arguments)
        assert (done.returncode, text in done.stderr) == (1, True), done.stderr
    cog.with_suffix(".qml").unlink()
    assert "there is no style file difficulty.qml" in run(cog).stderr
    cog.with_suffix(".qml").write_text(style.replace("singlebandpseudocolor", "unheardof"))
    assert "the style was not taken up" in run(cog).stderr
    cog.with_suffix(".qml").write_text(style.replace('opacity="1"', 'opacity="0.5"'))
    assert run(cog).returncode == 1


def test_missing_qgis_is_said_with_the_command_to_install_it(tmp_path: Path) -> None:
    if not Path(PYTHON).exists():
        pytest.skip(f"{PYTHON} not present; apt-get install python3 to run")
    done = subprocess.run([PYTHON, "-I", "-S", str(SCRIPT), "a.tif"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "apt-get install qgis python3-qgis" in done.stderr


def test_qgis_shows_a_small_change_centred_on_zero(tmp_path: Path) -> None:
    """Twenty cells: the deviation that QGIS computes is that of a sample, and differs from the file's by 2.6%."""
    rows, cols = np.divmod(np.arange(20), 5)
    lattice = Lattice(epsg=32634, gsd_m=10, size_px=32, stride_px=16)
    addresses = Addresses(lattice=lattice, rows=rows - 31300, cols=cols + 3200)
    change = np.random.default_rng(0).normal(size=20)
    path = write_cog(
        paint(addresses, {"delta": change}), tmp_path / "delta.tif", descriptions=["delta"], units=["ln"], tags={}
    )
    write_qml(tmp_path / "delta.qml", Ramp.diverging(change, label="ln(after / before)"))
    done = run(path, "--epsg", 32634, "--bands", "delta")
    assert done.returncode == 0, done.stderr
    low, high = json.loads(done.stdout)["ramp"]["limits"]
    assert low == -high < 0


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Flags of 20 x 30 cells, a corner without a class."""
    rows, cols = np.divmod(np.arange(600), 30)
    lattice = Lattice(epsg=32634, gsd_m=10, size_px=32, stride_px=16)
    addresses = Addresses(lattice=lattice, rows=rows - 31300, cols=cols + 3200)
    codes = np.where(rows < 5, 1.0, np.where(cols > 20, 2.0, 0.0))
    codes[(rows > 15) & (cols < 5)] = np.nan
    path = tmp_path / "delta_flagged.tif"
    write_class_cog(paint(addresses, {"flagged": codes}), path, band="flagged", classes=CLASSES["flagged"], tags={})
    write_class_qml(path.with_suffix(".qml"), CLASSES["flagged"])
    return path


def test_qgis_shows_flags_as_classes_with_names_and_colours(classes: Path) -> None:
    done = run(classes, "--epsg", 32634, "--bands", "flagged change")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["renderer"] == "paletted" and summary["pixels"] == {"nodata": 20, "painted": 580}
    assert [(c["value"], c["label"], c["colour"]) for c in summary["classes"]] == [
        (0, "not flagged", "#e6e6e6"), (1, "easier", "#2065ab"), (2, "harder", "#b1182b"),
    ]  # fmt: skip


def test_classes_that_are_not_as_the_style_says_are_one_clear_line(classes: Path) -> None:
    style = classes.with_suffix(".qml")
    text = style.read_text()
    style.write_text(text.replace("#2065ab", "#2065ac"))
    assert "the colour table inside the file has" in run(classes).stderr
    style.write_text("\n".join(line for line in text.splitlines() if 'label="harder"' not in line))
    assert "[2], which are no classes" in run(classes).stderr
    style.unlink()
    assert "its classes have no names" in run(classes).stderr
