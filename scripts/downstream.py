"""Measure whether difficulty finds the errors of a task probe, and write docs/downstream.json and its picture.

    python scripts/downstream.py IMAGERY_FOLDER [--weights galileo.nano=FOLDER] [--cache FOLDER]

Prints a section in Markdown. The protocol below was committed before any of its results was looked at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import balanced_accuracy_score

from error_scores import Errors, Ranking, added, applicability, doubt, mahalanobis, read_out, task_probabilities
from geoelle.bootstrap import Interval
from geoelle.figures import ACCENT, GRID, INK, MUTED, NULL, house_style, png
from geoelle.files import write_bytes
from geoelle.models import load_model
from geoelle.probe import on_scale
from given import folders_of
from labels import Task, tasks
from patch_samples import Sample, cached

DOCS = Path(__file__).parents[1] / "docs"
NUMBERS, PICTURE = DOCS / "downstream.json", DOCS / "img" / "downstream.png"
CONFIDENCE, DIFFICULTY, COMPLEXITY = "confidence of the task probe", "difficulty", "complexity"
NULLS = (COMPLEXITY, "Mahalanobis distance", "length of the vector", "random")
SHARES = np.linspace(0, 1, 51)
FEW_PLACES = 20

PROTOCOL = """\
**Protocol, written before the runs.** Three tasks: land cover (the TerraMesh sample), flood water (Sen1Floods11) and bark-beetle damage
(Czechia, September 2020), each read by every model that takes its imagery. All three are labelled by the pixel, so the sample is a *patch*
(4 x 4 px) with the token the encoder gives it: land cover is rarely of one class over a chip of 320 m (built ground would be left in one
place), and the places of bark beetle are hardly larger than a chip. A patch counts where 75% of its pixels agree on a class; each is read
from the chip in which it lies most central (chips every 16 px). A class needs 20 patches in each of two places, else no probe could know it:
snow (all of one place) and bare ground leave the land cover. Damage is told from forest that still stands in the map of 2022; ground that is neither is
left out (that map leaves out what was damaged before it, so forest of 2020 is the union of both). Chips and patches of a place are capped,
drawn with seed 0. Folds hold out whole places: land cover by scene, flood by event (two of the events have two scenes), damage in five folds of blocks
of 20 km. The task probe is an L2 logistic regression on the standardised tokens; its strength is the one of 0.0001 ... 10 with
the least log-loss in folds of places inside the training part. An error is a wrong most probable class. Difficulty and complexity are
predicted out of fold too, on the same folds, from log-loss of the patch: difficulty from its token, complexity from pixel features of the
8 px around it and of its chip; excess is their difference, residual is log-loss minus difficulty. `chip difficulty` is the same
read from the mean token of the chip, as a map shows it. Dissimilarity is the distance to the nearest training token, each dimension
weighted by the probe's coefficient, over the mean distance between training tokens. High is taken to mean suspect for every score, whichever way it turns out, so an AUROC under
0.5 is told as such. Conditional value: a logistic model of the errors on the probe's confidence, with and without a score, fitted in folds of
places (its inputs are out-of-fold values, though the probes behind them have seen each other's places). Difficulty is called useful for a
task only if it adds to confidence, and to confidence with complexity, with intervals above 0. Intervals are 95% from redrawing whole
places, 1,000 times, paired; there is no correction for the number of tasks, and from fewer than 20 places they are too narrow: land cover (4 places) and flood (9)
are examples, not evidence.
"""

DEPARTURES = """\
**Added after the runs.** The seed of a draw follows from the path of its file instead of being 0. A task probe that is wrong at least as often as
always answering with the commonest class is said not to work: the ranking of its errors tells little, whatever it is. Dissimilarity is now
the one that maps show, to at most 1,000 tokens that cover the training ground, with the area of applicability that follows from it. Protocol and results are otherwise as first run.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """One task read by one model: how its probe does, how each score ranks its errors, what a score adds.

    `confidence_again` is the AUROC of the logistic model of error on confidence alone, out of fold; `gains` are what a
    score adds to it; `beyond` is what difficulty adds to confidence with complexity.
    `curves` are shares of the errors caught at `SHARES`.
    """

    task: str
    sensor: str
    model: str
    classes: tuple[str, ...]
    patches: int
    places: int
    error_rate: float
    commonest_error_rate: float
    balanced_accuracy: float
    r_difficulty: float
    r_complexity: float
    rankings: dict[str, Ranking]
    minus: dict[str, Interval]
    confidence_again: Interval
    gains: dict[str, Interval]
    beyond: Interval
    curves: dict[str, tuple[float, ...]]

    @property
    def title(self) -> str:
        return f"{self.task}, {self.model} on {self.sensor}"

    @property
    def works(self) -> bool:
        """Whether the task probe is wrong less often than the commonest class would be."""
        return self.error_rate < self.commonest_error_rate

    @property
    def useful(self) -> bool:
        """Whether difficulty adds to confidence, and to confidence with complexity."""
        return self.gains[DIFFICULTY].low > 0 and self.beyond.low > 0


def section(imagery: Path, weights: dict[str, str], cache: Path | None = None) -> str:
    """Measure every task with every model that takes its imagery, write numbers and picture, return the section."""
    models = {"nano": load_model("nano")} | {name: load_model(name, folder) for name, folder in weights.items()}
    results = []
    for task in tasks(imagery):
        for name, model in models.items():
            if set(task.sites[0].scene.bands) <= set(model.card.bands):
                click.echo(f"{task.name}, {task.sensor}, {name}", err=True)
                results.append(measure(task, name, cached(task, model, cache)))
    write_bytes(NUMBERS, (json.dumps(numbers(results), indent=1) + "\n").encode(), overwrite=True)
    write_bytes(PICTURE, picture(results), overwrite=True)
    return markdown(results)


def measure(task: Task, model: str, sample: Sample) -> Result:
    """Train the task probe and every score in folds of places, and rank the errors."""
    probability_nk = task_probabilities(sample.tokens_nd, sample.label_n, sample.place_n, task.folds)
    answer_n = probability_nk.argmax(axis=1)
    errors = Errors(answer_n != sample.label_n, sample.place_n)
    scores = scores_of(sample, probability_nk, task.folds)
    auroc = {name: errors.auroc(score_n) for name, score_n in scores.items()}
    gain = {name: _gain(errors, scores, [CONFIDENCE], name) for name in scores if name != CONFIDENCE}
    log_loss_n = np.log(sample.loss_n)
    return Result(
        task=task.name,
        sensor=task.sensor,
        model=model,
        classes=task.classes,
        patches=len(sample.label_n),
        places=len(np.unique(sample.place_n)),
        error_rate=float(errors.error_n.mean()),
        commonest_error_rate=float(1 - np.bincount(sample.label_n).max() / len(sample.label_n)),
        balanced_accuracy=float(balanced_accuracy_score(sample.label_n, answer_n)),
        r_difficulty=float(np.corrcoef(log_loss_n, scores[DIFFICULTY])[0, 1]),
        r_complexity=float(np.corrcoef(log_loss_n, scores[COMPLEXITY])[0, 1]),
        rankings={name: errors.ranking(score_n) for name, score_n in scores.items()},
        minus={name: Interval.of(auroc[DIFFICULTY] - auroc[name]) for name in scores if name != DIFFICULTY},
        confidence_again=Interval.of(errors.auroc(added(errors.error_n, [scores[CONFIDENCE]], errors.place_n))),
        gains=gain,
        beyond=_gain(errors, scores, [CONFIDENCE, COMPLEXITY], DIFFICULTY),
        curves={name: tuple(errors.curve(score_n, SHARES).tolist()) for name, score_n in scores.items()},
    )


def scores_of(sample: Sample, probability_nk: np.ndarray, folds: int) -> dict[str, np.ndarray]:
    """Return every score of every patch, high = suspect, in the order of the tables."""
    log_loss_n, chip_log_loss_n = on_scale(sample.loss_n, "log"), on_scale(sample.chip_loss_n, "log")
    nested = read_out(sample.tokens_nd, log_loss_n, sample.place_n, folds)
    difficulty_n = nested.predicted_nt[:, 0]
    complexity_n = read_out(sample.features_nf, log_loss_n, sample.place_n, folds).predicted_nt[:, 0]
    of_chip = read_out(sample.chip_nd, chip_log_loss_n, sample.place_n, folds)
    dissimilarity_n, outside_n = applicability(sample.tokens_nd, log_loss_n, sample.place_n, nested)
    return {
        CONFIDENCE: doubt(probability_nk),
        DIFFICULTY: difficulty_n,
        "chip difficulty": of_chip.predicted_nt[:, 0],
        "excess": difficulty_n - complexity_n,
        "residual": log_loss_n - difficulty_n,
        "loss": log_loss_n,
        "dissimilarity": dissimilarity_n,
        "outside the area of applicability": outside_n,
        COMPLEXITY: complexity_n,
        "Mahalanobis distance": mahalanobis(sample.tokens_nd, nested),
        "length of the vector": np.linalg.norm(sample.tokens_nd, axis=1),
        "random": np.random.default_rng(0).random(len(log_loss_n)),
    }


def _gain(errors: Errors, scores: dict[str, np.ndarray], base: Sequence[str], name: str) -> Interval:
    """Return the AUROC of a model of error on the base scores and one more, minus that without it."""
    with_it, without = (
        errors.auroc(added(errors.error_n, [scores[n] for n in names], errors.place_n))
        for names in ([*base, name], base)
    )
    return Interval.of(with_it - without)


def numbers(results: Sequence[Result]) -> dict[str, object]:
    """Return every figure as plain JSON; NaN becomes null."""
    plain = json.loads(json.dumps([asdict(r) for r in results]), parse_constant=lambda _: None)
    for row, result in zip(plain, results, strict=True):
        row |= {"useful": result.useful, "works": result.works}
    return {
        "protocol": " ".join(PROTOCOL.split()),
        "departures": " ".join(DEPARTURES.split()),
        "shares_reviewed": SHARES.round(2).tolist(),
        "results": plain,
    }


def markdown(results: Sequence[Result]) -> str:
    """Return the section of docs/evaluation.md."""
    lines = ["## Does it matter downstream?", "", PROTOCOL, DEPARTURES, *in_short(results), "",
             "![Errors caught against the share of patches reviewed, by score](img/downstream.png)", "",
             "Every number: [downstream.json](downstream.json)."]  # fmt: skip
    for result in results:
        lines += ["", *_table(result)]
    return "\n".join([*lines, ""])


def in_short(results: Sequence[Result]) -> list[str]:
    """Return the answer and one row a pair: what each score is worth, and what difficulty adds."""
    head = ("task", "places", "errors", "AUROC of error: confidence", DIFFICULTY, "dissimilarity", COMPLEXITY,
            "difficulty added to confidence", "added to confidence and complexity", "useful")  # fmt: skip
    rows = [
        (r.title, r.places, f"{r.error_rate:.1%}{'' if r.works else ' (does not work)'}",
         *(r.rankings[name].auroc for name in (CONFIDENCE, DIFFICULTY, "dissimilarity", COMPLEXITY)),
         r.gains[DIFFICULTY], r.beyond, "yes" if r.useful else "no")
        for r in results
    ]  # fmt: skip
    return [*answer(results), "", _row(head), _row(["---"] * len(head)), *map(_row, rows)]


def answer(results: Sequence[Result]) -> list[str]:
    """Say in words what the numbers say."""
    useful, working = [r.title for r in results if r.useful], [r for r in results if r.works]
    lines = [
        f"**Of {len(results)} pairs of task and model, difficulty is useful for {'; '.join(useful) or 'none'}.** "
        f"Alone it ranks errors above chance in {sum(r.rankings[DIFFICULTY].auroc.low > 0.5 for r in results)} and the wrong way round in "
        f"{sum(r.rankings[DIFFICULTY].auroc.high < 0.5 for r in results)}; the columns of what is added learn the sign themselves. The task probe works in "
        f"{len(working)}."
    ]  # fmt: skip
    if working:
        lines[0] += (
            f" In those, the worst 20% by its own confidence hold {_span(working, CONFIDENCE)} of its errors, by dissimilarity "
            f"{_span(working, 'dissimilarity')}, by difficulty {_span(working, DIFFICULTY)}, by complexity {_span(working, COMPLEXITY)}; "
            f"difficulty ranks them worse than confidence in {sum(r.minus[CONFIDENCE].high < 0 for r in working)}, better than complexity in "
            f"{sum(r.minus[COMPLEXITY].low > 0 for r in working)}, and dissimilarity adds to confidence in "
            f"{sum(r.gains['dissimilarity'].low > 0 for r in working)}."
        )
    return lines


def _span(results: Sequence[Result], name: str) -> str:
    """Return the least and the most that the worst 20% by a score hold, "12 to 27%"."""
    caught = [r.rankings[name].caught.value for r in results]
    return f"{min(caught) * 100:.0f} to {max(caught):.0%}"


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _table(r: Result) -> list[str]:
    few = f" From {r.places} places the intervals are too narrow." if r.places < FEW_PLACES else ""
    lines = [
        f"### {r.title[0].upper()}{r.title[1:]}", "",
        f"{r.patches:,} patches ({', '.join(r.classes)}) of {r.places} places. The task probe is wrong in {r.error_rate:.1%} of them, "
        f"the commonest class would be in {r.commonest_error_rate:.1%}; balanced accuracy {r.balanced_accuracy:.3f}. On these places "
        f"difficulty reads log-loss at r = {r.r_difficulty:.3f}, complexity at {r.r_complexity:.3f}. The model of error on confidence alone has an AUROC of {r.confidence_again} out of fold.{few}", "",
        "| score (high = suspect) | AUROC of error | inside places | errors caught in the worst 20% | difficulty minus it (AUROC) "
        "| added to confidence (AUROC) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, ranking in r.rankings.items():
        called = f"*{name}* (null)" if name in NULLS else name
        told = (ranking.auroc, ranking.within, ranking.caught, r.minus.get(name, ""), r.gains.get(name, ""))
        lines.append(_row((called, *told)))
    return lines


def picture(results: Sequence[Result]) -> bytes:
    """Draw errors caught against the share reviewed, one panel a task and model."""
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    with house_style():
        figure = Figure(figsize=(2.9 * columns, 3.05 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, result in zip(axes, results, strict=False):
            _panel(axis, result)
        for axis in axes[len(results) :]:
            axis.set_axis_off()
        axes[0].set_ylabel("share of errors caught")
        axes[columns * (rows - 1)].set(xlabel="share of patches reviewed", ylabel="share of errors caught")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        return png(figure)


LOOKS = {
    CONFIDENCE: {"color": INK, "lw": 1.6},
    DIFFICULTY: {"color": ACCENT, "lw": 1.6},
    "excess": {"color": ACCENT, "lw": 1.0, "ls": (0, (4, 2))},
    "residual": {"color": ACCENT, "lw": 1.0, "ls": (0, (1, 1.5))},
    "dissimilarity": {"color": "#d08a1c", "lw": 1.2},
    COMPLEXITY: {"color": NULL, "lw": 1.6},
}


def _panel(axis: Axes, result: Result) -> None:
    axis.plot([0, 1], [0, 1], color=MUTED, lw=0.7, ls=(0, (2, 2)), label="chance")
    axis.plot([0, result.error_rate, 1], [0, 1, 1], color=MUTED, lw=0.7, label="errors first")
    for name, look in LOOKS.items():
        axis.plot(SHARES, result.curves[name], label=name, **look)
    axis.axvline(0.2, color=MUTED, lw=0.6, ls=(0, (1, 2)))
    axis.set_title(f"{result.task}\n{result.model}, {result.sensor}", size=8.5)
    axis.annotate(
        f"{result.places} places, {result.error_rate:.0%} wrong",
        (0.97, 0.04),
        xycoords="axes fraction",
        ha="right",
        size=7,
    )
    axis.set(xlim=(0, 1), ylim=(0, 1.01), xticks=[0, 0.2, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    axis.grid(color=GRID, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


@click.command()
@click.argument("imagery", type=click.Path(exists=True, path_type=Path))
@click.option("--weights", multiple=True, metavar="MODEL=FOLDER", help="A published model to measure too; repeatable.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps what the encoders gave.")
@click.option("--threads", default=1, show_default=True)
def main(imagery: Path, weights: tuple[str, ...], cache: Path | None, threads: int) -> None:
    torch.set_num_threads(threads)
    pairs = folders_of(weights)
    click.echo(section(imagery, pairs, cache))


if __name__ == "__main__":
    main()
