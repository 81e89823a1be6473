"""What this processor lets numpy do beyond its baseline, so that a test can take it away in a process of its own."""

from __future__ import annotations

import numpy as np

__all__ = ["dispatched_features"]


def dispatched_features() -> list[str]:
    """Return the instruction sets beyond numpy's baseline that this processor has and this build of numpy uses."""
    found: list[str] = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # type: ignore[index,call-overload]
    return found
