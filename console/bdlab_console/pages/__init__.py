"""The pages: each module has the routes of one, and its template is of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bdlab_console.pages import audit, letters, live, models, pipeline, predictions, proof, quality, rotation, trying

if TYPE_CHECKING:
    from bdlab_console.parts import Console

_PAGES: tuple[Callable[[Console], list[Any]], ...] = (
    audit.routes,
    letters.routes,
    live.routes,
    models.routes,
    pipeline.routes,
    predictions.routes,
    proof.routes,
    quality.routes,
    rotation.routes,
    trying.routes,
)


def routes(parts: Console) -> list[Any]:
    """Return the routes of all pages."""
    return [route for page in _PAGES for route in page(parts)]
