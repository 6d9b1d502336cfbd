"""`run_study`: from a model and a task to units, proof, claims and a report.

The stages: check the tensors; check that the model does the task; attribute on train items; choose how many units on
validation items; ablate them on test items beside matched random sets; curves; a few words about each unit; features
beside neurons, where they are asked for; methods against exact patching.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.progress import Progress
from patchclamp.decompose import METHODS as DECOMPOSITIONS
from patchclamp.draw.text import number, percent
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.nouns.tasks.pieces import example_lines
from patchclamp.nouns.tasks.protocol import size_of
from patchclamp.nouns.tasks.task import Task
from patchclamp.study.ability import measure_ability
from patchclamp.study.behaviour import KINDS, Behaviour
from patchclamp.study.checked import ranking_scores
from patchclamp.study.curves import curves
from patchclamp.study.features import features
from patchclamp.study.options import StudyOptions
from patchclamp.study.proof import ablate, describe, select
from patchclamp.study.report.tables import head_map, role_map
from patchclamp.study.sidebyside import LABELS, methods
from patchclamp.study.stages import Figure, Section, Stage, Study, Table, run_and_write
from patchclamp.study.tensors import check_tensors
from patchclamp.subjects import LanguageModel

__all__ = ["FEATURES", "STAGES", "able", "attribute", "load_for_study", "run_study"]

CORRUPTION: Mapping[str, str] = {"ioi": "random_s2"}
"""Corruptions that a study prefers to a task's default: they change the one word on which the answer depends.

