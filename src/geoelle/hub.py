"""Fetch the published weights of a model into the user's Hugging Face cache, and check what arrived.

huggingface_hub does the transfer: it resumes, uses the token of `hf auth login` or HF_TOKEN, and obeys HF_ENDPOINT and
HF_HUB_CACHE. Nothing is downloaded anywhere else in geoelle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from geoelle.errors import CapabilityError, WeightsError
from geoelle.models import Card, model_card, module_of
from geoelle.models.weights import Remote, cache_folder, cached_file, digest

__all__ = ["Pulled", "is_installed", "pull", "torchgeo_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """One file that is now on this machine; `checked` says whether its sha256 was known beforehand and agrees."""

    file: str
    path: Path
    commit: str
    sha256: str
    bytes: int
    checked: bool


def is_installed(card: Card) -> bool:
    """Whether a model can be loaded now: its weights ship with geoelle, or lie in the cache."""
    return card.embedded or all(cached_file(f) is not None for f in card.files if not f.optional)


def torchgeo_file(name: str) -> Remote:
    """Return the file that torchgeo's Weights enum names for this model.

    Raises: CapabilityError (torchgeo has none, or is not installed).
    """
    table = getattr(module_of(name), "TORCHGEO", {})
    if name not in table:
        raise CapabilityError(f"torchgeo publishes no weights for {name}; pull it without --torchgeo")
    try:
        from torchgeo import models as zoo
    except ImportError as cause:
        raise CapabilityError("torchgeo is not installed; run: pip install 'geoelle[torchgeo]'") from cause
    enum, member = table[name]
    # https://hf.co/OWNER/NAME/resolve/COMMIT/FILE-SHA256PREFIX.pth
    owner, repo, _, commit, file = urlsplit(getattr(zoo, enum)[member].url).path.strip("/").split("/", 4)
    return Remote(repo=f"{owner}/{repo}", file=file, revision=commit, sha256=Path(file).stem.rsplit("-", 1)[-1])


def pull(name: str, *, torchgeo: bool = False) -> list[Pulled]:
    """Download every file of a model that is not there yet; what is there is checked all the same.

    A file whose sha256 is not the published one is deleted. Where a card pins no commit, the one found at the first
    pull stays: a later change on the hub does not change a model under its maps.

    Raises: UnknownModel, CapabilityError, WeightsError (gated, absent, no network, no room, damaged).
    """
    files = [torchgeo_file(name)] if torchgeo else list(model_card(name).files)
    return [_fetch(remote) for remote in files]


def _fetch(remote: Remote) -> Pulled:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    label = f"{remote.repo}/{remote.file}"
    here = cached_file(remote)
    revision = _commit(here) if here else remote.revision
    try:
        path = Path(hf_hub_download(remote.repo, remote.file, revision=revision, cache_dir=cache_folder()))
    except GatedRepoError as cause:
        raise WeightsError(
            f"{label} is gated: accept its licence at https://huggingface.co/{remote.repo}, then run: hf auth login"
        ) from cause
    except HfHubHTTPError as cause:
        status = cause.response.status_code if cause.response is not None else "no answer"
        raise WeightsError(f"{label} at {remote.revision} could not be fetched ({status}); try again later") from cause
    except (LocalEntryNotFoundError, HTTPError, ConnectionError) as cause:
        raise WeightsError(f"{label} could not be fetched (no connection to the hub); pull again to resume") from cause
    except OSError as cause:
        raise WeightsError(f"{label} could not be stored ({cause.strerror or cause}); pull again to resume") from cause
    found = digest([path])
    if not found.startswith(remote.sha256):
        for doomed in (path.resolve(), path):
            doomed.unlink(missing_ok=True)
        raise WeightsError(
            f"{label} has sha256 {found[:16]}..., not the published {remote.sha256[:16]}...; it was deleted: pull again"
        )
    size = path.stat().st_size
    return Pulled(
        file=label, path=path, commit=_commit(path), sha256=found, bytes=size, checked=bool(remote.sha256)
    )


def _commit(path: Path) -> str:
    """Return the commit a cached file is of: the folder below `snapshots` on its path."""
    return path.parts[path.parts.index("snapshots") + 1]
