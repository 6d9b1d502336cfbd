"""search: find the description that fits a unit, on items of which some are held out."""

from __future__ import annotations

from patchclamp.describe.search.search import NOTHING, Described, search_description
from patchclamp.describe.search.splitting import Split

__all__ = ["NOTHING", "Described", "Split", "search_description"]
