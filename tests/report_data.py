"""A study of an invented network, small but complete, from which a report can be made without any model."""

from __future__ import annotations

from typing import Any

import pandas as pd

from patchclamp.base.files import plain
from patchclamp.study.proof import EFFECT_COLUMNS, P_COLUMN
from patchclamp.study.stages import Column, Figure, Section, Table


def invented(**changes: Any) -> dict[str, Any]:
    """The content of a study.json, with changes at the top level."""
    lines = {"x": [0, 1, 2, 6], "low": [0.0, 0.4, 0.8, 0.9], "high": [0.0, 0.6, 1, 1.1], "css": "s1"}
    curve = {
        "series": [{"name": "random", "y": [0.0, 0.1, 0.2, 1.0], **lines}, {"name": "ranked", "y": [0.0, 0.5, 0.9, 1.0], **lines}],
        "x_label": "heads", "y_label": "metric lost", "label": "Metric lost against number of heads",
    }  # fmt: skip
    token = {"token": " cat", "z": 5.1, "p": 0.005}
    unit = {
        "unit": "head.1[0]", "score": 1.5, "score_low": 1.2, "score_high": 1.8, "effect": 0.5, "low": 0.4, "high": 0.6,
        "control": 0.02, "control_low": -0.01, "control_high": 0.05, "p": 0.048, "p_adjusted": 0.096, "summary": "Copies.",
        "promotes": [token], "suppresses": [token],
        "exemplars": [{"value": 2.5, "before": "the ", "token": "cat", "after": " sat"}], "decoded": "",
    }  # fmt: skip
    agreement = {
        "method": "integrated_gradients", "label": "integrated gradients", "point": "head", "cells": 9, "pearson": 0.97,
        "pearson_low": None, "pearson_high": None, "spearman": None, "seconds": 1.2,
    }  # fmt: skip
    roles = ["subject", "end"]
    axes = {"columns": ["0", "1", "2"], "x_label": "layer", "y_label": ""}
    heads = [[1.5, -0.2, 0.0], [None, 0.1, 0.3]]
    stream, outputs = [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]], [[0.1, 0.2, 0.0], [0.0, 0.0, 0.3]]
    rows = [{"name": "2 heads", "estimate": 0.9, "low": 0.8, "high": 1.0, "control": 0.05, "control_low": -0.02,
             "control_high": 0.12}, {"name": "head.1[0]", "estimate": 0.5, "low": 0.4, "high": 0.6}]  # fmt: skip
    zero = [{"name": "2 heads, zero", "estimate": 0.7, "low": 0.6, "high": 0.8}]
    text = {
        "label": "clean",
        "pieces": [{"text": "the cat", "role": "subject"}],
        "answer": " is",
        "foil": " are",
    }
    points = {
        "groups": {"head": [[0.1, 0.2, "head.0[1]"]]},
        "title": "integrated gradients",
        "label": "against exact",
    }
    columns = (
        Column("Unit", "unit", "unit"),
        *EFFECT_COLUMNS,
        P_COLUMN,
        Column("What it writes", "summary", "said"),
    )
    pearson = Column("Pearson", "pearson", "number", interval=("pearson_low", "pearson_high"))
    sections = {
        "checking": Section(
            heading="Is it the right tensor?", appendix=True,
            tables=[Table(pd.DataFrame([{"name": "parity", "passed": True}]), columns=[Column("", "passed", "passed")])],
        ),
        "able": Section(heading="The behaviour", figures=[Figure("examples", [{"texts": [text]}], caption="A toy.")]),
        "choosing": Section(
            heading="Where it happens",
            text="Estimated by integrated gradients.",
            figures=[
                Figure("heat_map", [{"values": heads, "rows": ["0", "1"], "label": "heads", "marked": [[0, 0]], **axes}]),
                Figure("heat_map", [{"values": stream, "rows": roles, "label": "stream", **axes}]),
                Figure("heat_map", [{"values": outputs, "rows": roles, "label": "mlp_out", **axes}]),
            ],
        ),
        "ablating": Section(
            heading="The proof",
            figures=[
                Figure("forest", [{"rows": some, "x_label": "metric lost", "label": "effects"}], "Together and alone",
                       key=[("dot", "pos", "effect")]) for some in (rows, zero)
            ],
        ),
        "curves": Section(figures=[Figure("curves", [curve], "Lost", key=[("line", "pos", "ranked")], half=True)] * 2),
        "units": Section(heading="The units", tables=[Table(pd.DataFrame([unit]), "units", columns)]),
        "methods": Section(
            heading="Methods side by side",
            tables=[Table(pd.DataFrame([agreement]), "agreement", (Column("Method", "label"), pearson))],
            figures=[Figure("scatter", [points], key=[("dot", "g1", "head")], below=True)],
        ),
    }  # fmt: skip
    return plain({
        "schema": "patchclamp/study/2", "version": "0.1.0", "created": "2026-01-02T03:04:05+00:00", "kind": "study",
        "name": "toy", "question": ["Which units carry ", "toy", "?"], "note": "Sixteen items.", "colophon": "tiny, cpu.",
        "command": "patchclamp study toy", "seconds": {"total": 12.0}, "headline": "Two heads carry it.",
        "tiles": [{"value": "90%", "what": "lost"}], "findings": ["One."], "limits": ["Other prompts."], "options": {},
        "model": {"name": "tiny", "fingerprint": "ab" * 32}, "tables": ["units", "agreement"],
        "sections": [section.to_json(name) for name, section in sections.items()],
        **changes,
    })  # fmt: skip


def invented_claim(**changes: Any) -> dict[str, Any]:
    """One claim as the report reads it."""
    claim = {
        "negative": False, "kind": "necessity", "statement": "Two heads take 90%.", "n": 16, "estimate": 0.9,
        "interval": [0.8, 1.0], "control": {"mean": 0.05, "low": -0.02, "high": 0.12}, "p": 0.048, "p_adjusted": None,
    }  # fmt: skip
    return {**claim, **changes}
