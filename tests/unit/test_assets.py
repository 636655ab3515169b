"""One file onto a grid, over disk and loopback: what fails is named, what passes is whole."""

from itertools import pairwise

import numpy as np
import pytest
import rasterio

from faults import Fault, serving
from geoelle.access import Access
from geoelle.assets import Asset, Policy, read_asset
from geoelle.errors import ReadError
from geoelle.resample import Target
from scenes import NORTH, WEST, box_of, unique, write_cog

WINDOW = Target(box_of(WEST + 100, NORTH - 50, 150, 120))
HASTY = Policy(attempts=3, pause_s=0.001, timeout_s=1)
PIXELS = unique((192, 192))
WHOLE = Target(box_of(WEST, NORTH, 192, 192))
EXPECTED = PIXELS[5:125, 10:160].astype(np.float32)


@pytest.fixture
def site():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def cog(tmp_path_factory):
    # Noise in the high digits keeps DEFLATE from shrinking the file to its header.
    return write_cog(tmp_path_factory.mktemp("cog") / "b.tif", PIXELS)


def asset(href, **options):
    return Asset(**{"item": "S2B_x", "key": "red", "href": str(href), "indexes": (1,), **options})


def read(href, policy=HASTY, target=WINDOW, access=None, **options):
    extra = {} if access is None else {"access": access}
    return read_asset(asset(href, **options), target, policy=policy, **extra)[0]


def test_a_window_of_a_local_file(cog):
    assert np.array_equal(read(cog), EXPECTED)


def test_over_http_each_byte_is_asked_once(site, cog):
    site.files["/b.tif"] = cog.read_bytes()
    assert np.array_equal(read(f"{site.url}/b.tif"), EXPECTED)
    asked = site.ranges("/b.tif")
    # Ranges start at 16 kB pages: nothing is asked twice, and not much more than the file holds.
    spans = sorted(asked)
    assert all(first > last for (_, last), (first, _) in pairwise(spans))
    assert sum(last - first + 1 for first, last in spans) <= len(site.files["/b.tif"]) + 2 * 32768


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
@pytest.mark.parametrize("request_number", [0, 1, 2])
def test_a_passing_failure_is_tried_again(site, cog, status, request_number):
    site.files["/b.tif"] = cog.read_bytes()
    whole = Fault(answer=True)
    site.faults["/b.tif"] = [*[whole] * request_number, Fault(status=status, headers=(("Retry-After", "0"),))]
    assert np.array_equal(read(f"{site.url}/b.tif"), EXPECTED)


@pytest.mark.parametrize(
    "fault",
    [Fault(drop=True), Fault(short=True), Fault(delay_s=2.5, answer=True), Fault(body=b"<html>hello")],
)
def test_a_broken_answer_is_never_data(site, cog, fault):
    site.files["/b.tif"] = cog.read_bytes()

    def after_the_header(method, _path, asked):
        return fault if method == "GET" and asked and not asked.startswith("bytes=0-") else None

    site.faults["/b.tif"] = [Fault(answer=True), Fault(answer=True), fault]
    assert np.array_equal(read(f"{site.url}/b.tif", target=WHOLE), PIXELS)
    site.files["/c.tif"] = site.files["/b.tif"]
    site.always = after_the_header
    with pytest.raises(ReadError, match=r"asset red of item S2B_x at EPSG:32631 .*after 2 attempts"):
        read(f"{site.url}/c.tif?sig=secret", Policy(attempts=2, pause_s=0.001, timeout_s=1), WHOLE)


@pytest.mark.parametrize(("status", "words"), [(404, "404"), (403, "403"), (401, "401"), (410, "410")])
def test_a_lasting_failure_is_not_tried_again(site, status, words):
    site.always = lambda *_: Fault(status=status)
    with pytest.raises(ReadError, match=words) as failure:
        read(f"{site.url}/none.tif?sig=secret")
    assert len([entry for entry in site.log if entry[0] == "HEAD"]) == 1
    assert failure.value.item == "S2B_x" and failure.value.asset == "red"
    assert failure.value.href == f"{site.url}/none.tif" and "secret" not in str(failure.value)
    assert failure.value.address == "EPSG:32631 600100,4998750,601600,4999950"


def test_a_server_without_ranges_serves_small_files_and_is_named_for_others(site, cog, tmp_path):
    site.always = lambda *_: Fault(status=200, body=cog.read_bytes())
    assert np.array_equal(read(f"{site.url}/b.tif"), EXPECTED)
    noise = np.random.default_rng(0).integers(1, 60000, (1500, 1500), dtype=np.uint16)
    large = write_cog(tmp_path / "large.tif", noise).read_bytes()
    site.always = lambda *_: Fault(status=200, body=large)
    with pytest.raises(ReadError, match="Range downloading not supported"):
        read(f"{site.url}/large.tif")


