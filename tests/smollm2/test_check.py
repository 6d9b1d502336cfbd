"""The proofs on the embedded model."""

from __future__ import annotations

import pytest

from patchclamp.subjects import open_subject
from patchclamp.subjects.proof.check import check_subject


@pytest.mark.smollm2
def test_embedded_model_passes_every_proof() -> None:
    subject = open_subject("smollm2", device="cpu")
    card = check_subject(subject)
    assert card.passed, str(card)
    assert not [proof for proof in card.proofs if proof.status == "skip"]
    figures = {proof.name: proof.figure for proof in card.proofs}
    assert figures["heads sum"] < 3e-6 and figures["right padding"] < 5e-5
    assert len(card.sites) == 3 + 30 * 12


@pytest.mark.smollm2
def test_embedded_model_passes_in_bfloat16() -> None:
    card = check_subject(open_subject("smollm2", device="cpu", dtype="bfloat16"), fast=True)
    assert card.passed, str(card)
