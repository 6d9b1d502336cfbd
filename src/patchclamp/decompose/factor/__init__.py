"""factor: matrix factorisations of activity: SNMF, NMF, PCA, ICA."""

from __future__ import annotations

from patchclamp.decompose.factor.hierarchy import Hierarchy, hierarchy, refine
from patchclamp.decompose.factor.ica import ICA
from patchclamp.decompose.factor.nmf import NMF
from patchclamp.decompose.factor.pca import PCA
from patchclamp.decompose.factor.snmf import SNMF

__all__ = ["ICA", "NMF", "PCA", "SNMF", "Hierarchy", "hierarchy", "refine"]
