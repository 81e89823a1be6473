"""A webhook: one signed POST, as Standard Webhooks has it, so that receivers have a library to check it with.

    webhook-id          the same for every attempt at one delivery: a receiver that has seen it does nothing more
    webhook-timestamp   seconds since 1970 of this attempt, part of what is signed: an old request sent again is told by it
    webhook-signature   "v1," and base64(HMAC-SHA256(secret, "{id}.{timestamp}.{body}"))

Redirects are not followed, no proxy is asked, and of the answer its status alone is read. The body holds no data of the submission's rows.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

import httpcore

from feature_pipelines.errors import ConfigurationError
from jobs.submissions.guarded import ForbiddenAddress, GuardedBackend, resolved

__all__ = ["post_webhook", "secret_bytes", "secret_of_caller", "signed_headers"]

_PREFIX = "whsec_"
_SHORTEST = 24


def secret_bytes(secret: str) -> bytes:
    """Return the key that a configured secret stands for.

    Raises:
        ConfigurationError: it is shorter than 24 characters, or not base64 behind `whsec_`; it is not shown.
    """
    if not secret.startswith(_PREFIX):
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error as exc:
            raise ConfigurationError(
                "notify.webhook_secret: what follows whsec_ must be base64 (not shown)"
            ) from exc
    if len(key) < _SHORTEST:
        raise ConfigurationError(
            f"notify.webhook_secret: the secret must have {_SHORTEST} bytes or more, got {len(key)}"
        )
    return key


def secret_of_caller(secret: str, key_id: str) -> str:
    """Return the secret by which a caller's receiver checks its webhooks: nobody else's are signed with it.

    Args:
        secret: the configured one; see `secret_bytes`.
        key_id: name of the caller's API key; "loopback" where none is needed.
    """
    derived = hmac.new(secret_bytes(secret), f"onescore webhook {key_id}".encode(), hashlib.sha256).digest()
    return _PREFIX + base64.b64encode(derived).decode()


def signed_headers(key: bytes, id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that prove a body.

    Args:
        key: see `secret_bytes`.
        id_: of the delivery.
        timestamp: of this attempt, seconds since 1970.
        body: as it is sent.
    """
    signature = hmac.new(key, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def post_webhook(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_seconds: float,
    allow_private: bool,
    resolve: Callable[[str, int], list[str]] = resolved,
) -> str | None:
    """Send one webhook; return None when it was taken (status 2xx), else a short code of why not, which holds nothing of the answer.

    Args:
        url: http or https.
        body: JSON.
        headers: see `signed_headers`.
        timeout_seconds: for all of it.
        allow_private: whether an address that is not public may be connected to.
        resolve: see `GuardedBackend`.
    """
    backend = GuardedBackend(time.monotonic() + timeout_seconds, allow_private=allow_private, resolve=resolve)
    sent = [("content-type", "application/json"), ("user-agent", "onescore"), *headers.items()]
    try:
        with (
            httpcore.ConnectionPool(network_backend=backend) as pool,
            pool.stream("POST", url, headers=sent, content=body) as answer,
        ):
            status = answer.status
    except ForbiddenAddress:
        return "FORBIDDEN_ADDRESS"
    except httpcore.TimeoutException:
        return "TIMEOUT"
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError):
        return "NO_ANSWER"
    return None if 200 <= status < 300 else f"HTTP_{status}"
