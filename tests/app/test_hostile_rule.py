"""The rule that hostile input is held to, held to planted faults: each kind of fault is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile import ODD, Case, as_json, child, spots, with_value, without

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("{}['key']", "status 1, expected (0, 2): KeyError: 'key'"),
        ("import numpy; numpy.ones(2**28 + 2**20)", "MemoryError"),
        ("import os; os.abort()", "signal 6"),
        ("import sys; print('much', file=sys.stderr); sys.exit(2)", "1 lines: much"),
        ("raise SystemExit(3)", "status 3"),
        ("while True: pass", "runs on"),
        (
            "from patchclamp.base.errors import PatchclampError; raise PatchclampError('x: KeyError: 3')",
            "no line for a person",
        ),
    ],
)
def test_a_planted_fault_is_seen(python: str, said: str) -> None:
    found = child().run(Case("planted", python=f"import signal; signal.alarm(3)\n{python}"))
    assert said in found.broken


def test_bytes_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(2**20))
    again = f"for _ in range(100): open({str(file)!r}, 'rb').read()"
    assert "bytes were read" in child().run(Case("again", python=again, files=[str(file)])).broken
    once = child().run(Case("once", python=f"open({str(file)!r}, 'rb').read()", files=[str(file)]))
    assert not once.broken and 2**20 <= once.read < 2**21


def test_what_is_right_passes() -> None:
    assert not child().run(Case("nothing", python="")).broken
    assert not child().run(Case("refused", ["open", "/nowhere/at-all"], ends=(2,))).broken
    assert child().run(Case("not refused", python="", ends=(2,))).broken
    assert not child().run(Case("large enough", python="import numpy; numpy.ones(2**27)")).broken


def test_places_of_a_document() -> None:
    document = {"a": [1, {"b": 2}], "c": 3}
    assert spots(document) == [(), ("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",)]
    assert with_value(document, ("a", 1, "b"), None) == {"a": [1, {"b": None}], "c": 3}
    assert without(document, ("a", 0)) == {"a": [{"b": 2}], "c": 3}
    assert as_json({"x": float("inf")}) == b'{"x": 1e400}' and all(as_json(value) for value in ODD)
