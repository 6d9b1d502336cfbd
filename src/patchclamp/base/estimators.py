"""Names of the estimators that are tried first where a behaviour is attributed.

Names only, so that the command line can say them before it loads anything; `patchclamp.attribute` has the methods.
"""

from __future__ import annotations

__all__ = ["DEFAULT", "ESTIMATORS"]

ESTIMATORS = ("partial_gradients", "integrated_gradients")
"""In the order in which they are tried where one is checked against exact patching."""
DEFAULT = ESTIMATORS[0]
"""The method with which the command line and a study begin."""
