"""describe: what does a unit encode?

`METHODS` names the methods; each takes a subject and units and returns a table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patchclamp.describe.lm_head import decode_directions, decode_in, lm_head, output_directions

METHODS: dict[str, Callable[..., Any]] = {"lm_head": lm_head}

__all__ = ["METHODS", "decode_directions", "decode_in", "lm_head", "output_directions"]
