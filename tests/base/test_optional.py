"""Packages of the extra that are not there are named, with the way to get them, wherever they are used."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.base.optional import new_figure, optional
from patchclamp.connect import correlation


def test_a_module_that_is_there_is_that_module() -> None:
    assert optional("math", "files need") is sys.modules["math"]


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("matplotlib.figure", lambda graph: new_figure(2, 2)),
        ("matplotlib.figure", lambda graph: graph.plot()),
        ("networkx", lambda graph: graph.to_networkx()),
    ],
)
def test_one_that_is_missing_is_named(module, use, monkeypatch) -> None:
    graph = correlation(np.random.default_rng(0).normal(size=(50, 3)), null=None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        PatchclampError, match=rf"{module.split('.')[0]} is not installed.*patchclamp\[brain\]"
    ):
        use(graph)
