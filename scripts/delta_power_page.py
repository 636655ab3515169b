"""Tell and draw what became of injected changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from delta_words import listed, row, span, table

IMAGES = Path(__file__).parents[1] / "docs" / "img"
RATE = 0.1
SMALL_PX = 32
DRAWN_PX = (8, 16, 32)
BEST = 3
Found = Mapping[str, Any]


def power(models: Sequence[Found]) -> Iterator[str]:
    """Tell what Delta sees of injected changes, where it loses first."""
    yield "## Injected changes"
    yield ""
    yield (
        "Squares of known ground are changed in the pixels of the date after (2020), which are then read, scored and judged by the real earlier years. Sizes up to 32 px and all amplitudes "
        "together; intervals redraw the squares. One place, five months: the squares of a month share their images."
    )
    yield ""
    yield (
        "Patches count all cells outside of the square as unchanged. Chips count those that share no pixel with it, and what lies between counts in nothing. "
        "In the pictures, a line that starts above 0 is of a measure that flags ground without a change as well."
    )
    for found in models:
        yield ""
        yield from _model(found)


def picture(found: Found) -> Path:
    """Return where the curves of a model and unit are drawn."""
    first = found["model"] == "nano" and found["unit"] == "patches"
    return IMAGES / ("delta-power.png" if first else f"delta-power-{found['model']}-{found['unit']}.png")


def _model(found: Found) -> Iterator[str]:
    yield f"### `{found['model']}`, {found['unit']}, {', '.join(found['bands'])}: {found['squares']} squares"
    yield ""
    yield f"![Share of injected cells that are flagged](img/{picture(found).name})"
    yield ""
    for kind, rows in found["kinds"].items():
        yield f"- **{kind}**: " + _verdict(rows)
    yield (
        f"- False share of the flagged cells (rate {RATE:g}): Delta {span(found['false']['Delta'])}, {_false(found['false']['Delta'])}. "
        + (f"Above the rate: {listed([n for n, f in found['false'].items() if f['low'] > RATE])}.")
    )
    yield (
        f"- Exploratory: counting only cells that the model saw without any pixel of the square, the false share of Delta is {span(found['apart']['Delta'])}"
        + (
            ". The rest of the flags counted as false are on unchanged ground beside changed ground, which a chip shows together: a flag means that something changed in view."
            if found["apart"]["Delta"]["value"] < found["false"]["Delta"]["value"]
            else "."
        )
    )
    yield f"- Of the measures whose false share is not above the rate ({listed(quiet(found))}), recall is highest, by kind: {_best_quiet(found)}."
    yield "- A measure that flags much without an injection has recall for nothing: read recall beside the false share; AUROC does not depend on flags."
    if "64" in found["sizes"]:
        yield _large(found)
    told = ", ".join(
        f"{month} {r['flagged']['Delta']:.0f} of {r['judged']} ({r['history']} years)"
        for month, r in found["reference"].items()
    )
    calm = found["quiet"]
    yield f"- Flagged by Delta without an injection: {told}." + (
        f" Exploratory: in the {len(calm['months'])} months of {len(found['reference'])} without such flags its false share is {span(calm['false'])}."
        if calm["false"] is not None and len(calm["months"]) < len(found["reference"])
        else ""
    )
    yield ""
    yield from _kinds(found)
    yield ""
    yield from _curves(found)
    yield ""
    yield "Recall of injected cells by Delta, and squares with any cell found in brackets:"
    yield ""
    sizes = list(found["sizes"])
    yield row(("kind", "amplitude", *(f"{size} px" for size in sizes)))
    yield row(("---",) * (2 + len(sizes)))
    for kind in found["kinds"]:
        for amplitude in sorted({g["amplitude"] for g in found["grid"]}):
            cells = [g for g in found["grid"] if g["kind"] == kind and g["amplitude"] == amplitude]
            yield row((kind, f"{amplitude:g}", *(f"{g['recall']['Delta']:.2f} ({g['found']:.2f})" for g in cells)))
    yield ""
    yield "False share of the flagged cells, mean over maps:"
    yield ""
    yield from table(("measure", "up to 32 px", *(f"{size} px" for size in sizes)),
                     ((n, span(f), *(f"{found['sizes'][size][n]['value']:.3f}" for size in sizes)) for n, f in found["false"].items()))  # fmt: skip


def _large(found: Found) -> str:
    large, recall = found["sizes"]["64"]["Delta"], {size: _recall(found, size) for size in (32, 64)}
    both = ", ".join(f"{kind} {value:.2f} ({recall[32][kind]:.2f})" for kind, value in recall[64].items())
    return (
        f"- Squares of 64 px hold 64% of the judged ground, and the shift of the whole map was expected to take them for no change. Cells found by Delta at amplitude 4, beside "
        f"squares of 32 px: {both}; false share {span(large)}."
    )


def quiet(found: Found) -> list[str]:
    """Name the measures whose false share is not above the rate."""
    return [name for name, f in found["false"].items() if f["low"] <= RATE]


def _best_quiet(found: Found) -> str:
    rows = {kind: {n: measures[n]["recall"] for n in quiet(found)} for kind, measures in found["kinds"].items()}
    best = {kind: max(some, key=lambda n, s=some: s[n]["value"]) for kind, some in rows.items()}
    return ", ".join(f"{kind} {name} {span(rows[kind][name])}" for kind, name in best.items())


def _recall(found: Found, size: int) -> dict[str, float]:
    some = (g for g in found["grid"] if g["size_px"] == size and g["amplitude"] == 4)
    return {g["kind"]: g["recall"]["Delta"] for g in some}


def _verdict(rows: Found) -> str:
    """Say which measures beat Delta, by AUROC and by recall, and which it beats."""
    others = {name: r for name, r in rows.items() if name != "Delta"}
    best = max(others, key=lambda name: others[name]["auroc"]["value"])
    parts = [
        f"AUROC of Delta {span(rows['Delta']['auroc'])}, best of the others {best} {span(others[best]['auroc'])}; recall of Delta {span(rows['Delta']['recall'])}."
    ]
    for part, name in (("auroc", "AUROC"), ("recall", "recall")):
        groups = {v: [n for n, r in others.items() if r[f"{part}_gap"]["verdict"] == v] for v in ("loses to", "beats")}
        parts.append(f"By {name} Delta loses to {listed(groups['loses to'])}; beats {listed(groups['beats'])}.")
    return " ".join(parts)


def _false(found: Found) -> str:
    return (
        "at or below the rate"
        if found["high"] <= RATE
        else "above it"
        if found["low"] > RATE
        else "not told apart from it"
    )


def _kinds(found: Found) -> Iterator[str]:
    kinds = list(found["kinds"])
    yield "AUROC, and recall at q <= 0.1, mean over squares up to 32 px and amplitudes:"
    yield ""
    names = list(found["kinds"][kinds[0]])

    def mean(name: str) -> float:
        return sum(found["kinds"][kind][name]["auroc"]["value"] for kind in kinds)

    yield row(("measure", *(f"{kind}: AUROC" for kind in kinds), *(f"{kind}: recall" for kind in kinds)))
    yield row(("---",) * (1 + 2 * len(kinds)))
    for name in sorted(names, key=mean, reverse=True):
        cells = [span(found["kinds"][kind][name][part]) for part in ("auroc", "recall") for kind in kinds]
        yield row((f"**{name}**" if name == "Delta" else name, *cells))


def _curves(found: Found) -> Iterator[str]:
    """Tell the power of every measure by amplitude, mean over sizes up to 32 px."""
    small = [g for g in found["grid"] if g["size_px"] <= SMALL_PX]
    amplitudes = sorted({g["amplitude"] for g in small})
    yield f"Recall of injected cells at amplitudes {', '.join(f'{a:g}' for a in amplitudes)}, mean over squares up to {SMALL_PX} px:"
    yield ""

    def curve(kind: str, name: str) -> str:
        means = []
        for amplitude in amplitudes:
            some = [g["recall"][name] for g in small if (g["kind"], g["amplitude"]) == (kind, amplitude)]
            means.append(f"{sum(some) / len(some):.2f}")
        return ", ".join(means)

    kinds = list(found["kinds"])
    names = sorted(found["kinds"][kinds[0]], key=lambda name: name != "Delta")
    yield from table(("measure", *kinds), ((name, *(curve(kind, name) for kind in kinds)) for name in names))


def draw(found: Found) -> None:
    """Draw recall against amplitude, a column a kind and a row a size: Delta and the measures that find most."""
    kinds = list(found["kinds"])
    figure, axes = plt.subplots(
        len(DRAWN_PX), len(kinds), figsize=(11, 7), sharex=True, sharey=True, layout="constrained"
    )
    shown = _shown(found)
    for line, size in zip(axes, DRAWN_PX, strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            some = sorted(
                (g for g in found["grid"] if g["kind"] == kind and g["size_px"] == size), key=lambda g: g["amplitude"]
            )
            for k, name in enumerate(shown):
                style = (
                    {"color": "black", "linewidth": 2.2, "zorder": 5}
                    if name == "Delta"
                    else {"color": f"C{k}", "linewidth": 1.3}
                )
                axis.plot(
                    [g["amplitude"] for g in some],
                    [g["recall"][name] for g in some],
                    marker="o",
                    markersize=3,
                    label=name,
                    **style,
                )
            axis.set(xscale="log", ylim=(-0.03, 1.03))
            axis.set_xticks([g["amplitude"] for g in some], [f"{g['amplitude']:g}" for g in some])
            axis.minorticks_off()
            axis.grid(alpha=0.25)
            axis.set_title(f"{kind}, {size * 10} m", fontsize=9)
    figure.supxlabel(
        "amplitude, in local standard deviations (smoothing and removal: 1 - exp(-amplitude) of the way)", fontsize=9
    )
    figure.supylabel("share of injected cells flagged at q <= 0.1", fontsize=9)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(shown), fontsize=8, frameon=False
    )
    figure.savefig(picture(found), dpi=95, metadata={"Software": None})
    plt.close(figure)


def _shown(found: Found) -> list[str]:
    """Return Delta and, of the others, those of the highest recall in one of the kinds."""
    names = [name for name in next(iter(found["kinds"].values())) if name != "Delta"]
    best = []
    for rows in found["kinds"].values():
        best += sorted(names, key=lambda name: -rows[name]["recall"]["value"])[:BEST]
    also = ["Delta excess", "token, cosine distance"]
    return ["Delta", *also, *[name for name in dict.fromkeys(best) if name not in also]][:8]
