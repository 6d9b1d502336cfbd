"""Dictionaries that we write, read by SAELens: the same codes, and its metadata are those that we wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from patchclamp.decompose import load_dictionary
from patchclamp.decompose.dictionaries import SparseDictionary

pytestmark = pytest.mark.crosscheck
sae_lens = pytest.importorskip("sae_lens")


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu"])
def test_hook_name_and_bos_survive_and_codes_are_the_same(tmp_path: Path, activation: str) -> None:
    g = torch.Generator().manual_seed(0)
    weights = {
        "W_enc": torch.randn(12, 30, generator=g),
        "b_enc": torch.randn(30, generator=g),
        "W_dec": torch.randn(30, 12, generator=g),
        "b_dec": torch.randn(12, generator=g),
    }
    more = {"topk": {"k": 4}, "jumprelu": {"threshold": torch.rand(30, generator=g)}}.get(activation, {})
    ours = SparseDictionary(
        "resid_post.2",
        **weights,
        activation=activation,
        **more,
        meta={"prepend_bos": False, "context_size": 64},
    )
    ours.save(tmp_path / "ours")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "ours"))
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_resid_post"
    assert theirs.cfg.metadata.prepend_bos is False
    assert theirs.cfg.metadata.context_size == 64
    x = torch.randn(20, 12, generator=g)
    torch.testing.assert_close(theirs.encode(x), ours.encode(x), rtol=1e-5, atol=1e-5)
    theirs.save_model(str(tmp_path / "theirs"))
    back = load_dictionary(tmp_path / "theirs")
    assert str(back.site) == "resid_post.2"
    assert back.meta["cfg"]["metadata"]["prepend_bos"] is False
    torch.testing.assert_close(back.encode(x), ours.encode(x), rtol=1e-5, atol=1e-5)
