"""Alerts: numbers with and without the shift of the whole map, numbering over zones, the page's table, pictures."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from geoelle import alert_pictures as pictures_module
from geoelle.alert_pictures import Side, alert_pictures
from geoelle.alerts import MOST_TOLD, alerts_of, told_alerts, zone_alerts
from geoelle.change_states import follow
from geoelle.embeddings import Embeddings, Header
from geoelle.lattice import Addresses, Lattice
from geoelle.report import GalleryFacts, change_report
from geoelle.thumbnails import Imagery, Thumbnail, Thumbnails

LATTICE = Lattice(epsg=32631, gsd_m=10, size_px=32, stride_px=16)
FIRST, SECOND = 18_478.0, 18_518.0  # 2020-08-04 and 2020-09-13
ITEMS = {"items_before": ["a"], "items_after": ["b", "c"]}


def mesh(lattice: Lattice = LATTICE, side: int = 20) -> Addresses:
    rows, cols = np.divmod(np.arange(side * side), side)
    return Addresses(lattice=lattice, rows=rows - 31_000, cols=cols + 3_000)


def changed(flagged: list[int], *, cells: Addresses | None = None, shift: float = -0.31, **more: object):
    """A map shifted by `shift`, whose flagged cells are harder by half of that: blue in delta, red in t."""
    cells = mesh() if cells is None else cells
    delta_n, flag_n, q_n = np.full(len(cells), shift), np.zeros(len(cells)), np.ones(len(cells))
    delta_n[flagged], flag_n[flagged], q_n[flagged] = shift + 0.15, 1, np.linspace(0.01, 0.02, len(flagged))
    found = {
        "addresses": cells, "delta_n": delta_n, "flag_n": flag_n, "q_n": q_n, "sign_n": np.ones(len(cells)),
        "shift": shift, "days_n2": np.tile([18_000.0, FIRST], (len(cells), 1)), "followed": None, "looks": (),
    }  # fmt: skip
    return SimpleNamespace(**found | more)


def followed(first: list[int], second: list[int]):
    """Two looks: `first` is flagged at both, `second` at the later one only, which is shifted by another number."""
    cells = mesh()
    signed_ln, delta_ln = np.zeros((2, len(cells))), np.stack([np.full(len(cells), s) for s in (-0.31, 0.2)])
    signed_ln[:, first], signed_ln[1, second] = 1, 1
    delta_ln += 0.15 * signed_ln
    days_ln = np.array([[FIRST], [SECOND]]) + 0 * signed_ln
    looks = [SimpleNamespace(delta_n=d, q_n=np.where(s, 0.01, 1.0)) for d, s in zip(delta_ln, signed_ln, strict=True)]
    return changed([], followed=follow(signed_ln, days_ln), looks=tuple(looks))


def test_a_shifted_map_is_told_with_its_shift_and_without() -> None:
    (row,) = alerts_of(changed([0, 1]), **ITEMS).itertuples()
    assert row.sign == "harder" and row.mean_delta == pytest.approx(-0.16)
    assert row.mean_delta_less_shift == pytest.approx(0.15)


def test_the_shift_is_that_of_the_look_of_first_detection() -> None:
    table = alerts_of(followed([0, 1], [50]), **ITEMS).set_index("first_detected")
    assert table.loc["2020-08-04", ["mean_delta", "mean_delta_less_shift"]].tolist() == pytest.approx([-0.16, 0.15])
    assert table.loc["2020-09-13", ["mean_delta", "mean_delta_less_shift"]].tolist() == pytest.approx([0.35, 0.15])


def test_alerts_of_zones_are_numbered_over_all_and_nothing_is_told_without_a_test() -> None:
    other = replace(LATTICE, epsg=32632)
    zones = {LATTICE: changed([0, 50]), other: changed([0, 60, 120], cells=mesh(other))}
    table, by_zone = zone_alerts(zones, **ITEMS)
    assert table["alert"].tolist() == [1, 2, 3, 4, 5]
    assert {lattice: len(part) for lattice, part in by_zone.items()} == {LATTICE: 2, other: 3}
    assert sorted([*by_zone[LATTICE]["alert"], *by_zone[other]["alert"]]) == [1, 2, 3, 4, 5]
    assert (by_zone[other]["stop_lon"] > by_zone[LATTICE]["stop_lon"].max()).all()
    table, by_zone = zone_alerts({LATTICE: changed([], q_n=None, flag_n=None)}, **ITEMS)
    assert table is None and not len(by_zone[LATTICE])


def test_the_page_lists_fifty_alerts_and_says_how_many_more() -> None:
    table = alerts_of(changed([cell for cell in range(140) if sum(divmod(cell, 20)) % 2]), **ITEMS)
    rows, more = told_alerts(table)
    assert len(rows) == MOST_TOLD == 50 and more == 20
    assert rows[0]["alert"] == 1 and rows[0]["sign"] == "harder" and rows[0]["mean Delta"] == "+0.15"
    assert rows[0]["first detected"] == "2020-08-04" and rows[0]["items"] == "a > b, c"
    facts = GalleryFacts(title="t", summary="s", reading="r", more={})
    page = change_report(facts, [], alerts=rows, more=more)
    assert "<h2>Alerts</h2>" in page and f"{more} more are in alerts.parquet" in page and "least q" in page
    assert "Alerts" not in change_report(facts, [])


# --- pictures


def side(name: str, day: float) -> Side:
    cells = mesh()
    times_n = np.full(len(cells), np.datetime64("1970-01-01", "s") + int(day * 86_400))
    space = {"model": "m", "weights_sha256": "w", "pooling": "p", "target": "t", "masking": "k"}
    table = Embeddings(
        addresses=cells, vectors_nd=np.zeros((len(cells), 2), np.float32), valid_n=np.ones(len(cells), bool),
        valid_fraction_n=np.ones(len(cells)), times_n=times_n, items_n=[name] * len(cells),
        header=Header(space=space, sensor="sentinel-2-l2a", bands=("red",)),
    )  # fmt: skip
    return Side(imagery=Imagery(items=name, sensor="sentinel-2-l2a", area=None), tables=[table])


def test_each_alert_is_shown_at_its_first_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    table = alerts_of(followed([0, 1], [50, 222]), **ITEMS)
    drawn: list[tuple[str, list[str], list[float]]] = []
    shades = {"before": 0.1, "after": 0.2, "later": 0.3}

    def read(imagery: Imagery, _: object, chips: np.ndarray) -> Thumbnails:
        of = {int(chip): Thumbnail(pixels_yxc=np.full((1, 1, 1), shades[imagery.items])) for chip in chips}
        return Thumbnails(of=of, bands=("red",))

    def sheet(title: str, _: str, entries, pictures: Thumbnails, *__: object, **___: object) -> bytes:
        shown = [float(pictures.of[entry.chip].pixels_yxc[0, 0, 0]) for entry in entries]
        drawn.append((title, [entry.date for entry in entries], shown))
        return b""

    monkeypatch.setattr(pictures_module, "read_thumbnails", read)
    monkeypatch.setattr(pictures_module, "contact_sheet", sheet)
    afters = [side("after", FIRST + 0.4), side("later", SECOND + 0.4)]
    alert_pictures(table, side("before", 18_000.4), afters, credit="")
    before, first = drawn
    assert before[1] == ["2019-04-14"] * 3 and before[2] == [0.1] * 3
    assert first[0].endswith("when first detected") and first[1] == table["first_detected"].tolist()
    assert first[2] == [{"2020-08-04": 0.2, "2020-09-13": 0.3}[day] for day in table["first_detected"]]
    assert {"2020-08-04", "2020-09-13"} == set(first[1])
