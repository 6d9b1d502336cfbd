"""describe: what does a unit encode?

`METHODS` names the methods. Those that decode directions take a subject; the others take activity and the tokens on
which it was recorded, and every score is of documents that did not make the description.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patchclamp.describe.description import Description
from patchclamp.describe.lm_head import decode_directions, decode_in, lm_head, output_directions
from patchclamp.describe.scoring import SCORES, DescriptionScore, PredicateJudge
from patchclamp.describe.search import Described, search_description
from patchclamp.describe.splitting import Split
from patchclamp.describe.tokens import Tokens
from patchclamp.describe.windows import Examples, windows_of

METHODS: dict[str, Callable[..., Any]] = {
    "lm_head": lm_head,
    "search_description": search_description,
    **SCORES,
}

__all__ = [
    "METHODS",
    "SCORES",
    "Described",
    "Description",
    "DescriptionScore",
    "Examples",
    "PredicateJudge",
    "Split",
    "Tokens",
    "decode_directions",
    "decode_in",
    "lm_head",
    "output_directions",
    "search_description",
    "windows_of",
]
