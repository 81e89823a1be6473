"""What somebody with write access to a model's directory can do: change a file and make the manifest fit again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

__all__ = ["forge"]


def forge(bundle: Path, name: str, content: bytes) -> None:
    """Replace or add a file and write its digest into the manifest."""
    before = (bundle / name).read_bytes() if (bundle / name).exists() else b""
    if content == before:
        raise ValueError(f"{name} would stay as it is")
    (bundle / name).write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest[name] = hashlib.sha256(content).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
