"""The table `audit`: who changed what. No change is without an entry, since `begin` is committed before it is made.

`Reader.ask("page", "audit", before=None, actor=None, action=None, limit=N)` gives the newest changes, one row each."""

from collections.abc import Mapping
from typing import Any

import msgspec

from bdlab.postgres.rows import printable
from bdlab.postgres.session import Session


def begin(session: Session, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> int:
    """Note a change that is about to be made, as bdlab_dlq or bdlab_model; return the entry's id for `end`. If it
    raises (DatabaseError, VaultError), the change must not be made."""
    named = {"actor": actor, "action": action, "subject": subject}
    values = {name: printable(text) for name, text in named.items()}
    return int(session.ask("begin", "audit", **values, detail=_json(detail))[0]["id"])


def end(session: Session, begun: int, outcome: str, detail: Mapping[str, Any] | None = None) -> None:
    """Note what became of the change, in a second entry. Raises DatabaseError, also if there is one already."""
    session.ask("end", "audit", begun=begun, outcome=printable(outcome), detail=_json(detail))


def _json(detail: Mapping[str, Any] | None) -> str:
    plain = {name: printable(each) if isinstance(each, str) else each for name, each in (detail or {}).items()}
    return msgspec.json.encode(plain).decode()