def test_a_refused_token_is_renewed_once_more(site, cog):
    site.files["/container/b.tif"] = cog.read_bytes()
    given = iter(range(1, 9))
    site.routes["/token/127/container"] = lambda *_: {
        "token": f"sig={next(given)}",
        "msft:expiry": "2999-01-01T00:00:00Z",
    }
    site.always = lambda method, path, _: (
        Fault(status=403) if path.startswith("/container") and "sig=2" not in path else None
    )
    access = Access("signed", token_url=f"{site.url}/token", hosts=("127.0.0.1",))
    assert np.array_equal(read(f"{site.url}/container/b.tif", access=access), EXPECTED)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_an_error(cog, tmp_path, share):
    data = cog.read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ReadError, match=r"cut\.tif") as failure:
        read(tmp_path / "cut.tif", target=WHOLE)
    assert "attempts" not in str(failure.value)


def test_a_truncated_jpeg_2000_is_an_error(shared, tmp_path):
    whole = (shared / "data" / "fixtures" / "jp2" / "T31TDH_20180101T105441_B01.jp2").read_bytes()
    (tmp_path / "cut.jp2").write_bytes(whole[: len(whole) // 2])
    target = Target(box_of(399960 + 60 * 1500, 4800000 - 60 * 1500, 300, 300, gsd_m=60))
    with pytest.raises(ReadError, match=r"cut\.jp2"):
        read(tmp_path / "cut.jp2", target=target)


def test_damage_that_does_not_decode_is_an_error(cog, tmp_path):
    data = bytearray(cog.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(range(64))
    (tmp_path / "bad.tif").write_bytes(data)
    with pytest.raises(ReadError, match=r"bad\.tif"):
        read(tmp_path / "bad.tif")


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "empty.tif").write_bytes(b"")
    for name in ("text.tif", "empty.tif", "missing.tif"):
        with pytest.raises(ReadError, match=rf"{name}"):
            read(tmp_path / name)
    write_cog(tmp_path / "one.tif", PIXELS)
    with pytest.raises(ReadError, match="it has 1 bands, not band 3"):
        read(tmp_path / "one.tif", indexes=(3,))
    with rasterio.open(
        tmp_path / "flat.tif", "w", driver="GTiff", width=9, height=9, count=1, dtype="uint8"
    ) as sink:
        sink.write(np.ones((1, 9, 9), np.uint8))
    with pytest.raises(ReadError, match="no CRS"):
        read(tmp_path / "flat.tif")


def test_nodata_of_file_and_item_and_masks_are_missing(tmp_path):
    pixels = PIXELS.copy()
    pixels[20, 20], pixels[30, 30], pixels[40, 40] = 0, 65535, 7
    href = write_cog(tmp_path / "n.tif", pixels, nodata=65535)
    found = read(href, nodata=(0.0,))
    assert np.isnan(found[15, 10]) and np.isnan(found[25, 20])
    assert found[35, 30] == 7 and np.isnan(found).sum() == 2
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(write_cog(tmp_path / "m.tif", PIXELS, nodata=None)) as plain,
        rasterio.open(tmp_path / "masked.tif", "w", **{**plain.profile, "driver": "GTiff"}) as sink,
    ):
        sink.write(plain.read())
        mask = np.full(PIXELS.shape, 255, np.uint8)
        mask[50:60] = 0
        sink.write_mask(mask)
    found = read(tmp_path / "masked.tif")
    assert np.isnan(found[45:55]).all() and np.isnan(found).sum() == 10 * 150


def test_codes_are_never_averaged(tmp_path):
    codes = np.random.default_rng(0).choice(np.array([0, 4, 11], np.uint8), (96, 96))
    href = write_cog(tmp_path / "scl.tif", codes, gsd_m=20, nodata=None)
    for target in (
        WINDOW,
        Target(box_of(WEST + 103, NORTH - 47, 40, 40)),
        Target(box_of(WEST, NORTH, 20, 20, 60)),
    ):
        assert set(np.unique(read(href, target=target, classes=True))) <= {0, 4, 11}


def test_bands_of_one_file_are_read_together(tmp_path):
    pixels = np.stack([PIXELS, PIXELS + 1, PIXELS + 2])
    href = write_cog(tmp_path / "rgb.tif", pixels)
    found = read_asset(asset(href, indexes=(3, 1)), WINDOW)
    assert np.array_equal(found, np.stack([EXPECTED + 2, EXPECTED]))


def test_a_finer_file_is_averaged_by_overview_or_by_blocks(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 1000, (192, 192)).astype(np.float32)
    mean = pixels.reshape(48, 4, 48, 4).mean(axis=(1, 3))
    target = Target(box_of(WEST, NORTH, 48, 48, gsd_m=40))
    for overviews in ("NONE", "AUTO"):
        href = write_cog(tmp_path / f"{overviews}.tif", pixels, nodata=None, overviews=overviews)
        with rasterio.open(href) as source:
            assert bool(source.overviews(1)) is (overviews == "AUTO")
        if overviews == "NONE":
            assert np.allclose(read(href, target=target), mean, rtol=1e-6)
    flat = write_cog(tmp_path / "flat.tif", np.full((512, 512), 7.0, np.float32), overviews="AUTO")
    assert np.allclose(read(flat, target=target), 7)
