"""Reviews from outside: JSON bodies and files, checked field by field; and files of them, published."""

from bdlab.reviews.body import FieldProblem, ReviewInvalid, check, decode, decode_many

__all__ = ["FieldProblem", "ReviewInvalid", "check", "decode", "decode_many"]
