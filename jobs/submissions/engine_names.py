"""The names by which gateways and workers find each other in the engine; a change of any strands what is queued under the old one."""

from __future__ import annotations

__all__ = ["APPLICATION", "APPLICATION_VERSION", "QUEUE", "WORKFLOW"]

APPLICATION = "onescore"
APPLICATION_VERSION = "1"
"""Fixed: the engine's own default is a hash of the code, by which every edit would strand what is queued."""
QUEUE = "onescore-submissions"
WORKFLOW = "score-submission"
