"""Sensors and endpoints as JSON, and the search: the items that show an area in its dates, each once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pystac
import shapely

from geoelle.access import OPEN, Access
from geoelle.area import Area
from geoelle.chips import Band, Sensor
from geoelle.errors import CatalogError, NoItems
from geoelle.looks import LOOKS
from geoelle.scene import baseline, cloud, footprint, interval, tile
from geoelle.stac import Source, open_source

__all__ = [
    "CLOUD_MAX",
    "LIMIT",
    "LOOKS",
    "Endpoint",
    "Found",
    "catalogs_path",
    "endpoints",
    "load_endpoint",
    "load_sensor",
    "search",
    "sensors",
]

CLOUD_MAX = 40.0  # percent of a scene; the per-pixel mask does the rest
LIMIT = 2000  # items; more are a mistake in the dates more often than a wish
DEMO = "demo"
_SAME_PASS_S = 300.0  # items of one tile and satellite this close in time show one acquisition
_SAME_GROUND = 0.95  # share of the smaller footprint that two versions of one product have in common
_MADE = ("s2:generation_time", "created", "updated")
_SENSOR_PLAIN = (
    *("name", "title", "gsd_m", "level", "unit", "scale", "offset", "offset_rule"),
    *("nodata", "endpoint", "note", "to_db"),
)
_ENDPOINT_PLAIN = ("name", "title", "url", "auth", "token_url", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Describe a public STAC API; pure data.

    `auth` says how its files are opened (see `geoelle.access`), `auths` where a sensor's differ;
    `collections` has the collection ids of each sensor it offers. `token_url` and `signed_hosts` serve auth
    "signed".
    """

    name: str
    title: str
    url: str
    auth: str
    token_url: str
    signed_hosts: tuple[str, ...]
    note: str
    collections: Mapping[str, tuple[str, ...]]
    auths: Mapping[str, str]

    def access(self, sensor: str) -> Access:
        """Return how the files of a sensor are opened here."""
        auth = self.auths.get(sensor, self.auth)
        return Access(auth, token_url=self.token_url, hosts=self.signed_hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Hold the answer of a search: items sorted by time and id, their sensor, and how to open their files.

    `endpoint` is the endpoint's name, or the address of any other catalogue without its secrets.
    `dropped_cloudy` counts the items over the cloud limit, `dropped_versions` those a newer version replaced.
    """

    items: tuple[pystac.Item, ...]
    sensor: Sensor
    endpoint: str
    dropped_cloudy: int = 0
    dropped_versions: int = 0
    access: Access = field(default=OPEN, repr=False)

    def __len__(self) -> int:
        return len(self.items)


def catalogs_path() -> Path:
    """Return the directory of sensors, endpoints and the demo: in the wheel, else in the repository.

    Raises:
        CatalogError: neither is there.
    """
    package = Path(__file__).resolve().parent
    for path in (package / "_catalogs", package.parents[1] / "catalogs"):
        if path.is_dir():
            return path
    raise CatalogError(f"catalogs are missing beside {package.name} (incomplete install); install it again")


def sensors() -> tuple[str, ...]:
    """List the names of the sensors."""
    return tuple(sorted(path.stem for path in (catalogs_path() / "sensors").glob("*.json")))


def endpoints() -> tuple[str, ...]:
    """List the names of the endpoints."""
    return tuple(sorted(path.stem for path in (catalogs_path() / "endpoints").glob("*.json")))


def load_sensor(name: str | Path) -> Sensor:
    """Load a sensor by its name, or from a JSON file of your own.

    Raises:
        CatalogError: no such sensor, or a file that does not describe one.
    """
    document, path = _document("sensor", name, sensors())
    try:
        mask, bands = document["mask"], document["bands"]
        assets = [(band["name"], tuple(band["keys"])) for band in bands]
        return Sensor(
            bands=tuple(Band(**{k: v for k, v in band.items() if k != "keys"}) for band in bands),
            assets=(*assets, *([(mask["asset"], tuple(mask["keys"]))] if mask else ())),
            mask_asset=mask["asset"] if mask else None,
            mask_classes=tuple(mask["classes"]) if mask else (),
            mask_bits=tuple(mask["bits"]) if mask else (),
            collections=tuple(document["collections"]),
            **{key: document[key] for key in _SENSOR_PLAIN},
        )
    except (AttributeError, KeyError, TypeError) as cause:
        raise CatalogError(
            f"{path.name} describes no sensor ({cause!r}); start from one of catalogs/sensors"
        ) from cause


def load_endpoint(name: str | Path) -> Endpoint:
    """Load an endpoint by its name, or from a JSON file of your own.

    Raises:
        CatalogError: no such endpoint, or a file that does not describe one.
    """
    document, path = _document("endpoint", name, endpoints())
    try:
        offered = document["sensors"]
        return Endpoint(
            collections={key: tuple(value["collections"]) for key, value in offered.items()},
            auths={key: value["auth"] for key, value in offered.items() if "auth" in value},
            signed_hosts=tuple(document["signed_hosts"]),
            **{key: document[key] for key in _ENDPOINT_PLAIN},
        )
    except (AttributeError, KeyError, TypeError) as cause:
        raise CatalogError(
            f"{path.name} describes no endpoint ({cause!r}); start from one of catalogs/endpoints"
        ) from cause


def search(
    area: Area,
    *,
    catalog: str | Path | None = None,
    sensor: str | Sensor | None = None,
    cloud_max: float | None = CLOUD_MAX,
    limit: int = LIMIT,
) -> Found:
    """Find the items that show an area in its dates.

    `catalog` is an endpoint's name, "demo", the address of a STAC API or of a static catalogue, a local
    catalog.json or its directory, an ItemCollection (.json, .geojson) or stac-geoparquet (.parquet);
    without one, the endpoint the sensor names. Without a `sensor`, the only one the catalogue has. Items
    over `cloud_max` percent of cloud are dropped (None keeps all), those that state no cloud cover are kept.
    Of several versions of one acquisition the newest processing baseline stays.

    Raises:
        CatalogError: the catalogue cannot be read, has several sensors or not the one asked for, or more
            than `limit` items match.
        NoItems: nothing matches; the text says what to relax.
    """
    chosen = load_sensor(sensor) if isinstance(sensor, str) else sensor
    endpoint = _endpoint(catalog, chosen)
    source = open_source(endpoint.url if endpoint else _place(catalog))
    if chosen is None:
        chosen = load_sensor(_only_sensor(source, endpoint, area))
    collections = _collections(source, endpoint, chosen)
    items = source.items(area, collections, limit)
    if len(items) > limit:
        raise CatalogError(
            f"search matches more than {limit} items of {chosen.name} in {source.where} for {area.dates}; "
            "shorten the dates, shrink the area or raise the limit"
        )
    clear = [item for item in items if cloud_max is None or (cloud(item) or 0.0) <= cloud_max]
    kept = _newest(clear, chosen)
    if not kept:
        raise NoItems(_nothing(source, collections, area, items, cloud_max))
    return Found(
        items=tuple(sorted(kept, key=lambda item: (interval(item)[0], item.id))),
        sensor=chosen,
        endpoint=endpoint.name if endpoint else DEMO if str(catalog) == DEMO else source.where,
        dropped_cloudy=len(items) - len(clear),
        dropped_versions=len(clear) - len(kept),
        access=endpoint.access(chosen.name) if endpoint else _access(kept, chosen),
    )


def _document(kind: str, name: str | Path, known: tuple[str, ...]) -> tuple[Mapping, Path]:
    path = catalogs_path() / f"{kind}s" / f"{name}.json" if str(name) in known else Path(name)
    if not path.is_file():
        raise CatalogError(f"no {kind} of that name ({str(name)!r}); there are {', '.join(known)}")
    try:
        return json.loads(path.read_text("utf-8")), path
    except (OSError, ValueError) as cause:
        raise CatalogError(f"{kind} {path.name} cannot be read ({cause}); give JSON") from cause


def _endpoint(catalog: str | Path | None, sensor: Sensor | None) -> Endpoint | None:
    """Return the named endpoint a catalogue is, by its name or its address, if it is one."""
    if catalog is None and sensor is None:
        raise CatalogError(
            "a search needs a catalogue or a sensor (neither was given); there are the endpoints "
            f"{', '.join(endpoints())} and the sensors {', '.join(sensors())}"
        )
    name = sensor.endpoint if catalog is None else str(catalog)
    known = (load_endpoint(known) for known in endpoints())
    return next((e for e in known if name.rstrip("/") in (e.name, e.url.rstrip("/"))), None)


def _place(catalog: str | Path) -> str | Path:
    return catalogs_path() / DEMO / "catalog.json" if str(catalog) == DEMO else catalog


def _only_sensor(source: Source, endpoint: Endpoint | None, area: Area) -> str:
    """Return the name of the one sensor a catalogue has, or of the only one with items in the area."""
    ids = [] if endpoint else [holding.collection for holding in source.holdings()]
    held = [name for name in sensors() if set(ids) & set(load_sensor(name).collections)]
    held = list(endpoint.collections) if endpoint else held
    if len(held) == 1:
        return held[0]
    if held and not endpoint:
        here = [name for name in held if source.items(area, load_sensor(name).collections, 1)]
        if not here:
            raise NoItems(
                f"no item of {source.where}, of any sensor ({', '.join(held)}), shows {area.bbox} in {area.dates}; "
                "widen the dates or move the area, longitude first"
            )
        if len(here) == 1:
            return here[0]
    if held:
        raise CatalogError(
            f"{source.where} has several sensors ({', '.join(held)}); name one of them with --sensor"
        )
    raise CatalogError(
        f"no collection of {source.where} belongs to a known sensor ({_names(ids)}); name a sensor, one of "
        f"{', '.join(sensors())}"
    )


def _collections(source: Source, endpoint: Endpoint | None, sensor: Sensor) -> tuple[str, ...]:
    """Return the collection ids to search; a catalogue's only collection will do if no sensor knows it."""
    if endpoint is not None:
        if not (ids := endpoint.collections.get(sensor.name, ())):
            offered = ", ".join(endpoint.collections)
            raise CatalogError(f"endpoint {endpoint.name} has no {sensor.name}; it offers {offered}")
        return ids
    held = [holding.collection for holding in source.holdings()]
    if ids := tuple(name for name in sensor.collections if name in held):
        return ids
    if len(held) <= 1 and not any(set(held) & set(load_sensor(name).collections) for name in sensors()):
        return tuple(held)
    raise CatalogError(
        f"{source.where} has no collection of {sensor.name} ({', '.join(sensor.collections)}) but "
        f"{_names(held)}; name another sensor"
    )


def _names(ids: Iterable[str], most: int = 20) -> str:
    names = sorted(name or "items without a collection" for name in ids)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def _access(items: Iterable[pystac.Item], sensor: Sensor) -> Access:
    """Return how to open saved items: as their endpoint does, where their files lie on hosts it signs for."""
    hosts = {urlsplit(asset.href).hostname or "" for item in items for asset in item.assets.values()}
    for known in map(load_endpoint, endpoints()):
        if any(host.endswith(ending) for host in hosts for ending in known.signed_hosts):
            return known.access(sensor.name)
    return OPEN


def _nothing(
    source: Source,
    collections: tuple[str, ...],
    area: Area,
    items: list[pystac.Item],
    cloud_max: float | None,
) -> str:
    ids = ", ".join(collections) or "any collection"
    what = f"no item of {ids} in {source.where} shows {area.bbox} in {area.dates}"
    if items:
        least = min(cloud(item) or 0.0 for item in items)
        return (
            f"{what} with at most {cloud_max:g}% cloud ({len(items)} were dropped, the clearest has "
            f"{least:.0f}%); raise the cloud limit or widen the dates"
        )
    extents = [h.extent for h in source.holdings() if h.collection in collections and h.extent]
    held = f" (there it spans {'; '.join(extents)})" if extents else ""
    return f"{what}{held}; widen the dates or move the area"


def _newest(items: list[pystac.Item], sensor: Sensor) -> list[pystac.Item]:
    """Keep one version of each acquisition; parts of one tile that show different ground all stay."""
    kept: list[pystac.Item] = []
    for item in sorted(items, key=lambda item: _version(item, sensor), reverse=True):
        if not any(_replaces(newer, item) for newer in kept):
            kept.append(item)
    return kept


def _version(item: pystac.Item, sensor: Sensor) -> tuple:
    """Rank versions: by baseline, then the sensor's preferred collection, then the youngest."""
    ids = sensor.collections
    place = ids.index(item.collection_id) if item.collection_id in ids else len(ids)
    return baseline(item) or (0, 0), -place, *(str(item.properties.get(k, "")) for k in _MADE), item.id


def _replaces(newer: pystac.Item, item: pystac.Item) -> bool:
    if (newer.collection_id, newer.id) == (item.collection_id, item.id):
        return True
    one, other = ((tile(i), str(i.properties.get("platform", "")).lower()) for i in (newer, item))
    apart_s = abs((interval(newer)[0] - interval(item)[0]).total_seconds())
    if not one[0] or one != other or apart_s > _SAME_PASS_S:
        return False
    seen, ground = footprint(newer), footprint(item)
    return shapely.intersection(seen, ground).area >= _SAME_GROUND * min(seen.area, ground.area)
