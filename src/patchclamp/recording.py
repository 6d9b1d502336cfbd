"""Recordings: activity, samples x units, labelled on both axes."""

from patchclamp._samples import COLUMNS, Samples

__all__ = ["COLUMNS", "Samples"]
