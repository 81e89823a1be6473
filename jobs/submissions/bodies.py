"""The body of a POST, read within its limits and told apart by its content type. This module keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError
from jobs.online.protocol import refuse
from jobs.submissions.payload import Payload, read_csv, read_images, read_json
from jobs.submissions.reference import hash_of_reference, pin_reference

__all__ = ["BodiesInHand", "BodyLimits", "read_limited", "release", "to_payload"]

_JSON, _CSV, _FORM = "application/json", "text/csv", "multipart/form-data"
_READ_ON = 4
_NOTIFY = "onescore-notify"
_TOGETHER = 4
_BUSY_SECONDS = 2
_HELD = "onescore.held"


class BodiesInHand:
    """Counts the bytes of the bodies that requests hold; for the event loop's thread alone.

    Args:
        most: so many there may be.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def take(self, n: int) -> bool:
        """Count further bytes, if so many may be held; return whether they may."""
        may = self.held + n <= self.most
        self.held += n if may else 0
        return may

    def give(self, n: int) -> None:
        """Count bytes as held no more."""
        self.held -= n


class _Held:
    """What one request holds of its body: all of it so far, or nothing any more."""

    def __init__(self, in_hand: BodiesInHand) -> None:
        self._in_hand, self._parts, self._size = in_hand, list[bytes](), 0
        self.is_kept = True

    def add(self, part: bytes) -> None:
        if self.is_kept and self._in_hand.take(len(part)):
            self._parts.append(part)
            self._size += len(part)
        else:
            self.drop()

    def drop(self) -> None:
        self.is_kept = False
        self._in_hand.give(self._size)
        self._parts, self._size = [], 0

    def whole(self) -> bytes:
        """Return the body; it counts as held until it is dropped."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


@dataclass(frozen=True)
class BodyLimits:
    """What a body may cost: bytes, seconds until it is here, rows; and where references may lead."""

    max_body_bytes: int
    body_timeout_seconds: float
    max_rows: int
    reference_root: str | None
    in_hand: BodiesInHand = field(init=False, compare=False)
    """Of all requests together: four of the largest bodies, each from its first byte until it is answered."""

    def __post_init__(self) -> None:
        """Begin with nothing in hand."""
        object.__setattr__(self, "in_hand", BodiesInHand(_TOGETHER * self.max_body_bytes))


async def read_limited(request: Request, limits: BodyLimits) -> bytes:
    """Return the whole body; one that is too large is read on for a while, as many clients read no answer before they sent it all.

    So is one that comes while too much is in hand. What is returned counts as in hand until `release`.

    Raises:
        ContractError: evidence `status` 413, 408, or 503 with `retry_after`.
    """
    most = limits.max_body_bytes
    too_large = f"the body has more than {most} bytes"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most * _READ_ON:
        refuse(413, "TOO_LARGE", too_large)
    size, held = 0, _Held(limits.in_hand)
    request.scope[_HELD] = held
    try:
        async with asyncio.timeout(limits.body_timeout_seconds):
            async for part in request.stream():
                size += len(part)
                if size <= most:
                    held.add(part)
                    continue
                held.drop()
                if size > most * _READ_ON:
                    break
    except TimeoutError:
        refuse(408, "BODY_TOO_SLOW", f"no whole body in {limits.body_timeout_seconds:g} seconds")
    except ClientDisconnect:
        refuse(400, "GONE", "the client went away before its request was whole")
    if size > most:
        refuse(413, "TOO_LARGE", too_large)
    if not held.is_kept:
        _refuse_for_now()
    return held.whole()


def release(scope: MutableMapping[str, Any]) -> None:
    """Give back what the body of a request holds, if it has one that was read: it is answered."""
    held: _Held | None = scope.pop(_HELD, None)
    if held is not None:
        held.drop()


def _refuse_for_now() -> NoReturn:
    raise ContractError(
        "too many bodies are in hand; try again", status=503, code="BUSY", retry_after=_BUSY_SECONDS
    )


def to_payload(
    body: bytes,
    headers: Headers,
    feature_set: FeatureSet,
    limits: BodyLimits,
    is_known: Callable[[str], bool] = lambda payload_hash: False,
) -> Payload:
    """Return the payload of a body; takes as long as the body is large, so call it in a thread.

    Args:
        body, headers: of the request.
        feature_set: of the model.
        limits: see there.
        is_known: whether the payload of such a hash is in already under this request's key; a reference is not looked for again then.

    Raises:
        ContractError: evidence `status` and `code`: another content type, or what `payload` refuses.
    """
    kind = _kind_of(headers)
    if kind == _CSV:
        return replace(read_csv(body, feature_set, limits.max_rows), notify=_notify_of(headers))
    if kind == _FORM:
        files, notify = asyncio.run(_parts(body, headers, limits.max_rows))
        return replace(read_images(files, feature_set, limits.max_rows), notify=notify)
    payload, reference, notify = read_json(body, limits.max_rows)
    if payload is not None:
        return payload
    sent = reference or ""
    payload_hash = hash_of_reference(sent)
    if is_known(payload_hash):
        return Payload("reference", b"", 0, payload_hash, notify)
    return replace(pin_reference(sent, limits.reference_root, limits.max_rows), notify=notify)


def _notify_of(headers: Headers) -> Mapping[str, Any] | None:
    """Return who is to be told, where the body has no place to say so."""
    text = headers.get(_NOTIFY)
    if text is None:
        return None
    notify = None
    with contextlib.suppress(ValueError):
        notify = json.loads(text)
    if not isinstance(notify, dict):
        refuse(422, "NOTIFY_NOT_TAKEN", "the header Onescore-Notify is not a JSON object")
    return notify


def _kind_of(headers: Headers) -> str:
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    encoding = headers.get("content-encoding", "identity").lower()
    known = kind.strip() in (_JSON, _CSV) and charset in ("", "utf-8", "utf8")
    if not (known or kind.strip() == _FORM) or encoding not in ("", "identity"):
        refuse(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "send application/json, text/csv or multipart/form-data, in UTF-8, not compressed",
        )
    return kind.strip()


async def _parts(
    body: bytes, headers: Headers, max_files: int
) -> tuple[list[tuple[str, bytes]], Mapping[str, Any] | None]:
    """Return the files of a form, by name, and its one other field, `notify`."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(headers, stream(), max_files=max_files + 1, max_fields=1, max_part_size=65_536)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as exc:
        refuse(422, "MALFORMED_FORM", f"the body is no form that can be read: {type(exc).__name__}")
    files, notify = [], None
    async with contextlib.AsyncExitStack() as opened:
        opened.push_async_callback(form.close)
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append((value.filename or "", await value.read()))
                continue
            with contextlib.suppress(ValueError):
                notify = json.loads(value)
            if name != "notify" or not isinstance(notify, dict):
                refuse(422, "MALFORMED_FORM", "beside files a form may have one field, notify, a JSON object")
    return files, notify
