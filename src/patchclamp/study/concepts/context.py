"""What the stages of a concept study share: labelled texts, the candidates, and what was found so far."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from patchclamp.nouns.units import Site, Unit, Units
from patchclamp.study.behaviour import file_name, runs
from patchclamp.study.concepts.damage import Damage
from patchclamp.study.concepts.selective import Experts
from patchclamp.study.concepts.texts import LabelledTexts
from patchclamp.study.share import Measured
from patchclamp.study.stages import Context, Cover
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["LIMITS", "ConceptOptions", "Concepts"]

LIMITS: tuple[str, ...] = (
    (
        "That a selective unit is about the label and nothing else: whatever goes along with the label in these texts, such "
        "as length, format or a few words, selects units too. Give texts that differ in the label alone."
    ),
    "That units which are not selective do not matter for a label's texts. Most of what predicts a text is shared.",
    "That these units would do the same in texts of another source.",
    "That units which are less active on a label's texts play no part: they were not looked for.",
)


@dataclass(frozen=True)
class ConceptOptions:
    """Sizes of a concept study.

    Parameters
    ----------
    seed
        Of the split, permutations, random sets and bootstrap.
    sites
        Addresses of the candidates.
    per_label, max_tokens
        Texts of each label, and where they are cut.
    pool
        ``"mean"`` or ``"max"`` over a text's tokens.
    n_units
        Units of each label that are ablated together.
    n_permutations
        Shuffles of labels for the null of the maximum.
    n_control
        Random sets, at least 20.
    sizes
        Sizes of the growing sets.
    n_described
        Units of each label that are described.
    """

    seed: int = 0
    sites: str = "mlp_act.*"
    per_label: int = 60
    max_tokens: int = 64
    pool: Literal["mean", "max"] = "mean"
    n_units: int = 50
    n_permutations: int = 100
    n_control: int = 20
    sizes: tuple[int, ...] = (5, 20, 50, 200)
    n_described: int = 5


@dataclass(repr=False)
class Concepts(Context):
    """A concept study: its texts, and what its stages found.

    Parameters
    ----------
    texts, options
        Labelled texts in two parts, and sizes.
    reference
        Of the train texts: the activity by which random sets are matched.
    sites, units, values
        The candidates, and their (text, unit) activity on the train texts.
    experts, chosen
        The units that are selective for each label, and those of them that are ablated.
    damage, shares
        What ablating them does to all held-out texts, and how much more to their own.
    growth
        Label -> rows size, estimate, low, high of growing sets.
    """

    texts: LabelledTexts
    options: ConceptOptions
    sites: list[Site] = field(init=False)
    reference: Reference = field(init=False)
    units: list[Unit] = field(init=False)
    values: Tensor = field(init=False)
    experts: list[Experts] = field(init=False)
    chosen: dict[str, Units] = field(init=False)
    damage: Damage = field(init=False)
    shares: dict[str, Measured] = field(init=False)
    growth: dict[str, list[dict[str, Any]]] = field(init=False)

    def __post_init__(self) -> None:
        self.sites = self.subject.resolve(self.options.sites)
        self.reference = Reference(self.subject, self.texts.train, 32)

    def folder(self) -> str:
        """Where the study is written unless the caller says otherwise."""
        return f"studies/concepts-{file_name(self.texts.name, self.subject.name)}-seed{self.options.seed}"

    def decided_by(self) -> Mapping[str, Any]:
        """Model, texts and options."""
        return {
            "concept study": self.texts.name,
            "model": self.subject.fingerprint,
            "runs": runs(self.subject),
            "data": {
                name: hashlib.sha256(repr((part.texts, part.labels, part.groups)).encode()).hexdigest()
                for name, part in (("train", self.texts.train), ("test", self.texts.test))
            },
            "source": self.texts.source,
            "options": asdict(self.options),
        }

    def cover(self) -> Cover:
        """What frames the sections."""
        data, model, counts = self.texts, self.subject.name, self.texts.counts()
        command = f"patchclamp study --texts {data.source or 'TEXTS'} --model {model} --sites '{self.options.sites}'"
        return Cover(
            "concept study",
            data.name,
            (f"Which units of {model} are about the labels of ", data.name, ", and do they matter?"),
            f"Units were chosen on {sum(counts['train'].values())} train texts and ablated on "
            f"{sum(counts['test'].values())} others that share no group with them. Intervals are 95 % bootstrap-t "
            "intervals over groups of texts.",
            LIMITS,
            f"{command} --items {self.options.per_label} --seed {self.options.seed}",
            f"Model {model}, weights {self.subject.fingerprint[:16]}; texts {data.fingerprint}, seed {self.options.seed}.",
            {
                "options": asdict(self.options),
                "model": {"name": model, "fingerprint": self.subject.fingerprint},
                "data": {
                    "name": data.name,
                    "source": data.source,
                    "counts": counts,
                    "fingerprint": data.fingerprint,
                },
            },
            self.folder(),
        )
