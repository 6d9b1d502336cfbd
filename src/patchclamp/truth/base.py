"""What a system with a known answer is: something to put under the instrument, and what must come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.subjects.base import Subject

Kind = Literal["circuit", "dictionary", "population", "function"]
# Keys of `Circuit.effects`.
QUANTITIES = (
    "noising",
    "denoising",
    "shapley",
    "gradient_clean",
    "gradient_corrupted",
    "integrated_gradients",
    "partial_noising",
    "partial_denoising",
)


@shown
@dataclass(frozen=True)
class Circuit:
    """A live system, a behaviour, and the units that carry it.

    Parameters
    ----------
    subject, task
        The system, and clean inputs beside corrupted ones with a metric (`TensorTask`, or a `Task` of texts).
    sites
        Addresses of the candidates: what a method is asked to score, to be held against `nodes`.
    level
        Whether a candidate is a ``"unit"`` of these sites or a whole ``"site"``.
    nodes
        Address of a candidate -> whether it belongs to the mechanism under `ablation`; every candidate is named.
    ablation
        What the truth holds for: ``"patch"`` (the other input's activity), ``"zero"``, ``"mean"`` or ``"resample"``.
    effects
        Quantity -> address -> value, where there is a closed form. Quantities: ``"noising"``, ``"denoising"``,
        ``"shapley"``, ``"gradient_clean"``, ``"gradient_corrupted"`` (each times clean minus corrupted activity),
        ``"integrated_gradients"``, ``"partial_noising"``, ``"partial_denoising"`` (of `partial_gradients`).
    edges
        Addresses of edges -> whether they belong to it, where each edge is a site of its own (score them by
        ``method(subject, task, list(edges), level="site")``); names ``"a->b"`` where edges are no sites.
    tolerance
        How far a computed effect may lie from its closed form.
    data
        Whatever else is known (key frequencies, leakage measured, accuracy ...), as plain data or arrays. ``"steps"``
        is a number of steps along a path at which closed forms are met; ``"original"`` of a twin has the truth that is
        gone.
    """

    subject: Subject
    task: TaskLike
    sites: tuple[str, ...]
    nodes: Mapping[str, bool]
    ablation: str = "patch"
    level: Literal["unit", "site"] = "unit"
    effects: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    edges: Mapping[str, bool] = field(default_factory=dict)
    tolerance: float = 1e-6
    data: Mapping[str, Any] = field(default_factory=dict)


@shown
@dataclass(frozen=True)
class Planted:
    """Activity made of known directions.

    activity = codes @ directions + offset + noise, in the site ``planted`` of `recording`.

    Parameters
    ----------
    recording
        Samples of all splits; `recording.samples.group` is the unit of dependence.
    directions
        (feature, unit), rows of length 1.
    codes
        (sample, feature), not negative, sparse.
    readout
        (feature,) weights w of a linear read-out: feature i has exactly the effect w_i codes_i on it.
    data
        Which features are a parent and its child, correlated pairs, dense, dead; the noise's scale.
    """

    recording: Recording
    directions: Tensor
    codes: Tensor
    readout: Tensor | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@shown
@dataclass(frozen=True)
class Population:
    """Activity of a simulated population whose wiring, states or tuning are known.

    Parameters
    ----------
    recording
        Trials x time x units, or samples x units.
    coupling
        (source, target) weights; row i says what unit i does to the others. None where nothing is wired.
    directed
        Whether `coupling` has a direction that a method must find.
    data
        States over time, motifs, tuning, noise ceiling, what stimulation of each unit changes.
    stimulate
        Unit -> change of every unit's rate when it is driven; None for systems that cannot be stimulated.
    """

    recording: Recording
    coupling: NDArray[np.float64] | None = None
    directed: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    stimulate: Callable[[int], NDArray[np.float64]] | None = None


@shown
@dataclass(frozen=True)
class BlackBox:
    """A function to be described, with the description that is true.

    Parameters
    ----------
    function
        Input -> number (texts or numbers, one at a time).
    description
        In plain English.
    domain
        ``"numeric"`` or ``"tokens"``.
    inputs
        Inputs on which a description is scored; those for making one come from `sample`.
    sample
        (n, seed) -> inputs.
    """

    function: Callable[[Any], float]
    description: str
    domain: str
    inputs: tuple[Any, ...]
    sample: Callable[[int, int], list[Any]]
    data: Mapping[str, Any] = field(default_factory=dict)


System = Circuit | Planted | Population | BlackBox


@shown
@dataclass(frozen=True)
class Truth:
    """An entry of the suite.

    Parameters
    ----------
    name
        As in ``open_subject("truth:NAME")``.
    kind
        Which verbs it fits.
    build
        Seed -> system; the same seed gives the same system, bit for bit.
    about
        One line.
    source
        Where it comes from.
    control
        A negative control: nothing may be found.
    fast
        Built in well under a second, so that CI runs every method on it.
    """

    name: str
    kind: Kind
    build: Callable[[int], System]
    about: str
    source: str = ""
    control: bool = False
    fast: bool = True


TRUTHS: dict[str, Truth] = {}
# End of a name -> what makes that variant of any system, such as its twin with random weights.
SUFFIXES: dict[str, Callable[[str, int], System]] = {}


def register(truth: Truth) -> Truth:
    """Add an entry to the suite; users' own stand beside ours in the leaderboard.

    Raises
    ------
    PatchclampError
        If the name is taken by another entry.
    """
    known = TRUTHS.get(truth.name, truth)
    # A file that is loaded again (a notebook's reload) registers the same entries with new functions.
    if replace(known, build=truth.build) != truth:
        raise PatchclampError(f"truth {truth.name!r}: there is one of this name; take another")
    TRUTHS[truth.name] = truth
    return truth


def enter(
    name: str,
    kind: Kind,
    build: Callable[[int], System],
    about: str,
    source: str = "",
    *,
    control: bool = False,
    fast: bool = True,
) -> Truth:
    """`register` an entry given by its fields."""
    return register(Truth(name, kind, build, about, source, control, fast))


def load_truth(name: str, seed: int = 0) -> System:
    """Build one system by name; ``-reinitialised`` after the name of a live one gives its twin with random weights.

    Raises
    ------
    PatchclampError
        For a name that is not in the suite, with the near ones.
    """
    for suffix, variant in SUFFIXES.items():
        if name not in TRUTHS and name.removesuffix(suffix) in TRUTHS:
            return variant(name.removesuffix(suffix), seed)
    if name not in TRUTHS:
        raise PatchclampError(
            f"truth {name!r}: there is none of this name"
            + (did_you_mean(name, TRUTHS) or f"; there are {', '.join(TRUTHS)}")
        )
    return TRUTHS[name].build(seed)
