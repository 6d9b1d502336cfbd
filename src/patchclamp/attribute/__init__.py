"""Attribute: a score for every unit, from exact patching down to estimates of one backward pass."""

from patchclamp.attribute.activation_patching import activation_patching

METHODS = {"activation_patching": activation_patching}
