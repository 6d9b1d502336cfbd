"""A study of an invented network, small but complete, from which a report can be made without any model."""

from __future__ import annotations

from typing import Any


def invented(**changes: Any) -> dict[str, Any]:
    """The content of a study.json, with changes at the top level."""
    curve = {
        "sizes": [0, 1, 2, 6],
        "mean": [0.0, 0.5, 0.9, 1.0],
        "low": [0.0, 0.4, 0.8, 0.9],
        "high": [0.0, 0.6, 1, 1.1],
    }
    curve["random"] = {**curve, "mean": [0.0, 0.1, 0.2, 1.0]}
    token = {"token": " cat", "z": 5.1, "p": 0.005}
    unit = {
        "unit": "head.1[0]", "score": 1.5, "score_low": 1.2, "score_high": 1.8, "effect": 0.5, "low": 0.4, "high": 0.6,
        "control": 0.02, "control_low": -0.01, "control_high": 0.05, "p": 0.048, "p_adjusted": 0.096, "summary": "Copies.",
        "promotes": [token], "suppresses": [token],
        "exemplars": [{"value": 2.5, "before": "the ", "token": "cat", "after": " sat"}], "decoded": "",
    }  # fmt: skip
    roles = ["subject", "end"]
    return {
        "schema": "patchclamp/study/1", "version": "0.1.0", "created": "2026-01-02T03:04:05+00:00",
        "command": "patchclamp study toy", "seconds": {"total": 12.0}, "headline": "Two heads carry it.",
        "tiles": [{"value": "90%", "what": "lost"}], "findings": ["One."], "limits": ["Other prompts."],
        "model": {"name": "tiny", "fingerprint": "ab" * 32, "family": "Llama", "layers": 3, "heads": 6, "neurons": 12,
                  "d_model": 8, "dtype": "float32", "device": "cpu"},
        "task": {"name": "toy", "title": "toy", "description": "a toy", "metric": "logit_diff", "metric_text": "logit difference",
                 "metric_unit": "logit difference", "metric_short": "logits", "corruption": "swap", "seed": 0, "n": 64,
                 "splits": {"train": 16, "validation": 16, "test": 16}, "disjoint": "names", "fingerprint": "cd" * 32,
                 "examples": [{"label": "clean", "pieces": [{"text": "the cat", "role": "subject"}], "answer": " is",
                               "foil": " are"}]},
        "checks": [{"name": "parity", "passed": True, "detail": "bit for bit"}],
        "ability": {"metric": 4.0, "low": 3.5, "high": 4.5, "accuracy": 1.0, "required": 0.9, "corrupted": None},
        "attribution": {"method": "integrated_gradients", "label": "integrated gradients", "n_items": 32, "seconds": 1.0,
                        "direction": "noising"},
        "selection": [], "effects": [],
        "maps": {"heads": {"values": [[1.5, None], [-0.2, 0.1], [0.0, 0.3]], "selected": [[0, 0]]},
                 "stream": {"name": "resid_post", "roles": roles, "values": [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]},
                 "outputs": [{"name": "mlp_out", "roles": roles, "values": [[0.1, 0.0], [0.2, 0.0], [0.0, 0.3]]}]},
        "forest": [{"name": "2 heads", "estimate": 0.9, "low": 0.8, "high": 1.0, "control": 0.05, "control_low": -0.02,
                    "control_high": 0.12}, {"name": "head.1[0]", "estimate": 0.5, "low": 0.4, "high": 0.6}],
        "ablations": [{"name": "2 heads, zero", "estimate": 0.7, "low": 0.6, "high": 0.8}],
        "curves": [{"name": "heads", "n_random": 5, "ablated": curve, "kept": curve}],
        "units": [unit],
        "methods": {"n_items": 8, "n_cells": 9, "drawn": "", "points": ["head", "resid_post"],
                    "agreement": [{"method": "integrated_gradients", "label": "integrated gradients", "point": "head", "cells": 9,
                                   "pearson": 0.97, "spearman": None, "slope": 1.01, "sign": 0.9, "seconds": 1.2}],
                    "scatter": [{"label": "integrated gradients", "points": {"head": [[0.1, 0.2, "head.0[1]"]]}}]},
        "ablation": "mean over train items", "n_control": 20, "matched_by": "matched by site",
        **changes,
    }  # fmt: skip


def invented_claim(**changes: Any) -> dict[str, Any]:
    """One claim as the report reads it."""
    claim = {
        "negative": False, "kind": "necessity", "statement": "Two heads take 90%.", "n": 16, "estimate": 0.9,
        "interval": [0.8, 1.0], "control": {"mean": 0.05, "low": -0.02, "high": 0.12}, "p": 0.048, "p_adjusted": None,
    }  # fmt: skip
    return {**claim, **changes}
