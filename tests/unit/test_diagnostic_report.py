"""The folder of diagnostics: what is in it, what it says of what is missing, and that its numbers are those drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_diagnostics import make_task
from test_fitting import make_run, make_table

from geoelle.bootstrap import Bootstrap
from geoelle.diagnostic_report import diagnose, study_pictures
from geoelle.errors import GeoelleError
from geoelle.fitting import FitJob, Fitted, fit_runs
from geoelle.scores import Terms

FIGURES = {
    "blocks.png", "calibration.png", "coverage.png", "density.png", "dimensions.png", "dissimilarity.png", "folds.png",
    "sample-scaling.png", "scores.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    home = tmp_path_factory.mktemp("fit")
    run = make_run(home / "run", make_table())
    return fit_runs([run], FitJob(block_m=1_600, folds=3), out=home / "p.safetensors", report=home / "report")


def finite_json(path: Path) -> dict:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_fit_with_a_report_writes_a_folder_beside_the_probe(fitted: Fitted) -> None:
    *beside, folder = fitted.files
    assert {p.name for p in folder.iterdir()} == FIGURES | {"diagnostics.json", "report.html"}
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in FIGURES)
    page, plain = (folder / "report.html").read_text(), beside[2].read_text()
    for title in (
        "Sample scaling",
        "Dimensions",
        "Score and bias by place",
        "Calibration slope",
        "Mean r within places",
    ):
        assert title in page and title not in plain
    assert page.count("data:image/png;base64,") == len(FIGURES)


def test_the_numbers_are_those_of_the_scores(fitted: Fitted) -> None:
    numbers = finite_json(fitted.files[-1] / "diagnostics.json")
    metrics = fitted.scores.tables[0].rows[0].metrics
    assert numbers["pooled"]["r"]["value"] == pytest.approx(metrics.r.value, abs=1e-12)
    assert numbers["pooled"]["within"]["value"] == pytest.approx(metrics.within.value, abs=1e-12)
    assert numbers["pooled"]["r"]["low"] == pytest.approx(metrics.r.low, abs=1e-12)  # the same draws of places
    assert 0.8 < numbers["calibration"]["slope"]["value"] < 1.2
    assert sum(place["rows"] for place in numbers["places"]) == 400
    assert len(numbers["places"]) == fitted.scores.tables[0].n_places
    names = [curve["name"] for curve in numbers["sample_scaling"]["curves"]]
    assert names == ["ELLE", "pixel ridge"]
    assert numbers["sample_scaling"]["curves"][1]["first_minus_it"][-1]["low"] > 0.5  # the features are noise
    assert numbers["holdout"] == fitted.scores.holdout and numbers["notes"] == []
    assert numbers["trust"]["coverage"]["level"] == pytest.approx(0.9)
    assert numbers["dimensions"]["dims"] == [1, 2, 4, 8, 12]


def test_a_folder_that_exists_is_not_replaced_and_nothing_is_fitted(fitted: Fitted, tmp_path: Path) -> None:
    with pytest.raises(GeoelleError, match=r"report \(it exists\)"):
        fit_runs([tmp_path / "absent"], FitJob(), out=tmp_path / "p.safetensors", report=fitted.files[-1])


def test_a_study_without_places_has_no_map() -> None:
    x_nd = np.random.default_rng(0).normal(size=(120, 3))
    study = diagnose(make_task(x_nd[:, 0], x_nd, each=10), Terms())
    drawn = study_pictures(study, Terms(), unit="", lonlat_n2=None)
    assert set(drawn) == {"calibration", "sample-scaling", "dimensions"}


def test_too_few_blocks_are_said_and_the_rest_is_there() -> None:
    rng = np.random.default_rng(0)
    task = make_task(rng.normal(size=60), rng.normal(size=(60, 2)), each=20)
    study = diagnose(task, Terms())
    assert study.scaling is None
    (note,) = study.notes
    assert note.startswith("no sample scaling: a scaling curve needs 3 blocks to train on (2 in a fold); use smaller")
    assert "sample-scaling" not in study_pictures(study, Terms(), unit="", lonlat_n2=None)
    assert math.isfinite(study.dimensions.curves[0].r2[0].value)


def test_curves_of_many_rows_are_thinned_to_whole_blocks_and_say_so() -> None:
    rng = np.random.default_rng(0)
    x_nd = rng.normal(size=(400, 3))
    task = make_task(x_nd[:, 0] + rng.normal(size=400), x_nd, each=10)
    study = diagnose(task, Terms(), most_rows=150)
    assert study.notes == ("curves over chips and dimensions are of 150 of 400 chips",)
    assert study.scaling.rows[-1] == 100
    assert len(study.task.y_n) == 400  # calibration and places are of all
    whole = Bootstrap(task.label_n).score(task.y_n, task.predicted_n).metrics()
    assert study.pooled.r == whole.r
