"""The accounting of both topics over the real servers: for `bdlab verify`, the console, and after a drill."""

import threading
from contextlib import suppress

import msgspec

from bdlab import verification
from bdlab.credentials import FeedbackTopic
from bdlab.errors import TopicMissing
from bdlab.kafka.admin import Admin
from bdlab.ledger import LogRange
from bdlab.log_identity import ReadRecords
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import ConnectionLimits
from bdlab.vault.session import VaultSession
from bdlab.verification import Report


def account(session: VaultSession, stop: threading.Event, *, wait_s: float, limit: int = 20) -> Report:
    """Account for every offset of both topics. Raises BdlabError."""
    limits = ConnectionLimits(statement_s=1800, silence_s=3600)  # counting a large table takes long
    with (
        Admin(session, client_id="bdlab-verify") as predictions,
        Admin(FeedbackTopic(session), client_id="bdlab-verify-feedback") as feedback,
        Reader(session, application_name="bdlab verify", limits=limits) as reader,
    ):
        topic = session.kafka().server.topic

        def ranges() -> list[LogRange]:
            found = predictions.log_ranges()
            with suppress(TopicMissing):  # until `migrate` has made it, there is nothing to account for
                found += feedback.log_ranges()
            return found

        def read(found: LogRange) -> ReadRecords:
            return (predictions if found.topic == topic else feedback).record_reader(found)

        report = verification.verify(ranges, reader, wait_s=wait_s, limit=limit, read_records=read, stop=stop)
        ((unknown,),) = reader.rows("unknown_feedback")
        return msgspec.structs.replace(report, unknown_feedback=unknown)
