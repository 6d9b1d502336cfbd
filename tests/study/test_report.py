"""The report: complete, self-contained, escaped; the figures: right and well-formed."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from importlib import resources
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import read_json
from patchclamp.draw.charts import Curve, curves, forest, heat_map, scatter
from patchclamp.draw.svg import element, linear, log_scale, ticks
from patchclamp.draw.text import number, percent
from patchclamp.study.report.report import render
from report_data import invented, invented_claim

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(1)>'


def replaced(value, text):
    """Replace every string inside a value, but keys and what the code compares."""
    if isinstance(value, dict):
        fixed = ("schema", "created", "css", "kind", "show", "key", "interval", "ends", "note")
        return {k: v if k in fixed else replaced(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [replaced(v, text) for v in value]
    return text if isinstance(value, str) else value


def test_the_report_is_complete():
    page = render(invented(), [invented_claim(), invented_claim(negative=True, control=None, p=None)])
    for text in (
        "Two heads carry it.",
        "head.1[0]",
        "not evidence for",
        "integrated gradients",
        "patchclamp study toy",
    ):
        assert text in page
    assert page.count("<svg") == 8
    assert ">None<" not in page
    assert not re.search(r">\s*(nan|None|undefined)\b", page)


def test_text_from_data_cannot_become_markup():
    study = replaced(invented(), HOSTILE)
    page = render(study, [replaced(invented_claim(), HOSTILE)])
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<script>") == 1


def test_nothing_is_loaded_from_anywhere_and_only_the_own_script_may_run():
    page = render(invented(), [invented_claim()])
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"""(src|href)\s*=|url\(|@import""", page)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in page or f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_every_figure_is_well_formed():
    page = render(replaced(invented(), "a & b < c"), [])
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(drawing)


def test_a_study_without_maps_or_curves_still_has_a_report():
    bare = [section | {"figures": [], "tables": []} for section in invented()["sections"]]
    assert "not evidence for" in render(invented(sections=bare), [])
    assert "not evidence for" in render(invented(sections=[]), [])


def test_a_study_of_another_schema_is_refused_with_the_way_out():
    with pytest.raises(PatchclampError, match="patchclamp/study/1.*makes it again"):
        render(invented(schema="patchclamp/study/1"), [])


def test_the_invented_study_keeps_to_the_schema():
    schema = read_json(str(resources.files("patchclamp.study") / "study.schema.json"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(invented())


def test_curve_points_lie_where_their_values_are():
    svg = str(curves([Curve("s", [1, 10, 100], [0.0, 0.5, 1.0])], "x", "y", "label"))
    dots = [(float(a), float(b)) for a, b in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert dots[1][0] == pytest.approx((dots[0][0] + dots[2][0]) / 2, abs=0.02)
    assert dots[1][1] == pytest.approx((dots[0][1] + dots[2][1]) / 2, abs=0.02)
    assert dots[0][1] > dots[2][1]


def test_cells_are_as_strong_as_their_values_and_coloured_by_sign():
    svg = str(heat_map([[1.0, -0.5], [0.0, float("nan")]], ["a", "b"], ["r", "s"], "x", "y", "l"))
    cells = re.findall(r'class="cell (pos|neg|missing)" fill-opacity="([\d.]+)" data-tip', svg)
    assert cells == [("pos", "1"), ("neg", "0.5"), ("pos", "0"), ("missing", "1")]


def test_the_effect_is_drawn_inside_its_interval():
    row = {
        "name": "a",
        "estimate": 0.5,
        "low": 0.4,
        "high": 0.6,
        "control": 0.0,
        "control_low": -0.1,
        "control_high": 0.1,
    }
    svg = str(forest([row], "x", "label"))
    low, high = (
        float(v)
        for v in re.search(
            r'x1="([\d.]+)" x2="([\d.]+)" y1="[\d.]+" y2="[\d.]+" class="whisker"', svg
        ).groups()
    )
    at = float(re.search(r'<circle cx="([\d.]+)"', svg)[1])
    assert low < at < high
    assert at == pytest.approx((low + high) / 2, abs=0.02)


def test_equal_estimates_lie_on_the_line():
    svg = str(scatter({"g": [(v, v, str(v)) for v in (-1.0, 0.0, 2.0)]}, "t", "l"))
    x1, y1, x2, y2 = (
        float(v)
        for v in re.search(
            r'x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)" class="identity"', svg
        ).groups()
    )
    for cx, cy in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg):
        on_line = y1 + (float(cx) - x1) / (x2 - x1) * (y2 - y1)
        assert float(cy) == pytest.approx(on_line, abs=0.05)


@given(st.floats(-1e6, 1e6), st.floats(0.001, 1e6))
def test_ticks_are_round_numbers_inside_the_range(low, span):
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 12
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in found)
    assert all(a < b for a, b in pairwise(found))


@given(st.lists(st.integers(0, 50000), min_size=1, unique=True))
def test_a_log_scale_keeps_the_order(values):
    if not any(values):
        return
    scale = log_scale(values, 0, 400)
    at = [scale(v) for v in sorted(values)]
    assert all(a < b for a, b in pairwise(at))
    assert at[0] >= -1e-6
    assert at[-1] <= 400 + 1e-6


def test_scales_and_numbers():
    assert linear(0, 2, 100, 200)(1) == 150
    assert linear(1, 1, 0, 10)(1) == 5
    assert number(float("inf")) == "—"
    assert number(None) == "—"
    assert number(-3.14159, 1) == "−3.1"
    assert number(0.0001) == "0.0001"
    assert percent(None) == "—"
    assert percent(-0.5) == "−50%"
    assert element("g", "<", data_tip='"') == '<g data-tip="&#34;">&lt;</g>'
