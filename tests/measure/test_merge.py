"""Every measure: merging any split equals the whole; order and batches do not matter; state goes round."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from measure_merges import assert_same, measured
from patchclamp.base.errors import PatchclampError
from patchclamp.measure import METHODS, Measure, Moments
from patchclamp.nouns.recording.recording import Samples

UNITS = 5


def data(seed: int, n: int, ties: bool) -> tuple[torch.Tensor, Samples]:
    """Heavy-tailed activity with a zero unit, a constant one and (where asked) many ties; 6 documents of 2 labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, UNITS, generator=generator) ** 3 * torch.tensor([1.0, 30.0, 0.01, 0.0, 1.0])
    if ties:
        x = x.round()
    x[:, 4] = 2.5
    x[n // 2, 0] = 5000.0
    extra = torch.randint(0, 6, (n - 6,), generator=generator)
    doc = torch.sort(torch.cat([torch.arange(6), extra])).values
    position = torch.arange(n)
    return x, Samples.of(doc, position, token=position + 7, label=doc % 2, group=doc)


OUT = torch.randn(UNITS, 4, generator=torch.Generator().manual_seed(3))


CASES: dict[str, Callable[[], Measure]] = {
    "moments": METHODS["moments"],
    "quantiles": METHODS["quantiles"],
    "firing": lambda: METHODS["firing"](threshold=torch.tensor([0.0, 1.0, 0.0, -1.0, 2.5])),
    "dead": lambda: METHODS["dead"](threshold=0.1),
    "sparsity": lambda: METHODS["sparsity"](epsilon=0.1),
    "importance": lambda: METHODS["importance"](output_norms=torch.arange(1.0, UNITS + 1)),
    "cett": lambda: METHODS["cett"](output_weight=OUT),
    "massive": lambda: METHODS["massive"](minimum=20, ratio=3, keep=4),
    "exemplars": lambda: METHODS["exemplars"](k=3),
    "exemplars abs": lambda: METHODS["exemplars"](k=3, by="abs"),
    "exemplars min per doc": lambda: METHODS["exemplars"](k=4, by="min", per_doc=True),
    "selectivity mean": lambda: METHODS["selectivity"](n_permutations=3),
    "selectivity max": lambda: METHODS["selectivity"](n_permutations=3, pool="max"),
    "selectivity last": lambda: METHODS["selectivity"](n_permutations=0, pool="last"),
    "selectivity rows": lambda: METHODS["selectivity"](n_permutations=3, pool="none"),
    "coactivation": lambda: METHODS["coactivation"](units=(0, 2, 3, 4), threshold=0.05),
}


EXACT = {"quantiles", "firing", "dead", "massive", "exemplars", "exemplars abs", "exemplars min per doc"}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(12, 160),
    ties=st.booleans(),
    cuts=st.lists(st.integers(1, 11), max_size=4),
    shuffled=st.booleans(),
)
def test_merge_batches_and_order(
    case: str, seed: int, n: int, ties: bool, cuts: list[int], shuffled: bool
) -> None:
    x, samples = data(seed, n, ties)
    whole = measured(CASES[case], x, samples, []).result()
    cuts = sorted(c * n // 12 for c in cuts)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)) if shuffled else torch.arange(n)
    y, shuffled_samples = x[order], samples[order]
    assert_same(whole, measured(CASES[case], y, shuffled_samples, cuts).result(), case in EXACT)
    parts = [
        measured(CASES[case], y[start:end], shuffled_samples[start:end], [])
        for start, end in zip([0, *cuts], [*cuts, n], strict=True)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert_same(whole, merged.result(), case in EXACT)


@pytest.mark.parametrize("case", CASES)
def test_state_goes_round_to_the_bit(case: str) -> None:
    x, samples = data(1, 60, False)
    straight = measured(CASES[case], x, samples, [30])
    half = measured(CASES[case], x[:30], samples[:30], [])
    half.site = "mlp_act.3"
    state = half.state()
    assert all(isinstance(value, (torch.Tensor, int, float, str, bool, tuple)) for value in state.values())
    resumed = type(half).from_state(state)
    assert resumed.site == "mlp_act.3"
    resumed.site = ""
    half.update(x[30:], samples[30:])  # the state is a copy: this must not reach it
    resumed.update(x[30:], samples[30:])
    assert_same(straight.result(), resumed.result(), exact=True)
    assert resumed.fresh().n_samples == 0


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_inf_are_named_and_not_added(case: str, bad: float) -> None:
    x, samples = data(1, 60, False)
    measure = measured(CASES[case], x, samples, [])
    before = measure.result()
    measure.site = "mlp_act.3"
    broken = x.clone()
    broken[17, 2] = bad
    where = rf"mlp_act.3\[2\].*doc {int(samples.doc[17])}, position 17, token 24"
    with pytest.raises(PatchclampError, match=where):
        measure.update(broken, samples)
    measure.site = ""
    assert_same(before, measure.result(), exact=True)


def test_infinities_that_cancel_are_found() -> None:
    x, samples = data(1, 20, False)
    x[3, 1], x[4, 1] = float("inf"), float("-inf")
    for name in ("moments", "firing", "quantiles"):
        with pytest.raises(PatchclampError, match=r"\[1\]: Inf"):
            METHODS[name]().update(x, samples)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    x, samples = data(1, 20, False)
    a, b = METHODS["firing"](threshold=0.0), METHODS["firing"](threshold=1.0)
    with pytest.raises(PatchclampError, match="different threshold: 0.0 and 1.0"):
        a.merge(b)
    with pytest.raises(PatchclampError, match="cannot be merged"):
        Moments().merge(a)
    c, d = Moments(), Moments()
    c.site, d.site = "mlp_act.1", "mlp_act.2"
    with pytest.raises(PatchclampError, match="different sites"):
        c.merge(d)
    e, f = Moments(), Moments()
    e.update(x, samples)
    f.update(x[:, :3], samples)
    with pytest.raises(PatchclampError, match="5 and 3 units"):
        e.merge(f)
    with pytest.raises(PatchclampError, match="cannot become"):
        Moments.from_state(a.state())


def test_bad_shapes_are_refused() -> None:
    x, samples = data(1, 20, False)
    with pytest.raises(PatchclampError, match="20 rows of activity but 19 samples"):
        Moments().update(x, samples[:19])
    with pytest.raises(PatchclampError, match=r"flatten heads with activity.flatten\(1\)"):
        Moments().update(x[:, :, None], samples)
    m = Moments()
    m.update(x, samples)
    with pytest.raises(PatchclampError, match="4 units, earlier ones 5"):
        m.update(x[:, :4], samples)
    with pytest.raises(PatchclampError, match="no sample was measured"):
        Moments().result()


def test_merging_with_an_empty_measure() -> None:
    x, samples = data(1, 20, False)
    m = measured(Moments, x, samples, [])
    assert_same(m.result(), Moments().merge(m).result(), exact=True)
    assert_same(m.result(), m.merge(Moments()).result(), exact=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("case", ["moments", "quantiles", "firing", "exemplars"])
def test_other_precisions_give_what_their_values_give(case: str, dtype: torch.dtype) -> None:
    x, samples = data(5, 40, False)
    x = x.to(dtype)
    low = measured(CASES[case], x, samples, []).result()
    assert_same(measured(CASES[case], x.double(), samples, []).result(), low, exact=case in EXACT)
