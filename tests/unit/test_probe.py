"""The probe: the scale of the loss, spaces, and files that cannot lie."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from geoelle.errors import FormatError, GeoelleError, ProbeError, SpaceMismatch
from geoelle.probe import Probe, fit_probe, on_scale, with_twin

SPACE = {"model": "nano", "weights_sha256": "ab12", "pooling": "mean", "target": "loss", "masking": "0.75/4"}


def world(n=300, d=20, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    loss = np.exp(vectors[:, :3] @ [0.5, -0.3, 0.2] - 1 + 0.05 * rng.normal(size=n))
    features = np.stack([vectors[:, 0] + 0.2 * rng.normal(size=n), rng.normal(size=n)], 1)
    return vectors, loss, features, rng.uniform(0, 1, (n, 2))


@pytest.fixture(scope="module")
def probe():
    vectors, loss, features, lonlat = world()
    fitted = fit_probe(vectors, loss, groups=lonlat, space=SPACE, features=(features, ("rough", "bright")))
    words = {"scores": {"r": 0.97, "none": None}, "folds": {"kind": "SpatialKFold"}, "data": {"chips": 300}}
    return replace(fitted, **words, versions={"geoelle": "0.1.0"}, licence="Apache-2.0")


def test_difficulty_is_the_typical_loss(probe):
    vectors, loss, features, _ = world(seed=1)
    difficulty = probe.score(vectors)
    assert difficulty.dtype == np.float32
    assert np.median(loss / difficulty) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(np.log(difficulty), probe.score_raw(vectors), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        probe.excess(vectors, features), np.log(difficulty / probe.complexity(features)), rtol=1e-3, atol=1e-5
    )
    assert np.corrcoef(np.log(probe.complexity(features)), np.log(loss))[0, 1] > 0.7


def test_raw_scale_stays_in_loss_units():
    vectors, loss, features, lonlat = world()
    raw = fit_probe(vectors, loss, groups=lonlat, space=SPACE, scale="raw", features=(features, ("a", "b")))
    np.testing.assert_allclose(raw.score(vectors), raw.score_raw(vectors), rtol=1e-6)
    gap = raw.score(vectors) - raw.complexity(features)
    np.testing.assert_allclose(raw.excess(vectors, features), gap, rtol=1e-4, atol=1e-6)
    assert raw.score(vectors).mean() == pytest.approx(loss.mean(), rel=1e-4)


def test_dense_vectors_and_nan_rows(probe):
    vectors = world()[0]
    dense = probe.score(vectors[:12].reshape(3, 2, 2, -1))
    np.testing.assert_allclose(dense.ravel(), probe.score(vectors[:12]), rtol=1e-6)
    vectors[5, 3] = np.nan
    assert np.flatnonzero(np.isnan(probe.score(vectors))).tolist() == [5]
    with pytest.raises(ProbeError, match="20 inputs"):
        probe.score(vectors[:, :19])


def test_log_scale_needs_positive_losses():
    vectors, loss, _, lonlat = world()
    loss[3] = -0.25
    with pytest.raises(ProbeError, match=r"1 of 300 losses \(least -0.25\)"):
        fit_probe(vectors, loss, groups=lonlat, space=SPACE)
    fit_probe(vectors, loss, groups=lonlat, space=SPACE, scale="raw")
    with pytest.raises(ProbeError, match="nan"):
        on_scale(np.array([np.nan]), "log")
    with pytest.raises(ProbeError, match="'ln'"):
        on_scale(loss, "ln")


def test_spaces_do_not_mix(probe):
    probe.check_space(dict(SPACE))
    probe.check_space(SPACE | {"target": None, "masking": None})
    probe.check_space({k: v for k, v in SPACE.items() if k not in ("target", "masking")})
    told = "'nano'.*'clay'.*model: 'nano' against 'clay'; pooling: 'mean' against 'cls'"
    with pytest.raises(SpaceMismatch, match=told):
        probe.check_space(SPACE | {"model": "clay", "pooling": "cls"})
    with pytest.raises(SpaceMismatch, match="weights_sha256: 'ab12' against None"):
        probe.check_space({k: v for k, v in SPACE.items() if k != "weights_sha256"})
    with pytest.raises(SpaceMismatch, match="target"):
        probe.check_space(SPACE | {"target": "patch-variance"})


def test_the_pixel_part_is_optional_and_named():
    vectors, loss, features, lonlat = world()
    bare = fit_probe(vectors, loss, groups=lonlat, space=SPACE)
    with pytest.raises(ProbeError, match="no pixel part"):
        bare.excess(vectors, features)
    with pytest.raises(ProbeError, match=r"1 names \(2 weights\)"):
        fit_probe(vectors, loss, groups=lonlat, space=SPACE, features=(features, ("rough",)))


def test_file_round_trip_is_exact_and_the_same_bytes(probe, tmp_path):
    vectors, _, features, _ = world(seed=2)
    path = probe.save(tmp_path / "p.safetensors")
    again = Probe.load(path)
    np.testing.assert_array_equal(again.score_raw(vectors), probe.score_raw(vectors))
    np.testing.assert_array_equal(again.excess(vectors, features), probe.excess(vectors, features))
    for name in (
        "space",
        "target",
        "scale",
        "feature_names",
        "scores",
        "folds",
        "versions",
        "data",
        "licence",
    ):
        assert getattr(again, name) == getattr(probe, name), name
    assert (again.embedding.alpha, again.pixels.alpha) == (probe.embedding.alpha, probe.pixels.alpha)
    assert again.save(tmp_path / "q.safetensors").read_bytes() == path.read_bytes()
    assert set(tmp_path.iterdir()) == {path, tmp_path / "q.safetensors"}
    with pytest.raises(GeoelleError, match="overwrite"):
        probe.save(path)
    probe.save(path, overwrite=True)


def test_every_damaged_byte_is_noticed(probe, tmp_path):
    good = probe.save(tmp_path / "p.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    for at in [*range(0, 16), *range(16, len(good), 61), len(good) - 1]:
        bad.write_bytes(good[:at] + bytes([good[at] ^ 0x01]) + good[at + 1 :])
        with pytest.raises(FormatError, match=r"bad\.safetensors"):
            Probe.load(bad)
    for length in (0, 7, 8, 100, len(good) // 2, len(good) - 1):
        bad.write_bytes(good[:length])
        with pytest.raises(FormatError):
            Probe.load(bad)
    bad.write_bytes(good + b"\0")
    with pytest.raises(FormatError):
        Probe.load(bad)


def test_tampered_numbers_and_words_are_noticed(probe, tmp_path):
    path, bad = probe.save(tmp_path / "p.safetensors"), tmp_path / "bad.safetensors"
    tensors = load_file(path)
    words = _words(path)
    save_file(tensors | {"weights": tensors["weights"] * 1.01}, bad, {"geoelle": json.dumps(words)})
    with pytest.raises(FormatError, match="digest"):
        Probe.load(bad)
    save_file(tensors, bad, {"geoelle": json.dumps(words | {"scores": {"r": 1.0}})})
    with pytest.raises(FormatError, match="digest"):
        Probe.load(bad)
    save_file(tensors, bad, {"geoelle": json.dumps(words)})
    Probe.load(bad)


def test_foreign_missing_and_newer_files_are_refused(probe, tmp_path):
    bad = tmp_path / "bad.safetensors"
    save_file({"weights": np.zeros(3)}, bad)
    with pytest.raises(FormatError, match="not a geoelle probe"):
        Probe.load(bad)
    save_file({"weights": np.zeros(3)}, bad, {"geoelle": "[1]"})
    with pytest.raises(FormatError, match="version 1 to 3"):
        Probe.load(bad)
    newer = _words(probe.save(tmp_path / "p.safetensors")) | {"version": 4}
    save_file({"weights": np.zeros(3)}, bad, {"geoelle": json.dumps(newer)})
    with pytest.raises(FormatError, match="version 1 to 3"):
        Probe.load(bad)
    bad.write_bytes(b"\x80\x04\x95 a pickle of old")
    with pytest.raises(FormatError):
        Probe.load(bad)
    with pytest.raises(FormatError, match="nowhere"):
        Probe.load(tmp_path / "nowhere.safetensors")


def test_a_file_of_version_1_is_a_probe_without_what_it_does_not_say(probe, tmp_path):
    """Written as version 1 was: fewer keys, the digest over them."""
    path, old = probe.save(tmp_path / "p.safetensors"), tmp_path / "old.safetensors"
    tensors, words = load_file(path), _words(path)
    later = ("spread", "smearing", "reach", "trust", "twin_alpha", "digest")
    words = {k: v for k, v in words.items() if k not in later}
    words["version"] = 1
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} float64 {tensors[name].shape}\n".encode() + tensors[name].tobytes())
    save_file(tensors, old, {"geoelle": json.dumps(words | {"digest": digest.hexdigest()})})
    again = Probe.load(old)
    np.testing.assert_array_equal(again.score_raw(world()[0]), probe.score_raw(world()[0]))
    assert again.spread is again.smearing is again.reach is again.twin is None and again.trust == {}
    assert again.digest == probe.digest
    with pytest.raises(ProbeError, match="'nano' has no intervals"):
        again.interval(world()[0])
    with pytest.raises(ProbeError, match="'nano' has no smearing factor, so no expected loss"):
        again.expected(world()[0])
    save_file(tensors, old, {"geoelle": json.dumps(words | {"version": 2, "digest": digest.hexdigest()})})
    with pytest.raises(FormatError, match="digest"):
        Probe.load(old)


def test_the_map_of_the_twin_is_fitted_on_its_vectors_and_kept(probe, tmp_path):
    _, loss, _, lonlat = world()
    twin_nd = np.log(loss)[:, None] * np.linspace(1, 2, 5)  # tells the loss, as no vector of the model does
    knows = with_twin(probe, twin_nd, loss, groups=lonlat)
    assert knows.embedding is probe.embedding and knows.twin.weights_d.shape == (5,)
    assert np.corrcoef(knows.twin(twin_nd), np.log(loss))[0, 1] > 0.99
    again = Probe.load(knows.save(tmp_path / "p.safetensors"))
    np.testing.assert_array_equal(again.twin(twin_nd), knows.twin(twin_nd))
    assert again.digest == knows.digest != probe.digest and again.twin.alpha == knows.twin.alpha


def test_json_for_a_device(probe, tmp_path):
    plain = json.loads(probe.to_json(tmp_path / "p.json").read_text())
    vectors = world()[0]
    products = [[w * float(x) for w, x in zip(plain["weights"], v, strict=True)] for v in vectors]
    by_hand = [sum(terms) + plain["bias"] for terms in products]
    np.testing.assert_allclose(np.exp(by_hand), probe.score(vectors), rtol=1e-6)
    assert (plain["scale"], plain["target"], plain["space"]) == ("log", "loss", SPACE)


def test_tables_must_be_json(probe, tmp_path):
    with pytest.raises(ProbeError, match="not JSON"):
        replace(probe, scores={"r": float("nan")}).save(tmp_path / "p.safetensors")
    assert not list(tmp_path.iterdir())


def _words(path):
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["geoelle"])
