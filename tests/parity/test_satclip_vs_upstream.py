"""SatCLIP against numbers of upstream's encoder of places, and against timm on the same weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from stand_in import fill
from torch.nn import functional as F

from geoelle.models.networks import on_meta
from geoelle.models.satclip import BANDS, CONFIGS, SatClipNet, Siren, harmonics, make
from geoelle.models.weights import load_strict
from small import make_chips

NAME = "satclip.vit16-l40"
SMALL = replace(CONFIGS[NAME], dim=48, depth=3, heads=3, chip_px=64, out_dim=20, degrees=8, capacity=24, bank=50)


def tiny(shared: Path, name: str) -> dict:
    path = shared / "goldens" / "tiny" / name
    if not path.is_file():
        pytest.skip(f"{path} not present; put it there to run")
    return torch.load(path, weights_only=True)


def test_the_network_of_sines(shared: Path) -> None:
    golden = tiny(shared, "satclip_siren_tiny.pt")
    config = golden["config"]
    net = on_meta(lambda: Siren(config["dim_in"], config["dim_hidden"], config["dim_out"], config["num_layers"]))
    load_strict(net, golden["state_dict"], name="satclip_siren_tiny.pt")
    with torch.inference_mode():
        found = net(golden["x"])
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, golden["y"], rtol=1e-12, atol=1e-13)


def test_harmonics_are_upstreams_to_the_poles(shared: Path) -> None:
    """Ours lie within a tenth of what separates upstream's sums of monomials from the exact harmonics."""
    golden = tiny(shared, "satclip_posenc_L40_lonlat.pt")
    theirs, exact = golden["analytic"], golden["rule"]
    ours = harmonics(golden["lonlat"], 40)
    assert ours.shape == theirs.shape == (13, 1600) and ours.dtype == torch.float64
    size = theirs.norm(dim=1)
    away, apart = (ours - theirs).norm(dim=1) / size, (exact - theirs).norm(dim=1) / size
    assert (away <= 0.1 * apart + 1e-13).all(), (away, apart)
    assert apart[[0, -1]].min() > 0.03  # else the test above says nothing about the poles


def test_fewer_degrees_are_the_first_of_more() -> None:
    places = torch.tensor([[12.3, -75.0], [-170.0, 3.0], [0.0, 60.0]], dtype=torch.float64)
    torch.testing.assert_close(harmonics(places, 10), harmonics(places, 40)[:, :100], rtol=0, atol=0)


def test_harmonics_of_low_degree_by_hand() -> None:
    """l = 0: pi times the textbook's constant. l = 1: sine, cosine times pi, and no Condon-Shortley sign."""
    lon, lat = 20.0, 35.0
    phi, theta = np.radians(lon + 180), np.radians(lat + 90)
    one = np.sqrt(3 / (4 * np.pi))
    wanted = [
        np.sqrt(np.pi) / 2, one * np.sin(theta) * np.sin(phi), np.pi * one * np.cos(theta),
        one * np.sin(theta) * np.cos(phi),
    ]  # fmt: skip
    found = harmonics(torch.tensor([[lon, lat]], dtype=torch.float64), 2)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-13)


def test_the_image_tower_is_timms() -> None:
    net = timm.create_model("vit_small_patch16_224", in_chans=13, num_classes=256)
    ours = on_meta(lambda: SatClipNet(CONFIGS[NAME])).visual
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    model = make(NAME, replace(SMALL, dim=384, depth=1, heads=6, chip_px=224, out_dim=256))
    one = timm.create_model("vit_small_patch16_224", in_chans=13, num_classes=256, depth=1).eval()
    drawn = fill({k: v.shape for k, v in one.state_dict().items()}, seed=7, scale=0.1)
    weights = {k: torch.from_numpy(v) for k, v in drawn.items()}
    one.load_state_dict(weights)
    model.net.visual.load_state_dict(weights)
    chips = make_chips(model.card, 2)
    by_number = {band: chips.pixels_btcyx[:, 0, chips.bands.index(band)] for band in chips.bands}
    l1c = [*BANDS[:10], "cirrus", *BANDS[10:]]
    image = torch.from_numpy(np.stack([by_number.get(b, np.zeros_like(by_number["red"])) for b in l1c], axis=1))
    torch.testing.assert_close(model.model_input(chips), image, rtol=0, atol=0)
    with torch.inference_mode():
        features, embedding = one.forward_features(image), one(image)
    ours = model.encode(chips)
    np.testing.assert_allclose(ours.patch_bhwd.flatten(1, 2), features[:, 1:], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.summary_bd, embedding, rtol=1e-5, atol=1e-5)


def test_the_proxy_is_half_of_upstreams_loss() -> None:
    """With the other places of a batch as the bank, chip by chip, it is upstream's cross entropy over the rows."""
    model = make(NAME, SMALL, seed=2)
    chips = make_chips(model.card, 4)
    lonlat = np.array([[-75.6, 37.7], [12.0, -3.0], [140.0, 70.0], [-3.0, 55.0]])
    chips = replace(chips, lonlat_b2=lonlat)
    with torch.inference_mode():
        image = model.net.visual(model.model_input(chips))
        place = model.net.location["nnet"](harmonics(torch.from_numpy(lonlat), SMALL.degrees)).float()
        image, place = (v / v.norm(dim=1, keepdim=True) for v in (image, place))
        logits = model.net.logit_scale.exp() * image @ place.T
        rows = F.cross_entropy(logits, torch.arange(4), reduction="none")
    for i in range(4):
        model._bank = place[[k for k in range(4) if k != i]]
        np.testing.assert_allclose(model.proxy(chips[[i]]), rows[i : i + 1], rtol=1e-5, atol=1e-6)
