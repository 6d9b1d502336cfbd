"""What the stages of a study of a behaviour share: a task and its splits, the bench, and what was found so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.encode import UNNAMED
from patchclamp.nouns.tasks.protocol import size_of
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Unit
from patchclamp.study.ability import held_apart, items_fingerprint, metric_text, splits_of
from patchclamp.study.experiments import Experiments
from patchclamp.study.options import StudyOptions
from patchclamp.study.report.findings import LIMITS, UNIT_NAMES, Basis
from patchclamp.study.select import Selection
from patchclamp.study.share import Measured, forest_row
from patchclamp.study.stages import Context, Cover
from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["KINDS", "Behaviour", "Proved", "file_name", "runs"]

KINDS: Mapping[str, tuple[str, str]] = {
    "heads": ("head", UNIT_NAMES["head"]),
    "neurons": ("mlp_act", UNIT_NAMES["mlp_act"]),
}
"""Kind of unit -> (point, name of one in words)."""


@dataclass
class Proved:
    """What the interventions on test items found.

    Parameters
    ----------
    joint, alone
        Kind -> share lost with the chosen set ablated; unit -> share lost with it alone.
    kept
        Kind -> share recovered with all units of the kind ablated but the chosen.
    ratio
        Kind -> sum of single effects over the joint effect of the same units.
    otherwise
        Kind -> ablation in words -> share lost by the chosen set under it.
    """

    joint: dict[str, Measured] = field(default_factory=dict)
    alone: dict[Unit, Measured] = field(default_factory=dict)
    kept: dict[str, Measured] = field(default_factory=dict)
    ratio: dict[str, Measured] = field(default_factory=dict)
    otherwise: dict[str, dict[str, Measured]] = field(default_factory=dict)

    @property
    def matched_by(self) -> str:
        """How the random sets were drawn, in words."""
        return next((m.share.null.kind for m in self.joint.values() if m.share.null is not None), "none")

    def forest(self, selections: Sequence[Selection]) -> list[dict[str, Any]]:
        """All effects as rows of the forest figure: each chosen set, then its units alone."""
        rows = []
        for s in selections:
            name = f"{s.k:,} {s.kind}" if s.k > 1 else str(s.order[0])
            rows.append(forest_row(name, self.joint[s.kind].share))
            rows += [forest_row(str(u), self.alone[u].share) for u in s.order if u in self.alone and s.k > 1]
        return rows

    def ablations(self, selections: Sequence[Selection]) -> list[dict[str, Any]]:
        """The chosen sets under every kind of ablation, as rows of a forest figure."""
        return [
            forest_row(f"{s.k:,} {s.kind}, {name}", found.share)
            for s in selections
            for name, found in self.otherwise[s.kind].items()
        ]

    def to_json(self) -> list[dict[str, Any]]:
        """Every share by name."""
        named: dict[str, Measured] = {
            **{f"joint {k}": v for k, v in self.joint.items()},
            **{f"alone {u}": v for u, v in self.alone.items()},
            **{f"kept {k}": v for k, v in self.kept.items()},
            **{f"ratio {k}": v for k, v in self.ratio.items()},
            **{f"joint {k}: {name}": v for k, some in self.otherwise.items() for name, v in some.items()},
        }
        return [{"name": name, **found.to_json()} for name, found in named.items()]


@dataclass(repr=False)
class Behaviour(Context):
    """A study of a task: its splits and bench, and what its stages found.

    Parameters
    ----------
    task, source
        The behaviour, and the name or file from which `load_task` makes it again.
    options
        How much to measure.
    splits, bench, basis
        Items by split, the test items beside the reference from train items, and what all claims share.
    scores, selections, proved
        Of the stages that attribute, choose and ablate.
    """

    task: Task
    source: str
    options: StudyOptions
    splits: dict[str, Task] = field(init=False)
    bench: Experiments = field(init=False)
    basis: Basis = field(init=False)
    scores: Scores = field(init=False)
    selections: list[Selection] = field(init=False)
    proved: Proved = field(init=False)

    def __post_init__(self) -> None:
        train = self.task.split("train")
        self.splits = splits_of(self.task, self.options)
        reference = Reference(self.subject, train, self.options.batch_size)
        change = _intervention(self.subject, self.options, self.splits, train)
        self.bench = Experiments(
            self.subject, self.splits["test"], self.options.kind, reference, **change, batch_size=self.options.batch_size,
            seed=self.options.seed,
        )  # fmt: skip
        self.basis = _basis(self, len(train))

    @property
    def metric_words(self) -> str:
        """The metric in two or three words, for a sentence."""
        return self.basis.metric_text.split(" between")[0].split(" of the")[0].split(" (")[0]

    def folder(self) -> str:
        """Where the study is written unless the caller says otherwise."""
        return f"studies/{file_name(self.task.name, self.subject.name)}-seed{self.options.seed}"

    def decided_by(self) -> Mapping[str, Any] | None:
        """Model, items, metric and options; a metric that is a user's function says nothing of itself."""
        if not isinstance(self.task.metric, str):
            return None
        return {
            "study": self.source,
            "model": dict(self.basis.model),
            "runs": runs(self.subject),
            "task": dict(self.basis.task),
            "metric": self.basis.metric,
            "items": {
                name: [items_fingerprint(part), *sorted({f"{i.template}|{i.group}" for i in part.items})]
                for name, part in self.splits.items()
            },
            "options": asdict(self.options),
        }

    def cover(self) -> Cover:
        """What frames the sections."""
        splits = {name: len(part) for name, part in self.splits.items()}
        test = self.splits["test"]
        apart = held_apart(test, self.task.split("train", "validation"))
        model, task = _model_facts(self), self.basis.task
        corruption = f" --corruption {self.task.corruption}" if self.task.corruption else ""
        command = f"patchclamp study {self.source} --model {self.subject.name} --seed {self.options.seed} "
        command += f"--items {self.options.n_test}{corruption}"
        attributed = self.sections["attributing"].facts["attribution"]["label"]
        return Cover(
            "study",
            self.task.name,
            (f"Which units of {self.subject.name} carry ", self.basis.title, "?"),
            f"Every figure here was measured on the test items ({size_of(test)}); {apart} the "
            f"{splits['train']} + {splits['validation']} items that chose the units. Intervals are 95 % bootstrap-t "
            "intervals over groups of items.",
            LIMITS,
            command,
            f"{model['name']}, {model['family']}, {model['layers']} layers, {model['dtype']} on {model['device']}, "
            f"weights {model['fingerprint'][:16]}; task {self.task.name}, {task['n']} items, seed {task['seed']}, "
            f"corruption {task['corruption']}, items {task['fingerprint'][:16]}. {attributed.capitalize()}: "
            f"{self.seconds['attributing']:.0f} s. The whole study: {sum(self.seconds.values()):.0f} s.",
            {
                "options": asdict(self.options),
                "model": model,
                "task": {
                    **task,
                    "name": self.task.name,
                    "source": self.source,
                    "title": self.basis.title,
                    "description": self.task.description,
                    "metric": self.basis.metric,
                    "metric_text": self.basis.metric_text,
                    "metric_unit": self.metric_words,
                    "metric_short": self.task.score.unit,
                    "splits": splits,
                    "size": size_of(test),
                    "disjoint": apart,
                },
            },
            self.folder(),
        )


