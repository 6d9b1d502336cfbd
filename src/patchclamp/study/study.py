"""`run_study`: from a model and a task to units, proof, claims and a report.

The chain: check the tensors; check that the model does the task; attribute on train items; choose how many units on
validation items; ablate them on test items beside matched random sets; curves; methods against exact patching; a few
words about each unit; write it all down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.base.files import plain, write_json, write_text
from patchclamp.base.progress import Progress
from patchclamp.base.version import __version__
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.builtin import load_task
from patchclamp.nouns.tasks.task import Task
from patchclamp.study import ability, proof
from patchclamp.study.claims import Claim, write_claims
from patchclamp.study.curves import draw_curves
from patchclamp.study.experiments import Bench
from patchclamp.study.features import Features, find_features, refuse_decomposition
from patchclamp.study.options import StudyOptions
from patchclamp.study.report import summary, tables
from patchclamp.study.report.findings import LIMITS
from patchclamp.study.report.report import render
from patchclamp.study.sidebyside import LABELS, compare_methods
from patchclamp.study.tensors import check_tensors
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["Study", "load_for_study", "run_study"]


CORRUPTION: Mapping[str, str] = {"ioi": "random_s2"}
"""Corruptions that a study prefers to a task's default: they change the one word on which the answer depends.

With all names changed (``abc``) patching finds the last heads of the chain only, since no earlier one brings back
names that are gone.
"""


@dataclass(frozen=True)
class Study:
    """What a study found.

    Parameters
    ----------
    data
        The content of ``study.json``.
    claims
        The findings as claims.
    tables
        ``scores``, ``units``, ``curves``, ``agreement``: the tables that were written as Parquet.
    folder
        Where everything lies; None when nothing was written.
    features
        The features that `decompose` found, with their dictionaries; None where none was asked for.
    """

    data: Mapping[str, Any]
    claims: tuple[Claim, ...]
    tables: Mapping[str, pd.DataFrame] = field(repr=False)
    folder: Path | None = None
    features: Features | None = field(default=None, repr=False)

    @property
    def units(self) -> pd.DataFrame:
        """The selected units with scores, effects and controls."""
        return self.tables["units"]

    @property
    def report(self) -> Path | None:
        """The report's path."""
        return None if self.folder is None else self.folder / "report.html"

    def __str__(self) -> str:
        return "\n".join([self.data["headline"], *(f"- {finding}" for finding in self.data["findings"])])


