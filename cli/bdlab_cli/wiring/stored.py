"""The database opened for the commands that read figures, and for those of the registry."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bdlab.contract import check_fits
from bdlab.model.labelled import Labelled
from bdlab.model.scorer import load_contract
from bdlab.postgres.quality import QualityReader
from bdlab.postgres.session import ConnectionLimits, Session
from bdlab.settings import Layers, Settings
from bdlab_cli.wiring.session import load_settings, open_session


@contextmanager
def open_models(command_line: Mapping[str, Any]) -> Iterator[tuple[Session, Settings]]:
    """Open the tables as the service `model`. Raises BdlabError."""
    with (
        open_session(load_settings(command_line, quiet=True), service="model", database=True, kafka=False) as session,
        Session(session, application_name="bdlab model") as tables,
    ):
        yield tables, session.settings()


@contextmanager
def reading(layers: Layers, command: str, service: str = "verify") -> Iterator[tuple[QualityReader, Settings]]:
    """Open a reader as the service, for questions that may take long. Raises BdlabError."""
    limits = ConnectionLimits(statement_s=1800, silence_s=3600)
    with (
        open_session(layers, service=service, database=True, kafka=False) as session,
        QualityReader(session, application_name=f"bdlab {command}", limits=limits) as reader,
    ):
        yield reader, session.settings()


@contextmanager
def labelled(layers: Layers, like: str | None, what: Mapping[str, Any]) -> Iterator[Labelled]:
    """Open what `bdlab train` reads of the store. The group is that of the card `like`, or of the database's contract.
    Raises BdlabError."""
    with reading(layers, "train") as (reader, _):
        contract = reader.contract()
        if like:
            check_fits(mine := load_contract(like), contract)
            contract = mine
        yield Labelled(contract, reader.labelled(contract, what))
