"""Predictions of the probe and its nulls: one set of folds, one target, none of it seen."""

import numpy as np

from geoelle.baselines import Ground
from geoelle.holdout import PlaceKFold
from geoelle.ridge import cross_predict
from geoelle.sample import Sample
from geoelle.trial import ELLE, PIXEL_TREES, Trial, predictions, targets_of

PLACE = np.repeat(np.arange(10), 12)


def trial(loss=None, **changes):
    rng = np.random.default_rng(0)
    n = len(PLACE)
    given = {
        "vectors_nd": rng.normal(size=(n, 5)).astype(np.float32),
        "loss_n": rng.uniform(0.5, 2, n),
        "lonlat_n2": np.stack([PLACE * 1.0, np.zeros(n)], 1),
        "times_n": np.full(n, np.datetime64("2021-06-01", "s")),
        "features_nf": rng.normal(size=(n, 3)).astype(np.float32),
        "feature_names": ("a", "b", "c"),
    }
    sample = Sample(**(given | changes | ({} if loss is None else {"loss_n": loss})))
    return Trial(
        sample=sample,
        ground=Ground(cv=PlaceKFold(4), groups=PLACE),
        place_n=PLACE,
        targets=targets_of(sample.loss_n, "log"),
        alphas=(0.1, 10.0),
        seed=0,
    )


def test_every_row_predicts_every_chip_for_both_targets():
    probe, entries = predictions(trial())
    for entry in entries:
        assert all(p.shape == (120, 2) and np.isfinite(p).all() for p in entry.predicted), entry.name
    assert probe.alphas_kt.shape == (4, 2)
    by_hand = cross_predict(trial().sample.vectors_nd, trial().y_nt, PlaceKFold(4), PLACE, (0.1, 10.0))
    np.testing.assert_allclose(entries[0].predicted[0], by_hand, rtol=1e-12)
    assert entries[0].name == ELLE


def test_no_row_but_random_folds_has_seen_its_test_ground():
    test = trial().ground.folds()[0][1]
    loss = trial().sample.loss_n.copy()
    loss[test] *= 7
    (_, before), (_, after) = predictions(trial()), predictions(trial(loss))
    same = {
        a.name: np.array_equal(a.predicted[0][test], b.predicted[0][test])
        for a, b in zip(before, after, strict=True)
    }
    assert {name for name, unseen in same.items() if not unseen} == {
        "ELLE on random folds",
        "shuffled targets",
    }
    assert same[PIXEL_TREES]


def test_shuffled_targets_keep_their_pairs():
    entry = predictions(trial(features_nf=None, feature_names=()))[1][-1]
    np.testing.assert_allclose(np.exp(entry.target_nt[:, 0]), entry.target_nt[:, 1])
    np.testing.assert_allclose(np.sort(entry.target_nt[:, 1]), np.sort(trial().sample.loss_n))


def test_targets_start_with_the_scale_of_the_fit():
    assert list(targets_of(np.array([1.0, 2]), "log")) == ["log", "raw"]
    assert list(targets_of(np.array([1.0, 2]), "raw")) == ["raw", "log"]
    assert list(targets_of(np.array([-1.0, 2]), "raw")) == ["raw"]
