"""The rows of the anatomy table, by kind of model."""

from patchclamp.subjects.families import decoders, encoders, experts
from patchclamp.subjects.families.row import AnatomyRow

TABLE: tuple[AnatomyRow, ...] = (*decoders.ROWS, *experts.ROWS, *encoders.ROWS)
