"""The version of the package: results, stores and claims carry it."""

__version__ = "0.1.0"
