"""Tell and draw what the recovery index says of clear-cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from delta_words import listed, span, table

PICTURE = Path(__file__).parents[1] / "docs" / "img" / "recovery.png"
TENTH = 0.1
MINE, OTHER = "difficulty", "NDVI"
SHIPPED, SUMMER = "as shipped", "June and July"
SHOWN = (MINE, "true loss", OTHER)
Found = Mapping[str, Any]


def departs(row: Found) -> str:
    """Return the decision of the protocol: "departs", "does not" or "not told".

    >>> departs({"cut": {"low": 0.2}, "rank": {"low": 0.7}}), departs({"cut": {"low": 0.2}, "rank": {"low": 0.4}})
    ('departs', 'does not')
    """
    if row["rank"]["low"] <= 0.5:
        return "does not"
    return "departs" if row["cut"]["low"] > TENTH else "not told"


def turn(found: Found) -> str:
    """Return what an interval of a rise says.

    >>> turn({"value": 0.2, "low": 0.1, "high": 0.3}), turn({"value": None, "low": None, "high": None})
    ('rises', 'cannot be told')
    """
    if found["value"] is None:
        return "cannot be told"
    return "rises" if found["low"] > 0 else "falls" if found["high"] < 0 else "is not told to rise or fall"


def verdict(run: Found) -> str:
    """Say first whether difficulty departs at clear-cuts, and of how many places it has an index."""
    row = run["measures"][MINE]
    cut, rank = row["cut"], row["rank"]
    word = {
        "departs": "difficulty departs at clear-cuts",
        "does not": "difficulty does not depart at clear-cuts more than on uncut ground",
        "not told": "difficulty is not shown to leave its band at clear-cuts",
    }[departs(row)]
    apart = row["apart"]
    way = "easier" if apart["high"] < 0 else "harder" if apart["low"] > 0 else "neither harder nor easier"
    return (
        f"{word}: {cut['hits']} of {cut['count']} are beyond the band ({span(cut)}), of placebos {span(row['placebo'])}{', so the band is too narrow here' if row['placebo']['low'] > TENTH else ''}; "
        f"against a placebo a cut departs more, in widths of the band, with a probability of {span(rank)}; cuts less placebos are {span(apart)} half-widths, {way}. "
        f"At {cut['count'] - cut['hits']} of {cut['count']} cuts there is nothing to recover from, so no index of difficulty; NDVI is beyond its band at {run['measures'][OTHER]['cut']['hits']}"
    )


def grows(run: Found) -> str:
    """Say what the index of difficulty does where there is one, in June and July."""
    mine, ndvi = (run["measures"][n] for n in (MINE, OTHER))
    if not mine["index"][SUMMER]["seasons"]:
        return "June and July give no index of difficulty."
    rise, both = mine["index"][SUMMER]["rise"], mine["agreement"][SUMMER]
    agree = (
        "cannot be told"
        if both["value"] is None
        else ("is" if both["low"] > 0 else "is not shown") + f" ({span(both)})"
    )
    return (
        f"The index of difficulty, medians of June and July after 1, 2 and 3 years (places): {_medians(mine, SUMMER)}; of NDVI {_medians(ndvi, SUMMER)}. That they go together from place to place {agree}; "
        f"whether the index of difficulty rises {'cannot be told' if rise['value'] is None else 'is told: it ' + turn(rise)} (places of two seasons: {rise['places']})."
    )


def short(runs: Sequence[Found]) -> Iterator[str]:
    """Tell the answer of each run in a line."""
    for run in runs:
        yield f"- `{run['model']}`, recovery after clear-cuts ({_reading(run)}): {verdict(run)}."


def _reading(run: Found) -> str:
    return f"{run['dates']} dates, {'the whole source' if run['reading'] == 'cube' else 'demo catalogue'}"


def recovery(runs: Sequence[Found]) -> Iterator[str]:
    """Tell what the index says of clear-cuts, whether there is one first."""
    yield "## Recovery on real ground"
    yield ""
    yield (
        "What `scripts/evaluate_recovery.py` measured, by [a protocol of its own](protocol-recovery.md): the recovery index that ships, at clear-cuts in one beech forest of a square kilometre, found and dated by "
        "NDVI alone, beside *placebos*, places of the same shape and date on ground that was not cut. That NDVI departs at cuts, and at few placebos, is how both were chosen, and no finding; red, NDMI and the other indices are near it. "
        "Exact intervals take places as independent; cuts share weather and dates, and placebos overlap: they are too narrow. Intervals of ranks, rises and correlations redraw cuts."
    )
    yield ""
    for run in runs:
        yield f"- **`{run['model']}`, {_reading(run)}: {verdict(run)}.** {grows(run)}"
    yield ""
    yield from _picture([run for run in runs if "example" in run])
    for run in runs:
        yield ""
        yield from _run(run)
    yield ""
    yield (
        "**What cannot be told**: fire, flood or defoliation, and other forests; recovery beyond three years; whether an index is right, as there is no record of the ground; single cuts of 2017, whose band rests on "
        "one year and one date of another, and those of 2020, which have no later season. No second series with an event of known date could be had (the protocol names what was looked at)."
    )


def _picture(runs: Sequence[Found]) -> Iterator[str]:
    one = runs[0]["example"]
    yield f"![A clear-cut through time](img/{PICTURE.name})"
    yield ""
    told = [_caption(label, measured) for label, _, measured in panels(runs)]
    yield (
        f"The largest clear-cut of the earliest year that could be judged: {one['patches']} patches ({one['patches'] * 1600 / 10_000:.2f} ha), seen first on {_date(one['event_day'])} (line). Filled dates are in the fit of the season, "
        f"hollow ones are not; the grey band should hold nine of ten dates of a new year. {'. '.join(told)}. Brackets of indices are 90% intervals."
    )


def panels(runs: Sequence[Found]) -> Iterator[tuple[str, Found, Found]]:
    """Yield name, example and measure of each panel: difficulty of each model that judged the same place, then NDVI.

    Raises: ValueError (two places).
    """
    if len({(run["example"]["event_day"], run["example"]["patches"]) for run in runs}) > 1:
        raise ValueError("the examples of two models are of two places; draw them one by one")
    for run in runs:
        yield f"difficulty of {run['model']}", run["example"], run["example"]["measures"][MINE]
    yield OTHER, runs[0]["example"], runs[0]["example"]["measures"][OTHER]


def _caption(name: str, measured: Found) -> str:
    start = f"{name[0].upper() + name[1:]} departs by {measured['initial']:+.3f}, the band is ±{measured['band']:.3f}"
    told = [
        f"{way}: {', '.join(_index(season, i) for season, i in seasons.items())}"
        for way, seasons in measured["index"].items()
        if seasons
    ]
    return f"{start}: index {'; '.join(told)}" if told else f"{start}: no index"


def _index(season: str, one: Found) -> str:
    return f"{one['index']:.2f} [{one['low']:.2f}, {one['high']:.2f}] after {season} year{'' if season == '1' else 's'}"


def _date(day: float) -> str:
    return str(np.datetime64(int(day), "D"))


def _run(run: Found) -> Iterator[str]:
    yield f"### `{run['model']}`, {', '.join(run['bands'])}: {_reading(run)}, {run['judged']} clear-cuts"
    yield ""
    named = {name: row for name, row in run["measures"].items()}
    groups = {
        word: [n for n, row in named.items() if departs(row) == word] for word in ("departs", "not told", "does not")
    }
    narrow = [n for n, row in named.items() if row["placebo"]["low"] > TENTH]
    yield f"- {run['places']} places of {run['cut']} patches were cut; {run['places'] - run['judged']} could not be judged ({_why(run['missing'])}; a season needs 12 dates before). Uncut: {run['uncut']} patches, on which {named[MINE]['placebo']['count']} placebos lie."
    yield f"- Depart at clear-cuts: {listed(groups['departs'])}. Move more than placebos, with a share beyond the band that may be a tenth: {listed(groups['not told'])}. Do not depart more than uncut ground: {listed(groups['does not'])}."
    yield f"- The band is too narrow (by placebos) for {listed(narrow)}; it holds for the other {len(named) - len(narrow)}."
    if run["large"]:
        yield f"- Places of two patches or more: difficulty beyond the band at {span(run['large'][MINE]['cut'])}, rank {span(run['large'][MINE]['rank'])}; NDVI {span(run['large'][OTHER]['cut'])}."
    yield from _indices(named)
    yield ""
    rows = sorted(named.items(), key=lambda pair: -pair[1]["rank"]["value"])
    yield from table(
        ("measure", "cuts beyond the band", "placebos beyond it", "rank of cuts among placebos", "cuts less placebos, half-widths", "index, June and July, after 1, 2, 3 years (places)", "index, as shipped"),
        ((f"**{n}**" if n == MINE else n, span(r["cut"]), span(r["placebo"]), span(r["rank"]), span(r["apart"]), _medians(r, SUMMER), _medians(r, SHIPPED)) for n, r in rows),
    )  # fmt: skip
    yield ""
    yield "By year of the cut, beyond the band: cuts, and the share of placebos."
    yield ""
    years = list(named[MINE]["by_year"])
    yield from table(
        ("measure", *years),
        ((n, *(f"{v['cut']['hits']} of {v['cut']['count']}; {v['placebo']['value']:.2f}" for v in named[n]["by_year"].values())) for n in SHOWN if n in named),
    )  # fmt: skip


def _why(missing: Sequence[str]) -> str:
    """Count the reasons, by their first words.

    >>> _why(["2017: no season can be fitted: 9 dates", "2018: no season can be fitted: 11 dates", "2018: no placebo: x"])
    '2 no season can be fitted; 1 no placebo'
    """
    reasons = Counter(why.split(": ")[1] for why in missing)
    return listed([f"{count} {reason}" for reason, count in reasons.items()])


def _indices(named: Found) -> Iterator[str]:
    """Tell how indices rise, and whether they go with that of NDVI."""
    with_index = {n: row for n, row in named.items() if "index" in row}
    for way in (SUMMER, SHIPPED):
        rises = {n: row["index"][way]["rise"] for n, row in with_index.items()}
        told = [f"{n} {turn(r)} ({span(r)}, {r['places']} places)" for n, r in rises.items() if r["value"] is not None]
        yield f"- From its first year to its last the index, {way}: {listed(told)}. Of the others it cannot be told, with fewer than five places of two seasons."
    ndvi = {way: with_index[OTHER]["index"][way]["seasons"] for way in (SUMMER, SHIPPED)}
    yield (
        f"- Of NDVI the index is, after 1, 2 and 3 years, {_medians(with_index[OTHER], SHIPPED)} as shipped (the last dates at the time of year of the first) and {_medians(with_index[OTHER], SUMMER)} in June and July alone, of the same cuts."
        if all(ndvi.values()) else f"- NDVI has no index in {listed([w for w, s in ndvi.items() if not s])}."
    )  # fmt: skip
    mine = with_index[MINE]["agreement"][SUMMER]
    agreed = [f"{n} {span(r['agreement'][SUMMER])}" for n, r in with_index.items() if n not in (MINE, OTHER) and r["agreement"][SUMMER]["value"] is not None]  # fmt: skip
    yield (
        f"- Spearman's correlation of the index with that of NDVI, June and July: difficulty {span(mine) if mine['value'] is not None else 'cannot be told (places with both: ' + str(mine['places']) + ')'}; {listed(agreed)}."
    )


def _medians(row: Found, way: str) -> str:
    if "index" not in row:
        return "-"
    return ", ".join(f"{s['median']:.2f} ({s['places']})" for s in row["index"][way]["seasons"].values()) or "-"


def draw(runs: Sequence[Found], path: Path = PICTURE) -> None:
    """Draw the example: difficulty of each model, and NDVI, with season, band and event."""
    shown = list(panels([run for run in runs if "example" in run]))
    figure, axes = plt.subplots(len(shown), 1, figsize=(10, 2.4 * len(shown)), sharex=True, layout="constrained")
    for axis, (label, one, measured) in zip(axes, shown, strict=True):
        days_n, fitted_n, grid_n = (np.array(one[part]) for part in ("days", "fitted", "grid"))
        curve_n, half_n = (np.array(measured[part], float) for part in ("expected", "half"))
        values_n = np.array(measured["values"])
        axis.fill_between(
            _days(grid_n), curve_n - half_n, curve_n + half_n, color="0.85", linewidth=0, label="90% band of the season"
        )
        axis.plot(_days(grid_n), curve_n, color="0.55", linewidth=1)
        axis.plot(_days(days_n[fitted_n]), values_n[fitted_n], "o", color="black", markersize=3.5, label="in the fit")
        axis.plot(
            _days(days_n[~fitted_n]),
            values_n[~fitted_n],
            "o",
            mfc="white",
            color="C3",
            markersize=4,
            label="not in the fit",
        )
        axis.axvline(_days(np.array([one["event_day"]]))[0], color="C0", linewidth=1.2, label="cut first seen")
        axis.set_title(f"{label} (log)" if label != OTHER else label, fontsize=9, loc="left")
        axis.margins(x=0.01)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=95, metadata={"Software": None})
    plt.close(figure)


def _days(days_n: np.ndarray) -> np.ndarray:
    return np.floor(days_n).astype("datetime64[D]")
