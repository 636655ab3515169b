"""What every model must keep: a new one passes this file or is not a model of geoelle."""

import gc
import math
import re
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from geoelle.area import Addresses, Lattice
from geoelle.embed import embed_chips, patch_losses
from geoelle.errors import CapabilityError, InputMismatch, UnknownModel, WeightsError
from geoelle.models import MODELS, Model, list_models, load_model, model_card
from geoelle.models.masks import hidden_count, hidden_patches, permutations, seeds_of, visible_patches
from small import families, make_chips, names, small

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TANGLED = ("olmoearth", "galileo", "scalemae")
"""Every error holds targets of the whole chip here, so one changed patch moves them all; goldens pin what is seen."""


TARGET_REACH = {"fgmae": 2}
"""Patches along a side whose target a changed patch moves; gradients at an edge reach the next one."""


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; run pytest -m gpu where there is one")
    return request.param


def masks_of(model: Model, chips, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the hidden and the visible tokens of a draw, as embed_chips draws them."""
    shape = model.card.mask_shape(chips)
    n = math.prod(shape)
    order = permutations(seeds_of(chips.addresses.strings()), n)
    hide = hidden_count(n, model.card.mask_ratio)
    see = n - hide if model.card.visible_ratio is None else max(int(n * model.card.visible_ratio), 1)
    hidden = hidden_patches(order, hide, draw, 4)
    return hidden.reshape(-1, *shape), visible_patches(order, hide, see, draw, 4).reshape(-1, *shape)


def loss_of(model: Model, chips, masks: tuple[np.ndarray, np.ndarray]):
    return model.loss(chips, masks[0], masks[1]) if model.card.visible_ratio else model.loss(chips, masks[0])


def forget_tables() -> None:
    """Empty every cache of the modules of models."""
    for name in [n for n in sys.modules if n.startswith("geoelle.models.")]:
        for kept in vars(sys.modules[name]).values():
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()


@pytest.fixture(params=names())
def model(request: pytest.FixtureRequest, device: str) -> Model:
    return small(request.param).to(device)


@pytest.fixture
def lossy(model: Model) -> Model:
    if model.card.target != "loss":
        pytest.skip(f"{model.card.name} has no true loss; its refusal is tested below")
    return model


def test_card_is_complete(model: Model) -> None:
    card = model.card
    assert card.name in list_models()
    for words in (card.title, card.reading, card.code_licence, card.weights_licence, card.source, card.citation):
        assert words
    assert card.reading.endswith(".") and card.reading.count(". ") <= 1
    assert card.target == "none" or card.reading.startswith("High: ")
    assert card.chip_px % card.patch_px == 0
    assert (card.chip_px - card.stride_px) % 2 == 0
    assert 0 < card.mask_ratio < 1
    assert card.target == "loss" or "loss" not in card.target
    assert card.target != "loss" or (card.objective and card.unit)
    assert len(set(card.bands)) == len(card.bands)
    assert set(card.mask_axes) <= set("tghw") and list(card.mask_axes) == sorted(card.mask_axes, key="tghw".index)
    assert "g" not in card.mask_axes or card.groups
    assert set(card.needs) <= {"time", "lonlat", "gsd", "wavelength", "sensor"}
    assert card.embedded or card.files


def test_every_family_is_tested() -> None:
    assert {MODELS[name] for name in names()} == families()


@pytest.mark.parametrize("name", list_models())
def test_published_cards(name: str) -> None:
    """The card of the published size, without its weights."""
    card = model_card(name)
    assert card.name == name and card.dim > 0
    assert card.embedded or all(f.repo.count("/") == 1 and f.file and f.revision for f in card.files)


def test_tokens_and_embeddings_have_the_stated_shapes(model: Model) -> None:
    card, chips = model.card, make_chips(model.card, 3)
    tokens = model.encode(chips)
    assert tokens.patch_bhwd.shape == (3, card.grid, card.grid, card.dim)
    assert tokens.summary_bd is None or (tokens.summary_bd.ndim == 2 and len(tokens.summary_bd) == 3)
    found = embed_chips(chips, model)
    assert found.vectors_nd.shape == (3, card.dim)
    assert np.isfinite(found.vectors_nd).all()


def test_tokens_lie_north_up(model: Model) -> None:
    """A bright corner moves the token of that corner more than that of the far one."""
    card, chips = model.card, make_chips(model.card, 1)
    changed = chips.pixels_btcyx.copy()
    half = card.chip_px // 2
    changed[..., :half, half:] += 0.3  # north-east
    moved = model.encode(replace(chips, pixels_btcyx=changed)).patch_bhwd - model.encode(chips).patch_bhwd
    length = moved.norm(dim=-1)[0]
    h = card.grid // 2
    quarters = [length[:h, :h].mean(), length[:h, -h:].mean(), length[-h:, :h].mean(), length[-h:, -h:].mean()]
    assert int(torch.stack(quarters).argmax()) == 1


def test_the_same_chips_give_the_same_bytes(model: Model) -> None:
    chips, loss = make_chips(model.card), model.card.target == "loss"
    first, second = (embed_chips(chips, model, loss=loss) for _ in range(2))
    assert first.vectors_nd.tobytes() == second.vectors_nd.tobytes()
    assert not loss or first.loss_n.tobytes() == second.loss_n.tobytes()


def test_batch_size_changes_nothing(model: Model) -> None:
    chips, loss = make_chips(model.card), model.card.target == "loss"
    whole, single = (embed_chips(chips, model, loss=loss, batch=b) for b in (8, 1))
    np.testing.assert_allclose(single.vectors_nd, whole.vectors_nd, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(single.features_nf, whole.features_nf)
    if loss:
        np.testing.assert_allclose(single.loss_n, whole.loss_n, rtol=2e-5)


def test_loss_is_of_the_hidden_tokens_only(lossy: Model) -> None:
    card, chips = lossy.card, make_chips(lossy.card, 4)
    masks = masks_of(lossy, chips)
    loss = loss_of(lossy, chips, masks)
    assert loss.error.shape[-2:] == (card.grid, card.grid)
    axes = ["b", *(a for a in card.mask_axes if a in "tg"), "h", "w"]
    spread = [
        1 if a in "hw" and a not in card.mask_axes else size for a, size in zip(axes, loss.error.shape, strict=True)
    ]
    expected = np.broadcast_to(masks[0].reshape(spread), loss.error.shape)
    np.testing.assert_array_equal(np.isfinite(loss.error.cpu().numpy()), expected)
    if card.additive:
        mean = np.nanmean(loss.error.cpu().numpy().reshape(4, -1), axis=1)
        np.testing.assert_allclose(mean, loss.total_b.cpu().numpy(), rtol=1e-5)
    assert loss.error_bhw.shape == (4, card.grid, card.grid)
    assert set(loss.terms) and all(len(v) == 4 for v in loss.terms.values())


def test_hidden_pixels_do_not_reach_the_encoder(lossy: Model) -> None:
    """Change a place that is hidden in every frame and group: only the errors of that place may move."""
    card, chips = lossy.card, make_chips(lossy.card, 1)
    if card.name.startswith(TANGLED) or "h" not in card.mask_axes:
        pytest.skip("an error of this objective is not of one place alone; the goldens pin what is seen")
    hidden = np.zeros((1, *card.mask_shape(chips)), bool)
    hidden[..., : card.grid // 2 + 1, :] = True
    before = lossy.loss(chips, hidden).error_bhw.cpu().numpy()
    changed = chips.pixels_btcyx.copy()
    changed[..., : card.patch_px, : card.patch_px] += 0.2 * np.indices((card.patch_px,) * 2).sum(0) / card.patch_px
    after = lossy.loss(replace(chips, pixels_btcyx=changed.astype(np.float32)), hidden).error_bhw.cpu().numpy()
    assert abs(after[0, 0, 0] - before[0, 0, 0]) > 1e-4
    reach = TARGET_REACH.get(card.name.split(".")[0], 1)
    far = np.ones((card.grid, card.grid), bool)
    far[:reach, :reach] = False
    np.testing.assert_allclose(after[0][far], before[0][far], rtol=1e-4)


def test_masks_that_do_not_fit_are_refused(lossy: Model) -> None:
    chips = make_chips(lossy.card, 2)
    hidden, visible = (mask[:2] for mask in masks_of(lossy, chips))
    flat, longer = hidden.reshape(2, -1, 1), np.concatenate([hidden, hidden[:1]])
    for wrong in (flat, longer, hidden[..., :1], hidden[:, None], hidden.astype(int)):
        with pytest.raises(ValueError, match=re.escape(f"not {wrong.shape} {wrong.dtype}")):
            lossy.loss(chips, wrong)
        with pytest.raises(ValueError, match=re.escape(f"not {wrong.shape} {wrong.dtype}")):
            lossy.loss(chips, hidden, wrong)
    with pytest.raises(ValueError, match="shows tokens that it hides"):
        lossy.loss(chips, hidden, visible | hidden)


def test_what_is_neither_hidden_nor_visible_is_not_seen(lossy: Model) -> None:
    chips = make_chips(lossy.card, 1)
    shape = (1, *lossy.card.mask_shape(chips))
    third = np.arange(math.prod(shape)).reshape(shape) % 3
    told, default = lossy.loss(chips, third == 0, third != 0), lossy.loss(chips, third == 0)
    np.testing.assert_array_equal(told.error.cpu(), default.error.cpu())
    few = lossy.loss(chips, third == 0, third == 1)
    np.testing.assert_array_equal(np.isnan(few.error.cpu()), np.isnan(default.error.cpu()))
    assert abs(float(few.total_b - default.total_b)) > 1e-6


def test_missing_pixels(model: Model) -> None:
    card, chips, lossy = model.card, make_chips(model.card, 4), model.card.target == "loss"
    pixels = chips.pixels_btcyx.copy()
    p = card.patch_px
    pixels[1, ..., :p, :p] = np.nan  # one patch: leaves pooling and loss
    pixels[2, ..., : card.chip_px // 4] = np.nan  # a quarter of the chip: invalid
    pixels[3, 0, 0, 0, 0] = np.nan  # one pixel of one band: filled
    found = embed_chips(replace(chips, pixels_btcyx=pixels), model, loss=lossy)
    whole = embed_chips(chips, model, loss=lossy)
    one_patch_is_little = 1 - 1 / card.grid**2 >= 0.9
    assert found.valid_n.tolist() == [True, one_patch_is_little, False, True]
    assert np.isnan(found.vectors_nd[2]).all()
    assert np.isfinite(found.vectors_nd[found.valid_n]).all()
    np.testing.assert_allclose(found.vectors_nd[0], whole.vectors_nd[0], rtol=1e-5, atol=2e-5)
    if not lossy:
        return
    assert np.isnan(found.loss_n[2]) and np.isfinite(found.loss_n[found.valid_n]).all()
    per_patch = patch_losses(replace(chips, pixels_btcyx=pixels), model)
    assert np.isnan(per_patch[1, 0, 0])
    assert np.isfinite(per_patch[1].ravel()[1:]).all() == one_patch_is_little
    assert np.isnan(per_patch[2]).all()


def test_every_patch_gets_a_loss(lossy: Model) -> None:
    per_patch = patch_losses(make_chips(lossy.card, 2), lossy)
    assert per_patch.shape == (2, lossy.card.grid, lossy.card.grid)
    assert np.isfinite(per_patch).all()


def test_wrong_chips_are_refused(model: Model) -> None:
    card, chips = model.card, make_chips(model.card, 1)
    with pytest.raises(InputMismatch, match="thermal"):
        model.encode(make_chips(card, 1, bands=("thermal", *chips.bands[1:])))
    with pytest.raises(InputMismatch, match="frames"):
        model.encode(make_chips(card, 1, frames=card.frames[1] + 1))
    small_lattice = Lattice(epsg=32618, gsd_m=10, size_px=card.chip_px // 2, stride_px=card.chip_px // 2)
    with pytest.raises(InputMismatch, match=f"{card.chip_px} px"):
        half = chips.pixels_btcyx[..., : card.chip_px // 2, : card.chip_px // 2]
        model.encode(replace(chips, pixels_btcyx=half, addresses=Addresses(lattice=small_lattice, rows=[0], cols=[0])))


def test_more_frames_where_the_card_says_so(model: Model) -> None:
    card = model.card
    if card.frames[1] == 1:
        pytest.skip("takes one frame")
    chips = make_chips(card, 2, frames=2)
    assert model.encode(chips).patch_bhwd.shape == (2, card.grid, card.grid, card.dim)
    if card.target == "loss":
        assert np.isfinite(embed_chips(chips, model, loss=True).loss_n).all()


def test_needs_are_honoured(model: Model) -> None:
    """What the card needs moves the result; where it is missing, it is refused or said to be absent, never zero."""
    card, chips = model.card, make_chips(model.card, 1)
    base = model.encode(chips).patch_bhwd
    other = {
        "time": replace(chips, times_bt=chips.times_bt + np.timedelta64(95 * 86_400 + 7_200, "s")),
        "lonlat": replace(chips, lonlat_b2=np.array([[20.0, -35.0]])),
    }
    for need, changed in other.items():
        moved = float((model.encode(changed).patch_bhwd - base).abs().max())
        assert (moved > 1e-7) == (need in card.needs), need
    if "time" in card.needs:
        timeless = replace(chips, times_bt=np.full_like(chips.times_bt, np.datetime64("NaT")))
        with pytest.raises(InputMismatch, match="time"):
            model.encode(timeless)
    if "sensor" in card.needs:
        with pytest.raises(InputMismatch, match="sensor"):
            model.encode(replace(chips, sensor=""))


def test_a_subset_of_bands_works_or_is_refused(model: Model) -> None:
    card, whole = model.card, make_chips(model.card, 1)
    wanted = ("blue", "green", "red", "nir") if "blue" in card.bands else card.bands[:1]
    if not card.band_subset:
        if len(card.bands) > 3:
            with pytest.raises(InputMismatch, match="lack"):
                model.encode(make_chips(card, 2, bands=tuple(b for b in wanted if b in card.bands)))
    else:
        if card.groups:
            inside = {b for i in card.groups_of(wanted) for b in card.groups[i]}
            wanted = tuple(b for b in wanted if b in inside) or card.groups[0]
        few = make_chips(card, 2, bands=wanted)
        assert np.isfinite(embed_chips(few, model, loss=card.target == "loss").vectors_nd).all()
    backwards = whole.select_bands(whole.bands[::-1])
    np.testing.assert_allclose(
        model.encode(backwards).patch_bhwd.cpu(), model.encode(whole).patch_bhwd.cpu(), atol=2e-5
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_close(model: Model, precision: str) -> None:
    chips = make_chips(model.card)
    full, half = (embed_chips(chips, model, precision=p).vectors_nd for p in ("fp32", precision))
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert (cosine > 0.999).all()


def test_half_precision_leaves_nothing_behind(model: Model) -> None:
    """What is computed once and kept must not be what autocast made of it."""
    chips = make_chips(model.card, 2)
    forget_tables()
    before = embed_chips(chips, model).vectors_nd
    forget_tables()
    embed_chips(chips, model, precision="bf16")
    np.testing.assert_array_equal(embed_chips(chips, model).vectors_nd, before)


def test_a_twin_is_untrained_and_seeded(model: Model) -> None:
    name, chips = model.card.name, make_chips(model.card)
    make = (
        (lambda seed: load_model(name, "untrained", seed=seed)) if name == "nano" else (lambda seed: small(name, seed))
    )
    twins = [embed_chips(chips, make(seed)).vectors_nd for seed in (0, 0, 1)]
    np.testing.assert_array_equal(twins[0], twins[1])
    assert np.abs(twins[0] - twins[2]).max() > 0.05
    assert make(3).weights_sha256 == "untrained-3"


def test_memory_is_released(model: Model) -> None:
    twin = small(model.card.name) if model.card.name != "nano" else load_model("nano", "untrained")
    embed_chips(make_chips(model.card, 2), twin, loss=model.card.target == "loss")
    ghost = weakref.ref(twin)
    del twin
    gc.collect()
    assert ghost() is None


@pytest.mark.parametrize("name", [n for n in list_models() if n != "nano"])
def test_absent_weights_say_how_to_get_them(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=f"geoelle models pull {name}"):
        load_model(name)


@pytest.mark.parametrize(
    ("name", "package"), [("dinov2.base", "transformers"), ("remoteclip.vit-l-14", "open_clip.model")]
)
def test_an_absent_package_says_how_to_get_it(name: str, package: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CapabilityError, match=rf"{package}.*pip install 'geoelle\[models\]'"):
        small(name)


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


def test_what_has_no_loss_says_what_it_has(model: Model) -> None:
    if model.card.target == "loss":
        with pytest.raises(CapabilityError, match="no proxy"):
            super(type(model), model).proxy(make_chips(model.card, 1))
        return
    with pytest.raises(CapabilityError, match=r"no true (pretraining )?loss"):
        embed_chips(make_chips(model.card, 1), model, loss=True)
    if model.card.target == "none":
        with pytest.raises(CapabilityError, match="no proxy"):
            model.proxy(make_chips(model.card, 1))
    else:
        chips = make_chips(model.card, 3)
        found = model.proxy(chips)
        assert found.shape == (3,) and bool(torch.isfinite(found).all())


def test_a_proxy_is_no_loss() -> None:
    class Proxy:
        card = replace(model_card("nano"), target="patch-variance")
        weights_sha256 = ""

    with pytest.raises(CapabilityError, match="patch-variance"):
        embed_chips(make_chips(Proxy.card, 1), Proxy(), loss=True)
