"""describe: what does a unit encode?

`METHODS` names the describers, which may ask a black box and answer in words and in something that runs. `TOOLS` names the
other functions, each with a signature of its own: those that decode directions take a subject; the others take activity and
the tokens on which it was recorded, and every score is of documents that did not make the description.

``search_description`` is in both: ``METHODS["search_description"]`` is `executable_describer`, which asks a `Query` and
runs the search (or, for functions of numbers, fits a formula) on the answers; ``TOOLS["search_description"]`` is
`search_description`, the search itself, on recorded activity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patchclamp.describe.description import Description
from patchclamp.describe.expertise import expertise
from patchclamp.describe.functions import FUNCTIONS, Describer, executable_describer
from patchclamp.describe.llm import ChatClient, LLMDescriber, LLMJudge, explain
from patchclamp.describe.lm_head import decode_in, lm_head
from patchclamp.describe.rendering import exemplars_as_html, exemplars_as_text, render_exemplars
from patchclamp.describe.scoring import SCORES, DescriptionScore
from patchclamp.describe.search.search import search_description
from patchclamp.describe.search.splitting import Split
from patchclamp.describe.tokens import Tokens
from patchclamp.describe.windows import windows_of

# (query) -> Answer
METHODS: dict[str, Describer] = {"search_description": executable_describer}
TOOLS: dict[str, Callable[..., Any]] = {
    "lm_head": lm_head,
    "search_description": search_description,
    "explain": explain,
    "render_exemplars": render_exemplars,
    "expertise": expertise,
    **SCORES,
}

__all__ = [
    "FUNCTIONS",
    "METHODS",
    "SCORES",
    "TOOLS",
    "ChatClient",
    "Description",
    "DescriptionScore",
    "LLMDescriber",
    "LLMJudge",
    "Split",
    "Tokens",
    "decode_in",
    "exemplars_as_html",
    "exemplars_as_text",
    "expertise",
    "explain",
    "lm_head",
    "render_exemplars",
    "search_description",
    "windows_of",
]
