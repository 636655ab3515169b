"""Measure whether Delta finds damaged forest, and write docs/delta.json and docs/evaluation-delta.md.

    python scripts/evaluate_delta.py IMAGERY_FOLDER [--weights galileo.nano=FOLDER] [--cache FOLDER]

What is measured stands in docs/protocol-delta.md, which was committed before any of the results was looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

import delta_scores
from delta_pairs import Pairs, cached, places
from delta_scores import DELTA, EASIER, FITTED, HARDER, TWIN, TWO, Ranking
from geoelle.bootstrap import Interval
from geoelle.embed import space_of
from geoelle.errors import ProbeError
from geoelle.files import write_bytes
from geoelle.models import Model, load_model
from geoelle.models.nano import BANDS
from geoelle.probe import Probe
from geoelle.shipped import probe_of_space
from given import folders_of

DOCS = Path(__file__).parents[1] / "docs"
NUMBERS, PAGE = DOCS / "delta.json", DOCS / "evaluation-delta.md"
HEAD = """\
# Delta on forest that bark beetle damaged

What `scripts/evaluate_delta.py` measured, by the [protocol](protocol-delta.md) that was committed before. It writes this page; every number is in
[delta.json](delta.json). One disturbance, one country, one pair of dates: it says nothing of other change, and with no earlier years nothing of
false alarms, which have [a page of their own](evaluation-delta-series.md). Contains modified Copernicus Sentinel data 2019-2020.

