"""One recording, one matrix: every verb reads the same samples, and says which units it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.compare import cka, match_units
from patchclamp.connect import correlation
from patchclamp.decompose import METHODS as ESTIMATORS
from patchclamp.decompose import PCA
from patchclamp.measure import Moments
from patchclamp.measure.brain import psth
from patchclamp.nouns.recording.lazy import SiteArray
from patchclamp.nouns.recording.matrix import STRETCH, matrix
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.nouns.units import parse_site
from patchclamp.record import measure_recording

SAMPLES, CONTENT, HEADS, PARTS = 60, 54, 3, 5


def heads(seed: int = 0) -> Recording:
    """60 samples of three heads of five parts; the first of each ten is a sink, a hundred times as large."""
    place = torch.arange(SAMPLES)
    content = place % 10 != 0
    values = torch.randn(SAMPLES, HEADS, PARTS, generator=torch.Generator().manual_seed(seed))
    values[~content] *= 100
    samples = Samples.of(place // 10, place % 10, content=content)
    return recorded("head.0", values, samples)


def recorded(site: str, values: torch.Tensor, samples: Samples) -> Recording:
    where = parse_site(site)
    array = SiteArray(where, values, values.dtype, range(len(values)))
    return Recording({where: array}, dict(samples.columns()), range(len(values)), {}, {})


def measured(data: Any) -> tuple[int, int]:
    found = measure_recording(data, {"moments": Moments()})
    return found["head.0"]["moments"].n_samples, found.table("moments").sizes["unit"]


def connected(data: Any) -> tuple[int, int]:
    graph = correlation(data, null=None)
    return graph.params["samples"], graph.n


def compared(data: Any) -> tuple[int, int]:
    return cka(data, data).n, len(match_units(data, data, n_null=1).table)


def decomposed(data: Any) -> tuple[int, int]:
    found = PCA(2, held_out=0).fit(data)
    return found.meta["n_samples"], found.directions.shape[1]


VERBS = {"measure": measured, "connect": connected, "compare": compared, "decompose": decomposed}
UNITS = {"measure": HEADS, "connect": HEADS, "compare": HEADS * PARTS, "decompose": HEADS * PARTS}


def test_all_verbs_read_the_same_samples_and_their_own_units() -> None:
    found = {verb: read(heads()) for verb, read in VERBS.items()}
    assert found == {verb: (CONTENT, UNITS[verb]) for verb in VERBS}


@pytest.mark.parametrize(("how", "width"), [("norm", HEADS), ("join", HEADS * PARTS)])
def test_heads_are_an_argument_of_every_verb_and_stored_in_the_result(how: Any, width: int) -> None:
    data = heads()
    table = measure_recording(data, {"moments": Moments()}, heads=how)
    graph = correlation(data, null=None, heads=how)
    result = cka(data, data, heads=how)
    dictionary = PCA(2, held_out=0).fit(data, heads=how)
    assert table.table("moments").sizes["unit"] == graph.n == dictionary.directions.shape[1] == width
    kept = (table.meta, graph.params, dictionary.meta, *({"reading": one} for one in result.meta["reading"]))
    assert [one["reading"]["heads"] for one in kept] == [how] * 5
    assert all(one["reading"]["units"] == width for one in kept[1:])
    assert table.table("moments").attrs["heads"] == how


def test_defaults_are_stored() -> None:
    data = heads()
    stored = {
        "measure": measure_recording(data, {"moments": Moments()}).meta["reading"]["heads"],
        "connect": correlation(data, null=None).params["reading"]["heads"],
        "compare": match_units(data, data).meta["reading"][0]["heads"],
        "decompose": PCA(2, held_out=0).fit(data).meta["reading"]["heads"],
    }
    assert stored == {"measure": "norm", "connect": "norm", "compare": "join", "decompose": "join"}


@pytest.mark.parametrize("verb", list(VERBS))
def test_a_matrix_decides_how_a_verb_reads(verb: str) -> None:
    if verb == "measure":
        found = measure_recording(heads(), {"moments": Moments()}, content=False)
        assert found["head.0"]["moments"].n_samples == SAMPLES
    else:
        for how, width in (("norm", HEADS), ("join", HEADS * PARTS)):
            assert VERBS[verb](matrix(heads(), heads=how, content=False)) == (SAMPLES, width)


def test_sinks_do_not_move_a_figure() -> None:
    """Sinks are a hundred times as large: with and without them in the recording, all verbs give the same numbers."""
    whole = heads()
    clean = whole.select(where={"content": True})
    one, two = (measure_recording(d, {"m": Moments()}).table("m")["mean"].values for d in (whole, clean))
    assert np.array_equal(one, two)
    other = heads(1)
    assert cka(whole, other).value == cka(clean, other.select(where={"content": True})).value
    assert np.array_equal(
        correlation(whole, null=None).weights[1:, 0], correlation(clean, null=None).weights[1:, 0]
    )
    first, second = (PCA(2, held_out=0).fit(d).directions for d in (whole, clean))
    assert torch.equal(first, second)


# ---- missing units


def with_a_gap() -> Recording:
    """Four units, the third marked as not present and without a value."""
    values = torch.randn(40, 4, generator=torch.Generator().manual_seed(3))
    values[:, 2] = float("nan")
    return Recording.from_arrays(
        {"head.0": values}, labels={"head.0": {"present": [True, True, False, True]}}
    )


@pytest.mark.parametrize("verb", list(VERBS))
def test_missing_units_are_refused_by_name_with_the_way_out(verb: str) -> None:
    with pytest.raises(PatchclampError, match=r'head\.0\[2\]: 1 missing.*missing="drop"'):
        VERBS[verb](with_a_gap())


def test_missing_units_are_dropped_where_asked() -> None:
    data = with_a_gap()
    table = measure_recording(data, {"moments": Moments()}, missing="drop").table("moments")
    graph = correlation(data, null=None, missing="drop")
    expected = ["head.0[0]", "head.0[1]", "head.0[3]"]
    assert table["unit"].values.tolist() == list(graph.nodes) == expected
    assert len(match_units(data, data, missing="drop").table) == 3
    assert PCA(2, held_out=0).fit(data, missing="drop").directions.shape[1] == 3
    nobody = Recording.from_arrays({"a": torch.ones(4, 1)}, labels={"a": {"present": [False]}})
    with pytest.raises(PatchclampError, match="none of its 1 units is present"):
        matrix(nobody, missing="drop")


# ---- the matrix itself


def test_it_streams_from_a_store_and_reads_no_more_than_it_is_asked(tmp_path: Path) -> None:
    n = 3 * STRETCH
    place = torch.arange(n)
    samples = Samples.of(place // 50, place % 50, content=place % 50 != 0)
    values = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    stored = Recording.from_arrays({"mlp_act.0": values}, samples).save(tmp_path / "store")
    read: list[int] = []
    original = SiteArray.__getitem__

    def watch(self: SiteArray, key: Any) -> torch.Tensor:
        found = original(self, key)
        read.append(len(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteArray, "__getitem__", watch)
        found = matrix(stored)
        assert found.shape == (n - n // 50 - (n % 50 > 0), 4) and not read
        blocks = list(found.blocks(1000))
        assert max(read) <= STRETCH and [len(b) for b in blocks[:-1]] == [1000] * (len(blocks) - 1)
    content = values[samples.content]
    assert torch.equal(torch.cat(blocks), content)
    assert torch.equal(found[5:900], content[5:900])
    assert np.array_equal(found.numpy(), content.double().numpy())
    assert torch.equal(found[torch.tensor([7, 3, 900])], content[[7, 3, 900]])


def test_units_are_labelled_by_head_and_part() -> None:
    joined, normed = (matrix(heads(), heads=how).units for how in ("join", "norm"))
    assert normed["unit"].tolist() == ["head.0[0]", "head.0[1]", "head.0[2]"]
    assert joined["unit"].tolist()[4:6] == ["head.0[0].4", "head.0[1].0"]
    assert joined["index"].tolist() == np.repeat(range(HEADS), PARTS).tolist()
    table = measure_recording(heads(), {"moments": Moments()}, heads="join").table("moments")
    assert table["unit"].values.tolist() == joined["unit"].tolist()


def test_norms_are_those_of_the_parts() -> None:
    data = heads()
    content = data.samples.content
    expected = data["head.0"][:][content].double().norm(dim=-1)
    assert np.allclose(matrix(data).numpy(), expected.numpy(), atol=0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: matrix(Recording.from_arrays({"a": np.eye(3), "b": np.eye(3)})),
            "several sites.*a, b.*site=",
        ),
        (lambda: matrix(heads(), heads="mean"), "heads='mean'.*'norm' or 'join'"),
        (lambda: matrix(heads(), missing="keep"), "missing='keep'"),
        (lambda: matrix(np.zeros(3)), "wanted samples x units"),
        (lambda: matrix(heads(), "head.1"), "did you mean head.0"),
        (lambda: matrix(np.array([[0.0, np.inf]]), "x").numpy(), r"x\[1\]: inf at sample 0 is not a finite"),
    ],
)
def test_what_cannot_be_read_is_refused(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(PatchclampError, match=says):
        call()


def test_bins_that_are_not_full_do_not_enter_measures_of_trials() -> None:
    place = torch.arange(20)
    samples = Samples.of(place // 5, place % 5, content=place % 5 != 4, label=torch.zeros_like(place))
    values = torch.ones(20, 1)
    values[4::5] = 50.0
    trials = Recording.from_arrays({"cells": values}, samples)
    found = psth(trials)
    assert found["mean"].shape == (1, 4, 1) and float(found["mean"].max()) == 1.0


def test_every_estimator_and_every_method_takes_the_same_arguments() -> None:
    from inspect import signature

    from patchclamp.compare import METHODS as COMPARISONS
    from patchclamp.connect import METHODS as CONNECTIONS

    fits = {name: one.fit for name, one in ESTIMATORS.items() if hasattr(one, "fit")}
    found = {
        name: set(signature(one).parameters) for name, one in {**COMPARISONS, **CONNECTIONS, **fits}.items()
    }
    # Interaction bases are fitted to a model and a task, not to a recording.
    lacking = [name for name, one in found.items() if "reading" not in one and "subject" not in one]
    # Its `heads` are a transformer's: a recording's are chosen by a matrix.
    assert lacking == ["attention_connectivity"]
