"""Read and score Sentinel-1 alone, and rank flooded ground within a scene; writes into docs/delta-series.json.

    python scripts/evaluate_radar.py IMAGERY_FOLDER --weights galileo.nano=FOLDER [--cache FOLDER]

One date: no change is measured. What is measured stands in docs/protocol-delta-series.md, committed before any result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch

import delta_page
import nano_data
from delta_kits import fitted_probe
from delta_seen import Cells, Reader, cached
from evaluate_power import auroc
from geoelle.area import Addresses
from geoelle.bootstrap import Bootstrap, Interval
from geoelle.chips import Chips
from geoelle.complexity import feature_names
from geoelle.models import load_model
from geoelle.probe import Probe
from geoelle.sample import Sample
from given import folders_of
from labels import CHIP_PX, PATCH_PX, Site, chips_at, flood
from nano_data import RADAR, Scene
from nano_samples import UNKNOWN

DRAWN = 256
"""Patches of a file that a fit learns from at most."""
LEAST = 50
"""Patches of water, and of dry ground, that a scene needs."""
SMOOTH = ("difficulty", "excess", "complexity", "true loss")
REFERENCE = "vh, low"
_MODEL = "galileo.nano"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """The patches of one scene, and what a model and its pixels say of them; `event` is the ground to hold out."""

    scene: Scene
    event: str
    at_k2: np.ndarray
    cells: Cells


def look(scene: Scene, event: str, reader: Reader, cache: Path | None) -> Seen:
    """Read whole chips side by side, and the patches in the middle of each."""
    height, width = (side // CHIP_PX for side in scene.pixels_cyx.shape[1:])
    origin_k2 = np.stack(np.indices((height, width)), axis=-1).reshape(-1, 2) * CHIP_PX
    whole = [np.isfinite(scene.pixels_cyx[:, r : r + CHIP_PX, c : c + CHIP_PX]).all() for r, c in origin_k2]
    origin_k2 = origin_k2[np.array(whole)]

    def read() -> tuple[Cells]:
        chips = side_by_side(chips_at(scene, origin_k2))
        if np.isnat(chips.times_bt).any():
            chips = replace(chips, times_bt=np.full_like(chips.times_bt, UNKNOWN))
        parts = reader.chip_parts(chips)
        flat = {name: value.reshape(int(np.prod(value.shape[:3])), *value.shape[3:]) for name, value in parts.items()}
        return (Cells(tokens_nd=flat["tokens"], twin_nd=flat["twin"], loss_n=flat["loss"], bands_nc=flat["bands"],
                      features_nf=flat["features"]),)  # fmt: skip

    (cells,) = cached(cache, f"radar-{Path(scene.path).stem}-{reader.name}", read)
    grid = np.stack(np.indices((CHIP_PX // PATCH_PX,) * 2), axis=-1).reshape(-1, 2)
    at_k2 = (origin_k2[:, None] // PATCH_PX + grid).reshape(-1, 2)
    return Seen(scene=scene, event=event, at_k2=at_k2, cells=cells)


def side_by_side(chips: Chips) -> Chips:
    """Address chips on the lattice whose chips do not overlap, so that each answers for all of its patches."""
    own = chips.addresses
    lattice, side = replace(own.lattice, stride_px=CHIP_PX), CHIP_PX // own.lattice.stride_px
    return replace(chips, addresses=Addresses(lattice=lattice, rows=own.rows // side, cols=own.cols // side))


def probe_without(every: list[Seen], event: str, reader: Reader) -> Probe:
    """Fit a dense probe on patches of all other ground."""
    kept = [seen for seen in every if seen.event != event]
    rng = np.random.default_rng(0)
    rows = [rng.choice(len(s.at_k2), min(DRAWN, len(s.at_k2)), replace=False) for s in kept]
    sample = Sample(
        vectors_nd=np.concatenate([s.cells.tokens_nd[k] for s, k in zip(kept, rows, strict=True)]),
        loss_n=np.concatenate([s.cells.loss_n[k] for s, k in zip(kept, rows, strict=True)]),
        features_nf=np.concatenate([s.cells.features_nf[k] for s, k in zip(kept, rows, strict=True)]),
        feature_names=feature_names(RADAR),
    )
    places_n = np.concatenate([[s.event] * len(k) for s, k in zip(kept, rows, strict=True)])
    return fitted_probe(sample.at(sample.usable_n), places_n[sample.usable_n], reader.model, RADAR)


def scores(seen: Seen, probe: Probe) -> dict[str, np.ndarray]:
    """Return what should be high where there is water: easier to the model, and dark to the radar."""
    difficulty_n = probe.score_raw(seen.cells.tokens_nd.astype(np.float64))
    pixels_n = probe.pixels(seen.cells.features_nf)
    vv_n, vh_n = seen.cells.bands_nc.T.astype(np.float64)
    smooth = (difficulty_n, difficulty_n - pixels_n, pixels_n, np.log(seen.cells.loss_n.astype(np.float64)))
    easier = {f"{name}, easier": -value_n for name, value_n in zip(SMOOTH, smooth, strict=True)}
    return easier | {"vv, low": -vv_n, REFERENCE: -vh_n, "vv - vh, high": vv_n - vh_n}


def of_scene(seen: Seen, site: Site, probe: Probe) -> dict[str, object]:
    """Rank the patches of one scene; AUROC is NaN where water or dry ground is too rare."""
    label_k = site.label_hw[tuple(seen.at_k2.T)]
    water, dry = label_k == 1, label_k == 0
    enough = min(water.sum(), dry.sum()) >= LEAST
    values = scores(seen, probe)
    y_n, x_n = np.log(seen.cells.loss_n.astype(np.float64)), -values["difficulty, easier"]
    return {
        "scene": Path(seen.scene.path).stem, "event": seen.event, "chips": len(label_k) // (CHIP_PX // PATCH_PX) ** 2,
        "water": int(water.sum()), "dry": int(dry.sum()), "r": float(np.corrcoef(x_n, y_n)[0, 1]),
        "auroc": {name: auroc(v[water], v[dry]) for name, v in values.items()} if enough else None,
    }  # fmt: skip


def summary(rows: list[dict]) -> dict[str, object]:
    """Return the mean AUROC over scenes by score, and difficulty less each; events are redrawn."""
    ranked = [row for row in rows if row["auroc"]]
    boot = Bootstrap(np.array([row["event"] for row in ranked]))
    draws = {name: boot.mean(np.array([row["auroc"][name] for row in ranked])) for name in ranked[0]["auroc"]}
    first = draws[f"{SMOOTH[0]}, easier"]
    told = {
        name: {"auroc": Interval.of(d).to_dict(), "gap": Interval.of(first - d).to_dict()} for name, d in draws.items()
    }
    useful = Interval.of(first - draws[REFERENCE]).low > 0
    return {"scenes": rows, "ranked": len(ranked), "events": boot.n_places, "scores": told, "useful": bool(useful)}


@click.command()
@click.argument("imagery", type=click.Path(exists=True, path_type=Path))
@click.option("--weights", multiple=True, required=True, metavar="MODEL=FOLDER", help=f"The weights of {_MODEL}.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps what the model gave.")
def main(imagery: Path, weights: tuple[str, ...], cache: Path | None) -> None:
    torch.set_num_threads(1)
    folders = folders_of(weights)
    if _MODEL not in folders:
        raise click.UsageError(f"Sentinel-1 is read by {_MODEL}; give --weights {_MODEL}=FOLDER")
    reader = Reader(model=load_model(_MODEL, folders[_MODEL]), twin=None, loss=True, bands=RADAR)
    sites = {site.scene.path: site for site in flood(imagery).sites}
    every = []
    for scene in nano_data.load(imagery, "radar"):
        site = sites.get(scene.path)
        click.echo(scene.path, err=True)
        every.append(look(scene, site.place if site else scene.place, reader, cache))
    probes = {event: probe_without(every, event, reader) for event in sorted({s.place for s in sites.values()})}
    rows = [of_scene(s, sites[s.scene.path], probes[s.event]) for s in every if s.scene.path in sites]
    delta_page.keep("radar", summary(rows) | {"model": _MODEL, "files": len(every)})


if __name__ == "__main__":
    main()
