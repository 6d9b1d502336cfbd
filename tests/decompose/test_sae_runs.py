"""Runs of sparse autoencoders: rows once an epoch, same bits for same seeds, resumed after a kill, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from patchclamp import Recording
from patchclamp.base.errors import PatchclampError
from patchclamp.decompose import METHODS, TopK, load_dictionary
from patchclamp.decompose.dictionaries import SparseDictionary
from patchclamp.decompose.sae import quality
from patchclamp.decompose.sae.core import Pass
from patchclamp.decompose.sae.feed import PIECE, Feed
from patchclamp.decompose.sae.training import Sides, TrainingRun
from patchclamp.nouns.units import Site
from sae_toys import SITE, VARIANTS, planted, recording


def test_an_epoch_is_every_row_once_and_needs_the_buffer_only() -> None:
    n = 3 * PIECE + 100
    x = torch.arange(n, dtype=torch.float32)[:, None].repeat(1, 2)
    feeds = [Feed([source], ["x"], 1000, 2 * PIECE, 0) for source in (x, recording(x)[SITE])]
    for feed in feeds:
        seen = torch.cat([feed(i)[0][:, 0] for i in range(13)])
        assert torch.equal(seen[:n].sort().values, x[:, 0])
        lists = [value for name, value in vars(feed).items() if isinstance(value, list) and name != "sources"]
        held = [len(rows) for value in lists for rows in value if isinstance(rows, Tensor)]
        assert held and max(held) <= (n if feed is feeds[0] else 2 * PIECE)
    # Wherever the rows lie, and whichever batch is asked for first.
    assert torch.equal(feeds[0](9)[0], feeds[1](9)[0])
    fresh = Feed([x], ["x"], 1000, 2 * PIECE, 0)
    assert torch.equal(fresh(9)[0], feeds[0](9)[0])
    assert not torch.equal(Feed([x], ["x"], 1000, 2 * PIECE, 1)(0)[0], feeds[0](0)[0])


def test_only_content_is_learnt_from() -> None:
    from patchclamp.nouns.recording.samples import Samples

    x, _ = planted(600)
    loud = x.clone()
    loud[::6] = 1e6
    samples = Samples.of(
        torch.arange(600), torch.zeros(600, dtype=torch.int64), content=torch.arange(600) % 6 != 0
    )
    rec = Recording.from_arrays({SITE: loud}, samples)
    auto = TopK(16, k=2, steps=20, batch_size=100)
    a, b = auto.fit(rec), auto.fit(x[torch.arange(600) % 6 != 0], SITE)
    assert torch.equal(a.directions, b.directions)


# ---- same seed, same bits
def bits(dictionary: Any) -> dict[str, Tensor]:
    return dict(dictionary.state())


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(t, bits(b)[key]) for key, t in bits(a).items())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_seed_gives_the_same_dictionary_and_a_killed_run_goes_on(name: str, tmp_path: Path) -> None:
    x, _ = planted(3000)
    settings = {**VARIANTS[name], **({"prefixes": (16, 32)} if name == "matryoshka" else {})}
    auto = METHODS[name](32, steps=60, batch_size=128, save_every=25, dead_after=500, **settings)
    one, two = auto.fit(x, SITE), auto.fit(recording(x))
    assert same(one, two)

    class Killed(Exception):
        pass

    def die(text: str, done: float, total: float | None) -> None:
        if done == 40:
            raise Killed

    with pytest.raises(Killed):
        auto.fit(x, SITE, progress=die, resume=tmp_path)
    steps: list[int] = []
    three = auto.fit(x, SITE, progress=lambda text, done, total: steps.append(done), resume=tmp_path)
    assert steps[0] == 26
    assert same(one, three) and one.meta["history"] == three.meta["history"]
    assert same(one, auto.fit(x, SITE, resume=tmp_path))  # finished: nothing left to do
    other = METHODS[name](32, seed=1, steps=60, batch_size=128, **settings)
    assert not same(one, other.fit(x, SITE))
    with pytest.raises(
        PatchclampError, match=r"holds the state of another run: settings\.seed is 0 there and 1 here"
    ):
        other.fit(x, SITE, resume=tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_folded_back_to_the_units_of_the_data(name: str) -> None:
    """Activity in other units, and shifted, gives the same features; codes carry the unit."""
    x, _ = planted(3000)
    settings = {**VARIANTS[name], **({"prefixes": (16, 32)} if name == "matryoshka" else {})}
    auto = METHODS[name](32, steps=50, batch_size=128, **settings)
    small, large = auto.fit(x, SITE), auto.fit(64 * x + 32, SITE)
    codes = small.encode(x)
    assert float((large.encode(64 * x + 32) - 64 * codes).abs().max()) < 1e-2 * float(64 * codes.max())
    a, b = quality(small, x), quality(large, 64 * x + 32)
    assert a.unexplained == pytest.approx(b.unexplained, rel=1e-2)
    assert a.l0 == pytest.approx(b.l0, rel=1e-2)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_dictionary_read_back_encodes_the_same_bits(name: str, tmp_path: Path) -> None:
    x, _ = planted(500)
    settings = {**VARIANTS[name], **({"prefixes": (16, 32)} if name == "matryoshka" else {})}
    made = METHODS[name](32, steps=20, batch_size=128, **settings).fit(x, SITE)
    again = load_dictionary(made.save(tmp_path / "mine"))
    assert torch.equal(again.encode(x), made.encode(x)) and torch.equal(
        again.reconstruct(x), made.reconstruct(x)
    )
    assert again.meta == made.meta and again.site == made.site


def test_what_was_trained_is_what_comes_out() -> None:
    """Codes of the last weights in training, scaled back, are the dictionary's."""
    x, _ = planted(2000)
    auto = TopK(32, k=3, steps=40, batch_size=128)
    sides = Sides([x], [Site("mlp_act", 0)])
    feed = sides.feed(auto)
    run = TrainingRun(auto, sides, feed, sides.geometry(feed.widths), 32)
    state = run.start()
    adam = state.optimiser(auto.betas)
    with torch.no_grad():
        for _ in range(40):
            run.advance(state, adam)
        factor = run.factors[0]
        one = Pass(state.params, run.geometry, x * factor, x * factor)
        found, codes = auto.codes(one)
        made = one.decode(found, codes) / factor
    dictionary = auto.fit(x, SITE)
    assert isinstance(dictionary, SparseDictionary)
    assert torch.allclose(dictionary.encode(x), found.dense(codes) / factor, atol=1e-5)
    assert torch.allclose(dictionary.reconstruct(x), made, atol=1e-5)
    assert torch.allclose(dictionary.directions.norm(dim=1), torch.ones(32), atol=1e-6)
