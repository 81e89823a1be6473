"""The platform on which bits were made: whatever can change the last bit of a float, hashed into one id.

Bits are promised on one platform and checked on every other (see bundle.replay), so the id is stamped on models and rows.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import math
import platform
import struct
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["describe_platform", "platform_id"]

_LIBRARIES = ("numpy", "scikit-learn", "scipy", "lightgbm", "xgboost", "xgboost-cpu")
"""Distributions. Of XGBoost there are two, each built in its own way, so it is named as it was installed."""


@functools.cache
def platform_id() -> str:
    """Return the first 16 hex digits of the SHA-256 of `describe_platform()`."""
    text = json.dumps(describe_platform(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_platform() -> dict[str, Any]:
    """Return architecture, C library, what its functions give, numpy's CPU dispatch, BLAS kernels and versions of numeric libraries."""
    return {
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "libm": _libm(),
        "numpy_dispatch": _numpy_dispatch(),
        "blas": _blas_kernels(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
    }


def _libm() -> str:
    """Return a digest of what the C library's functions give: one version has several, chosen by processor and GLIBC_TUNABLES."""
    functions = (math.exp, math.sin, math.tanh, math.atan)
    # glibc's with and without FMA differ in the last bit of a dozen of these
    values = [function(-i / 5_000.0) for function in functions for i in range(1, 2_000)]
    return hashlib.sha256(struct.pack(f"<{len(values)}d", *values)).hexdigest()[:12]


def _numpy_dispatch() -> list[str]:
    """Return the CPU features that numpy's dispatcher found and may use."""
    features: dict[str, bool] = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    return sorted(name for name, enabled in features.items() if enabled)


def _blas_kernels() -> list[str]:
    """Return the kernel of numpy's own BLAS; "unknown" without threadpoolctl. Other libraries' are part of their version."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return ["unknown"]
    site = (
        Path(np.__file__).resolve().parents[1]
    )  # a wheel's BLAS lies beside numpy, a distribution's anywhere
    blas = [info for info in threadpool_info() if info["user_api"] == "blas"]
    own = [info for info in blas if _is_numpys(Path(info["filepath"]).resolve(), site)]
    return sorted(
        {f"{info['internal_api']} {info['version']} {info.get('architecture', '')}" for info in own or blas}
    )


def _is_numpys(library: Path, site: Path) -> bool:
    return library.is_relative_to(site) and library.relative_to(site).parts[0] in ("numpy", "numpy.libs")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
