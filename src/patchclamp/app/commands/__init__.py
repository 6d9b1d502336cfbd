"""The commands, one file each; `COMMANDS` is the table that `cli.py` reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patchclamp.app.commands.attribute import attribute
from patchclamp.app.commands.check import check
from patchclamp.app.commands.decompose import decompose
from patchclamp.app.commands.describe import describe
from patchclamp.app.commands.effect import effect
from patchclamp.app.commands.leaderboard import leaderboard
from patchclamp.app.commands.measure import measure
from patchclamp.app.commands.models import models
from patchclamp.app.commands.open import open_file
from patchclamp.app.commands.record import record
from patchclamp.app.commands.sites import sites
from patchclamp.app.commands.study import study
from patchclamp.app.commands.tasks import tasks
from patchclamp.app.commands.verify import verify

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
