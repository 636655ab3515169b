"""Tokens that expire, against a fake token endpoint on loopback; nothing secret is shown."""

import copy
from datetime import UTC, datetime, timedelta

import pytest

from faults import Fault, serving
from geoelle.access import OPEN, Access, public
from geoelle.errors import CatalogError

HOST = ".blob.core.windows.net"
HREF = f"https://sentinel2l2a01{HOST}/sentinel2-l2/13/T/DE/B04.tif"


@pytest.fixture
def site():
    with serving() as running:
        yield running


def tokens(site, lifetime_s, form="%Y-%m-%dT%H:%M:%SZ"):
    """Answer with sig=1, sig=2 and so on, each valid for the lifetime."""
    count = iter(range(1, 99))

    def answer(_path, _sent):
        expiry = datetime.now(UTC) + timedelta(seconds=lifetime_s)
        return {"token": f"sv=x&sig={next(count)}", "msft:expiry": expiry.strftime(form)}

    site.routes["/token/sentinel2l2a01/sentinel2-l2"] = answer
    return Access("signed", token_url=f"{site.url}/token", hosts=(HOST,))


def test_a_token_is_kept_until_shortly_before_it_expires(site):
    access = tokens(site, 3600)
    assert access.sign(HREF) == f"{HREF}?sv=x&sig=1"
    assert access.sign(HREF) == f"{HREF}?sv=x&sig=1"
    assert len(site.log) == 1
    soon = tokens(site, 200)
    assert [soon.sign(HREF)[-1] for _ in range(3)] == ["1", "2", "3"]


def test_a_refused_token_is_forgotten(site):
    access = tokens(site, 3600)
    access.sign(HREF)
    access.forget(HREF)
    access.forget("/local.tif")
    assert access.sign(HREF).endswith("sig=2")


def test_only_addresses_of_the_endpoint_are_signed(site):
    access = tokens(site, 3600)
    for href in ("/data/B04.tif", "s3://bucket/B04.tif", "https://example.org/B04.tif", f"{HREF}?sig=mine"):
        assert access.sign(href) == href
    assert Access("none").sign(HREF) == HREF
    assert site.log == []


def test_a_busy_token_endpoint_is_asked_again_and_a_broken_one_named(site):
    access = tokens(site, 3600)
    path = "/token/sentinel2l2a01/sentinel2-l2"
    site.faults[path] = [Fault(status=429, headers=(("Retry-After", "0"),)), Fault(status=503)]
    assert access.sign(HREF).endswith("sig=1")
    site.routes[path] = lambda _path, _sent: {"message": "closed"}
    access.forget(HREF)
    with pytest.raises(CatalogError, match="no token for sentinel2l2a01/sentinel2-l2 from http"):
        access.sign(HREF)
    del site.routes[path]
    with pytest.raises(CatalogError, match="404"):
        access.sign(HREF)


def test_it_travels_to_a_worker_without_its_tokens(site):
    access = tokens(site, 3600)
    access.sign(HREF)
    assert "sig=" not in repr(access.__reduce__())
    assert copy.copy(access).sign(HREF).endswith("sig=2")


def test_gdal_options_and_hints():
    assert OPEN.gdal_options() == {}
    assert Access("none").gdal_options() == {"AWS_NO_SIGN_REQUEST": "YES"}
    assert Access("requester-pays").gdal_options() == {"AWS_REQUEST_PAYER": "requester"}
    login = Access("earthdata")
    assert set(login.gdal_options()) == {"GDAL_HTTP_NETRC", "GDAL_HTTP_COOKIEFILE", "GDAL_HTTP_COOKIEJAR"}
    assert login.gdal_options() == login.gdal_options()
    assert ".netrc" in login.hint and "AWS_ACCESS_KEY_ID" in Access("requester-pays").hint
    with pytest.raises(CatalogError, match="auth of an endpoint is unknown"):
        Access("password")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.org/b.tif?sig=s%2Bx&se=1", "https://a.org/b.tif"),
        ("cannot open 'https://me:pw@a.org/b.tif?sig=1' (404)", "cannot open 'https://a.org/b.tif' (404)"),
        ("/vsicurl/https://a.org/b.tif?sig=1 failed", "/vsicurl/https://a.org/b.tif failed"),
        ("/local/file.tif", "/local/file.tif"),
    ],
)
def test_secrets_are_stripped(text, shown):
    assert public(text) == shown
