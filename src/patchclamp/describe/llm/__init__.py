"""Explanations and judgements by a language model behind an endpoint that speaks the OpenAI protocol."""

from __future__ import annotations

from patchclamp.describe.llm.client import ChatClient, Cost, Reply
from patchclamp.describe.llm.explain import LLMJudge, explain
from patchclamp.describe.llm.functions import LLMDescriber

__all__ = ["ChatClient", "Cost", "LLMDescriber", "LLMJudge", "Reply", "explain"]
