"""The shared store: a Redis server or cluster; newest wins inside the server, one script call per key.

    onescore:row:"<view>":{[<key values>]}   version, event_ts, created_ts, digest, deleted, payload
    onescore:view:{"<view>"}                 version, flags, W, schema digest, epoch, source

The first 49 bytes of a row are in the order of the rows: times are big-endian with the sign bit flipped, and the scripts
compare bytes, because Redis numbers are doubles and Lua compares strings by locale. What stands in braces is the hash tag of a cluster:
rows of several views about one entity share a slot, each script call touches one key, and no command needs two of one slot.
One deadline holds for a whole read, whatever it takes (`redis_deadline`), and for each round trip of a write; nothing is tried
again. This module needs the redis package.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from feature_pipelines.errors import ConfigurationError, ContractError, UnavailableError
from feature_pipelines.stores import redis_scripts as scripts
from feature_pipelines.stores.base import (
    Answer,
    Key,
    StoredRow,
    ViewState,
    being_rebuilt,
    check_schema,
    foreign_value,
    not_served,
    superseded,
)
from feature_pipelines.stores.encoding import declared_schema, key_values, payload_head, unreadable_payload
from feature_pipelines.stores.opening import safe_url
from feature_pipelines.stores.redis_deadline import DEADLINE, BoundedConnection, BoundedTlsConnection
from feature_pipelines.views import FeatureView

__all__ = ["PASSWORD_VARIABLE", "RedisStore"]

PASSWORD_VARIABLE = "ONESCORE_STORE_PASSWORD"  # noqa: S105 - where to find it, not what it is

_VERSION = 1
_BIAS = 1 << 63
_ROW = struct.Struct(">QQ32s?")
_HEAD = 1 + _ROW.size
_VERSION_BYTE = bytes([_VERSION])
_STATE = struct.Struct(">BBQ8sQ")
_SCHEMA, _EPOCH = slice(10, 18), slice(18, 26)
_HAS_W, _REBUILDING = 1, 2
_SERVED = bytes([_VERSION, _HAS_W])
_AT_ONCE = 1_000
_SCANNED = 1_000
_TIMEOUTS = {"socket_timeout", "socket_connect_timeout", "timeout", "retry_on_timeout"}


class RedisStore:
    """One Redis server, or a cluster with `?cluster=true`. See `base.OnlineStore` for what each method promises.

    Args:
        url: redis:// or rediss://; user and password may stand in it, else the password is that of ONESCORE_STORE_PASSWORD.
        timeout_ms: deadline of one read, and of each round trip of a write, milliseconds.
    """

    def __init__(self, url: str, *, timeout_ms: int = 250) -> None:
        self.url = safe_url(url)
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        self._is_cluster = query.pop("cluster", "false") == "true"
        if refused := sorted(_TIMEOUTS & set(query)):
            raise ConfigurationError(
                f"store {self.url}: {', '.join(refused)} in the URL; set the timeout of the store instead"
            )
        # a cluster's client would choose the class of connection by the scheme, whatever it is told
        self._address = urlunsplit(parts._replace(scheme="redis", query=urlencode(query)))
        self._timeout = timeout_ms / 1000
        self._options: dict[str, Any] = {
            "connection_class": BoundedTlsConnection if parts.scheme == "rediss" else BoundedConnection,
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "protocol": 2,
        }
        password = os.environ.get(PASSWORD_VARIABLE)
        if password and parts.password is None:
            self._options["password"] = password
        self._lock = threading.Lock()
        self._opened: Any = None
        try:
            if not self._is_cluster:
                self._opened = self._open()
        except ValueError as exc:
            raise ConfigurationError(f"store {self.url}: {exc}", url=self.url) from None

    def read(self, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]) -> list[list[Answer]]:
        """See OnlineStore; one MGET (a cluster: one per node that holds some of the keys, at once; where a row is missing, the
        views' states once more, so that a view that was emptied in between is not one without rows).
        """
        names = [_view_key(view) for view, _ in wanted]
        for view, keys in wanted:
            names += _row_keys(view, keys)
        if not names:
            return []
        n = len(wanted)
        with self._step():
            values = self._values(names)
            states = values[:n]
            again = self._values(names[:n]) if self._is_cluster and None in values[n:] else states
        answer: list[list[Answer]] = []
        at = n
        for i, (view, keys) in enumerate(wanted):
            failed = self._refusal(view, states[i], again[i])
            part = values[at : at + len(keys)]
            answer.append(self._rows(view, part) if failed is None else [failed] * len(keys))
            at += len(keys)
        return answer

    def write(self, view: FeatureView, keys: Sequence[Key], rows: Sequence[StoredRow]) -> int:
        """See OnlineStore; some hundred rows travel together."""
        self.register(view)
        calls = [(name, (_packed(row),)) for name, row in zip(_row_keys(view, keys), rows, strict=True)]
        results = self._run(scripts.WRITE, calls)
        if any(result < 0 for result in results):
            raise foreign_value(view, _VERSION, self.url)
        return int(sum(results))

    def through(self, views: Sequence[FeatureView]) -> dict[str, int | None]:
        """See OnlineStore."""
        states = self.states(views)
        for view in views:
            if (state := states[view.name]) is not None:
                check_schema(view, state.schema, declared_schema(view), self.url)
        return {name: state.through_ts if state else None for name, state in states.items()}

    def states(self, views: Sequence[FeatureView]) -> dict[str, ViewState | None]:
        """See OnlineStore."""
        if not views:
            return {}
        with self._step():
            values = self._values([_view_key(view) for view in views])
        return {
            view.name: None if value is None else self._state(view, value)
            for view, value in zip(views, values, strict=True)
        }

    def register(self, view: FeatureView, *, source: str = "") -> ViewState:
        """See OnlineStore."""
        new = _packed_state(ViewState(declared_schema(view), None, source, _new_epoch(), False))
        state = self._state(view, self._run(scripts.REGISTER, [(_view_key(view), (new,))])[0])
        check_schema(view, state.schema, declared_schema(view), self.url)
        return state

    def advance(
        self, view: FeatureView, through_ts: int, *, source: str = "", epoch: int | None = None
    ) -> int:
        """See OnlineStore."""
        began = self.register(view)
        wanted = _packed_state(
            ViewState(began.schema, through_ts, source, began.epoch if epoch is None else epoch, False)
        )
        state = self._state(view, self._run(scripts.ADVANCE, [(_view_key(view), (wanted,))])[0])
        check_schema(view, state.schema, began.schema, self.url)
        if state.through_ts is None or (epoch is not None and epoch != state.epoch):
            raise superseded(view, self.url)
        return state.through_ts

    def reset(self, view: FeatureView) -> ViewState:
        """See OnlineStore; a writer that begins meanwhile is told at its end, because the epoch changes again."""
        for _ in range(2):
            state = ViewState(declared_schema(view), None, "", _new_epoch(), True)
            with self._step():
                self._client().set(_view_key(view), _packed_state(state))
            if _ == 0:
                self._sweep(view, scripts.DELETE, ())
        return state

    def delete(self, view: FeatureView, keys: Sequence[Key]) -> int:
        """See OnlineStore."""
        return int(sum(self._run(scripts.DELETE, [(name, ()) for name in _row_keys(view, keys)])))

    def purge(self, view: FeatureView, event_before_ts: int) -> int:
        """See OnlineStore; keys are scanned some at a time, and each is compared again where it is removed."""
        return self._sweep(view, scripts.PURGE, (struct.pack(">Q", event_before_ts + _BIAS),))

    def close(self) -> None:
        """See OnlineStore."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()

    def _sweep(self, view: FeatureView, script: scripts.Script, arguments: tuple[bytes, ...]) -> int:
        """Run a script on every row of a view; return the sum of what it answers."""
        pattern = re.sub(r"([\[\]*?\\^])", r"\\\1", _row_prefix(view)) + "*"
        done = 0
        found: list[tuple[str, tuple[bytes, ...]]] = []
        with self._errors():
            for name in self._client().scan_iter(match=pattern, count=_SCANNED):
                found.append((name.decode(), arguments))
                if len(found) == _AT_ONCE:
                    done += int(sum(self._run(script, found)))
                    found = []
        return done + int(sum(self._run(script, found)))

    def _run(self, script: scripts.Script, calls: Sequence[tuple[str, tuple[bytes, ...]]]) -> list[Any]:
        """Run a script once per key, many in one round trip; a server that lost the script is given it again."""
        results: list[Any] = []
        for at in range(0, len(calls), _AT_ONCE):
            with self._step():
                client = self._client()
                pipe = client.pipeline() if self._is_cluster else client.pipeline(transaction=False)
                if not self._is_cluster:
                    pipe.execute_command("SCRIPT", "LOAD", script.text)
                command = ("EVAL", script.text) if self._is_cluster else ("EVALSHA", script.sha)
                for name, arguments in calls[at : at + _AT_ONCE]:
                    pipe.execute_command(*command, 1, name, *arguments)
                answers = pipe.execute()
                results += answers if self._is_cluster else answers[1:]
        return results

    def _values(self, names: list[str]) -> list[bytes | None]:
        client = self._client()
        values: list[bytes | None] = (
            client.mget_nonatomic(names) if self._is_cluster else client.execute_command("MGET", *names)
        )
        return values

    def _client(self) -> Any:
        if self._opened is None:
            # a cluster's client asks the cluster for its nodes here: who waits for another to do so has a deadline too
            if not self._lock.acquire(timeout=DEADLINE.left(self._timeout) or -1):
                raise TimeoutError("another thread waits for the cluster")
            try:
                if self._opened is None:
                    self._opened = self._open()
            finally:
                self._lock.release()
        return self._opened

    def _open(self) -> Any:
        if self._is_cluster:
            return RedisCluster.from_url(self._address, retry=Retry(NoBackoff(), 1), **self._options)
        return Redis.from_url(self._address, retry=Retry(NoBackoff(), 0), **self._options)

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """Give all that is done within one deadline."""
        before, DEADLINE.at = DEADLINE.at, time.monotonic() + self._timeout
        try:
            with self._errors():
                yield
        finally:
            DEADLINE.at = before

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, RedisClusterException, OSError) as exc:
            reason = " ".join(str(exc).split())[:200]
            raise UnavailableError(
                f"online store {self.url}: {type(exc).__name__}: {reason}", url=self.url
            ) from exc

    def _rows(self, view: FeatureView, values: Sequence[bytes | None]) -> list[Answer]:
        head = payload_head(view)
        rows: list[Answer] = []
        for value in values:
            if value is None:
                rows.append(None)
                continue
            if len(value) < _HEAD or value[0] != _VERSION:
                rows.append(foreign_value(view, _VERSION, self.url))
                continue
            event_ts, created_ts, digest, is_deleted = _ROW.unpack_from(value, 1)
            payload = value[_HEAD:]
            if not (is_deleted or payload.startswith(head)):
                rows.append(unreadable_payload(view, payload, self.url))
                continue
            rows.append(StoredRow(event_ts - _BIAS, created_ts - _BIAS, digest, is_deleted, payload))
        return rows

    def _refusal(
        self, view: FeatureView, before: bytes | None, after: bytes | None
    ) -> UnavailableError | ContractError | None:
        """Return why a view cannot be served, by its states before and after its rows were read; None = it can."""
        if before is after and before is not None and _is_served(view, before):
            return None
        failed = self._not_served(view, before)
        if failed is not None or before is after:
            return failed
        failed = self._not_served(view, after)
        if failed is None and _epoch(before) != _epoch(after):
            return being_rebuilt(view, self.url)
        return failed

    def _not_served(self, view: FeatureView, value: bytes | None) -> UnavailableError | ContractError | None:
        declared = declared_schema(view)
        if value is None:
            return not_served(view, None, declared, None, rebuilding=False, url=self.url)
        try:
            state = self._state(view, value)
        except ContractError as foreign:
            return foreign
        return not_served(
            view, state.schema, declared, state.through_ts, rebuilding=state.rebuilding, url=self.url
        )

    def _state(self, view: FeatureView, value: bytes) -> ViewState:
        if len(value) < _STATE.size or value[0] != _VERSION:
            raise foreign_value(view, _VERSION, self.url, of_row=False)
        _, flags, through_ts, schema, epoch = _STATE.unpack_from(value)
        return ViewState(
            schema.hex(),
            through_ts - _BIAS if flags & _HAS_W else None,
            value[_STATE.size :].decode(),
            epoch,
            bool(flags & _REBUILDING),
        )