def load_for_study(
    subject: Any, source: str, options: StudyOptions | None = None, corruption: str | None = None
) -> Task:
    """Load a task with as many items as a study of these options needs in every split."""
    options = options or StudyOptions()
    n = 4 * max(options.n_test, options.n_validation, -(-options.n_train // 2))
    chosen = corruption or CORRUPTION.get(source)
    return load_task(source, subject.tokenizer, n=n, seed=options.seed, corruption=chosen)


def run_study(
    subject: Any,
    task: Task | str,
    out: str | Path | None = None,
    *,
    options: StudyOptions | None = None,
    source: str | None = None,
    write: bool = True,
    progress: Progress | None = None,
) -> Study:
    """Find the units that carry a behaviour, and prove it.

    Parameters
    ----------
    subject
        A language model from `open_subject`.
    task
        A `Task` with corrupted inputs, or the name of a built-in one or of a JSONL file.
    out
        Folder; default ``studies/<task>-<model>-seed<seed>``. Files of an earlier study there are replaced.
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
        corrupted inputs, or for an unknown method.

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
    chain = _Chain(subject, task, source or task.name, options, _Clock(progress))
    study = chain.run(Path(out) if out is not None else _default_folder(task, subject, options))
    if not write:
        return replace(study, folder=None)
    _write(study)
    return study


class _Chain:
    """The stages of one study, in order; each keeps what the later ones and ``study.json`` need."""

    def __init__(self, subject: Any, task: Task, source: str, options: StudyOptions, clock: _Clock) -> None:
        self.subject, self.task, self.source, self.options, self.clock = subject, task, source, options, clock
        self.splits = ability.splits_of(task, options)
        self.label = LABELS.get(options.method, options.method.replace("_", " "))
        reference = Reference(subject, task.split("train"), options.batch_size)
        intervention = _intervention(options, self.splits, task.split("train"))
        self.bench = Bench(subject, self.splits["test"], reference, intervention, options.seed)
        self.context = proof.context_of(subject, task, self.splits, self.bench, source, options)

    def run(self, folder: Path) -> Study:
        """Go through all stages."""
        subject, splits, options, clock = self.subject, self.splits, self.options, self.clock
        with clock("checking the tensors"):
            self.checks = check_tensors(subject)
        with clock("checking that the model does the task"):
            self.able = ability.measure_ability(subject, splits["test"], options)
        with clock("attributing"):
            self.scores = _attribute(subject, splits["train"], options)
        with clock("choosing on validation items"):
            self.selections = proof.select_all(self.bench, splits["validation"], self.scores, options)
        with clock("ablating on test items"):
            self.proved = proof.prove(self.bench, self.selections, self.context, options, clock.say)
        self.features: Features | None = None
        if options.decompose:
            with clock("features beside neurons"):
                self.features = find_features(
                    subject, self.task, splits, self.scores, self.bench, self.context, options, clock.say
                )
                self.proved.claims += self.features.claims
        with clock("faithfulness curves"):
            points = {kind: point for kind, (point, _) in proof.KINDS.items()}
            self.curves, curve_table = draw_curves(
                self.bench, self.scores, self.selections, points, options, clock.say
            )
        with clock("methods side by side"):
            self.methods, agreement = compare_methods(subject, splits["validation"], options, clock.say)
        with clock("describing the units"):
            self.units = proof.unit_rows(
                subject, splits["test"], self.scores, self.selections, self.proved, options
            )
        found = {
            "scores": self.scores.table(n_boot=0),
            "units": tables.units_table(self.units),
            "curves": curve_table,
            "agreement": agreement,
        }
        return Study(plain(self.data()), tuple(self.proved.claims), found, folder, self.features)

    def data(self) -> dict[str, Any]:
        """The content of ``study.json``."""
        said = (self.context, self.selections, self.proved)
        return {
            "schema": "patchclamp/study/1",
            "version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": _command(self.subject, self.source, self.task, self.options),
            "seconds": {**self.clock.seconds, "total": sum(self.clock.seconds.values())},
            "options": asdict(self.options),
            "model": _model_facts(self.subject),
            "task": self._task_facts(),
            "checks": self.checks,
            "ability": self.able,
            "attribution": self._attribution(),
            "selection": [s.to_json() for s in self.selections],
            "maps": tables.maps(self.subject, self.scores, self.selections),
            "effects": self.proved.to_json(),
            "forest": self.proved.forest(self.selections),
            "ablations": self.proved.ablations(self.selections),
            "curves": self.curves,
            "units": self.units,
            "methods": self.methods,
            "ablation": self.context.ablation,
            "n_control": self.options.n_control,
            "matched_by": self.proved.matched_by,
            "headline": summary.headline(*said),
            "tiles": summary.tiles(self.able, *said),
            "findings": [
                *summary.sentences(*said),
                *([self.features.answer] if self.features is not None else []),
            ],
            "features": None if self.features is None else self.features.to_json(),
            "limits": list(LIMITS),
        }

    def _attribution(self) -> dict[str, Any]:
        return {
            "method": self.options.method,
            "label": _method_text(self.label, self.scores.meta),
            "n_items": len(self.splits["train"]),
            "seconds": self.clock.seconds["attributing"],
            "direction": self.scores.direction,
            "meta": dict(self.scores.meta),
        }

    def _task_facts(self) -> dict[str, Any]:
        score = self.task.score
        return {
            **self.context.task,
            "name": self.task.name,
            "source": self.source,
            "title": self.context.title,
            "description": self.task.description,
            "metric": str(score),
            "metric_text": self.context.metric_text,
            "metric_unit": summary.brief(self.context),
            "metric_short": score.unit,
            "splits": {name: len(part) for name, part in self.splits.items()},
            "disjoint": "group of items (names, facts)",
            "examples": ability.examples(self.splits["test"]),
        }


class _Clock:
    """Times the stages and tells the caller where the study is."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._stage = ""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._stage = stage
        self.say(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start

    def say(self, text: str, done: float = 0, total: float | None = None) -> None:
        """Report where the stage is."""
        if self._progress is not None:
            self._progress(text if text == self._stage else f"{self._stage}: {text}", done, total)


def _refuse(task: Task, options: StudyOptions) -> None:
    if options.method not in METHODS:
        hint = did_you_mean(options.method, METHODS) or f"; give {', '.join(METHODS)}"
        raise PatchclampError(f"method {options.method!r}: there is none of this name{hint}")
    if options.decompose:
        refuse_decomposition(options.decompose)
    if not task.has_contrast:
        raise PatchclampError(
            f"task {task.name}: its items have no corrupted texts, which attribution needs; give each one"
        )


def _attribute(subject: Any, task: Task, options: StudyOptions) -> Scores:
    methods: Mapping[str, Callable[..., Scores]] = METHODS
    return methods[options.method](
        subject,
        task,
        _sites(subject),
        direction=options.direction,
        positions="roles",
        batch_size=options.batch_size,
    )


def _sites(subject: Any) -> list[Any]:
    """Heads, neurons, attention and MLP outputs, the stream: those of them that the model has."""
    points = ("head", "mlp_act", "attn_out", "mlp_out", "resid_post")
    return [site for site in subject.known_sites() if site.point in points]


def _intervention(options: StudyOptions, splits: Mapping[str, Task], reference: Task) -> dict[str, Any]:
    """The ablation without units; means by template fall back to position where a template has no reference item."""
    found: dict[str, Any] = {"kind": options.kind, "positions": "all", "seed": options.seed}
    if options.kind != "mean":
        return found
    known = {item.template for item in reference.items}
    whole = all(item.template in known for part in splits.values() for item in part.items)
    by = "position" if options.by == "template" and not whole else options.by
    return {**found, "by": by, "source": options.source}


def _method_text(label: str, meta: Mapping[str, Any]) -> str:
    """The method with the settings that it reports."""
    parts = [label]
    if "steps" in meta and "rule" in meta:
        parts.append(f"{meta['steps']} steps ({meta['rule']})")
    if meta.get("ln_rule"):
        parts.append("LN rule")
    return ", ".join(parts)


def _default_folder(task: Task, subject: Any, options: StudyOptions) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{task.name}-{Path(subject.name).name}")
    return Path("studies") / f"{name}-seed{options.seed}"


def _command(subject: Any, source: str, task: Task, options: StudyOptions) -> str:
    parts = [
        "patchclamp study",
        source,
        "--model",
        subject.name,
        "--seed",
        options.seed,
        "--items",
        options.n_test,
    ]
    parts += ["--corruption", task.corruption] if task.corruption else []
    return " ".join(str(part) for part in parts)


def _model_facts(subject: Any) -> dict[str, Any]:
    neurons = sum(subject.width(s) for s in subject.known_sites() if s.point == "mlp_act")
    return {
        "name": subject.name,
        "fingerprint": subject.fingerprint,
        "family": subject.family,
        "layers": subject.n_layers,
        "heads": subject.n_layers * subject.n_heads,
        "neurons": neurons,
        "d_model": subject.d_model,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "device": str(subject.device),
    }


def _write(study: Study) -> None:
    folder = study.folder
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", study.data)
    write_claims(folder / "claims.json", study.claims, __version__)
    for name, table in study.tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    if study.features is not None:
        study.features.save(folder / "dictionaries")
    claims = [plain(claim.to_json()) for claim in study.claims]
    write_text(folder / "report.html", render(study.data, claims))
