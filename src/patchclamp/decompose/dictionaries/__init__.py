"""dictionaries: what a fitted decomposition is: encode, decode, save."""

from __future__ import annotations

from patchclamp.decompose.dictionaries.sparse_dictionary import SparseDictionary

__all__ = ["SparseDictionary"]