def _is_served(view: FeatureView, state: bytes) -> bool:
    """Return whether a state says no more than that the view can be read, under the declared schema."""
    return len(state) >= _STATE.size and state[:2] == _SERVED and state[_SCHEMA] == payload_head(view)[1:]


def _epoch(state: bytes | None) -> bytes:
    return b"" if state is None else state[_EPOCH]


def _packed(row: StoredRow) -> bytes:
    head = _ROW.pack(row.event_ts + _BIAS, row.created_ts + _BIAS, row.digest, row.is_deleted)
    return _VERSION_BYTE + head + row.payload


def _packed_state(state: ViewState) -> bytes:
    flags = (_HAS_W if state.through_ts is not None else 0) | (_REBUILDING if state.rebuilding else 0)
    through = (state.through_ts or 0) + _BIAS
    return (
        _STATE.pack(_VERSION, flags, through, bytes.fromhex(state.schema), state.epoch)
        + state.source.encode()
    )


def _view_key(view: FeatureView) -> str:
    return _names(view.name)[0]


def _row_prefix(view: FeatureView) -> str:
    return _names(view.name)[1]


@functools.lru_cache(maxsize=1_024)
def _names(view: str) -> tuple[str, str]:
    """Return the name of a view's state, and what the names of its rows begin with."""
    text = encode_basestring_ascii(view)
    return f"onescore:view:{{{text}}}", f"onescore:row:{text}:{{["


def _row_keys(view: FeatureView, keys: Sequence[Key]) -> list[str]:
    """Return the names of the rows; no two keys of any two views have the same."""
    prefix = _row_prefix(view)
    return [f"{prefix}{values}]}}" for values in key_values(view, keys)]


def _new_epoch() -> int:
    return secrets.randbits(62)
