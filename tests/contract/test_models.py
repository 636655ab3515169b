"""What every model must keep: a new one passes this file or is not a model of geoelle."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from geoelle.area import Addresses, Lattice
from geoelle.chips import Chips
from geoelle.embed import embed_chips, patch_losses
from geoelle.errors import CapabilityError, InputMismatch, UnknownModel, WeightsError
from geoelle.models import Model, list_models, load_model, model_card
from geoelle.models.masks import hidden_count, hidden_patches, permutations, seeds_of

MODELS = list_models()


def make_chips(card, n: int = 8, bands: tuple[str, ...] | None = None, seed: int = 0) -> Chips:
    """Return chips of smooth random ground in reflectance."""
    bands = bands or card.bands
    rng = np.random.default_rng(seed)
    coarse = rng.gamma(2.0, 0.06, (n, 1, len(bands), 8, 8)).astype(np.float32)
    size = card.chip_px // 8
    pixels = np.kron(coarse, np.ones((size, size), np.float32))
    pixels += rng.normal(0, 0.005, pixels.shape).astype(np.float32)
    lattice = Lattice(epsg=32618, gsd_m=card.gsd_m[0], size_px=card.chip_px, stride_px=card.stride_px)
    addresses = Addresses(lattice=lattice, rows=np.full(n, -26_000), cols=np.arange(n) + 2_600)
    return Chips(
        pixels_btcyx=pixels, addresses=addresses, times_bt=np.full((n, 1), "2016-07-01", "datetime64[s]"),
        lonlat_b2=addresses.lonlat_n2, bands=bands, items=(("item",),) * n,
    )  # fmt: skip


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return load_model(request.param)


def test_card_is_complete(model: Model) -> None:
    card = model.card
    assert card.name in MODELS
    for words in (card.title, card.reading, card.code_licence, card.weights_licence, card.source, card.citation):
        assert words
    assert card.reading.endswith(".")
    assert card.chip_px % card.patch_px == 0
    assert (card.chip_px - card.stride_px) % 2 == 0
    assert card.stride_px * card.gsd_m[0] <= 160
    assert 0 < card.mask_ratio < 1
    assert card.target == "loss" or "loss" not in card.target
    assert len(set(card.bands)) == len(card.bands)


def test_tokens_and_embeddings_have_the_stated_shapes(model: Model) -> None:
    card, chips = model.card, make_chips(model.card, 3)
    assert model.encode(chips).patch_bhwd.shape == (3, card.grid, card.grid, card.dim)
    found = embed_chips(chips, model)
    assert found.vectors_nd.shape == (3, card.dim)
    assert np.isfinite(found.vectors_nd).all()


def test_the_same_chips_give_the_same_bytes(model: Model) -> None:
    chips = make_chips(model.card)
    first, second = (embed_chips(chips, model, loss=True) for _ in range(2))
    assert first.vectors_nd.tobytes() == second.vectors_nd.tobytes()
    assert first.loss_n.tobytes() == second.loss_n.tobytes()


def test_batch_size_changes_nothing(model: Model) -> None:
    chips = make_chips(model.card)
    whole, single = (embed_chips(chips, model, loss=True, batch=b) for b in (8, 1))
    np.testing.assert_allclose(single.vectors_nd, whole.vectors_nd, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(single.loss_n, whole.loss_n, rtol=1e-5)
    np.testing.assert_array_equal(single.features_nf, whole.features_nf)


def test_loss_is_of_the_hidden_patches_only(model: Model) -> None:
    card, chips = model.card, make_chips(model.card, 4)
    patches = card.grid**2
    order = permutations(seeds_of(chips.addresses.strings()), patches)
    hidden = hidden_patches(order, hidden_count(patches, card.mask_ratio), 0, 4).reshape(4, card.grid, card.grid)
    loss = model.loss(chips, hidden)
    np.testing.assert_array_equal(np.isfinite(loss.error_bhw.numpy()), hidden)
    if card.additive:
        mean = np.nanmean(loss.error_bhw.numpy(), axis=(1, 2))
        np.testing.assert_allclose(mean, loss.total_b.numpy(), rtol=1e-5)
    assert set(loss.terms) and all(len(v) == 4 for v in loss.terms.values())


def test_hidden_pixels_do_not_reach_the_encoder(model: Model) -> None:
    """Change what is hidden: the prediction may not move, so only the error of the changed patch does."""
    card, chips = model.card, make_chips(model.card, 1)
    hidden = np.zeros((1, card.grid, card.grid), bool)
    hidden[0, : card.grid // 2 + 1] = True
    before = model.loss(chips, hidden).error_bhw.numpy()
    changed = chips.pixels_btcyx.copy()
    changed[..., : card.patch_px, : card.patch_px] += 0.2
    after = model.loss(replace(chips, pixels_btcyx=changed), hidden).error_bhw.numpy()
    assert abs(after[0, 0, 0] - before[0, 0, 0]) > 1e-3
    np.testing.assert_allclose(after.ravel()[1:], before.ravel()[1:], rtol=1e-4)


def test_missing_pixels(model: Model) -> None:
    card, chips = model.card, make_chips(model.card, 4)
    pixels = chips.pixels_btcyx.copy()
    p = card.patch_px
    pixels[1, ..., :p, :p] = np.nan  # one patch: leaves pooling and loss
    pixels[2, ..., : card.chip_px // 4] = np.nan  # a quarter of the chip: invalid
    pixels[3, 0, 0, 0, 0] = np.nan  # one pixel of one band: filled
    found = embed_chips(replace(chips, pixels_btcyx=pixels), model, loss=True)
    whole = embed_chips(chips, model, loss=True)
    assert found.valid_n.tolist() == [True, True, False, True]
    assert np.isnan(found.vectors_nd[2]).all() and np.isnan(found.loss_n[2])
    assert np.isfinite(found.vectors_nd[[0, 1, 3]]).all() and np.isfinite(found.loss_n[[0, 1, 3]]).all()
    np.testing.assert_allclose(found.vectors_nd[0], whole.vectors_nd[0], rtol=1e-5, atol=1e-6)
    per_patch = patch_losses(replace(chips, pixels_btcyx=pixels), model)
    assert np.isnan(per_patch[1, 0, 0]) and np.isfinite(per_patch[1].ravel()[1:]).all()
    assert np.isnan(per_patch[2]).all()


def test_every_patch_gets_a_loss(model: Model) -> None:
    per_patch = patch_losses(make_chips(model.card, 2), model)
    assert per_patch.shape == (2, model.card.grid, model.card.grid)
    assert np.isfinite(per_patch).all()


def test_wrong_chips_are_refused(model: Model) -> None:
    card, chips = model.card, make_chips(model.card, 1)
    with pytest.raises(InputMismatch, match="thermal"):
        model.encode(make_chips(card, 1, bands=("thermal", *card.bands[1:])))
    with pytest.raises(InputMismatch, match="frames"):
        two = np.concatenate([chips.pixels_btcyx] * (card.frames[1] + 1), axis=1)
        times = np.full((1, card.frames[1] + 1), "2016-07-01", "datetime64[s]")
        model.encode(replace(chips, pixels_btcyx=two, times_bt=times))
    small = Lattice(epsg=32618, gsd_m=10, size_px=card.chip_px // 2, stride_px=card.stride_px // 2)
    with pytest.raises(InputMismatch, match=f"{card.chip_px} px"):
        half = chips.pixels_btcyx[..., : card.chip_px // 2, : card.chip_px // 2]
        model.encode(replace(chips, pixels_btcyx=half, addresses=Addresses(lattice=small, rows=[0], cols=[0])))


def test_a_subset_of_bands_works_or_is_refused(model: Model) -> None:
    card = model.card
    few = make_chips(card, 2, bands=("blue", "green", "red", "nir"))
    if not card.band_subset:
        with pytest.raises(InputMismatch, match="lack"):
            model.encode(few)
        return
    assert np.isfinite(embed_chips(few, model, loss=True).loss_n).all()
    turned = few.select_bands(("nir", "red", "green", "blue"))
    np.testing.assert_allclose(model.encode(turned).patch_bhwd, model.encode(few).patch_bhwd, atol=1e-5)
    with pytest.raises(InputMismatch, match="lack"):
        model.encode(make_chips(card, 1, bands=card.bands[: card.min_bands - 1]))


def test_half_precision_stays_close(model: Model) -> None:
    chips = make_chips(model.card)
    full, half = (embed_chips(chips, model, precision=p).vectors_nd for p in ("fp32", "bf16"))
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert (cosine > 0.999).all()


def test_a_twin_is_untrained_and_seeded(model: Model) -> None:
    name = model.card.name
    chips = make_chips(model.card)
    trained = embed_chips(chips, model).vectors_nd
    twins = [embed_chips(chips, load_model(name, "untrained", seed=s)).vectors_nd for s in (0, 0, 1)]
    np.testing.assert_array_equal(twins[0], twins[1])
    assert np.abs(twins[0] - twins[2]).max() > 0.1
    assert np.abs(twins[0] - trained).max() > 0.1
    assert load_model(name, "untrained", seed=3).weights_sha256 != model.weights_sha256


def test_memory_is_released(model: Model) -> None:
    twin = load_model(model.card.name, "untrained")
    embed_chips(make_chips(model.card, 2), twin, loss=True)
    ghost = weakref.ref(twin)
    del twin
    gc.collect()
    assert ghost() is None


@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing", "wrong shape"])
def test_wrong_weights_say_what_they_are(damage: str, tmp_path) -> None:
    from safetensors.numpy import save_file

    from geoelle.models.nano import WEIGHTS

    path = tmp_path / "weights.safetensors"
    if damage == "truncated":
        path.write_bytes(WEIGHTS.read_bytes()[:5000])
    elif damage == "foreign":
        save_file({"a": np.zeros(3)}, path)
    elif damage == "wrong shape":
        save_file({"norm.weight": np.zeros(3)}, path, metadata={"config": "{}"})
    with pytest.raises(WeightsError, match=r"weights\.safetensors"):
        load_model("nano", str(path))


def test_unknown_name_suggests() -> None:
    with pytest.raises(UnknownModel, match="did you mean nano"):
        load_model("nanno")


def test_a_proxy_is_no_loss(model: Model) -> None:
    class Proxy:
        card = replace(model.card, target="patch-variance")
        weights_sha256 = ""

    with pytest.raises(CapabilityError, match="patch-variance"):
        embed_chips(make_chips(model.card, 1), Proxy(), loss=True)


def test_cards_are_known_without_weights() -> None:
    assert [model_card(name).name for name in MODELS] == MODELS
