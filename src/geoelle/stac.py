"""Take items out of any catalogue: a STAC API, a static catalogue, an ItemCollection or stac-geoparquet.

Every kind answers the same two questions: which collections there are, and which items overlap an area in its
dates. Items come back plain: asset addresses are absolute and links to parents are gone, so that writing them
down touches no network. The filter is ours in every case, whatever the server did.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pystac
import pystac_client
import requests
import shapely
from pystac.stac_io import DefaultStacIO
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from geoelle.access import TIMEOUT_S, public, retry, session
from geoelle.area import Area
from geoelle.errors import CatalogError
from geoelle.geoparquet import NEEDED, feature, near
from geoelle.scene import footprint, interval

__all__ = ["Holding", "Source", "open_source"]

_PAGE = 100
_ROWS = 4096
_BROKEN = (AttributeError, KeyError, TypeError, ValueError, pystac.STACError, pystac.STACTypeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Name one collection of a catalogue and, in words, where and when it has items ("" where unknown)."""

    collection: str
    extent: str


class Source(Protocol):
    """What a catalogue must answer."""

    where: str

    def holdings(self) -> tuple[Holding, ...]:
        """List the collections."""

    def items(self, area: Area, collections: Iterable[str], limit: int) -> list[pystac.Item]:
        """List the items of these collections that overlap the area and its dates, at most `limit` + 1."""


def open_source(where: str | Path) -> Source:
    """Open a catalogue by its address or path; what it is shows in its content.

    Raises:
        CatalogError: it cannot be reached or read, or is no catalogue.
    """
    text = str(where)
    remote = _remote(text)
    path = Path(text)
    if not remote and path.is_dir():
        path = next((path / n for n in ("catalog.json", "collection.json") if (path / n).is_file()), path)
    if not remote and not path.is_file():
        raise CatalogError(
            f"catalogue does not exist ({text}); give an endpoint, demo, an http(s) address or a file"
        )
    if text.split("?")[0].endswith(".parquet"):
        with _saying(f"{public(text)} cannot be fetched"):
            return _Table(io.BytesIO(_get(text)) if remote else path, text if remote else str(path.resolve()))
    place = text if remote else str(path.resolve())
    with _saying(f"catalogue {public(text)} cannot be read"):
        document = json.loads(_Files().read_text(place))
        kind = document.get("type")
        links = document.get("links", [])
    if kind in ("FeatureCollection", "Feature"):
        return _Listed(public(text), _collection_items(document, place))
    if "conformsTo" in document or any(link.get("rel") == "search" for link in links):
        return _Api(text)
    if kind in ("Catalog", "Collection"):
        return _Static(place, public(text))
    raise CatalogError(
        f"{public(text)} is no STAC catalogue (type {kind!r}); give its catalog.json or API root"
    )


class _Api:
    """A STAC API, through pystac-client."""

    def __init__(self, url: str) -> None:
        self.where = public(url)
        with _saying(f"STAC API {self.where} cannot be opened"):
            self._client = pystac_client.Client.open(
                url, stac_io=StacApiIO(max_retries=retry(), timeout=TIMEOUT_S)
            )

    def holdings(self) -> tuple[Holding, ...]:
        with _saying(f"collections of {self.where} cannot be listed"):
            return tuple(_holding(collection) for collection in self._client.get_collections())

    def items(self, area: Area, collections: Iterable[str], limit: int) -> list[pystac.Item]:
        with _saying(f"search failed for {self.where}"):
            answer = self._client.search(
                collections=list(collections),
                bbox=list(area.bbox),
                datetime=area.dates,
                limit=min(_PAGE, limit + 1),
                max_items=limit + 1,
            )
            found = list(answer.items())
        # Servers differ in the polygons they take: the bbox is sent and the rest tested here. An answer that
        # was cut at the limit stays too long, or the cut would not show.
        return [_plain(item) for item in found if len(found) > limit or _overlaps(item, area)]


