"""Compare how two dates were seen: what differs between their items, and whether a change can be read across it.

Thresholds are stated here and nowhere else. A difference that the reader undoes, or that adds noise which the history
has too, is a warning; one that would itself be a change of the whole map is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pystac

from geoelle.errors import InputMismatch
from geoelle.scene import baseline, level, relative_orbit

__all__ = ["SUN_REFUSE_DEG", "SUN_WARN_DEG", "VIEW_WARN_DEG", "Check", "compare_items", "refuse"]

SUN_WARN_DEG = 10.0
SUN_REFUSE_DEG = 30.0
"""Between sun elevations of 60 and 30 degrees shadows grow threefold."""
VIEW_WARN_DEG = 5.0

Verdict = Literal["same", "not recorded", "warn", "refuse"]
Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One condition on both sides, as text, with what follows from it and why."""

    what: str
    before: str
    after: str
    verdict: Verdict
    reason: str = ""

    def sentence(self) -> str:
        """Say the difference in one line."""
        return (
            f"{self.what}: {self.before or 'not recorded'} before, {self.after or 'not recorded'} after; {self.reason}"
        )

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def compare_items(before: Sequence[Item], after: Sequence[Item]) -> tuple[Check, ...]:
    """Compare two lists of STAC items, as GeoJSON features, condition by condition.

    Radar is seen from one side: another orbit of it is refused.
    """
    radar = any(str(item.get("collection", "")).startswith("sentinel-1") for item in (*before, *after))
    side = "refuse" if radar else "warn"
    named: tuple[tuple[str, Callable[[Item], str], Verdict, str], ...] = (
        ("level", _level, "refuse", "two levels are two measurements"),
        ("processing baseline", _baseline, "warn", "offsets are undone, other steps of the processing are not"),
        ("satellite", _first("platform"), "warn", "units differ by a few percent"),
        ("relative orbit", _orbit, side, "the ground is seen from another side"),
        ("orbit direction", _first("sat:orbit_state"), side, "the ground is seen from another side"),
        ("grid", _first("proj:code", "proj:epsg"), "warn", "pixels were resampled in another way"),
    )
    checks = [_words(what, _values(before, of), _values(after, of), worst, why) for what, of, worst, why in named]
    sun = ("sun elevation", _sun, SUN_WARN_DEG, SUN_REFUSE_DEG)
    view = ("view angle", _number("view:off_nadir"), VIEW_WARN_DEG, float("inf"))
    return (*checks, *(_degrees(what, before, after, of, limits) for what, of, *limits in (sun, view)))


def refuse(checks: Sequence[Check], *, pair: str) -> None:
    """Raise `InputMismatch` where one of the checks of a pair says so."""
    for check in checks:
        if check.verdict == "refuse":
            raise InputMismatch(f"no change can be read between {pair} ({check.sentence()}); choose dates that agree")


def _words(what: str, before: set[str], after: set[str], worst: Verdict, reason: str) -> Check:
    """Compare texts; where a side has none nothing is known to differ."""
    verdict: Verdict = "not recorded" if not (before and after) else "same" if before == after else worst
    texts = (", ".join(sorted(side)) for side in (before, after))
    return Check(what=what, **dict(zip(("before", "after"), texts, strict=True)), verdict=verdict,
                 reason=reason if verdict == worst else "")  # fmt: skip


def _degrees(
    what: str, before: Sequence[Item], after: Sequence[Item], of: Callable[[Item], float | None], limits: list[float]
) -> Check:
    means = []
    for side in (before, after):
        found = [value for item in side if (value := of(item)) is not None]
        means.append(sum(found) / len(found) if found else None)
    told = ["" if mean is None else f"{mean:.1f}°" for mean in means]
    if None in means:
        return Check(what=what, before=told[0], after=told[1], verdict="not recorded")
    apart, (warn, most) = abs(means[0] - means[1]), limits
    verdict: Verdict = "refuse" if apart > most else "warn" if apart > warn else "same"
    limit = most if verdict == "refuse" else warn
    reason = "" if verdict == "same" else f"{apart:.1f}° apart, more than {limit:g}°"
    return Check(what=what, before=told[0], after=told[1], verdict=verdict, reason=reason)


def _values(items: Sequence[Item], of: Callable[[Item], str]) -> set[str]:
    return {text for item in items if (text := of(item))}


def _first(*keys: str) -> Callable[[Item], str]:
    def of(item: Item) -> str:
        found = (item["properties"].get(key) for key in keys)
        return next((str(value).removeprefix("EPSG:").lower() for value in found if value is not None), "")

    return of


def _number(key: str) -> Callable[[Item], float | None]:
    def of(item: Item) -> float | None:
        value = item["properties"].get(key)
        return float(value) if isinstance(value, int | float) else None

    return of


def _sun(item: Item) -> float | None:
    zenith = _number("s2:mean_solar_zenith")(item)
    elevation = _number("view:sun_elevation")(item)
    return elevation if elevation is not None or zenith is None else 90 - zenith


def _baseline(item: Item) -> str:
    version = baseline(_parsed(item))
    return "" if version is None else f"{version[0]:02d}.{version[1]:02d}"


def _orbit(item: Item) -> str:
    orbit = relative_orbit(_parsed(item))
    return "" if orbit is None else str(orbit)


def _level(item: Item) -> str:
    return level(_parsed(item))


def _parsed(item: Item) -> pystac.Item:
    return pystac.Item.from_dict(dict(item), preserve_dict=True)
