"""The fast proofs of `patchclamp check`, run before anything is measured; a study refuses to go on past a failure."""

from __future__ import annotations

from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.subjects.proof.check import check_subject

__all__ = ["check_tensors"]


def check_tensors(subject: Any) -> list[dict[str, Any]]:
    """Run the fast proofs; return what each found, those that were skipped left out.

    Raises
    ------
    PatchclampError
        When one fails, with its figure.
    """
    card = check_subject(subject, fast=True)
    for proof in card.failures:
        raise PatchclampError(
            f"{subject.name}: the check {proof.name!r} fails ({proof.figure:.1e}, allowed {proof.tolerance:.0e}; "
            f"{proof.detail}); its addresses may not be the tensors they name: see `patchclamp check {subject.name}`"
        )
    return [
        {
            "name": proof.name,
            "passed": proof.status == "pass",
            "figure": proof.figure,
            "tolerance": proof.tolerance,
            "detail": f"{proof.detail}; error {proof.figure:.1e}" if proof.figure else proof.detail,
        }
        for proof in card.proofs
        if proof.status != "skip"
    ]
