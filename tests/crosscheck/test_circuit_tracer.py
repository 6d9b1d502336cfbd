"""The JSON of a circuit, read by circuit-tracer's own models; and the ids of theirs that collide, which ours do not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchclamp.nouns.circuit import CircuitGraph

pytestmark = pytest.mark.crosscheck
pytest.importorskip("pydantic")


def their_models() -> Any:
    """Their module of models alone: the package itself asks for versions that stand beside nothing else."""
    found = importlib.util.find_spec("circuit_tracer")
    if found is None or found.origin is None:
        pytest.skip("circuit-tracer is not installed")
    path = Path(found.origin).parent / "frontend" / "graph_models.py"
    spec = importlib.util.spec_from_file_location("graph_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_their_models_take_our_file_and_keep_every_value(tmp_path: Path) -> None:
    theirs = their_models()
    names = ["tokens:end", "head.3[2]", "mlp_act.3[2]+", "mlp_act.3[2]-", "logits"]
    ends = [(t, s) for t in range(5) for s in range(t)]
    CircuitGraph.of(names, ends, np.ones((2, 10)), method="by hand").to_circuit_tracer(tmp_path / "g.json")
    data = json.loads((tmp_path / "g.json").read_text())
    again = json.loads(theirs.Model(**data).model_dump_json())
    assert again["nodes"] == data["nodes"] and again["links"] == data["links"]
    assert (
        theirs.Node.error_node(5, 3).node_id == theirs.Node.feature_node(0, 3, 5).node_id
    )  # why ours are others
