"""One input, as the arguments of `bdlab predict` give it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence

from bdlab.contract import Contract, Field
from bdlab.errors import InvalidInput
from bdlab.events import Input
from bdlab.inputs.body import InputInvalid, Validator
from bdlab.inputs.cells import argument_of, input_of
from bdlab_cli.output import terminal

_STANDARD_INPUT = "-"
_SUMMARY = "summary"
_SHOWN = 40


def from_arguments(validator: Validator, arguments: Sequence[str], summary: str | None, limit: int) -> Input:
    """Return the input in the arguments: NAME=VALUE each, or one JSON object; ``-`` is what standard input
    has of it, at most `limit` bytes.

    An argument is NAME=VALUE only if it begins with a field's name or column. One that is neither is the
    text, if just one text has to be given; `summary` is the field of that name. Raises InvalidInput.
    """
    contract = validator.contract
    fields = {called: field for field in contract.inputs for called in (field.column, field.name)}
    texts: dict[str, str] = {}

    def give(field: Field, value: str) -> None:
        if texts.setdefault(field.name, value) is not value:
            raise InvalidInput(f"the field {field.name!r} is given twice", hint=_hint(contract))

    others = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in fields and name != argument:
            give(fields[name], value)
        else:
            others.append(argument)
    if summary is not None:
        if _SUMMARY not in fields or not fields[_SUMMARY].is_text:
            raise InvalidInput(f"--summary: {contract.one} has no such text", hint=_hint(contract))
        give(fields[_SUMMARY], summary)
    needed = [field for field in contract.inputs if field.required and field.is_text]
    text = needed[0] if len(needed) == 1 else None
    if others == [_STANDARD_INPUT]:
        others = [_from_standard_input(contract, limit)]
    if len(others) == 1 and not texts and others[0].lstrip().startswith("{"):
        data = others[0].encode()
        if text is None or _is_json(validator, data):
            return validator.decode(data)
    if others and (text is None or text.name in texts or len(others) > 1):
        raise _unknown(contract, fields, others)
    if others and text:
        give(text, others[0])
    return input_of(validator, texts, [(name, name, argument_of(fields[name])) for name in texts])


def _is_json(validator: Validator, data: bytes) -> bool:
    try:
        validator.parse(data)
    except InputInvalid:
        return False
    return True


def _unknown(contract: Contract, fields: dict[str, Field], others: Sequence[str]) -> InvalidInput:
    """Return what is wrong with arguments that are not NAME=VALUE; the one with a name first."""
    named = [other for other in others if "=" in other] or list(others)
    name = named[0].partition("=")[0]
    lower = {called.lower(): field.name for called, field in fields.items()}
    if near := difflib.get_close_matches(name.lower(), lower, n=1):
        why = f"{name[:_SHOWN]!r} is no field of {contract.one}; is {lower[near[0]]!r} meant?"
    else:
        why = f"{named[0][:_SHOWN]!r} begins with no name of a field"
    return InvalidInput(why, hint=_hint(contract))


def _hint(contract: Contract) -> str:
    names = " ".join(
        name if field.required else f"[{name}]"
        for field in contract.inputs
        for name in [f"'{field.name}=...'" if " " in field.name else f"{field.name}=..."]
    )
    return f"Give each field once, and put quotes around one with spaces: {names}"


def _from_standard_input(contract: Contract, limit: int) -> str:
    """Return what standard input holds: UTF-8, at most `limit` bytes. Raises InvalidInput."""
    noun = contract.noun
    if sys.stdin.isatty():
        terminal.echo(f"Reading one {noun} from the terminal; Ctrl-D on a line of its own ends it.", err=True)
    try:
        content = sys.stdin.buffer.read(limit + 1)
        text = content.decode("utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise InvalidInput(
            f"standard input cannot be read: {(error.strerror or str(error)).lower()}",
            hint=f"Give the {noun} as the argument.",
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"standard input is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}",
            hint="Convert it first, for example: iconv -f WINDOWS-1252 -t UTF-8",
        ) from error
    if len(content) > limit:
        raise InvalidInput(
            f"standard input holds more than {limit} bytes, and - is one {noun}",
            hint="For many, in CSV or JSON lines: --file -",
        )
    if not text.strip():
        raise InvalidInput(f"standard input is empty, and - is the {noun} that it holds")
    return text
