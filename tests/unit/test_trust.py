"""What a probe carries to be trusted by: fitted, measured, said, kept in the file, and left out where it cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from geoelle.errors import HoldoutError, ProbeError
from geoelle.holdout import PlaceKFold
from geoelle.probe import Probe, fit_probe
from geoelle.ridge import Affine
from geoelle.trust import Trust, fit_trust, smearing_factor

CV = PlaceKFold(5)


def ground(seed: int = 0, n_places: int = 30, size: int = 25, d: int = 8, noise: float = 0.6):
    """Return embeddings, losses whose logarithm is linear but for noise, and places."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(n_places), size)
    vectors = rng.normal(size=(len(place), d))
    loss = np.exp(0.5 * vectors[:, 0] - 1 + noise * rng.normal(size=len(place)))
    return vectors, loss, place


def fitted(seed: int = 0, scale: str = "log", level: float = 0.9, **more) -> Trust:
    vectors, loss, place = ground(seed, **more)
    probe = fit_probe(vectors, loss, groups=place, space={"model": "m"}, scale=scale, cv=CV)
    return fit_trust(probe, vectors, loss, cv=CV, groups=place, level=level)


@pytest.fixture(scope="module")
def trust() -> Trust:
    return fitted()


def test_intervals_cover_new_ground(trust: Trust):
    vectors, loss, _ = ground(seed=1, n_places=200)
    low, high = trust.probe.interval(vectors)
    assert low.dtype == high.dtype == np.float32 and (low < trust.probe.score(vectors)).all()
    share = ((low <= loss) & (loss <= high)).mean()
    assert share == pytest.approx(trust.coverage.measured.places.value, abs=0.03) and share > 0.88
    assert np.isnan(trust.probe.interval(np.full((1, 8), np.nan))).all()


def test_units_of_intervals_may_be_finer_than_folds():
    vectors, loss, place = ground()
    clusters = place // 6
    probe = fit_probe(vectors, loss, groups=clusters, space={"model": "m"}, scale="log", cv=CV)
    coarse = fit_trust(probe, vectors, loss, cv=CV, groups=clusters)
    assert coarse.probe.spread is None and "5 blocks or places (10 needed)" in coarse.notes[0]
    fine = fit_trust(probe, vectors, loss, cv=CV, groups=clusters, place_n=place)
    assert fine.probe.spread is not None and len(np.unique(fine.place_n)) == 30
    assert 0.85 < fine.coverage.measured.places.value <= 1


def test_the_mean_loss_is_that_of_a_lognormal(trust: Trust):
    vectors, loss, _ = ground(seed=1, n_places=200)
    assert trust.probe.smearing == pytest.approx(np.exp(0.6**2 / 2), rel=0.05)
    assert trust.probe.expected(vectors).mean() == pytest.approx(loss.mean(), rel=0.05)
    assert trust.probe.score(vectors).mean() < 0.88 * loss.mean()
    typical, mean, raw = trust.scales
    assert typical.bias.high < -0.1 and mean.bias.low < 0 < mean.bias.high and raw.bias.low < 0 < raw.bias.high
    assert mean.r2.value > typical.r2.value


def test_scales_are_compared_on_ground_held_out():
    """With as many dimensions as chips, a fit reads its own ground far better than any other."""
    vectors, loss, _ = ground(n_places=15, size=10, d=150)
    found = fitted(n_places=15, size=10, d=150)
    own = 1 - np.square(loss - found.probe.score(vectors)).sum() / np.square(loss - loss.mean()).sum()
    assert all(row.r2.value < own - 0.1 for row in found.scales)


def test_places_weigh_the_same_in_the_smearing_factor():
    residual, place = np.log(np.r_[np.full(99, 1.0), 3.0]), np.r_[np.zeros(99), 1]
    assert smearing_factor(residual, place) == pytest.approx(2.0)


def test_on_the_raw_scale_difficulty_is_expected_already():
    raw = fitted(scale="raw").probe
    vectors = ground(seed=1)[0]
    assert raw.smearing is None and raw.trust["scales"] == []
    np.testing.assert_array_equal(raw.expected(vectors), raw.score(vectors))
    low, high = raw.interval(vectors)
    np.testing.assert_allclose((low + high) / 2, raw.score(vectors), atol=1e-4)


def test_ground_unlike_that_of_the_fit_is_outside(trust: Trust):
    reach = trust.probe.reach
    assert np.array_equal(reach.weights_d, np.abs(trust.probe.embedding.weights_d))
    di = reach.dissimilarity(ground(seed=1)[0])
    assert reach.inside(di).mean() > 0.95 and reach.inside(reach.dissimilarity(np.full((1, 8), 30.0)))[0] == 0
    assert trust.dissimilarity_n.shape == trust.residual_n.shape == trust.place_n.shape
    assert trust.probe.trust["dissimilarity"]["verdict"] == "not informative"  # noise is the same everywhere
    assert "not informative" in trust.probe.trust["sentences"]["reach"]
    assert trust.probe.trust["density"]["verdict"] == "not informative"
    assert "of 750 chips" in (said := trust.probe.trust["sentences"]["density"]) and "not informative" in said
    assert trust.density_n.shape == trust.residual_n.shape and 0 < trust.density_n.mean() < 750


