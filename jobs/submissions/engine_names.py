"""The names by which gateways and workers find each other in the engine; a change of any strands what is queued under the old one."""

from __future__ import annotations

import hashlib
import json

__all__ = ["APPLICATION", "APPLICATION_VERSION", "LARGE_QUEUE", "QUEUE", "WORKFLOW", "queue_name"]

APPLICATION = "onescore"
APPLICATION_VERSION = "1"
"""Fixed: the engine's own default is a hash of the code, by which every edit would strand what is queued."""
QUEUE, LARGE_QUEUE = "onescore-submissions", "onescore-large-submissions"
"""Apart, so that a few large submissions never keep all small ones waiting."""
WORKFLOW = "score-submission"


def queue_name(model: str, store: str, *, is_large: bool) -> str:
    """Return the queue of a model's submissions, which no worker of another model or another store looks into.

    Args:
        model: its name.
        store: see `PinnedModel`.
        is_large: whether a Spark job scores them.
    """
    digest = hashlib.sha256(json.dumps([model, store]).encode()).hexdigest()
    return f"{LARGE_QUEUE if is_large else QUEUE}-{digest[:16]}"
