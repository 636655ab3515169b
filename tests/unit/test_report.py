import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from geoelle.figures import Score
from geoelle.lattice import Addresses, Lattice
from geoelle.quicklook import MapText
from geoelle.raster import paint
from geoelle.report import (
    Counts,
    FitFacts,
    MapFacts,
    Picture,
    fit_pictures,
    fit_report,
    map_pictures,
    map_report,
)
from geoelle.style import Ramp

ROWS = (
    {"predictor": "ELLE", "r": 0.8912, "interval": (0.83, 0.93), "chips": 9283},
    {"predictor": "untrained twins", "r": np.float32(0.64), "interval": None, "chips": 9283},
    {"predictor": "shuffled", "r": float("nan"), "interval": (-0.1, 0.1), "trained": False},
)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


class Page(HTMLParser):
    """Collect the tags, the table rows and the text of a page; complain about tags that do not match."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if not self.open or self.open[-1] != "style":
            self.text += data


def map_facts(**changes: object) -> MapFacts:
    facts: dict[str, object] = {
        "title": "Difficulty of nano",
        "bbox": (-77.77, 37.77, -77.59, 37.91),
        "km2": 256.04,
        "dates": "2024-06-01/2024-06-30",
        "model": "nano",
        "space": "nano/5f2c",
        "target": "log-loss",
        "reading": "A high value means fine, irregular texture.",
        "sensor": "sentinel-2-l2a",
        "source": "earth-search",
        "epsg": (32618, 32619),
        "cell_m": 160.0,
        "counts": Counts(planned=10_000, read=9283, empty=600, skipped={"HTTP 503": 117}),
        "items": ("S2A_1", "S2B_2"),
        "scores": ROWS,
        "files": {"difficulty.tif": "ab" * 32},
        "versions": {"geoelle": "0.1.0"},
    }
    return MapFacts(**(facts | changes))


def fit_facts(**changes: object) -> FitFacts:
    facts: dict[str, object] = {
        "title": "Probe of nano",
        "model": "nano",
        "space": "nano/5f2c",
        "target": "log-loss",
        "reading": "A high value means fine, irregular texture.",
        "sensor": "sentinel-2-l2a",
        "chips": 9283,
        "places": 60,
        "held_out": "5 folds of blocks of 10 km",
        "folds": 5,
        "alpha": "12.6",
        "scores": ROWS,
    }
    return FitFacts(**(facts | changes))


def test_map_page_states_the_facts() -> None:
    page = Page(map_report(map_facts(more={"Looks": "3"}), [Picture(title="Map", caption="Seen.", png=PNG)]))
    facts = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert facts["Where"] == "-77.77, 37.77, -77.59, 37.91 (west, south, east, north, degrees); 256 km²"
    assert facts["When"] == "2024-06-01/2024-06-30"
    assert facts["Chips"] == "10,000 planned, 9,283 read, 600 empty; 117 assets skipped"
    assert facts["Cell"] == "160 m"
    assert facts["CRS"] == "EPSG:32618, EPSG:32619"
    assert facts["Imagery"] == "sentinel-2-l2a, 2 items from earth-search"
    assert facts["Looks"] == "3"
    for text in (
        "S2A_1",
        "ab" * 32,
        "geoelle 0.1.0",
        "within this space only",
        "modified Copernicus Sentinel",
    ):
        assert text in page.text


def test_score_table_keeps_order_and_marks_what_is_missing() -> None:
    page = Page(fit_report(fit_facts(), []))
    start = page.rows.index(["predictor", "r", "interval", "chips", "trained"])
    assert page.rows[start + 1 : start + 4] == [
        ["ELLE", "0.891", "[0.830, 0.930]", "9,283", "-"],
        ["untrained twins", "0.640", "-", "9,283", "-"],
        ["shuffled", "-", "[-0.100, 0.100]", "-", "no"],
    ]
    assert "only above its nulls" in page.text


def test_warnings_come_first_and_skipped_assets_are_one() -> None:
    pictures = [Picture(title="Map", caption="Seen.", png=PNG)]
    html = map_report(map_facts(warnings=("pixel trees beat the probe",)), pictures)
    page = Page(html)
    assert "117 assets could not be read and were skipped: HTTP 503" in page.text
    assert html.index("pixel trees beat the probe") < html.index("<img") < html.index("<table")
    quiet = Page(map_report(map_facts(counts=Counts(planned=1, read=1, empty=0)), pictures))
    assert "Warning" not in quiet.text


def test_page_is_self_contained() -> None:
    html = map_report(map_facts(), [Picture(title="Map", caption="Seen.", png=PNG)] * 2)
    tags = Page(html).tags
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    assert "url(" not in html
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 2
    prefix, _, data = images[0]["src"].partition(",")
    assert prefix == "data:image/png;base64"
    assert base64.b64decode(data) == PNG
    assert images[0]["alt"] == "Map: Seen."
    assert not re.findall(r'(?:src|href)="(?!data:)', html)


def test_everything_is_escaped() -> None:
    attack = '<script>alert("1")</script>'
    picture = Picture(title=attack, caption='"><b onload=x>', png=PNG)
    for html in (
        map_report(
            map_facts(title=attack, items=(attack,), more={attack: attack}, warnings=(attack,)), [picture]
        ),
        fit_report(fit_facts(title=attack, scores=({attack: attack},)), [picture]),
    ):
        assert "script" not in {tag for tag, _ in Page(html).tags}
        assert "<script" not in html
        assert "onload" not in {name for _, attributes in Page(html).tags for name in attributes}


def test_fit_page_states_what_was_held_out() -> None:
    facts = {row[0]: row[1] for row in Page(fit_report(fit_facts(), [])).rows if len(row) == 2}
    assert facts["Chips"] == "9,283 of 60 places"
    assert facts["Held out"] == "5 folds of blocks of 10 km"


def test_pictures_are_shown_at_the_size_of_their_inches() -> None:
    assert Picture(title="", caption="", png=PNG[:16] + (1600).to_bytes(4, "big") + PNG[20:]).css_px == 1200


def test_pictures_of_a_map_and_of_a_fit() -> None:
    rng = np.random.default_rng(0)
    lattice = Lattice(epsg=32618, gsd_m=10, size_px=32, stride_px=16)
    rows, cols = np.divmod(np.arange(100), 10)
    raster = paint(
        Addresses(lattice=lattice, rows=rows - 26250, cols=cols), {"difficulty": rng.normal(size=100)}
    )
    ramp = Ramp.sequential(raster.values, label="difficulty", unit="ln loss")
    drawn = map_pictures(raster, {"difficulty": ramp}, MapText(title="t", subtitle="s", reading="r"))
    assert [p.title for p in drawn] == ["Map", "Distribution of difficulty"]
    x = rng.normal(size=50)
    fitted = fit_pictures(
        x, x + 1, [Score(name="ELLE", r=0.9, is_null=False)], unit="ln loss",
        place_lonlat_m2=np.array([[5.0, 50.0]]), place_r_m=np.array([0.5]),
    )  # fmt: skip
    assert [p.title for p in fitted] == ["Score and nulls", "Calibration", "Score by place"]
    for picture in (*drawn, *fitted):
        assert picture.png.startswith(b"\x89PNG")
        assert picture.css_px > 300
    with pytest.raises(AttributeError):
        fitted[0].title = "changed"