def test_it_is_all_kept_in_the_file(trust: Trust, tmp_path):
    vectors = ground(seed=2)[0]
    path = trust.probe.save(tmp_path / "p.safetensors")
    again = Probe.load(path)
    assert again.digest == trust.probe.digest and again.trust == trust.probe.trust
    np.testing.assert_array_equal(again.interval(vectors), trust.probe.interval(vectors))
    np.testing.assert_array_equal(again.expected(vectors), trust.probe.expected(vectors))
    for name in ("dissimilarity", "density"):
        np.testing.assert_array_equal(getattr(again.reach, name)(vectors), getattr(trust.probe.reach, name)(vectors))
    assert again.save(tmp_path / "q.safetensors").read_bytes() == path.read_bytes()


def test_it_says_what_it_covers_and_what_it_covered(trust: Trust):
    interval = trust.probe.trust["sentences"]["interval"]
    assert interval.startswith("intervals of 90% cover the loss under the masks drawn, not its noise-free mean")
    assert str(trust.coverage.measured.places) in interval
    assert trust.probe.trust["coverage"]["level"] == pytest.approx(0.9)
    assert trust.lines == tuple(trust.probe.trust["sentences"].values()) and trust.notes == ()


def test_noise_of_the_masks_is_told_from_the_rest():
    vectors, loss, place = ground(noise=0.3)
    rng = np.random.default_rng(5)
    halves = loss[:, None] * np.exp(0.4 * rng.normal(size=(len(loss), 2)))
    noisy = np.sqrt(halves.prod(1))  # noise of sd 0.4 / sqrt 2 on the log scale
    probe = fit_probe(vectors, noisy, groups=place, space={"model": "m"}, cv=CV)
    found = fit_trust(probe, vectors, noisy, cv=CV, groups=place, halves_n2=halves)
    assert found.noise.noise_sd == pytest.approx(0.4 / 2**0.5, rel=0.05)
    wanted = np.hypot(0.3, 0.4 / 2**0.5) / 0.3 - 1
    assert found.noise.widening == pytest.approx(wanted, rel=0.2)
    assert f"wider by {found.noise.widening:.0%}" in found.lines[0] or "% wider" in found.lines[0]
    halves[3, 0] = -1
    assert fit_trust(probe, vectors, noisy, cv=CV, groups=place, halves_n2=halves).noise is None


# --- what is left out, and says so


def test_too_few_places_leave_the_interval_out():
    few = fitted(n_places=9)
    assert few.probe.spread is None and few.probe.smearing and few.probe.reach
    (note,) = few.notes
    assert note.startswith("no intervals: an interval of level 0.9 fails for 9 blocks or places (10 needed)")
    assert note in few.probe.trust["notes"] and "interval" not in few.probe.trust["sentences"]
    with pytest.raises(ProbeError, match="'m' has no intervals"):
        few.probe.interval(ground()[0])
    assert fitted(n_places=9, level=0.8).probe.spread.alpha == pytest.approx(0.2)


def test_a_coverage_that_cannot_be_measured_is_not_claimed():
    found = fitted(n_places=10)
    assert found.probe.spread is not None and found.coverage.measured is None
    assert "coverage is not measured: a fold trains on too few places" in found.lines[0]


def test_coefficients_of_0_have_no_area():
    vectors, loss, place = ground()
    flat = Affine(weights_d=np.zeros(8), intercept=-1.0, mean_d=np.zeros(8), scale_d=np.ones(8), alpha=1.0)
    found = fit_trust(Probe(embedding=flat, space={}), vectors, loss, cv=CV, groups=place)
    assert found.probe.reach is found.informativeness is found.density is found.dissimilarity_n is None
    assert found.notes[0].startswith("no area of applicability: dissimilarity is not defined for 750 chips")


def test_what_cannot_be_fitted_at_all():
    vectors, loss, place = ground()
    probe = fit_probe(vectors, loss, groups=place, space={}, cv=CV)
    with pytest.raises(ProbeError, match="constant loss"):
        fit_trust(probe, vectors, np.full(len(loss), 0.5), cv=CV, groups=place)
    with pytest.raises(HoldoutError, match="too few places"):
        fit_trust(probe, vectors, loss, cv=CV, groups=np.zeros(len(loss)))
    with pytest.raises(ProbeError, match=r"no interval has a level of 1\.5"):
        fit_trust(probe, vectors, loss, cv=CV, groups=place, level=1.5)
    with pytest.raises(ProbeError, match="log-loss fails"):
        fit_trust(probe, vectors, np.where(np.arange(len(loss)) == 3, np.nan, loss), cv=CV, groups=place)


def test_a_reach_belongs_to_its_probe(trust: Trust):
    other = replace(trust.probe.embedding, weights_d=trust.probe.embedding.weights_d * 2)
    with pytest.raises(ProbeError, match="reach is of another probe"):
        replace(trust.probe, embedding=other)
