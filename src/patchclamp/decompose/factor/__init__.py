"""factor: matrix factorisations of activity: SNMF, NMF, PCA, ICA."""
