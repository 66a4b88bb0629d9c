"""The model that serves, and how a promoted version takes its place."""

import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from bdlab.errors import ModelError, ModelNotFound
from bdlab.events import EventCodec, Scorer
from bdlab.model import load_scorer
from bdlab.model.registry import Registry, Version
from bdlab.serving.batching import AsyncScorer

log = structlog.get_logger()
_SWITCH_S = 0.001  # while a model is loaded: how long its thread keeps the others, which answer, waiting
_AGAIN_S = 60.0  # when a version that was refused is tried again: its registry may have been away, or mended


class Running:
    """Holds what new predictions are scored with; those that began with a model end with it. `problem` says why the
    promoted version was not taken, and `unfit` why predictions of this model could not be stored. Both are empty if
    nothing is wrong."""

    def __init__(self, scorer: Scorer) -> None:
        self.problem = self.unfit = ""
        self.tell: Callable[[str], None] = lambda _name: None
        """Called with the name of each model that takes the place of another."""
        self.take(scorer)

    def take(self, scorer: Scorer) -> None:
        """Score with this from now on; may be called from any thread."""
        self.scoring = AsyncScorer(scorer)
        self.tell(scorer.name)

    @property
    def scorer(self) -> Scorer:
        return self.scoring.scorer


class Promotions:
    """Follows what is promoted; for one thread. `promoted` asks for it, and raises DatabaseError and VaultError."""

    def __init__(self, registry: Registry, promoted: Callable[[], Version | None]) -> None:
        self._registry, self._promoted = registry, promoted
        self._known: Version | None = None
        self._again_at = math.inf

    def start(self, version: Version | None) -> Running:
        """Load what is promoted, the shipped model if nothing is. If it is refused, load what served here before.
        Raises ModelError."""
        self._known, before = version, version
        try:
            self.model = Running(self._load(version))
        except ModelError as error:
            with suppress(ModelNotFound):
                before = self._registry.remembered()
            if before == version:
                raise
            self.model = Running(self._load(before))
            self._refuse(error)
        self._registry.remember(before)
        return self.model

    def look(self) -> None:
        """Take what is promoted now, if it is another version. Raises DatabaseError and VaultError."""
        version = self._promoted()
        if version is None or (version == self._known and time.monotonic() < self._again_at):
            return
        self._known, before = version, self.model.scorer.name
        try:
            scorer = self._load(version, self.model.scorer.codec)
            self._registry.remember(version)
        except ModelError as error:
            self._refuse(error)
            return
        self._again_at, self.model.problem = math.inf, ""
        self.model.take(scorer)
        log.info("another model serves", model=scorer.name, before=before, sha256=scorer.sha256)

    def _load(self, version: Version | None, running: EventCodec | None = None) -> Scorer:
        """Return the scorer of a version; the shipped one of none. Raises ModelError."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            return self._registry.load(version, running=running) if version else load_scorer()
        except ModelError:
            raise
        except Exception as error:  # a foreign model may raise anything
            raise ModelError(f"{type(error).__name__}: {error}") from error
        finally:
            sys.setswitchinterval(before)

    def _refuse(self, error: ModelError) -> None:
        """Go on with the model that runs, and say why, once for each reason."""
        title = self._known.title if self._known else ""
        problem = f"{title} is promoted, and is refused: {error.message}"
        if problem != self.model.problem:
            log.error("promoted model refused", model=title, problem=error.message, hint=error.hint)
        self.model.problem, self._again_at = problem, time.monotonic() + _AGAIN_S