class _Static:
    """A catalogue of linked JSON files, walked."""

    def __init__(self, place: str, where: str) -> None:
        self.where = where
        with _saying(f"catalogue {where} cannot be read"):
            self._root = pystac.read_file(place, stac_io=_Files())

    def holdings(self) -> tuple[Holding, ...]:
        with _saying(f"catalogue {self.where} cannot be walked"):
            nodes = list(_walk(self._root, None))
            named = [_holding(node) for node in nodes if isinstance(node, pystac.Collection)]
            loose = [
                item
                for node in nodes
                if not isinstance(node, pystac.Collection)
                for item in node.get_items(recursive=False)
            ]
        return tuple({h.collection: h for h in (*_held(loose), *named)}.values())

    def items(self, area: Area, collections: Iterable[str], limit: int) -> list[pystac.Item]:
        wanted, found = frozenset(collections), []
        with _saying(f"catalogue {self.where} cannot be walked"):
            for node in _walk(self._root, area):
                for item in node.get_items(recursive=False):
                    if item.collection_id is None and isinstance(node, pystac.Collection):
                        item.collection_id = node.id
                    if (item.collection_id is None or item.collection_id in wanted) and _overlaps(item, area):
                        found.append(_plain(item))
                    if len(found) > limit:
                        return found
        return found


class _Listed:
    """Items that are all at hand: an ItemCollection or a table."""

    def __init__(self, where: str, items: list[pystac.Item]) -> None:
        self.where, self._items = where, items

    def holdings(self) -> tuple[Holding, ...]:
        return _held(self._items)

    def items(self, area: Area, collections: Iterable[str], limit: int) -> list[pystac.Item]:
        wanted = frozenset(collections)
        held = (item for item in self._items if item.collection_id is None or item.collection_id in wanted)
        return [_plain(item) for item in held if _overlaps(item, area)][: limit + 1]


class _Table:
    """A stac-geoparquet file; only rows that may matter become items."""

    def __init__(self, file: Path | io.BytesIO, place: str) -> None:
        import pyarrow.parquet

        self.where, self._place = public(place), place
        with _saying(f"{self.where} cannot be read as stac-geoparquet"):
            self._file = pyarrow.parquet.ParquetFile(file)
            if lacking := NEEDED - set(self._file.schema_arrow.names):
                raise ValueError(f"no column {', '.join(sorted(lacking))}")

    def holdings(self) -> tuple[Holding, ...]:
        with _saying(f"{self.where} cannot be read as stac-geoparquet"):
            held = "collection" in self._file.schema_arrow.names
            names = self._file.read(["collection"])["collection"].unique().to_pylist() if held else [None]
        return tuple(Holding(collection=name or "", extent="") for name in sorted(names, key=str))

    def items(self, area: Area, collections: Iterable[str], limit: int) -> list[pystac.Item]:
        wanted, found = frozenset(collections), []
        with _saying(f"items of {self.where} cannot be read"):
            for batch in self._file.iter_batches(_ROWS):
                rows = batch.filter(near(batch, area.bbox, area.start, area.end)).to_pylist()
                items = (_item(feature(row), self._place) for row in rows)
                held = (item for item in items if item.collection_id is None or item.collection_id in wanted)
                found.extend(_plain(item) for item in held if _overlaps(item, area))
                if len(found) > limit:
                    break
        return found[: limit + 1]


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """Turn what libraries raise into a CatalogError that says what failed; mute pystac's migration talk."""
    try:
        with warnings.catch_warnings(), pystac_client.warnings.ignore():
            warnings.filterwarnings("ignore", "Could not parse bucket/account", UserWarning)
            yield
    except CatalogError:
        raise
    except (APIError, requests.RequestException) as cause:
        status = getattr(cause, "status_code", None)
        said = f"HTTP {status}: {cause}" if status else str(cause)
        raise CatalogError(f"{what} ({public(said)[:500]}); check the address or try again later") from cause
    except (OSError, *_BROKEN) as cause:
        said = f"{type(cause).__name__}: {cause}"
        raise CatalogError(f"{what} ({public(said)[:500]}); correct the catalogue or name another") from cause


