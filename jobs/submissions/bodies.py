"""The body of a POST, read within its limits and told apart by its content type. This module keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError, OnescoreError
from jobs.online.protocol import refuse
from jobs.submissions.keys import LOOPBACK
from jobs.submissions.payload import Payload, csv_header, read_csv, read_images, read_json
from jobs.submissions.reference import hash_of_reference, pin_reference

__all__ = ["BodiesInHand", "BodyLimits", "cost_of", "read_limited", "reckon", "release", "to_payload"]

_JSON, _CSV, _FORM = "application/json", "text/csv", "multipart/form-data"
_READ_ON = 4
_NOTIFY = "onescore-notify"
_TOGETHER = 4
_PER_BYTE = 8
_KEPT = 4
_BUSY_SECONDS = 2
_HELD = "onescore.held"
_FILE_BYTES = 2_000
_MARKS = {b":": 72, b",": 32, b"{": 64, b"[": 64}


class BodiesInHand:
    """Counts the memory of the bodies that requests hold; for the event loop's thread alone.

    Args:
        most: bytes of memory that all of them may take together.
        most_of_one: that those of one caller may.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self.most, self.most_of_one = most, most_of_one
        self.held: Counter[str] = Counter()

    def take(self, who: str, n: int) -> bool:
        """Count further bytes of a caller, if so many may be held; return whether they may."""
        mine = self.most if who == LOOPBACK else self.most_of_one
        may = self.held[who] + n <= mine and self.held.total() + n <= self.most
        if may:
            self.held[who] += n
        return may

    def give(self, who: str, n: int) -> None:
        """Count bytes as held no more."""
        self.held[who] -= n
        if not self.held[who]:
            del self.held[who]


class _Held:
    """What one request holds: all of its body so far, or nothing any more."""

    def __init__(self, in_hand: BodiesInHand, who: str) -> None:
        self._in_hand, self._who = in_hand, who
        self._parts, self._cost = list[bytes](), 0
        self.is_kept = True

    def add(self, part: bytes) -> None:
        if self.is_kept and self._take(len(part) * _PER_BYTE):
            self._parts.append(part)
        else:
            self.drop()

    def cost(self, n: int) -> bool:
        """Count so many bytes from now on, if they may be held; return whether they may."""
        self._in_hand.give(self._who, self._cost)
        self._cost = 0
        return self._take(n)

    def drop(self) -> None:
        self.is_kept = False
        self._in_hand.give(self._who, self._cost)
        self._parts, self._cost = [], 0

    def whole(self) -> bytes:
        """Return the body; it counts as held until it is dropped."""
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def _take(self, n: int) -> bool:
        may = self._in_hand.take(self._who, n)
        self._cost += n if may else 0
        return may


@dataclass(frozen=True)
class BodyLimits:
    """What a body may cost: bytes, seconds until it is here, rows; where references may lead; and the share of what is in hand that is
    one caller's at most."""

    max_body_bytes: int
    body_timeout_seconds: float
    max_rows: int
    reference_root: str | None
    share: float = 1.0
    in_hand: BodiesInHand = field(init=False, compare=False)
    """Of all requests together: four of the largest bodies, each from its first byte until it is answered, at eight bytes of memory a
    byte until it is whole, then at what it is reckoned to take. A caller may always have one of the largest."""

    def __post_init__(self) -> None:
        """Begin with nothing in hand."""
        one = _PER_BYTE * self.max_body_bytes
        in_hand = BodiesInHand(_TOGETHER * one, max(one, int(_TOGETHER * one * self.share)))
        object.__setattr__(self, "in_hand", in_hand)

    @property
    def max_kept_bytes(self) -> int:
        """How large what is kept of a body may be, before it is compressed."""
        return _KEPT * self.max_body_bytes


