"""Is the page of a bench well-formed, escaped, self-contained, and drawn to scale?"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import msgspec
import pytest

from hybrid.devices.bench import FailedModel
from hybrid.devices.bench_html import page
from hybrid.devices.bench_svg import Ceiling, Point, Series, chart, roofline, si
from tests.devices.reports import FAST, MACHINE, SMALL, model, report, speed

HOSTILE = '<script>alert("x")</script>&\'"`'


def parsed(text: str) -> ET.Element:
    """Read the page as XML, which it is but for the doctype and one entity; a tag left open would not parse."""
    body = text.removeprefix("<!doctype html>\n")
    return ET.fromstring(body)  # noqa: S314 - our own page


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(report(SMALL, FAST), id="two-models"),
        pytest.param(report(), id="no-model"),
        pytest.param(report(SMALL, machine=None), id="no-machine"),
        pytest.param(report(model(speed(prefill={}, decode={}, ttft_s=None, rss_bytes=None))), id="nothing-measured"),
        pytest.param(report(model(speed(decode_tok_j={1: 0.5}, prefill_tok_j={32: 2.0}))), id="energy"),
        pytest.param(report(*[model(speed(f"m{number}")) for number in range(9)]), id="more-models-than-colours"),
    ],
)
def test_the_page_is_well_formed(shown):
    """Every tag is closed, whatever is missing from the report."""
    assert "html" == parsed(page(shown)).tag


def test_texts_that_are_not_ours_are_escaped():
    """A model's or processor's name, an error and a note cannot become a tag."""
    shown = report(
        model(speed(HOSTILE, power=HOSTILE, left_out=(HOSTILE,))),
        hardware={"cpu": HOSTILE, "cores": "2", "memory_gib": "1"},
        failed=(FailedModel(HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
    )
    root = parsed(page(shown))
    assert [] == list(root.iter("script"))
    assert HOSTILE == next(root.iter("h1")).text


def test_the_page_needs_nothing_else():
    """No address, script, import or image: it can be mailed, and opened without a network."""
    text = page(report(SMALL, FAST))
    for outside in ("http", "//", "<script", "<link", "<img", "@import", "url(", "src="):
        assert outside not in text, outside


def test_the_page_has_a_dark_side():
    """Colours are variables, and each has a value by night."""
    style = page(report()).partition("<style>")[2].partition("</style>")[0]
    day, _, night = style.partition("@media (prefers-color-scheme: dark)")
    night = night.partition("\n* {")[0]
    names = set(re.findall(r"(--[\w]+):", day))
    assert names == set(re.findall(r"(--[\w]+):", night))
    assert set(re.findall(r"var\((--\w+)\)", style)) <= names


def test_figures_and_advice_are_on_the_page():
    """Medians with extremes, the share of the roof, commands as code, and what was left out."""
    shown = report(model(speed("small", left_out=("a prompt of 4096 tokens: would take 90 s",))))
    text = page(shown)
    for what in (
        "240 <small>228&#8211;252</small>",
        "50 %",
        "<code>hybrid models tune</code>",
        "too slow for your ttft_ms of 1.5 s at 4,000-token prompts",
        "Left out: a prompt of 4096 tokens: would take 90 s.",
        "1 chat at once",
    ):
        assert what in text, what


def points_of(drawing: str) -> list[tuple[float, float]]:
    """Where the circles are."""
    root = ET.fromstring(drawing)  # noqa: S314 - our own drawing
    return [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in root.iter("circle")]


def test_a_chart_is_to_scale():
    """Doubling x moves as far each time, twice the value stands twice as high, and all is inside."""
    series = Series("a", [Point(x, y, y, y) for x, y in ((1, 10.0), (2, 20.0), (4, 40.0))], 0)
    drawing = chart([series], title="t", x_label="x", y_label="y")
    (x1, y1), (x2, y2), (x3, y3) = points_of(drawing)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx((y2 - y3) / 2, abs=0.2)
    assert all(0 <= x <= 500 and 0 <= y <= 320 for x, y in points_of(drawing))


def test_a_point_on_the_roof_lies_on_its_line():
    """At 10 operations a byte and 1e9 bytes a second the memory's line is at 1e10."""
    series = Series("a", [Point(10, 1e10, 1e10, 1e10)], 0)
    drawing = roofline(
        [series], [Ceiling("m", slope=1e9), Ceiling("p", height=1e11)], title="t", x_label="", y_label=""
    )
    [(x, y)] = points_of(drawing)
    roof = next(
        one
        for one in ET.fromstring(drawing).iter("line")  # noqa: S314
        if one.attrib["class"] == "roof"
    )
    x1, y1, x2, y2 = (float(roof.attrib[name]) for name in ("x1", "y1", "x2", "y2"))
    assert y == pytest.approx(y1 + (y2 - y1) * (x - x1) / (x2 - x1), abs=0.3)


def test_nothing_to_draw_is_no_drawing():
    """Without points there is no empty frame."""
    assert ["", ""] == [draw() for draw in (_empty_chart, _empty_roofline)]


def _empty_chart() -> str:
    return chart([], title="t", x_label="", y_label="")


def _empty_roofline() -> str:
    return roofline([Series("a", [], 0)], [Ceiling("p", height=1.0)], title="t", x_label="", y_label="")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.5, "0.5"), (999, "999"), (1234, "1.23 k"), (9.2e11, "920 G"), (1.5e16, "15 P"), (3e19, "3e+04 P")],
)
def test_si(value, expected):
    """Three digits and the prefix."""
    assert expected == si(value)


def test_a_machine_without_known_caches_or_int8_is_shown():
    """What is missing leaves no hole."""
    bare = msgspec.structs.replace(MACHINE, int8=(), fp32=(), latency=(), cache_bytes=())
    assert "none seen" in page(report(SMALL, machine=bare))
