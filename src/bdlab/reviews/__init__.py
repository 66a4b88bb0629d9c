"""Reviews as input: JSON bodies and files, checked field by field, and the publishing of whole files."""

from bdlab.reviews.body import FieldProblem, ReviewInvalid, check, decode, decode_many

__all__ = ["FieldProblem", "ReviewInvalid", "check", "decode", "decode_many"]