"""
COLUMNS = (
    "score",
    "AUROC",
    "inside blocks",
    "AUPRC",
    "AUPRC / prevalence",
    "damage in the top 5% of area",
    "Delta minus it (AUROC)",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """The patches of one population, and what each score is worth on them."""

    patches: int
    files: int
    blocks: int
    prevalence: float
    rankings: dict[str, Ranking]
    directions: np.ndarray

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON data."""
        plain = {name: getattr(self, name) for name in ("patches", "files", "blocks", "prevalence")}
        scores = {name: ranking.to_dict() for name, ranking in self.rankings.items()}
        return plain | {"scores": scores, "random_directions_auroc": self.directions.round(4).tolist()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """One model: `primary` is its Delta, `index` the band or index chosen on train places.

    `harder` is the AUROC of Delta as harder less that of `index`, on test places.
    """

    model: str
    primary: str
    index: str
    lost: int
    fitted_on: int
    harder: Interval
    readings: dict[str, float]
    test: Ground
    every: Ground

    @property
    def useful(self) -> bool:
        """Whether Delta ranks damage better than the chosen index, by more than chance."""
        return self.test.rankings[self.index].beaten.low > 0

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON data."""
        names = ("model", "primary", "index", "lost", "fitted_on", "readings", "useful")
        plain = {name: getattr(self, name) for name in names} | {"harder": self.harder.to_dict()}
        return plain | {
            "test": self.test.to_dict(),
            "every": self.every.to_dict(),
        }


def section(imagery: Path, weights: dict[str, str], cache: Path | None = None) -> str:
    """Measure nano and the models given, write the numbers, return the section."""
    every, results = places(imagery), []
    for model in (load_model("nano"), *(load_model(name, folder) for name, folder in weights.items())):
        click.echo(model.card.name, err=True)
        pairs = cached(every, model, cache)
        results.append(measure(pairs, model, len(every) - len(np.unique(pairs.file_n))))
    plain = {"protocol": "docs/protocol-delta.md", "results": [result.to_dict() for result in results]}
    write_bytes(NUMBERS, (json.dumps(plain, indent=1) + "\n").encode(), overwrite=True)
    return markdown(results)


def measure(pairs: Pairs, model: Model, lost: int) -> Result:
    """Score every patch, and rank those of the test split and all."""
    probe = _shipped(model)
    free, fitted = delta_scores.of_model(pairs, probe), delta_scores.of_fits(pairs)
    bands = delta_scores.of_bands(pairs)
    kind = FITTED if probe is None else DELTA
    primary, index = kind + TWO, delta_scores.best_of(bands, pairs)
    scores, test_n = free | fitted | bands, pairs.test_n
    return Result(
        model=model.card.name,
        primary=primary,
        index=index,
        lost=lost,
        fitted_on=int(pairs.clear_n.sum()),
        harder=delta_scores.gap(scores[kind + HARDER][test_n], scores[index][test_n], pairs.take(test_n)),
        readings=delta_scores.readings(pairs, probe),
        test=ground(scores, pairs, test_n, primary),
        every=ground(
            free | bands if probe else free,
            pairs,
            np.ones(len(test_n), bool),
            primary if probe else "token, cosine distance",
        ),
    )


def ground(scores: dict[str, np.ndarray], pairs: Pairs, keep_n: np.ndarray, primary: str) -> Ground:
    """Rank the patches that are kept."""
    kept = pairs.take(keep_n)
    return Ground(
        patches=len(kept.damaged_n),
        files=len(np.unique(kept.file_n)),
        blocks=len(np.unique(kept.block_n)),
        prevalence=float(kept.damaged_n.mean()),
        rankings=delta_scores.rank({name: score_n[keep_n] for name, score_n in scores.items()}, kept, primary),
        directions=delta_scores.directions(kept),
    )


def _shipped(model: Model) -> Probe | None:
    try:
        return probe_of_space(space_of(model, BANDS, dense=True))
    except ProbeError:  # none ships: Delta is that of the probe fitted here
        return None


def markdown(results: list[Result]) -> str:
    """Return the section: the answer first, then a table a model."""
    lines = ["## Does Delta find damaged forest?", ""]
    for result in results:
        lines += [*answer(result), ""]
    for result in results:
        lines += [*_tables(result), ""]
    return "\n".join(lines)


def answer(r: Result) -> Iterator[str]:
    """Say in words what the numbers say, what fails first."""
    ranks, kind = r.test.rankings, r.primary.removesuffix(TWO)
    mine, index = ranks[r.primary], ranks[r.index]
    losing = [n for n in ranks if n != r.primary and ranks[n].beaten.high < 0]
    winning = [n for n in ranks if n != r.primary and ranks[n].beaten.low > 0]
    verdict = "beats" if r.useful else "loses to" if index.beaten.high < 0 else "ties with"
    yield (
        f"**`{r.model}`: Delta {verdict} one band or index, {r.index}.** On the test split {kind}, two-sided, ranks damaged patches at AUROC {mine.auroc}; "
        f"{r.index}, chosen on train places, at {index.auroc}; the difference is {index.beaten}. In the 5% of the area that scores highest "
        f"Delta holds {mine.caught.value:.1%} of the damage, {r.index} {index.caught.value:.1%}; no ranking can hold more than {_most(r):.1%}. "
        + ("Delta is useful here." if r.useful else "By the rule of the protocol Delta is not useful here.")
    )
    yield ""
    yield f"- Better than Delta, with intervals above it: {_listed(losing)}."
    yield f"- Worse than Delta: {_listed(winning)}."
    if turned := [n.removesuffix(", signed") for n in ranks if n.endswith(", signed") and ranks[n].auroc.high < 0.5]:
        yield f"- The protocol had the direction wrong for {', '.join(turned)}: they move the other way here than it says."
    above = int((r.test.directions >= mine.auroc.value).sum())
    low, middle, high = np.percentile(r.test.directions, [5, 50, 95])
    yield (
        f"- Of {len(r.test.directions)} random directions of token space, two-sided, {above} rank as well as Delta or better "
        f"(middle one {middle:.3f}, 5 to 95% {low:.3f} to {high:.3f})."
    )
    harder, easier = (ranks[kind + way].auroc for way in (HARDER, EASIER))
    yield f"- Direction: AUROC as harder {harder}, as easier {easier}; as harder, which was not the score of the rule, less {r.index}: {r.harder}. For the true loss, harder {ranks['Delta of the true loss' + HARDER].auroc}, easier {ranks['Delta of the true loss' + EASIER].auroc}."
    yield f"- Probes fitted here on {r.fitted_on:,} patches of train places, two-sided: of the model {ranks[FITTED + TWO].auroc}, of the untrained twin {ranks[TWIN + TWO].auroc}."
    if r.readings:
        told = ", ".join(f"{name} {value:.2f}" for name, value in r.readings.items())
        yield f"- How the shipped probe follows ln of the true loss on all patches (r): {told}."


def _most(r: Result) -> float:
    return min(delta_scores.AREA / r.test.prevalence, 1.0)


def _listed(names: list[str]) -> str:
    """Name the scores of the model, and count those of bands and indices."""
    shown = [name for name in names if name.partition(",")[0] not in (*BANDS, *delta_scores.INDICES)]
    few = len(names) - len(shown)
    return f"{few} of {2 * (len(BANDS) + len(delta_scores.INDICES))} scores of bands and indices; " + (
        "; ".join(shown) or "no other"
    )


def _tables(r: Result) -> Iterator[str]:
    yield (
        f"### `{r.model}`, test split: {r.test.patches:,} patches of {r.test.files} places in {r.test.blocks} blocks, {r.test.prevalence:.1%} damaged"
    )
    yield ""
    yield from _table(r.test.rankings, r.primary)
    yield ""
    yield (
        f"### `{r.model}`, all places: {r.every.patches:,} patches of {r.every.files} places in {r.every.blocks} blocks, {r.every.prevalence:.1%} damaged"
    )
    yield ""
    yield (
        f"{r.lost} more places have no chip that is whole on both dates. The index was chosen on some of these places."
        + (
            ""
            if r.readings
            else " No Delta here, as the probe was fitted on some of them; the last column is of the cosine distance of tokens."
        )
    )
    yield ""
    yield from _table(r.every.rankings, r.primary)


def _table(rankings: dict[str, Ranking], primary: str) -> Iterator[str]:
    yield _row((*COLUMNS[:-1], "cosine distance minus it (AUROC)") if primary.startswith("token") else COLUMNS)
    yield _row(("---",) * len(COLUMNS))
    for name, one in sorted(rankings.items(), key=lambda item: -item[1].auroc.value):
        told = f"**{name}**" if name == primary else name
        minus = "" if name == primary else one.beaten
        yield _row((told, one.auroc, one.within, one.auprc, one.lift, one.caught, minus))


def _row(cells: tuple[object, ...]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


@click.command()
@click.argument("imagery", type=click.Path(exists=True, path_type=Path))
@click.option("--weights", multiple=True, metavar="MODEL=FOLDER", help="A published model to measure too; repeatable.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps what the models gave.")
@click.option("--threads", default=1, show_default=True)
def main(imagery: Path, weights: tuple[str, ...], cache: Path | None, threads: int) -> None:
    torch.set_num_threads(threads)
    pairs = folders_of(weights)
    found = section(imagery, pairs, cache)
    write_bytes(PAGE, (HEAD + found).encode(), overwrite=True)
    click.echo(found)


if __name__ == "__main__":
    main()
