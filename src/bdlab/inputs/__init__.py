"""Inputs of a model: JSON bodies and files, checked field by field, and the publishing of whole files."""

from bdlab.inputs.body import FieldProblem, InputInvalid, check, decode, decode_many

__all__ = ["FieldProblem", "InputInvalid", "check", "decode", "decode_many"]
