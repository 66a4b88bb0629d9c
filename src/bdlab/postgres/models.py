"""The tables of the registry: versions of models, and what was promoted when."""

from typing import Any

from bdlab.contract import Contract
from bdlab.credentials import DatabaseCredentials
from bdlab.postgres.contracts import read_contract
from bdlab.postgres.session import Session, queries, rows_of


class Models(Session):
    """For one thread, with a login of bdlab_model. Opening it and each call raise DatabaseError and VaultError."""

    def __init__(self, credentials: DatabaseCredentials) -> None:
        super().__init__(credentials, application_name="bdlab model")

    def ask(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """Return the rows that a query of `models.sql` gives, by the names of their columns."""
        with self.transaction() as cursor:
            cursor.execute(queries("models")[query], values)
            return rows_of(cursor)

    def contract(self) -> Contract:
        """Return the contract that the database has now."""
        with self.transaction() as cursor:
            return read_contract(cursor)
