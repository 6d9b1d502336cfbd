"""Streaming a subject over text: what is recorded, how it is grouped, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hooks import hook_counts
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.record import documents, plan, record
from patchclamp.record.corpus import read_corpus
from patchclamp.record.schedule import cut_batches
from patchclamp.subjects import LanguageModel
from record_subject import Letters, damaged, same_tree, texts, tiny_subject
from tiny import tiny_model

SUBJECT = tiny_subject()
SITES = "mlp_act.*, head.1, resid_post.0"


class Sums:
    """A measure in the protocol: count, sum and the largest value with its place."""

    def __init__(self) -> None:
        self.n, self.total, self.square = 0, torch.zeros(0), torch.zeros(0)

    def update(self, activity: Tensor, samples: Samples) -> None:
        assert len(activity) == len(samples) and bool(samples.content.all())
        if not self.n:
            self.total = torch.zeros(activity.shape[1], dtype=torch.float64)
            self.square = torch.zeros(activity.shape[1], dtype=torch.float64)
        self.n += len(activity)
        self.total += activity.double().sum(0)
        self.square += activity.double().square().sum(0)

    def state(self) -> dict[str, Any]:
        return {"n": self.n, "total": self.total, "square": self.square}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Sums:
        made = cls()
        made.n, made.total, made.square = state["n"], state["total"], state["square"]
        return made

    def result(self) -> xr.Dataset:
        return xr.Dataset({"mean": ("unit", (self.total / self.n).numpy())})


def quiet(*args: Any, **options: Any) -> Any:
    return record(SUBJECT, *args, progress=False, **options)


def test_records_what_the_module_computed_in_the_order_of_the_data(tmp_path: Path) -> None:
    source = texts(60)
    rec = quiet(source, SITES, store=tmp_path / "s.zarr", batch_tokens=200, chunk_rows=64)
    assert rec.complete and rec.n_samples == sum(len(t) - 1 for t in source)
    assert torch.equal(rec.samples.doc, rec.samples.doc.sort().values)
    for doc in (0, 17, 59):
        batch = SUBJECT.batch(SUBJECT.encode([source[doc]]))
        run = SUBJECT.run(batch, read=rec.sites)
        part = rec.select(where={"doc": doc})
        assert part.samples.position.tolist() == list(range(1, len(source[doc])))
        assert part.samples.token.tolist() == batch.tokens[0, 1:].tolist()
        for site in rec.sites:
            torch.testing.assert_close(part[site][:], run.activity[site][0, 1:], atol=2e-5, rtol=1e-5)


def test_content_only_false_keeps_every_token_and_marks_it() -> None:
    subject = tiny_subject(bos=True)
    rec = record(subject, ["abc", "de"], "mlp_act.0", content_only=False, progress=False)
    assert rec.samples.position.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert rec.samples.content.tolist() == [False, True, True, True, False, True, True]
    assert record(subject, ["abc", "de"], "mlp_act.0", progress=False).n_samples == 5


@settings(max_examples=15, deadline=None)
@given(st.integers(40, 400), st.randoms(use_true_random=False))
def test_results_do_not_depend_on_batches_padding_or_order(batch_tokens: int, rng: Any) -> None:
    source = texts(25, seed=3)
    whole = quiet(source, "mlp_act.1", measures=[Sums])["mlp_act.1"]["sums"]
    shuffled = rng.sample(source, len(source))
    other = quiet(shuffled, "mlp_act.1", measures=[Sums], batch_tokens=batch_tokens)["mlp_act.1"]["sums"]
    assert whole.n == other.n
    torch.testing.assert_close(whole.total, other.total, rtol=1e-6, atol=1e-5)


def test_measures_in_the_pass_agree_with_the_store_and_both_come_from_one_pass(tmp_path: Path) -> None:
    source = texts(40)
    out = quiet(source, "mlp_act.*, head.0", store=tmp_path / "s.zarr", measures={"sums": Sums()})
    for site in out:
        stored = out.recording[site][:].double()
        stored = stored.norm(dim=-1) if stored.ndim == 3 else stored
        torch.testing.assert_close(out[site]["sums"].total, stored.sum(0), rtol=1e-6, atol=1e-5)
    table = out.table("sums")
    assert "mlp_act.0[23]" in table["unit"].values and table.sizes["unit"] == 24 * 2 + 4
    again = quiet(source, "mlp_act.*, head.0", store=tmp_path / "s.zarr", measures={"sums": Sums()})
    torch.testing.assert_close(again["mlp_act.1"]["sums"].total, out["mlp_act.1"]["sums"].total)


@pytest.mark.parametrize("store", [True, False])
def test_repeated_texts_are_computed_once_and_counted_as_often_as_they_occur(
    tmp_path: Path, store: bool
) -> None:
    base = texts(12, seed=5)
    source = base + base[:3] * 2 + texts(40, seed=6) + base[:3]
    entries = [{"text": t, "label": f"l{i % 2}", "group": i} for i, t in enumerate(source)]
    where = tmp_path / "s.zarr" if store else None
    rec = quiet(entries, "mlp_act.1", store=where, batch_tokens=100, chunk_rows=50)
    cost = plan(SUBJECT, entries, "mlp_act.1", batch_tokens=100, probe=False)
    alone = plan(SUBJECT, base + texts(40, seed=6), "mlp_act.1", batch_tokens=100, probe=False)
    assert cost.computed == alone.computed and cost.samples > alone.samples
    first = rec.select(where={"doc": 1})["mlp_act.1"][:]
    for doc in (13, 16, len(source) - 2):
        part = rec.select(where={"doc": doc})
        assert torch.equal(part["mlp_act.1"][:], first)
        assert set(part.samples.group.tolist()) == {doc} and set(part.samples.label.tolist()) == {doc % 2}
    both = quiet(entries, "mlp_act.1", measures=[Sums], batch_tokens=100)["mlp_act.1"]["sums"]
    torch.testing.assert_close(both.total, rec["mlp_act.1"][:].double().sum(0), rtol=1e-6, atol=1e-5)


def test_repeats_across_windows_are_read_back(tmp_path: Path) -> None:
    subject = tiny_subject()
    source = texts(30, seed=1)
    corpus = read_corpus(subject, documents(source * 2))
    from patchclamp.record.schedule import Schedule

    windows = Schedule(100, 60, 8, by_length=False, read_back=True).windows(corpus)
    assert len(windows) > 5 and sum(len(w.copies) for w in windows) == 30
    again = Schedule(100, 60, 8, by_length=False, read_back=False).windows(corpus)
    assert sum(len(w.copies) for w in again) == 0
    assert [w.stop for w in windows] == [w.stop for w in again] and windows[-1].stop == corpus.n_samples


def test_plan_says_the_size_within_five_percent_and_costs_follow(tmp_path: Path) -> None:
    for dtype, n in (("float32", 300), ("float16", 300), ("bfloat16", 40)):
        path = tmp_path / f"{dtype}.zarr"
        said = plan(SUBJECT, texts(n), "mlp_act.*", dtype=dtype, chunk_rows=500)
        quiet(texts(n), "mlp_act.*", dtype=dtype, store=path, chunk_rows=500)
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        assert abs(said.bytes - size) <= 0.05 * size + 30_000
        assert said.seconds is not None and said.seconds > 0
    assert "samples of 40 documents" in str(said)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_storage_types_are_the_rounded_values_exactly(tmp_path: Path, dtype: str) -> None:
    exact = quiet(texts(30), "mlp_act.0", batch_tokens=300)
    small = quiet(texts(30), "mlp_act.0", dtype=dtype, store=tmp_path / "s.zarr", batch_tokens=300)
    kind = getattr(torch, dtype)
    assert torch.equal(small["mlp_act.0"][:], exact["mlp_act.0"][:].to(kind))
    assert small.to_xarray("mlp_act.0").dtype == (np.float16 if dtype == "float16" else np.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_activity_that_is_not_finite_is_named(value: float) -> None:
    source = ["abcd", "ab.q", "efgh"]
    with pytest.raises(PatchclampError, match=r"mlp_act\.1\[5\] in document 1 at position 3: -?(nan|inf)"):
        record(damaged(value), source, "mlp_act.*", progress=False)


def test_overflow_of_the_storage_type_is_named_not_swallowed(tmp_path: Path) -> None:
    subject = damaged(1e5)
    with pytest.raises(
        PatchclampError, match=r"mlp_act\.1\[5\] in document 1 at position 2.*float16.*bfloat16"
    ):
        record(subject, ["abc", "abq"], "mlp_act.1", dtype="float16", progress=False)
    rec = record(subject, ["abc", "abq"], "mlp_act.1", dtype="bfloat16", progress=False)
    assert float(rec["mlp_act.1"][-1, 5]) == float(torch.tensor(1e5).bfloat16())


def test_a_run_that_fails_in_the_middle_keeps_what_it_has_and_is_resumed(tmp_path: Path) -> None:
    source = [*texts(50), "ab.q" + "a" * 30]
    source = [t.replace("q", "r") for t in source[:-1]] + source[-1:]
    options: dict[str, Any] = {
        "batch_tokens": 60,
        "chunk_rows": 40,
        "store": tmp_path / "s.zarr",
        "progress": False,
    }
    sub, bad = tiny_subject(), damaged(float("nan"))
    many = source * 1
    with pytest.raises(PatchclampError, match="document 50"):
        record(bad, many, "mlp_act.1", **options)
    record(sub, many, "mlp_act.1", **options)
    straight = record(sub, many, "mlp_act.1", **{**options, "store": tmp_path / "t.zarr"})
    assert straight.complete and same_tree(tmp_path / "s.zarr", tmp_path / "t.zarr")


def test_stores_that_do_not_belong_are_refused_with_both_values(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    quiet(texts(20), "mlp_act.0", store=store)
    other = tiny_subject(seed=1)
    pattern = f"model_fingerprint is '{SUBJECT.fingerprint}' there and '{other.fingerprint}' here"
    with pytest.raises(PatchclampError, match=pattern):
        record(other, texts(20), "mlp_act.0", store=store, progress=False)
    with pytest.raises(PatchclampError, match="data is '.*' there and '.*' here"):
        quiet(texts(20, seed=9), "mlp_act.0", store=store)
    with pytest.raises(PatchclampError, match="dtype is 'float32' there and 'float16' here"):
        quiet(texts(20), "mlp_act.0", store=store, dtype="float16")
    with pytest.raises(PatchclampError, match=r"sites is \['mlp_act.0'\] there and \['mlp_act.1'\] here"):
        quiet(texts(20), "mlp_act.1", store=store)
    shuffled = LanguageModel(SUBJECT.model, Letters(letters="bacdefghijklmnopqrstuvwxyz .,"), "tiny")
    with pytest.raises(PatchclampError, match="tokenizer is '.*' there and '.*' here"):
        record(shuffled, texts(20), "mlp_act.0", store=store, progress=False)
    with pytest.raises(PatchclampError, match="exists already"):
        quiet(texts(20), "mlp_act.0", store=store, resume=False)
    (tmp_path / "else").mkdir()
    with pytest.raises(PatchclampError, match="folder without zarr.json"):
        quiet(texts(20), "mlp_act.0", store=tmp_path / "else")


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    source = texts(20)
    writer = Recording.create(tmp_path / "s.zarr", {"a": 1}, {"lfp": (3,)}, 10)
    with pytest.raises(PatchclampError, match="another process"):
        Recording.create(tmp_path / "s.zarr", {"a": 1}, {"lfp": (3,)}, 10)
    writer.close()
    assert source and Recording.create(tmp_path / "s.zarr", {"a": 1}, {"lfp": (3,)}, 10).rows == 0


def test_a_full_disk_is_refused_before_the_start(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(PatchclampError, match=r"the store needs .* GB and the disk has .* GB free"):
        quiet(texts(20), "mlp_act.0", store=tmp_path / "s.zarr", keep_free=free)
    assert not (tmp_path / "s.zarr").exists()


def test_bad_input_is_refused_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(PatchclampError, match="document 2 is empty"):
        quiet(["ab", "cd", ""], "mlp_act.0")
    with pytest.raises(PatchclampError, match="document 1 has 65 tokens, and tiny reads 64"):
        quiet(["ab", "a" * 65], "mlp_act.0")
    with pytest.raises(PatchclampError, match="the source is empty"):
        quiet([], "mlp_act.0")
    with pytest.raises(PatchclampError, match="no content token"):
        quiet(["a", "b"], "mlp_act.0")
    with pytest.raises(PatchclampError, match="layers 0..1"):
        quiet(["ab"], "mlp_act.7")
    with pytest.raises(PatchclampError, match="dtype='float15'"):
        quiet(["ab"], "mlp_act.0", dtype="float15")
    with pytest.raises(PatchclampError, match="head x query x key"):
        quiet(["ab"], "attn_probs.0")
    with pytest.raises(PatchclampError, match="two measures are called 'sums'"):
        quiet(["ab"], "mlp_act.0", measures=[Sums, Sums])
    rec = quiet(["ab", "", "cd"], "mlp_act.0", empty="skip")
    assert rec.samples.doc.tolist() == [0, 2] and rec.manifest["skipped_documents"] == 1


@pytest.mark.parametrize("bos", [False, True])
def test_long_texts_are_split_or_cut_with_their_positions(bos: bool) -> None:
    subject = tiny_subject(bos=bos)
    long = texts(1, longest=40)[0] * 9
    whole = subject.tokenise([long])[0]
    rec = record(subject, ["abc", long], "mlp_act.1", long="split", progress=False)
    part = rec.select(where={"doc": 1}).samples
    assert [whole[p] for p in part.position.tolist()] == part.token.tolist()
    pieces = -(-(len(whole) - bos) // (64 - bos))
    assert len(part) == len(whole) - (1 if bos else pieces)
    cut = record(subject, ["abc", long], "mlp_act.1", long="truncate", context=10, progress=False)
    assert cut.select(where={"doc": 1}).samples.position.tolist() == list(range(1, 10))


@pytest.mark.slow
def test_measures_without_a_store_are_resumed_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchclamp.record import api

    monkeypatch.setattr(api, "CHECKPOINT_SECONDS", -1.0)
    source = [t.replace("q", "r") for t in texts(2000, seed=4, longest=20)] + ["bq"]
    options: dict[str, Any] = {"measures": [Sums], "batch_tokens": 60, "progress": False}
    straight = record(tiny_subject(), source, "mlp_act.1", **options)["mlp_act.1"]["sums"]
    with pytest.raises(PatchclampError, match="document 2000"):
        record(damaged(float("nan")), source, "mlp_act.1", **options, checkpoint=tmp_path / "c")
    journal = json.loads((tmp_path / "c" / "measures.json").read_text())
    assert journal["note"]["windows"] >= 2
    seen: list[int] = []
    options["progress"] = lambda text, done, total: seen.append(done)
    again = record(tiny_subject(), source, "mlp_act.1", **options, checkpoint=tmp_path / "c")["mlp_act.1"][
        "sums"
    ]
    assert again.n == straight.n and torch.equal(again.total, straight.total)
    assert seen[-1] - seen[0] < 10_000 and not list((tmp_path / "c").iterdir())


def test_progress_counts_computed_tokens() -> None:
    seen: list[tuple[int, int]] = []
    record(SUBJECT, texts(30), "mlp_act.0", progress=lambda text, done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] and [d for d, _ in seen] == sorted(d for d, _ in seen)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=8), st.integers(30, 80), st.integers(0, 40))
def test_batches_are_the_cheapest_cut(lengths: list[int], most: int, overhead: int) -> None:
    ordered = np.sort(np.array(lengths, dtype=np.int64))
    cuts = list(cut_batches(ordered, most, overhead))
    assert [i for a, b in cuts for i in range(a, b)] == list(range(len(ordered)))
    cost = sum((b - a) * ordered[b - 1] + overhead for a, b in cuts)

    def best(n: int) -> float:
        options = [a for a in range(n) if n - a == 1 or (n - a) * ordered[n - 1] <= most]
        return min((best(a) + (n - a) * ordered[n - 1] + overhead for a in options), default=0.0)

    assert cost == best(len(ordered))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma2", "deepseek_v3"])
def test_shared_beginnings_are_computed_once_and_agree_to_rounding(family: str) -> None:
    subject = LanguageModel(tiny_model(family), Letters(bos=True), family)
    header = texts(1, seed=8)[0].ljust(30, ".") + " "
    source = [header + t for t in texts(12, seed=2, longest=20)] + texts(6, seed=3) + [header + "ab"] * 3
    where = subject.resolve(["resid_post.1", "mlp_out.1", "head.0"])
    plain = record(subject, source, where, content_only=False, progress=False)
    shared = record(subject, source, where, content_only=False, share_prefixes=True, progress=False)
    for site in where:
        torch.testing.assert_close(shared[site][:], plain[site][:], atol=1e-4, rtol=1e-4)
    assert all(
        torch.equal(a, b)
        for (_, a), (_, b) in zip(plain.samples.columns(), shared.samples.columns(), strict=True)
    )
    costs = [
        plan(subject, source, where, share_prefixes=share, probe=False).computed for share in (True, False)
    ]
    assert costs[0] < 0.6 * costs[1]
    sums = record(
        subject, source, where[:1], measures=[Sums], share_prefixes=True, batch_tokens=60, progress=False
    )
    straight = record(subject, source, where[:1], measures=[Sums], progress=False)
    torch.testing.assert_close(
        sums[where[0]]["sums"].total, straight[where[0]]["sums"].total, rtol=1e-4, atol=1e-3
    )
    assert not any(hook_counts(subject.model))


def test_beginnings_are_not_shared_where_positions_see_what_follows() -> None:
    from patchclamp.record.prefix import check_sharing

    subject = tiny_subject()
    subject.row = replace(subject.row, causal=False)
    with pytest.raises(PatchclampError, match="share_prefixes=False"):
        check_sharing(subject, [3] * 30, 20, subject.resolve("mlp_act.0"))


@pytest.mark.parametrize("progress", [True, False])
@pytest.mark.slow
def test_the_first_recording_of_a_process_leaves_random_alone(progress: bool) -> None:
    code = (
        "import random, sys, numpy, torch; sys.path.insert(0, 'TESTS')\n"
        "from record_subject import texts, tiny_subject\n"
        "subject, source = tiny_subject(), texts(4)\n"
        "before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()\n"
        "from patchclamp.record import record\n"
        f"record(subject, source, 'mlp_act.*', progress={progress})\n"
        "after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()\n"
        "print(before == after)"
    ).replace("TESTS", str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
