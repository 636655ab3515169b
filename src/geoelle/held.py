"""Decide how a fit holds ground out: splitter, what it splits, what intervals redraw, and what to say about it.

    block   squares of ground; the buffer is what residuals of a first blocked fit are alike over
    place   every run of the command line in turn
    source  every sensor        scene  every set of items        date  every day, UTC
    knndm   folds as far from their training part as the area to be mapped is from the sample

No kind falls back to another, nor to random folds: what cannot be held out is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import BaseCrossValidator

from geoelle.domain import domain_points
from geoelle.errors import HoldoutError
from geoelle.holdout import PlaceKFold, SpatialKFold, blocks_of, enough, near, sphere_n3
from geoelle.knndm import KNNDM, MIN_TRAIN, Matching
from geoelle.variogram import Variogram, autocorrelation_range_m

__all__ = ["KINDS", "Asked", "Held", "Stand", "holdout_for", "with_measured_buffer"]

KINDS = ("block", "place", "source", "scene", "date", "knndm")
FOLDS = 5
MOST_FOLDS = 20
_MORE = {
    "place": "give more runs, or hold out blocks (--holdout block)",
    "source": "fit on runs of several sensors, or hold out blocks (--holdout block)",
    "scene": "embed more scenes, or hold out blocks (--holdout block)",
    "date": "embed more dates, or hold out blocks (--holdout block)",
}
_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a user asks to be held out: a kind (None: block, or knndm where there is a domain).

    `domain` is the area to be mapped, as `domain_points` reads it. `buffer_m` None measures it for blocks, and
    takes a chip's diagonal for knndm, whose folds have their distances from the area to be mapped.
    """

    kind: str | None = None
    domain: str | None = None
    buffer_m: float | None = None

    @property
    def settled(self) -> str:
        """Return the kind; raises `HoldoutError` for one that does not exist or takes no domain or buffer."""
        kind = self.kind or ("knndm" if self.domain else "block")
        if kind not in KINDS:
            raise HoldoutError(f"nothing can be held out by {kind!r}; choose {', '.join(KINDS)}")
        if self.domain and kind != "knndm":
            raise HoldoutError(f"holding out by {kind} fails with an area to be mapped ({self.domain}); use knndm")
        if kind == "knndm" and not self.domain:
            raise HoldoutError("kNNDM folds fail without an area to be mapped; name it: --for BBOX, a raster or a run")
        if kind not in ("block", "knndm") and self.buffer_m is not None:
            raise HoldoutError(f"holding out by {kind} takes no buffer ({self.buffer_m:g} m); leave --buffer out")
        return kind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stand:
    """Where, when and from what the chips of a sample are, (n,) each; `lonlat_n2` is degrees EPSG:4326.

    `place_n` names their run, `source_n` the sensor, `scene_n` the items, `times_n` datetime64 UTC; `chip_m` is
    the diagonal of a chip, the least distance at which two chips share no pixel.
    """

    lonlat_n2: np.ndarray
    place_n: np.ndarray
    source_n: np.ndarray
    scene_n: np.ndarray
    times_n: np.ndarray
    chip_m: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Held:
    """A splitter, the groups it splits, the (n,) places that intervals redraw, and what a reader has to know."""

    kind: str
    cv: BaseCrossValidator
    groups: np.ndarray
    place_n: np.ndarray
    buffer_m: float | None
    text: str
    notes: tuple[str, ...] = ()
    domain: str | None = None
    variogram: Variogram | None = None

    def folds(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (train, test) row numbers."""
        return self.cv.split(self.groups, None, self.groups)

    @property
    def fold_n(self) -> np.ndarray:
        """Return the fold that tests each chip, int64 (n,)."""
        fold_n = np.empty(len(self.groups), np.int64)
        for k, (_, test) in enumerate(self.folds()):
            fold_n[test] = k
        return fold_n

    @property
    def count(self) -> int:
        """Return the number of folds."""
        return self.cv.get_n_splits(groups=self.groups)

    @property
    def matching(self) -> Matching | None:
        """Return how kNNDM folds match the area to be mapped; None for other kinds."""
        return self.cv.match(self.groups) if isinstance(self.cv, KNNDM) else None

    def to_dict(self) -> dict[str, object]:
        """Return what a probe keeps of it, as JSON data."""
        facts: dict[str, object] = {"holdout": self.kind, "buffer_m": self.buffer_m}
        if self.variogram is not None and self.variogram.measured:
            facts["range_m"] = self.variogram.range_m
        if self.matching is not None:
            facts |= {"for": self.domain, "w_m": self.matching.w_m, "clusters": self.matching.clusters}
        return facts


def holdout_for(asked: Asked, stand: Stand, *, block_m: float, folds: int | None = None) -> Held:
    """Build the splitter of a kind with the groups it splits.

    `folds` None is 5 for blocks and kNNDM, else every label in turn, 20 folds at most. Intervals redraw what is
    held out, for kNNDM blocks of `block_m`, as its folds may be of single chips. The buffer of blocks is a
    chip's diagonal until `with_measured_buffer`.

    Raises: HoldoutError (an unknown kind, too few labels, no domain, a buffer narrower than a chip).
    """
    kind = asked.settled
    if asked.buffer_m is not None and asked.buffer_m < stand.chip_m:
        raise HoldoutError(
            f"a buffer of {asked.buffer_m:g} m fails for chips of {stand.chip_m:.4g} m from corner to corner: held-out "
            "chips would share pixels with others; give a wider one, or auto"
        )
    if kind not in ("block", "knndm"):
        return _by_label(kind, stand, folds)
    buffer_m, n_folds = asked.buffer_m or stand.chip_m, folds or FOLDS
    if kind == "block":
        cv = SpatialKFold(n_folds, block_m=block_m, buffer_m=buffer_m)
        block_n = cv.labels(stand.lonlat_n2)
        enough(len(np.unique(block_n)), max(2, n_folds), f"blocks of {block_m:g} m", "use smaller blocks")
        text = f"{n_folds} folds of blocks of {block_m / 1000:g} km"
        return Held(kind=kind, cv=cv, groups=stand.lonlat_n2, place_n=block_n, buffer_m=buffer_m, text=text)
    cv = KNNDM(n_folds, domain_lonlat_m2=domain_points(asked.domain), buffer_m=buffer_m)
    domain = Path(asked.domain).resolve().name if Path(asked.domain).exists() else asked.domain  # no one's folders
    return Held(
        kind=kind, cv=cv, groups=stand.lonlat_n2, place_n=blocks_of(stand.lonlat_n2, block_m), buffer_m=buffer_m,
        text=f"{n_folds} kNNDM folds for {domain}; intervals redraw blocks of {block_m / 1000:g} km",
        notes=cv.match(stand.lonlat_n2).notes, domain=domain,
    )  # fmt: skip


def with_measured_buffer(held: Held, stand: Stand, residual_n: np.ndarray, ground: Stand | None = None) -> Held:
    """Widen the buffer of blocks to the range over which `residual_n` of a first blocked fit are alike.

    Where that range leaves less than half of a training part, of an inner one included, the buffer is the widest
    that leaves it, and a note says that scores flatter. It is never below a chip's diagonal. Where `stand` is a sample
    of `ground`, whose gaps make room, so much has to be left of both.

    Raises: HoldoutError (residuals that are not finite).
    """
    if held.kind != "block":
        return held
    found = autocorrelation_range_m(stand.lonlat_n2, residual_n, stand.place_n)
    asked_m = max(stand.chip_m, found.range_m) if found.measured else stand.chip_m
    buffer_m = min(_widest(held.cv, each.lonlat_n2, stand.chip_m, asked_m) for each in {stand, ground or stand})
    note = f"buffer of {buffer_m / 1000:.3g} km: {found.note}"
    if buffer_m < asked_m:
        note = (
            f"{found.note}, but blocks of {held.cv.block_m / 1000:g} km leave room for a buffer of only "
            f"{buffer_m / 1000:.3g} km: scores flatter; take larger blocks, fewer folds or more ground"
        )
    elif buffer_m == stand.chip_m and found.measured:
        note = f"{note}, less than a chip's diagonal"
    return replace(
        held, cv=_with_buffer(held.cv, buffer_m), buffer_m=buffer_m, notes=(*held.notes, note), variogram=found
    )


def _by_label(kind: str, stand: Stand, folds: int | None) -> Held:
    label_n = {
        "place": stand.place_n,
        "source": stand.source_n,
        "scene": stand.scene_n,
        "date": stand.times_n.astype("datetime64[D]").astype(str),
    }[kind].astype(str)
    if kind == "date" and (unknown := int(np.isnat(stand.times_n).sum())):
        raise HoldoutError(f"dates of {unknown:,} chips are unknown; hold out blocks (--holdout block)")
    n_labels = len(np.unique(label_n))
    # an inner holdout chooses the strength among what is left, so that two labels are not enough
    if n_labels < (needed := max(3, folds or 0)):
        raise HoldoutError(f"too few {kind}s to hold out ({n_labels}, {needed} needed); {_MORE[kind]}")
    notes = ()
    if folds is None and n_labels > MOST_FOLDS:
        folds, notes = MOST_FOLDS, (f"{n_labels:,} {kind}s share {MOST_FOLDS} folds",)
    cv = PlaceKFold(folds)
    text = f"every {kind} in turn, {n_labels}" if folds is None else f"{folds} folds of whole {kind}s, {n_labels}"
    held = Held(kind=kind, cv=cv, groups=label_n, place_n=label_n, buffer_m=None, text=text, notes=notes)
    touching = _touching(held, stand)
    if touching and kind == "place":
        raise HoldoutError(
            f"places share ground: {touching:,} of {len(label_n):,} chips lie within a chip's diagonal "
            f"({stand.chip_m:.4g} m) of another run; give runs that lie apart, or hold out blocks (--holdout block)"
        )
    if touching:
        shared = (
            f"{touching:,} of {len(label_n):,} chips have ground of theirs on the training side under another {kind}: "
            f"scores hold for a new {kind} of known ground, not for new ground"
        )
        held = replace(held, notes=(*notes, shared))
    return held


def _touching(held: Held, stand: Stand) -> int:
    """Count the chips within a diagonal of one that their fold trains on."""
    sphere = sphere_n3(stand.lonlat_n2)
    return sum(int(near(sphere[test], sphere[train], stand.chip_m).sum()) for train, test in held.folds())


def _with_buffer(cv: SpatialKFold, buffer_m: float) -> SpatialKFold:
    return SpatialKFold(cv.n_splits, block_m=cv.block_m, buffer_m=buffer_m, random_state=cv.random_state)


def _widest(cv: SpatialKFold, lonlat_n2: np.ndarray, least_m: float, most_m: float) -> float:
    """Return the widest buffer up to `most_m` that leaves enough to train on; at least `least_m`."""
    if most_m <= least_m or _leaves_enough(_with_buffer(cv, most_m), lonlat_n2):
        return most_m
    low_m, high_m = least_m, most_m
    for _ in range(_STEPS):
        middle_m = (low_m * high_m) ** 0.5
        if _leaves_enough(_with_buffer(cv, middle_m), lonlat_n2):
            low_m = middle_m
        else:
            high_m = middle_m
    return low_m


def _leaves_enough(cv: SpatialKFold, lonlat_n2: np.ndarray, inner: bool = True) -> bool:
    """Return whether every fold, and every inner one, keeps half of the points outside it."""
    try:
        for train, test in cv.split(lonlat_n2, None, lonlat_n2):
            if len(train) < MIN_TRAIN * (len(lonlat_n2) - len(test)):
                return False
            seen_n2 = lonlat_n2[train]
            if inner and not _leaves_enough(cv.inner(seen_n2), seen_n2, inner=False):
                return False
    except HoldoutError:  # the buffer leaves nothing at all
        return False
    return True
