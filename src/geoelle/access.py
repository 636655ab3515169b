"""Open what an endpoint guards: signed addresses, GDAL options, and what to tell whoever is refused.

Planetary Computer hands out tokens for a storage container that expire while a long run reads. An address is
therefore signed just before it is opened, tokens are kept until shortly before they expire, and a refusal
throws the token away. Nothing here stores a secret: what carries one is stripped before it is shown.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.util.retry import Retry

from geoelle.errors import CatalogError

__all__ = ["AUTHS", "OPEN", "TIMEOUT_S", "Access", "PatientRetry", "public", "retry", "session"]

AUTHS = ("ambient", "none", "requester-pays", "signed", "earthdata")
RETRIES = 5
MOST_RETRY_AFTER_S = 60.0  # a server may ask for hours; a run would look dead
TIMEOUT_S = (10.0, 60.0)  # to connect, between two bytes
_EARLY = timedelta(minutes=5)  # a token is renewed this long before it expires
_SECRETS = re.compile(r"(?<=://)[^/\s@]*@|\?[^\s'\")\]]*")
_HINTS = {
    "ambient": "check that the address can be read from here",
    "none": "the endpoint should be open to everyone; try again later or another endpoint",
    "requester-pays": "set AWS credentials (AWS_ACCESS_KEY_ID and its secret); the reader pays the traffic",
    "signed": "the token was refused though it was renewed; try again later",
    "earthdata": "GDAL takes the login from ~/.netrc; add your Earthdata account for urs.earthdata.nasa.gov",
}


def public(text: str) -> str:
    """Return a text without what may be secret in its addresses: the query and the user."""
    return _SECRETS.sub("", text)


class PatientRetry(Retry):
    """Retry with backoff and jitter, and wait as long as the server asks, within reason."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Return the seconds the server asks for, at most a minute."""
        asked = super().get_retry_after(response)
        return None if asked is None else min(asked, MOST_RETRY_AFTER_S)


def retry() -> PatientRetry:
    """Return what a catalogue or token request retries: broken connections, 429 and the passing 5xx."""
    return PatientRetry(
        total=RETRIES,
        backoff_factor=0.5,
        backoff_jitter=0.25,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,
        raise_on_status=False,
    )


def session() -> requests.Session:
    """Return a session that retries."""
    web = requests.Session()
    for scheme in ("http://", "https://"):
        web.mount(scheme, HTTPAdapter(max_retries=retry()))
    return web


class Access:
    """Open the files of one endpoint by its `auth`; safe to share between threads, and to send to a worker.

    `token_url` gives the token of a container at ACCOUNT/CONTAINER; `hosts` are the endings of host names
    whose addresses are signed.

    Raises:
        CatalogError: no such auth.
    """

    def __init__(self, auth: str, *, token_url: str = "", hosts: tuple[str, ...] = ()) -> None:
        if auth not in AUTHS:
            raise CatalogError(f"auth of an endpoint is unknown ({auth!r}); use one of {', '.join(AUTHS)}")
        self.auth, self.token_url, self.hosts = auth, token_url, tuple(hosts)
        self._tokens: dict[str, tuple[str, datetime]] = {}
        self._cookies: Path | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        # Tokens and locks stay here: a worker asks for its own.
        return _rebuild, (self.auth, self.token_url, self.hosts)

    @property
    def hint(self) -> str:
        """Return what to do when a file is refused."""
        return _HINTS[self.auth]

    def sign(self, href: str) -> str:
        """Return the address as it must be opened now; most are returned as they are.

        Raises:
            CatalogError: the token endpoint refused or cannot be reached.
        """
        container = self._container(href)
        if container is None:
            return href
        with self._lock:
            token, expiry = self._tokens.get(container, ("", datetime.min.replace(tzinfo=UTC)))
            if datetime.now(UTC) + _EARLY >= expiry:
                token, expiry = self._fetch(container)
                self._tokens[container] = token, expiry
        return f"{href}?{token}"

    def forget(self, href: str) -> None:
        """Throw away the token of an address that was refused; the next signing asks for a new one."""
        with self._lock:
            self._tokens.pop(self._container(href) or "", None)

    def gdal_options(self) -> dict[str, str]:
        """Return the GDAL options this auth needs, on top of those every read has."""
        if self.auth == "none":
            return {"AWS_NO_SIGN_REQUEST": "YES"}
        if self.auth == "requester-pays":
            return {"AWS_REQUEST_PAYER": "requester"}
        if self.auth == "earthdata":
            jar = str(self._cookie_directory() / "cookies")
            return {"GDAL_HTTP_NETRC": "YES", "GDAL_HTTP_COOKIEFILE": jar, "GDAL_HTTP_COOKIEJAR": jar}
        return {}

    def _container(self, href: str) -> str | None:
        """Return ACCOUNT/CONTAINER of an address that has to be signed, or None."""
        parts = urlsplit(href)
        host = parts.hostname or ""
        signed = self.auth == "signed" and parts.scheme in ("http", "https") and not parts.query
        if not signed or not any(host.endswith(ending) for ending in self.hosts):
            return None
        return f"{host.split('.')[0]}/{parts.path.strip('/').split('/')[0]}"

    def _fetch(self, container: str) -> tuple[str, datetime]:
        url = f"{self.token_url}/{container}"
        try:
            with session() as web:
                answer = web.get(url, timeout=TIMEOUT_S)
            answer.raise_for_status()
            content = answer.json()
            expiry = datetime.fromisoformat(str(content["msft:expiry"]).replace("Z", "+00:00"))
            return str(content["token"]), expiry if expiry.tzinfo else expiry.replace(tzinfo=UTC)
        except (requests.RequestException, KeyError, TypeError, ValueError) as cause:
            raise CatalogError(
                f"no token for {container} from {public(url)} ({public(str(cause))}); try again later"
            ) from cause

    def _cookie_directory(self) -> Path:
        # Earthdata keeps its login in cookies: a directory only this user can read, gone when Python ends.
        with self._lock:
            if self._cookies is None:
                self._cookies = Path(tempfile.mkdtemp(prefix="geoelle-"))
                atexit.register(shutil.rmtree, self._cookies, ignore_errors=True)
            return self._cookies


def _rebuild(auth: str, token_url: str, hosts: tuple[str, ...]) -> Access:
    return Access(auth, token_url=token_url, hosts=hosts)


OPEN = Access("ambient")
