"""The commands, one file each; `COMMANDS` is the table that `cli.py` reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patchclamp._cli.attribute import attribute
from patchclamp._cli.check import check
from patchclamp._cli.decompose import decompose
from patchclamp._cli.describe import describe
from patchclamp._cli.effect import effect
from patchclamp._cli.leaderboard import leaderboard
from patchclamp._cli.measure import measure
from patchclamp._cli.models import models
from patchclamp._cli.open import open_file
from patchclamp._cli.record import record
from patchclamp._cli.sites import sites
from patchclamp._cli.study import study
from patchclamp._cli.tasks import tasks
from patchclamp._cli.verify import verify

COMMANDS: dict[str, Callable[..., Any]] = {
    "study": study,
    "verify": verify,
    "record": record,
    "open": open_file,
    "measure": measure,
    "decompose": decompose,
    "describe": describe,
    "attribute": attribute,
    "effect": effect,
    "check": check,
    "sites": sites,
    "tasks": tasks,
    "leaderboard": leaderboard,
    "models": models,
}
