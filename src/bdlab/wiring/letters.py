"""Dead letters that somebody chooses, and their way back to their topics, for `bdlab dlq` and the console."""

import re
from collections.abc import Iterator, Sequence

from bdlab import deadletters
from bdlab.credentials import FeedbackTopic
from bdlab.deadletters import DeadLetterFilter, LetterResult, StoredDeadLetter, closed
from bdlab.errors import InvalidInput
from bdlab.kafka.producer import Producer
from bdlab.postgres.deadletters import DeadLetters
from bdlab.vault.session import VaultSession

_PLACE = re.compile(r"(?:([\w.-]{1,249})/)?(\d{1,9})/(\d{1,18})", re.ASCII)


def at_place(letters: DeadLetters, written: str, cluster: str | None) -> StoredDeadLetter:
    """Return the dead letter at the position that `written` names. Raises InvalidInput if there is none."""
    parts = _PLACE.fullmatch(written)
    if not parts:
        how = "Write it as PARTITION/OFFSET, such as 3/1207, or TOPIC/PARTITION/OFFSET: `bdlab dlq list`."
        raise InvalidInput(f"{written!r} is no position", hint=how)
    wanted = DeadLetterFilter(cluster_id=cluster, topic=parts[1], partition=int(parts[2]), offset=int(parts[3]))
    found = letters.find(wanted, limit=2)
    if not found:
        raise InvalidInput(f"there is no dead letter at {written}", hint="`bdlab dlq list` shows those there are.")
    if len(found) > 1:
        logs = ", ".join(f"{at.topic} of {at.cluster_id}" for at in (letter.record.position for letter in found))
        hint = f"Say which with --cluster, or as TOPIC/{parts[2]}/{parts[3]}."
        raise InvalidInput(f"several logs have a dead letter at {written}: {logs}", hint=hint)
    return found[0]


def chosen(
    letters: DeadLetters, positions: Sequence[str], wanted: DeadLetterFilter, limit: int, *, again: bool
) -> tuple[list[StoredDeadLetter], list[LetterResult], int]:
    """Return letters to deal with, results of named ones that are closed, and how many more there are than `limit`."""
    if not positions:
        found = letters.find(wanted, limit=limit)
        return found, [], letters.count(wanted) - len(found)
    named = [at_place(letters, written, wanted.cluster_id) for written in dict.fromkeys(positions)]
    refused = [LetterResult(letter=one, problem=why) for one in named if (why := closed(one, again=again))]
    return [one for one in named if not closed(one, again=again)], refused, 0


def replay(
    session: VaultSession, letters: DeadLetters, found: Sequence[StoredDeadLetter], *, max_replays: int
) -> Iterator[LetterResult]:
    """Send each letter back to the topic that it is of, as the identity `dlq`, and yield its result. Raises
    BdlabError, also after some were sent."""
    topic = session.kafka().server.feedback_topic
    for credentials, of_feedback in ((session, False), (FeedbackTopic(session), True)):
        its = [letter for letter in found if (letter.record.position.topic == topic) is of_feedback]
        if its:
            with Producer(credentials, client_id="bdlab-dlq", source="/bdlab/dlq") as producer:
                send, note = producer.publish_raw, letters.record_replays
                yield from deadletters.replay(its, send, note, max_replays=max_replays)
