"""A small study that is stopped in the middle."""

from __future__ import annotations

from typing import Any

from patchclamp.study import StudyOptions
from patchclamp.study.study import STAGES

SMALL = StudyOptions(
    n_train=32, n_validation=16, n_test=24, head_sizes=(1, 2), neuron_sizes=(1, 4), n_singles=2, refine_heads=2,
    curve_items=4, curve_points=2, n_random=1, exact_items=2, exact_layers=2, n_texts=3,
)  # fmt: skip
NAMES = [stage.name for stage in STAGES]


class Stop(Exception):
    """Ends a study in the middle."""


def stopping(at: str, ran: list[str]) -> Any:
    """Progress that notes the stages which run, and stops when one begins."""

    def tell(text: str, done: float, total: float | None) -> None:
        if text in NAMES:
            ran.append(text)
        if text == at:
            raise Stop

    return tell
