"""The names by which gateways and workers find each other in the engine; a change of any strands what is queued under the old one."""

from __future__ import annotations

__all__ = ["APPLICATION", "APPLICATION_VERSION", "LARGE_QUEUE", "QUEUE", "WORKFLOW"]

APPLICATION = "onescore"
APPLICATION_VERSION = "1"
"""Fixed: the engine's own default is a hash of the code, by which every edit would strand what is queued."""
QUEUE, LARGE_QUEUE = "onescore-submissions", "onescore-large-submissions"
"""Apart, so that a few large submissions never keep all small ones waiting."""
WORKFLOW = "score-submission"
