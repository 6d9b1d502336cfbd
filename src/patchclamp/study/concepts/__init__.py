"""The concept study: units that are selective for the labels of texts, and whether they matter there."""

from patchclamp.study.concepts.context import ConceptOptions
from patchclamp.study.concepts.study import run_concept_study
from patchclamp.study.concepts.texts import LabelledTexts, load_labelled

__all__ = ["ConceptOptions", "LabelledTexts", "load_labelled", "run_concept_study"]
