"""labels: which units are selective for a label of the samples."""

from __future__ import annotations

from patchclamp.measure.labels.discrimination import Discrimination, discrimination
from patchclamp.measure.labels.selectivity import Selectivity

__all__ = ["Discrimination", "Selectivity", "discrimination"]