async def read_limited(request: Request, limits: BodyLimits, who: str) -> bytes:
    """Return the whole body; one that is too large is read on for a while, as many clients read no answer before they sent it all.

    So is one that comes while too much is in hand. What is returned counts as in hand until `release`.

    Args:
        request: whose body was not read yet.
        limits: see there.
        who: asks.

    Raises:
        ContractError: evidence `status` 413, 408, or 503 with `retry_after`.
    """
    most = limits.max_body_bytes
    too_large = f"the body has more than {most} bytes"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most * _READ_ON:
        refuse(413, "TOO_LARGE", too_large)
    size, held = 0, _Held(limits.in_hand, who)
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


def reckon(scope: MutableMapping[str, Any], cost: int, limits: BodyLimits, who: str) -> None:
    """Count what a body is reckoned to take from now on; see `cost_of`.

    Raises:
        ContractError: evidence `status` 413, or 503 with `retry_after`: so much is never in hand at once, or not now.
    """
    in_hand = limits.in_hand
    if cost > (in_hand.most if who == LOOPBACK else in_hand.most_of_one):
        refuse(413, "TOO_LARGE", "reading so many values takes too much memory; send them in parts")
    if not scope[_HELD].cost(cost):
        _refuse_for_now()


def cost_of(body: bytes, headers: Headers, feature_set: FeatureSet) -> int:
    """Return roughly how many bytes of memory a body takes while it is read; takes as long as looking through it does.

    Raises:
        ContractError: evidence `status` and `code`: of another content type, or CSV without a header that can be read.
    """
    kind = _kind_of(headers)
    if kind == _FORM:
        boundary = parse_options_header(headers["content-type"])[1].get(b"boundary", b"")
        return _PER_BYTE * len(body) + _FILE_BYTES * body.count(b"--" + boundary)
    if kind == _JSON:
        return 3 * len(body) + sum(cost * body.count(mark) for mark, cost in _MARKS.items())
    of_row = sum(len(name) + 8 for name in csv_header(body, feature_set))
    return _PER_BYTE * len(body) + 2 * of_row * max(body.count(b"\n"), body.count(b"\r"))


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
        is_known: whether the payload of such a hash is in already under this request's key; its table may be gone by now.

    Raises:
        ContractError: evidence `status` and `code`: another content type, or what `payload` refuses.
        UnavailableError: where the table of a reference is does not answer.
    """
    kind = _kind_of(headers)
    if kind == _CSV:
        payload = read_csv(body, feature_set, limits.max_rows, limits.max_kept_bytes)
        return replace(payload, notify=_notify_of(headers, None))
    if kind == _FORM:
        files, notify = asyncio.run(_parts(body, headers, limits.max_rows))
        images = read_images(files, feature_set, limits.max_rows, limits.max_kept_bytes)
        return replace(images, notify=_notify_of(headers, notify))
    rows, reference, notify = read_json(body, limits.max_rows)
    notify = _notify_of(headers, notify)
    if rows is not None:
        return replace(rows, notify=notify)
    sent = reference or ""
    try:
        return replace(pin_reference(sent, limits.reference_root, limits.max_rows), notify=notify)
    except OnescoreError:
        payload_hash = hash_of_reference(sent)
        if not is_known(payload_hash):
            raise
        return Payload("reference", b"", 0, payload_hash, notify)  # of no row: only the first can be meant


def _notify_of(headers: Headers, in_body: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return who is to be told: as the header says it, or the body, or both alike."""
    text = headers.get(_NOTIFY)
    if text is None:
        return in_body
    notify = None
    with contextlib.suppress(ValueError, RecursionError):
        notify = json.loads(text)
    if not isinstance(notify, dict):
        refuse(422, "NOTIFY_NOT_TAKEN", "the header Onescore-Notify is not a JSON object")
    if in_body is not None and notify != in_body:
        refuse(422, "NOTIFY_NOT_TAKEN", "the header Onescore-Notify says something else than the body")
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
            with contextlib.suppress(ValueError, RecursionError):
                notify = json.loads(value)
            if name != "notify" or not isinstance(notify, dict):
                refuse(422, "MALFORMED_FORM", "beside files a form may have one field, notify, a JSON object")
    return files, notify