def runs(subject: LanguageModel) -> dict[str, Any]:
    """How a model is run: what changes its numbers besides its weights."""
    attached = [str(site) for site in subject.known_sites() if site.dictionary is not None]
    return {
        "device": str(subject.device),
        "dtype": str(subject.dtype),
        "bos": subject.bos,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dictionaries": attached,
    }


def file_name(name: str, model: str) -> str:
    """Data and model as part of a folder's name.

    Examples
    --------
    >>> file_name("a task", "models/tiny")
    'a-task-tiny'
    """
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{name}-{Path(model).name}")


def _intervention(
    subject: LanguageModel, options: StudyOptions, splits: Mapping[str, Task], reference: Task
) -> dict[str, Any]:
    """The ablation without units; means by template fall back to position where a template has no reference item."""
    if options.kind != "mean":
        return {}
    known = _templates(subject, reference)
    whole = all(_templates(subject, part) <= known for part in splits.values())
    by = "position" if options.by == "template" and not whole else options.by
    return {"by": by, "source": options.source}


def _templates(subject: LanguageModel, task: Task) -> set[str]:
    """The templates of a task's items, where they name none by length in tokens."""
    if all(item.template for item in task.items):
        return {item.template for item in task.items}
    return set(task.encode(subject.tokenizer, bos=subject.bos, max_length=subject.max_length).templates)


def _basis(context: Behaviour, n: int) -> Basis:
    """What all claims of a study share; `n` train items are the reference."""
    subject, task, options, test = context.subject, context.task, context.options, context.splits["test"]
    change = context.bench.intervention
    unnamed = change.get("by") == "template" and any(
        name.startswith(UNNAMED) for name in _templates(subject, test)
    )
    words = {
        "mean": f"replaced by their mean over {n} {change.get('source')} train items, by {change.get('by')}"
        + " (of items that name none, by length)" * unnamed,
        "zero": "set to zero",
        "resample": f"replaced by their activity on a random one of {n} train items",
        "patch": "given their activity on the item's corrupted input",
    }
    return Basis(
        task={
            "name": context.source,
            "n": len(task),
            "seed": options.seed,
            "corruption": task.corruption or None,
            "split": "test",
            "items": len(test),
            "reference_split": "train",
            "reference_items": n,
            "fingerprint": items_fingerprint(test),
            "min_accuracy": task.min_accuracy,
        },
        model=Basis.model_of(subject),
        title=task.name.replace("_", " "),
        metric=str(task.score),
        metric_text=metric_text(task),
        ablation=words[options.kind],
        intervention=change,
        seed=options.seed,
    )


def _model_facts(context: Behaviour) -> dict[str, Any]:
    subject = context.subject
    return {
        **context.basis.model,
        "family": subject.family,
        "layers": subject.n_layers,
        "heads": subject.n_layers * subject.n_heads,
        "neurons": sum(
            subject.width(s) for s in subject.known_sites() if s.point == "mlp_act" and s.dictionary is None
        ),
        "d_model": subject.d_model,
        "device": str(subject.device),
    }
