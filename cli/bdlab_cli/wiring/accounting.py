"""The accounting of the topic over the real servers: for `bdlab verify`, and after a drill."""

import threading

from bdlab import verification
from bdlab.kafka.admin import Admin
from bdlab.postgres import rescores
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import ConnectionLimits
from bdlab.rescoring import RescoredReport
from bdlab.settings import Layers
from bdlab.verification import Report
from bdlab_cli.wiring.session import open_session


def account(layers: Layers, stop: threading.Event, *, wait_s: float, limit: int = 20) -> Report:
    """Account for every offset of the topic, as the service `verify`. Raises BdlabError."""
    limits = ConnectionLimits(statement_s=1800, silence_s=3600)  # counting a large table takes long
    with (
        open_session(layers, stop, service="verify", database=True) as session,
        Admin(session, client_id="bdlab-verify") as admin,
        Reader(session, application_name="bdlab verify", limits=limits) as reader,
    ):
        read = admin.record_reader
        return verification.verify(admin.log_ranges, reader, wait_s=wait_s, limit=limit, read_records=read, stop=stop)


def account_rescored(layers: Layers, model: str, *, limit: int) -> RescoredReport:
    """Account for the scores of a model that `bdlab rescore` has stored. Raises BdlabError."""
    with open_session(layers, service="verify", database=True, kafka=False) as session:
        return rescores.account(session, model, limit=limit)
