"""Explanations and judgements by a language model behind an endpoint that speaks the OpenAI protocol."""

from __future__ import annotations

from patchclamp.describe.llm.client import ChatClient, Cost, Reply
from patchclamp.describe.llm.explain import LLMJudge, explain

__all__ = ["ChatClient", "Cost", "LLMJudge", "Reply", "explain"]
