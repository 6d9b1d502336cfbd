"""What a long run keeps: plain data and arrays, given back as they were, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null
from patchclamp.base.frozen import FreezeError, Freezer, thaw
from patchclamp.nouns.units import Site, Unit

VALUES: list[Any] = [
    None, True, 3, 0.1, float("inf"), "text", [1, [2, []]], (1, (2,)), {"a": 1, 2: "b", Site("z", 1): [0.5]},
    {1, 2}, frozenset({"a"}), Path("a/b"), Unit(Site("mlp_act", 3), 5), Estimate(0.5, None, 0.6, 3, Null(0, -1, 1, 9, "x")),
]  # fmt: skip


def there_and_back(value: Any, known: dict[str, Any] | None = None) -> Any:
    freezer = Freezer(known or {})
    node = json.loads(json.dumps(freezer.freeze(value)))
    return thaw(node, freezer.tensors, freezer.classes, known or {})


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_data_come_back_as_they_were(value: Any) -> None:
    found = there_and_back(value)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool", "float16"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_arrays_come_back_to_the_bit(dtype: str, shape: tuple[int, ...]) -> None:
    value = (np.arange(np.prod(shape)).reshape(shape) / 3).astype(dtype)
    found = there_and_back(value)
    assert found.dtype == value.dtype and found.shape == shape and found.tobytes() == value.tobytes()
    tensor = torch.from_numpy(np.array(value))
    assert torch.equal(there_and_back(tensor), tensor)
    one = np.dtype(dtype).type(1)
    assert type(there_and_back(one)) is type(one)


def test_tables_come_back() -> None:
    table = pd.DataFrame(
        {
            "n": [1, 2],
            "x": [0.5, np.nan],
            "s": ["a", None],
            "rows": [[{"token": "b"}], []],
            "b": [True, False],
        }
    )
    pd.testing.assert_frame_equal(there_and_back(table), table)
    turned = table.iloc[::-1]
    pd.testing.assert_frame_equal(there_and_back(turned), turned)
    words = np.array([["a", "b"], ["c", "d"]])
    assert (there_and_back(words) == words).all()


def test_what_is_known_is_named_and_not_written() -> None:
    model = SimpleNamespace(weights=1)
    assert there_and_back({"of": model, "n": [1]}, {"model": model})["of"] is model


@pytest.mark.parametrize("value", [len, object(), SimpleNamespace(a=1), [lambda: 0], np.array([1j]), Site])
def test_functions_and_models_are_not_kept(value: Any) -> None:
    with pytest.raises(FreezeError, match="cannot be kept"):
        there_and_back(value)


@pytest.mark.parametrize(
    "name", ["os:system", "builtins:eval", "patchclamp.base.files:write_text", "patchclamp.nouns:x"]
)
def test_a_file_can_name_nothing_but_data_classes(name: str) -> None:
    with pytest.raises(PatchclampError, match="no data class of patchclamp"):
        thaw(["d", 0, "true"], {}, [name], {})
