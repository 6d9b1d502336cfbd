"""subspaces: does a direction carry the variable, or does patching it wake a dormant path?"""

from __future__ import annotations

from patchclamp.evaluate.subspaces.illusion import Illusion, illusion
from patchclamp.evaluate.subspaces.row_space import RowSpace, row_space

__all__ = ["Illusion", "RowSpace", "illusion", "row_space"]
