"""A model's contract: the fields of its input and output, and what is made from them. Pure.

A contract is a JSON document with a flat JSON Schema (2020-12) for the input and one for the output. The body of a
request, the event, the table's columns and the columns of files follow from it."""

from bdlab.contract.fields import Contract, Field, column_name, example_of
from bdlab.contract.schema import check_evolution, check_fits, parse_contract, review_contract

__all__ = ["Contract", "Field", "check_evolution", "check_fits", "column_name"]
__all__ += ["example_of", "parse_contract", "review_contract"]
