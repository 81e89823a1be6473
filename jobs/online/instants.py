"""Times on the command line of online jobs: RFC 3339 in, microseconds inside, RFC 3339 out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from feature_pipelines.errors import ConfigurationError
from feature_pipelines.reasons import Refused
from feature_pipelines.wire import parse_timestamp

__all__ = ["instant", "shown"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def instant(option: str, text: str | None, now: datetime) -> int:
    """Return the microseconds of an option's value, of `now` where it was not given.

    Raises:
        ConfigurationError: it is no RFC 3339 time with an offset; names the option.
    """
    if text is None:
        return (now - _EPOCH) // _MICROSECOND
    try:
        return parse_timestamp(text)
    except Refused as exc:
        raise ConfigurationError(f"{option} {text}: {exc}") from None


def shown(microseconds: int | None) -> str:
    """Return a time for people; None is the beginning.

    >>> shown(1_356_998_400_000_000)
    '2013-01-01T00:00:00Z'
    """
    if microseconds is None:
        return "the beginning"
    try:
        return (_EPOCH + microseconds * _MICROSECOND).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return f"{microseconds} us"
