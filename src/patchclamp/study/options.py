"""How much a study measures: every number of items, sets and sizes in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from patchclamp.base.errors import PatchclampError, check_choice, did_you_mean
from patchclamp.base.estimators import DEFAULT

__all__ = ["StudyOptions"]

_HEADS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
_NEURONS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)


@dataclass(frozen=True)
class StudyOptions:
    """The sizes of a study. The defaults fit four minutes on two cores for SmolLM2-135M and prompts of 16 tokens.

    Parameters
    ----------
    seed
        Of items, bootstrap and random sets.
    n_train, n_validation, n_test
        Items that rank the units, that choose how many, and that verify them.
    method, direction
        Name of an attribution method, and the direction in which it is asked. The proof is by ablation, so the question
        is whether a unit is needed: ``"noising"``.
    n_check
        Units of each kind, from all the range of scores, that are patched exactly on `exact_items` train items before
        anything is chosen by the scores; where `method` does not agree, a better one takes its place (`checked_scores`).
        0: `method` whatever it is worth.
    kind
        Ablation that verifies: ``"mean"``, ``"zero"``, ``"resample"``, or ``"patch"`` from the item's corrupted input.
    by, source
        How means are taken: by ``"template"`` (by ``"position"`` where the train items do not hold every template), by
        ``"position"`` or over all ``"data"``; over ``"corrupted"`` or ``"clean"`` train items. Means by template over
        clean items keep what all items of a template share, such as the order of two names, and so spare the units
        that carry it; means by position over templates of unequal length mix tokens that have nothing in common,
        such as the attention sink at the first.
    n_control
        Random sets beside every joint effect; at least 20.
    n_singles
        Units of each kind that are also ablated alone.
    n_control_single
        Random units beside those, one null for all of a kind; at least 20 for each of `n_singles`, less one, so that a p
        corrected over them can reach .05.
    refine_heads, refine_neurons
        How many of the first by score are put in the order of their effect alone, measured on validation items.
    head_sizes, neuron_sizes
        Sizes tried when choosing.
    head_target, neuron_target
        Fraction of the metric that the chosen set has to take.
    curve_items, curve_points, n_random
        Faithfulness curves: test items, points on a curve, random orders beside it.
    exact_items, exact_layers
        Methods side by side: items, also those of `n_check`, and how many layers are patched exactly.
    n_texts
        Texts of the bundled sample that are read for exemplars.
    batch_size
        Items in a pass.
    decompose
        Name of a decomposition: its features are then found, proved and held against neurons. Empty for none.
    n_features, feature_layers, feature_texts, feature_sizes
        Features of each dictionary; MLP layers decomposed, those whose neurons score highest; texts of the bundled
        sample that it is fitted on, beside the train items; sizes tried.
    """

    seed: int = 0
    n_train: int = 48
    n_validation: int = 24
    n_test: int = 40
    method: str = DEFAULT
    direction: str = "noising"
    n_check: int = 12
    kind: str = "mean"
    by: str = "template"
    source: str = "corrupted"
    n_control: int = 20
    n_singles: int = 5
    n_control_single: int = 99
    refine_heads: int = 10
    refine_neurons: int = 20
    head_sizes: tuple[int, ...] = _HEADS
    neuron_sizes: tuple[int, ...] = _NEURONS
    head_target: float = 0.9
    neuron_target: float = 0.5
    curve_items: int = 16
    curve_points: int = 6
    n_random: int = 1
    exact_items: int = 8
    exact_layers: int = 4
    n_texts: int = 24
    batch_size: int = 64
    decompose: str = ""
    n_features: int = 100
    feature_layers: int = 3
    feature_texts: int = 150
    feature_sizes: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)

    def __post_init__(self) -> None:
        for name in ("n_train", "n_validation", "n_test", "curve_items", "exact_items"):
            if getattr(self, name) < 2:
                raise PatchclampError(f"{name}={getattr(self, name)}: an interval needs at least 2 items")
        if self.n_control < 20:
            raise PatchclampError(f"n_control={self.n_control}: a control needs at least 20 random sets")
        least = max(20, 20 * self.n_singles - 1)
        if self.n_control_single < least:
            raise PatchclampError(
                f"n_control_single={self.n_control_single}: with {self.n_singles} units ablated alone, a corrected p needs at "
                f"least {least} random units; draw more, or test fewer (n_singles)"
            )
        check_choice("ablation", self.kind, ("mean", "zero", "resample", "patch"))

    def change(self, **changes: Any) -> StudyOptions:
        """Return the options with some of them changed.

        Raises
        ------
        PatchclampError
            For a name that is not an option.
        """
        unknown = sorted(set(changes) - set(asdict(self)))
        if unknown:
            raise PatchclampError(
                f"{unknown[0]}: no such option of a study{did_you_mean(unknown[0], asdict(self))}"
            )
        return replace(self, **changes)