With all names changed (``abc``) patching finds the last heads of the chain only, since no earlier one brings back
names that are gone.
"""


def load_for_study(
    subject: LanguageModel, source: str, options: StudyOptions | None = None, corruption: str | None = None
) -> Task:
    """Load a task with as many items as a study of these options needs in every split."""
    options = options or StudyOptions()
    n = 4 * max(options.n_test, options.n_validation, -(-options.n_train // 2))
    chosen = corruption or CORRUPTION.get(source)
    return load_task(source, subject.tokenizer, n=n, seed=options.seed, corruption=chosen)


def run_study(
    subject: LanguageModel,
    task: Task | str,
    out: str | Path | None = None,
    *,
    options: StudyOptions | None = None,
    source: str | None = None,
    write: bool = True,
    progress: Progress | None = None,
) -> Study[Behaviour]:
    """Find the units that carry a behaviour, and prove it.

    Parameters
    ----------
    subject
        A language model from `open_subject`.
    task
        A `Task` with corrupted inputs, or the name of a built-in one or of a JSONL file.
    out
        Folder, new or empty; default ``studies/<task>-<model>-seed<seed>``, or the next with a number behind it. A run that was killed goes on from its
        finished stages when the same call is made again; a finished study is never replaced.
    options
        How much to measure.
    source
        Name or file that `load_task` can make the task from again; claims carry it.
    write
        Whether to write files at all.
    progress
        Called with (text, done, total) as the study goes on.

    Returns
    -------
    Study

    Raises
    ------
    PatchclampError
        When a check of the tensors fails, when the model cannot do the task (with the figures), when the task has no
        corrupted inputs, for an unknown method, or for a folder that holds anything else; all before the first stage
        where it can be known then.

    Notes
    -----
    Items that rank or choose never verify. All random draws follow from ``options.seed``; on one machine and number
    of threads a study is reproducible.

    Examples
    --------
    >>> from patchclamp import open_subject, run_study  # doctest: +SKIP
    >>> study = run_study(open_subject("smollm2"), "ioi")           # doctest: +SKIP
    >>> print(study)                                                # doctest: +SKIP
    """
    options = options or StudyOptions()
    if isinstance(task, str):
        source = task
        task = load_for_study(subject, task, options)
    _refuse(task, options)
    stages = FEATURES if options.decompose else STAGES
    context = Behaviour(subject, progress, task, source or task.name, options)
    return run_and_write(stages, context, context.folder(), out, write)


def able(context: Behaviour) -> Section:
    """Whether the model does the task, with an example of it."""
    task, able = context.task, measure_ability(context.subject, context.splits["test"], context.options)
    caption = f"{task.name}: {task.description}. " if task.description else ""
    caption += f"The metric is the {context.basis.metric_text}. On the test items the unchanged model scores "
    caption += f"{number(able['metric'])} ({number(able['low'])} to {number(able['high'])})"
    if able["corrupted"] is not None:
        caption += (
            f", {number(able['corrupted'])} on the corrupted inputs ({context.basis.task['corruption']})"
        )
    caption += f", and is right on {percent(able['accuracy'])} of the items; below {percent(able['required'])} the study "
    return Section(
        heading="The behaviour",
        figures=[
            Figure(
                "examples",
                [{"texts": example_lines(context.splits["test"].items[0])}],
                caption=f"{caption}would have refused to go on.",
            )
        ],
        tiles=[(percent(able["accuracy"]), f"of {size_of(context.splits['test'], 'test items')} right")],
        facts={"ability": able},
    )


def attribute(context: Behaviour) -> Section:
    """Scores of heads, neurons, attention and MLP outputs and the stream on the train items, by role."""
    subject, options, train = context.subject, context.options, context.splits["train"]
    points = ("head", "mlp_act", "attn_out", "mlp_out", "resid_post")
    sites = [site for site in subject.known_sites() if site.point in points]
    kinds = tuple(point for point, _ in KINDS.values())
    found = ranking_scores(subject, train, sites, options, kinds, context.say)
    context.scores = scores = found.scores
    said = found.sentences()
    label = _method_text(scores.method, scores.meta)
    context.basis = replace(context.basis, task={**context.basis.task, "ranked_by": scores.method})
    facts = {
        "method": scores.method,
        "check": found.to_json(),
        "label": label,
        "n_items": len(train),
        "direction": scores.direction,
        "meta": dict(scores.meta),
    }
    return Section(
        heading="Where it happens",
        text=(
            f"Estimated effect of each unit on the metric, by {label}: how much the metric changes when the unit's activity "
            f"is exchanged for that of the other input of its pair ({scores.direction}); positive units raise the metric. "
            "Outlined heads were selected."
        ),
        note=" ".join(said),
        findings=found.verdict(),
        tables=[Table(scores.table(n_boot=0), "scores")],
        facts={"attribution": facts},
    )


def _method_text(method: str, meta: Mapping[str, Any]) -> str:
    """The method with the settings that it reports."""
    parts = [LABELS.get(method, method.replace("_", " "))]
    if "steps" in meta and "rule" in meta:
        parts.append(f"{meta['steps']} steps ({meta['rule']})")
    if meta.get("ln_rule"):
        parts.append("LN rule on the stream")
    return ", ".join(parts)


def maps(context: Behaviour) -> list[Figure]:
    """Scores by layer and head, and by layer and role, the selected heads outlined."""
    scores, n_layers, unit = context.scores, context.subject.n_layers, context.task.score.unit
    found = []
    heads = head_map(scores, n_layers, unit)
    if heads is not None:
        n_heads = n_layers * context.subject.n_heads
        chosen = [u for s in context.selections for u in s.order[: s.k] if u.site.point == "head"]
        heads["marked"] = [(u.index, u.site.layer) for u in sorted(chosen)]
        caption = f"Layer by head, {number(n_heads)} heads; {context.metric_words} per head, mean over "
        caption += f"{len(context.splits['train'])} train items. Point at a cell for its value."
        found.append(Figure("heat_map", [heads], "Attention heads", caption))
    stream = role_map(scores, "resid_post", n_layers, unit, "after layer", "position")
    if stream is not None:
        caption = "What the residual stream after each layer carries at each role in the prompt; read left to right, the "
        caption += "information moves from where it is given to the last token, where it is used."
        found.append(Figure("heat_map", [stream], "The stream, by layer and position", caption))
    outputs = [role_map(scores, p, n_layers, unit, f"{p}, layer") for p in ("attn_out", "mlp_out")]
    if any(outputs):
        drawn = [one for one in outputs if one is not None]
        found.append(Figure("heat_map", drawn, "Attention and MLP outputs, by layer and position"))
    return found


def choose(context: Behaviour) -> Section:
    """Choose units on the validation items, and draw the scores they were chosen by."""
    context.selections = select(context)
    return Section(figures=maps(context), facts={"selection": [s.to_json() for s in context.selections]})


def _means(context: Behaviour) -> None:
    """The means and activity that the stage took of all units that can be chosen."""
    points = {unit.site.point for s in context.selections for unit in s.order[:1]}
    context.bench.prepare([site for site in context.subject.known_sites() if site.point in points])


STAGES: tuple[Stage[Behaviour], ...] = (
    Stage("checking the tensors", check_tensors),
    Stage("checking that the model does the task", able),
    Stage("attributing", attribute),
    Stage("choosing on validation items", choose, again=_means),
    Stage("ablating on test items", ablate),
    Stage("faithfulness curves", curves),
    Stage("describing the units", describe),
    Stage("methods side by side", methods),
)
"""The stages of a study."""

FEATURES: tuple[Stage[Behaviour], ...] = (
    *STAGES[:-1],
    Stage("features beside neurons", features),
    STAGES[-1],
)
"""The stages of a study that also finds features."""


def _refuse(task: Task, options: StudyOptions) -> None:
    check_choice("method", options.method, METHODS)
    if options.decompose:
        check_choice("decompose", options.decompose, DECOMPOSITIONS)
    if not isinstance(task, Task):
        raise PatchclampError(f"a {type(task).__name__}: a study takes a Task of texts, or the name of one")
    if not task.has_contrast:
        raise PatchclampError(
            f"task {task.name}: its items have no corrupted texts, which attribution needs; give each one"
        )