class _Files(DefaultStacIO):
    """Read JSON from disk, or over HTTP with patience."""

    def read_text_from_href(self, href: str, *_args: object, **_kwargs: object) -> str:
        return _get(href).decode() if _remote(href) else Path(href).read_text("utf-8")


def _remote(place: str | Path) -> bool:
    return str(place).startswith(("http://", "https://"))


def _get(url: str) -> bytes:
    with session() as web:
        answer = web.get(url, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return answer.content


def _walk(root: pystac.STACObject, area: Area | None) -> Iterator[pystac.Catalog]:
    """Give every catalogue below the root once, without those whose stated extent cannot meet the area."""
    if not isinstance(root, pystac.Catalog):
        raise ValueError(f"{type(root).__name__} is not a catalogue")
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop(0)
        if (name := node.get_self_href() or id(node)) in seen:
            continue
        seen.add(name)
        if area is None or not isinstance(node, pystac.Collection) or _may_hold(node, area):
            yield node
            waiting.extend(node.get_children())


def _may_hold(collection: pystac.Collection, area: Area) -> bool:
    boxes = [box if len(box) == 4 else (*box[:2], *box[3:5]) for box in collection.extent.spatial.bboxes]
    # With its west beyond its east, a box crosses the antimeridian: its items will tell.
    here = not boxes or any(b[0] > b[2] or shapely.box(*b).intersects(area.geometry) for b in boxes)
    spans = collection.extent.temporal.intervals
    soon = not spans or any(
        (start is None or _utc(start) <= area.end) and (end is None or _utc(end) >= area.start)
        for start, end in spans
    )
    return here and soon


def _overlaps(item: pystac.Item, area: Area) -> bool:
    first, last = interval(item)
    return first <= area.end and last >= area.start and shapely.intersects(footprint(item), area.geometry)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _plain(item: pystac.Item) -> pystac.Item:
    """Return the item with absolute asset addresses and without links that would be followed when written."""
    if item.get_self_href() is not None:
        item.make_asset_hrefs_absolute()
    item.links = [link for link in item.links if link.rel not in ("root", "parent", "collection")]
    return item


def _holding(collection: pystac.Collection) -> Holding:
    boxes, spans = collection.extent.spatial.bboxes, collection.extent.temporal.intervals
    box = ",".join(f"{v:g}" for v in boxes[0]) if boxes else "no bbox"
    start, end = (f"{side:%Y-%m-%d}" if side else ".." for side in spans[0]) if spans else ("..", "..")
    return Holding(collection=collection.id, extent=f"bbox {box}, {start}/{end}")


def _held(items: Iterable[pystac.Item]) -> tuple[Holding, ...]:
    """Describe the collections a list of items names."""
    groups: dict[str, list[pystac.Item]] = {}
    for item in items:
        groups.setdefault(item.collection_id or "", []).append(item)
    held = []
    for name, members in sorted(groups.items()):
        west, south, east, north = shapely.total_bounds([footprint(item) for item in members])
        start, end = min(interval(i)[0] for i in members), max(interval(i)[1] for i in members)
        extent = f"bbox {west:g},{south:g},{east:g},{north:g}, {start:%Y-%m-%d}/{end:%Y-%m-%d}"
        held.append(Holding(collection=name, extent=extent))
    return tuple(held)


def _collection_items(document: Mapping, place: str) -> list[pystac.Item]:
    features = [document] if document["type"] == "Feature" else document.get("features", [])
    with _saying(f"items of {public(place)} cannot be read"):
        return [_item(feature, place) for feature in features]


def _item(feature: Mapping, place: str) -> pystac.Item:
    item = pystac.Item.from_dict(dict(feature))
    if item.get_self_href() is None:
        item.set_self_href(place)  # relative addresses are relative to the file the item lies in
    return item
