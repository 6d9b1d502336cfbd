"""Proofs, on the user's own model, that every address reads the tensor it names.

Each proof is an identity that holds for the right tensors alone: parts of the stream add up, heads sum to the
attention's output, neurons project to the MLP's, padding leaves real tokens where they were, hooks change no bit.
Figures are relative errors, the worst token of the worst site: ``max |got - want| / |want|`` over vectors of one
token; bitwise proofs state the largest difference instead and allow none.

Tolerances follow the number format (`passes.WITHIN`, `passes.THROUGH`): within one block 1e-5 in float32 and 2e-2 in
bfloat16; 1e-4 and 2e-1 for what has passed through all blocks, where kernels choose another order of summation by
the shape of the batch. Found on SmolLM2-135M: 7e-7 and 3e-3 within a block, 5e-6 and 8e-2 through all thirty; on tiny
random models of all families at most 4e-7 and 5e-3, 2e-6 and 3e-2. A wrong tensor gives errors near 1.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import torch

from patchclamp.draw.cards import shown
from patchclamp.subjects.base import Subject
from patchclamp.subjects.proof.passes import Finding, Passes, Skip
from patchclamp.subjects.proof.proofs import PROOFS

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class Proof:
    """One proof and how it came out.

    `figure` is the error found and `tolerance` what is allowed; both None for a proof that was skipped.
    `detail` names the worst place, or why there is nothing to prove.
    """

    name: str
    status: Status
    figure: float | None
    tolerance: float | None
    detail: str

    def __str__(self) -> str:
        figure = "" if self.figure is None else f"{self.figure:.1e}"
        allowed = "" if self.tolerance is None else f"<= {self.tolerance:.0e}" if self.tolerance else "exact"
        return f"{self.status:4}  {self.name:22} {figure:>8} {allowed:9} {self.detail}".rstrip()


@shown
@dataclass(frozen=True)
class CheckCard:
    """What `check_subject` found: the proofs, and which tensor each address is.

    Attributes
    ----------
    model, family, fingerprint, dtype, device
        Of the subject.
    inputs
        What it was run on.
    proofs
        In the order in which they were made.
    sites
        Address, number of units, size of a unit's value, tensor and description of each site.
    seconds
        Time taken.
    """

    model: str
    family: str
    fingerprint: str
    dtype: str
    device: str
    inputs: str
    proofs: tuple[Proof, ...]
    sites: tuple[dict[str, Any], ...]
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no proof failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Proof, ...]:
        """The proofs that failed."""
        return tuple(proof for proof in self.proofs if proof.status == "fail")

    def to_json(self) -> dict[str, Any]:
        """The card as plain data; figures that are not finite become text, as JSON has no word for them."""
        out = {**self.__dict__, "passed": self.passed, "proofs": [dict(p.__dict__) for p in self.proofs]}
        for proof in out["proofs"]:
            if proof["figure"] is not None and not abs(proof["figure"]) < float("inf"):
                proof["figure"] = str(proof["figure"])
        plain: dict[str, Any] = json.loads(json.dumps(out))
        return plain

    def __str__(self) -> str:
        verdict = (
            "all proofs hold" if self.passed else f"{len(self.failures)} of {len(self.proofs)} proofs fail"
        )
        head = f"{self.model} ({self.family}, {self.dtype}, {self.device}): {verdict} ({self.seconds:.1f} s)"
        return "\n".join([head, f"on {self.inputs}", *map(str, self.proofs)])


def check_subject(subject: Subject, fast: bool = False) -> CheckCard:
    """Prove on a model at hand that addresses read and write the tensors they name.

    Parameters
    ----------
    subject
        Any subject; what its kind does not have is skipped with the reason.
    fast
        Leave out the proofs that need passes of their own beyond the first few (left padding, batch invariance,
        plain hooks, writes, attention); about a second on the embedded model.

    Returns
    -------
    CheckCard
        `passed` is False if any proof failed.

    Examples
    --------
    >>> from torch import nn
    >>> from patchclamp.subjects import TorchModule
    >>> card = check_subject(TorchModule(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), torch.ones(1, 3)))
    >>> card.passed, card.proofs[0].name
    (True, 'repeatable')
    """
    start = time.perf_counter()
    passes = Passes(subject)
    with subject.evaluating():
        proofs = [_made(name, proof, passes) for name, (proof, quick) in PROOFS.items() if quick or not fast]
        sites = tuple({**info.__dict__, "site": str(info.site)} for info in subject.sites())
    return CheckCard(
        model=subject.name,
        family=getattr(subject, "family", type(subject.model).__name__),
        fingerprint=subject.fingerprint,
        dtype=str(subject.dtype).removeprefix("torch."),
        device=str(subject.device),
        inputs=passes.inputs,
        proofs=tuple(proofs),
        sites=sites,
        seconds=time.perf_counter() - start,
        versions={"torch": torch.__version__, "transformers": version("transformers")},
    )


check = check_subject


def _made(name: str, proof: Callable[[Passes], Finding], passes: Passes) -> Proof:
    try:
        figure, tolerance, detail = proof(passes)
    except Skip as why:
        return Proof(name, "skip", None, None, str(why))
    # A NaN is no smaller than the tolerance, so it fails.
    return Proof(name, "pass" if figure <= tolerance else "fail", figure, tolerance, detail)
