"""The fast proofs of `patchclamp check`, run before anything is measured; a study refuses to go on past a failure."""

from __future__ import annotations

import pandas as pd

from patchclamp.base.errors import PatchclampError
from patchclamp.study.stages import Column, Context, Section, Table
from patchclamp.subjects.proof.check import check_subject

__all__ = ["check_tensors"]

_COLUMNS = (Column("Check", "name"), Column("", "passed", "passed"), Column("Found", "detail", "muted"))


def check_tensors(context: Context) -> Section:
    """Run the fast proofs; the section holds what each found, those that were skipped left out.

    Raises
    ------
    PatchclampError
        When one fails, with its figure.
    """
    name = context.subject.name
    card = check_subject(context.subject, fast=True)
    for proof in card.failures:
        raise PatchclampError(
            f"{name}: the check {proof.name!r} fails ({proof.figure:.1e}, allowed {proof.tolerance:.0e}; "
            f"{proof.detail}); its addresses may not be the tensors they name: see `patchclamp check {name}`"
        )
    checks = [
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
    return Section(
        heading="Is it the right tensor?",
        text="Checked on this model before anything was measured; a failure would have stopped the study.",
        tables=[Table(pd.DataFrame(checks), columns=_COLUMNS, sortable=False)],
        facts={"checks": checks},
        appendix=True,
    )
