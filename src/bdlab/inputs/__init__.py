"""Inputs of a model: JSON bodies and files, checked field by field, and the publishing of whole files."""

from bdlab.inputs.body import FieldProblem, InputInvalid, Validator

__all__ = ["FieldProblem", "InputInvalid", "Validator"]
