"""One input, as the arguments of `bdlab predict` give it."""

import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from bdlab.contract import Contract, Field
from bdlab.errors import InvalidInput
from bdlab.events import Input
from bdlab.inputs.body import InputInvalid, Validator
from bdlab.inputs.tables import cell_of, input_of
from bdlab_cli.output import terminal
from bdlab_cli.output.progress import no_line

_STANDARD_INPUT, _SUMMARY, _SHOWN = "-", "summary", 40


def from_arguments(validator: Validator, arguments: Sequence[str], summary: str | None, limit: int) -> Input:
    """Return the input in the arguments: NAME=VALUE each, or one JSON object; ``-`` is what standard input has of it,
    at most `limit` bytes. An argument is NAME=VALUE only if it begins with a field's name or column. One that is
    neither is the text, if just one text has to be given; `summary` is the field of that name. Raises InvalidInput."""
    contract = validator.contract
    fields = {called: field for field in contract.inputs for called in (field.column, field.name)}
    texts: dict[str, str] = {}
    others: list[str] = []

    def refuse(why: str) -> NoReturn:
        names = " ".join(f"{shlex.quote(field.name)}=..." for field in contract.inputs)
        raise InvalidInput(why, hint=f"Give a JSON object, or each field once: {names}")

    def give(name: str, value: str) -> None:
        if fields[name].name in texts:
            refuse(f"the field {fields[name].name!r} is given twice")
        texts[fields[name].name] = value

    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in fields and name != argument:
            give(name, value)
        else:
            others.append(argument)
    if summary is not None:
        if _SUMMARY not in fields or not fields[_SUMMARY].is_text:
            refuse(f"--summary: {contract.one} has no text {_SUMMARY!r}")
        give(_SUMMARY, summary)
    needed = [field.name for field in contract.inputs if field.required and field.is_text]
    if others == [_STANDARD_INPUT]:
        others = [_from_standard_input(contract, limit)]
    if len(others) == 1 and not texts and others[0].lstrip().startswith("{"):
        data = others[0].encode(errors="surrogatepass")
        try:
            validator.parse(data)
        except InputInvalid:  # a text may begin so too
            if len(needed) != 1:
                raise
        else:
            return validator.decode(data)
    if len(others) == len(needed) == 1 and needed[0] not in texts:
        give(needed[0], others.pop())
    if others:
        odd = next((other for other in others if "=" in other), others[0])
        known = {called.lower(): field.name for called, field in fields.items()}
        near = difflib.get_close_matches(odd.partition("=")[0].lower(), known, n=1)
        meant = f"; is {known[near[0]]!r} meant?" if near else ""
        refuse(f"{odd[:_SHOWN]!r} begins with no name of a field of {contract.one}{meant}")

    def reader(field: Field) -> Callable[[str], Any]:  # as of a cell, but a text may be empty, and `null` is null
        read = str if field.is_text else cell_of(field)
        return lambda text: None if field.nullable and text == "null" else read(text)

    return input_of(validator, texts, [(name, name, reader(fields[name])) for name in texts])


def _from_standard_input(contract: Contract, limit: int) -> str:
    """Return what standard input holds: UTF-8, at most `limit` bytes. Raises InvalidInput."""
    noun = contract.noun
    if sys.stdin.isatty():
        terminal.echo(f"Reading one {noun} from the terminal; Ctrl-D on a line of its own ends it.", err=True)
    try:
        with no_line():
            content = sys.stdin.buffer.read(limit + 1)
        text = content.decode("utf-8-sig").rstrip("\r\n")
    except OSError as error:
        why = f"standard input cannot be read: {(error.strerror or str(error)).lower()}"
        raise InvalidInput(why, hint=f"Give the {noun} as the argument.") from error
    except UnicodeDecodeError as error:
        why = f"standard input is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}"
        raise InvalidInput(why, hint="Convert it first, for example: iconv -f WINDOWS-1252 -t UTF-8") from error
    if len(content) > limit:
        hint = "For many, in CSV or JSON lines: --file -"
        raise InvalidInput(f"standard input holds more than {limit} bytes, and - is one {noun}", hint=hint)
    if not text.strip():
        raise InvalidInput(f"standard input is empty, and - is the {noun} that it holds")
    return text
