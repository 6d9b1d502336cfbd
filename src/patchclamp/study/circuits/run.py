"""`run_circuit_study`: from a model and a task to the circuit that carries it, proved on held-out items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.progress import Progress
from patchclamp.nouns.tasks.task import Task
from patchclamp.study.circuits.context import CircuitStudy
from patchclamp.study.circuits.nodes import choose_nodes, measure_first, score_nodes
from patchclamp.study.circuits.options import CircuitOptions
from patchclamp.study.circuits.proving import prove
from patchclamp.study.circuits.stability import another_corruption, stability_of
from patchclamp.study.circuits.wiring import wire
from patchclamp.study.stages import Stage, Study, run_and_write
from patchclamp.study.study import able, load_for_study
from patchclamp.study.tensors import check_tensors
from patchclamp.subjects import LanguageModel

__all__ = ["CIRCUIT", "CIRCUIT_CORRUPTION", "run_circuit_study"]

CIRCUIT_CORRUPTION: Mapping[str, str] = {"ioi": "s2_io_flip"}
"""Corruptions that a study of a circuit prefers to a task's default: those by which the answer becomes the foil.

With another name in its place the metric falls only half way, and what holds back the wrong name is not in the circuit.
"""

CIRCUIT: tuple[Stage[CircuitStudy], ...] = (
    Stage("checking the tensors", check_tensors),
    Stage("checking that the model does the task", able),
    Stage("attributing", score_nodes),
    Stage("choosing the nodes on validation items", choose_nodes),
    Stage("measuring the first nodes", measure_first),
    Stage("proving the circuit on test items", prove),
    Stage("edges between the nodes", wire),
    Stage("stability", stability_of),
    Stage("another corruption", another_corruption),
)
"""The stages of a study of a circuit."""


def run_circuit_study(
    subject: LanguageModel,
    task: Task | str,
    out: str | Path | None = None,
    *,
    options: CircuitOptions | None = None,
    source: str | None = None,
    write: bool = True,
    progress: Progress | None = None,
) -> Study[CircuitStudy]:
    """Find the circuit that carries a behaviour, and prove it.

    Nodes are scored on train items; validation items choose their kind (neurons, heads or both) and their number; test
    items say what they keep, with everything else of the kind as in the run on the corrupted input. Then: effects
    predicted against effects measured, matched random sets, as many units with the largest change of activity, edges
    between the nodes, overlap between halves and templates, another corruption.

    Parameters
    ----------
    subject, task, out, source, write, progress
        As for `run_study`.
    options
        How much to measure.

    Returns
    -------
    Study

    Raises
    ------
    PatchclampError
        As `run_study`; and where no kind of nodes has an effect to keep.

    Examples
    --------
    >>> from patchclamp import open_subject, run_circuit_study                 # doctest: +SKIP
    >>> print(run_circuit_study(open_subject("smollm2"), "agreement"))         # doctest: +SKIP
    """
    options = options or CircuitOptions()
    check_choice("method", options.method, METHODS)
    if isinstance(task, str):
        source = task
        task = load_for_study(subject, task, options, CIRCUIT_CORRUPTION.get(task))
    if not task.has_contrast:
        raise PatchclampError(
            f"task {task.name}: its items have no corrupted texts, which a circuit is measured against; give each one"
        )
    context = CircuitStudy(subject, progress, task, source or task.name, options)
    return run_and_write(CIRCUIT, context, context.folder(), out, write)
