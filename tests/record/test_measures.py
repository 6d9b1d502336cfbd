"""The library's measures over a pass, a checkpoint and a recording: the same figures, and the right names on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from patchclamp.base.errors import PatchclampError
from patchclamp.measure import CETT, Coactivation, Exemplars, Importance, Moments
from patchclamp.nouns.recording.recording import Recording
from patchclamp.record import api, measure_recording, record
from patchclamp.record.plan import tokenizer_fingerprint
from record_subject import damaged, texts, tiny_subject

SUBJECT = tiny_subject()


def test_a_checkpoint_of_other_settings_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "CHECKPOINT_SECONDS", -1.0)
    source = [t.replace("q", "r") for t in texts(400, seed=4, longest=20)] + ["bq"]
    options: dict[str, Any] = {"window_tokens": 200, "batch_tokens": 60, "progress": False}
    with pytest.raises(PatchclampError, match="doc 400"):
        record(
            damaged(float("nan")),
            source,
            "mlp_act.1",
            measures=[Exemplars(k=3)],
            checkpoint=tmp_path / "c",
            **options,
        )
    assert list((tmp_path / "c").glob("measures-*"))
    wanted = [Exemplars(k=5, by="min")]
    again = record(tiny_subject(), source, "mlp_act.1", measures=wanted, checkpoint=tmp_path / "c", **options)
    straight = record(tiny_subject(), source, "mlp_act.1", measures=wanted, **options)
    assert again.table("exemplars").identical(straight.table("exemplars"))


def test_measures_of_a_recording_take_the_weights_of_its_model_and_no_other(tmp_path: Path) -> None:
    options: dict[str, Any] = {"measures": [Importance, CETT], "store": tmp_path / "s", "progress": False}
    first = record(SUBJECT, texts(20), "mlp_act.1", **options)
    again = record(SUBJECT, texts(20), "mlp_act.1", **options)  # the store is complete: no pass
    rec = Recording.open(tmp_path / "s")
    for other in (again, measure_recording(rec, [Importance, CETT], SUBJECT)):
        xr.testing.assert_allclose(first.table("importance"), other.table("importance"))
        xr.testing.assert_allclose(first.table("cett"), other.table("cett"))
    with pytest.raises(PatchclampError, match="Importance at mlp_act.1: needs output_norms from the model"):
        measure_recording(rec, [Importance])
    with pytest.raises(PatchclampError, match="made from tiny"):
        measure_recording(rec, [Importance], tiny_subject(seed=1))
    assert (measure_recording(rec, [Importance()]).table("importance")["output_norm"] == 1).all()


def test_measures_see_what_was_computed_although_the_store_holds_less(tmp_path: Path) -> None:
    options: dict[str, Any] = {"measures": [Moments], "store": tmp_path / "s", "dtype": "bfloat16"}
    first, again = (record(SUBJECT, texts(20), "mlp_act.1", progress=False, **options) for _ in range(2))
    assert first.table("moments").identical(again.table("moments"))


def test_tables_name_the_units_that_were_chosen() -> None:
    rec = record(SUBJECT, texts(20), "mlp_act.*", progress=False)
    part = measure_recording(rec.select(units="mlp_act.1[5, 9, 20]"), [Moments, Coactivation(units=[2, 0])])
    assert part.table("moments")["unit"].values.tolist() == ["mlp_act.1[5]", "mlp_act.1[9]", "mlp_act.1[20]"]
    assert part.table("coactivation")["unit"].values.tolist() == ["mlp_act.1[20]", "mlp_act.1[5]"]
    both = record(SUBJECT, texts(20), "mlp_act.1", measures=[Coactivation(units=[9, 5])], progress=False)
    table = both.table("coactivation")
    assert table["unit"].values.tolist() == ["mlp_act.1[9]", "mlp_act.1[5]"] and table[
        "index"
    ].values.tolist() == [9, 5]
    assert "mlp_act.1" in both and "mlp_act.0" not in both


def test_a_tokenizer_is_hashed_once_and_again_when_it_was_changed() -> None:
    read: list[int] = []

    class Counted(PreTrainedTokenizerFast):
        def get_vocab(self) -> dict[str, int]:
            read.append(1)
            return super().get_vocab()

    def made() -> PreTrainedTokenizerFast:
        words = Tokenizer(models.WordLevel({"hashed": 0, "once": 1, "<unk>": 2}, unk_token="<unk>"))
        return Counted(tokenizer_object=words, unk_token="<unk>")

    one, same = made(), made()
    read.clear()
    first = tokenizer_fingerprint(one)
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(same) == first
    assert len(read) == 1
    one.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert tokenizer_fingerprint(one) != first
