"""Who is to be told: read from what a client sent, and refused where this server may not or cannot tell them.

    {"webhook": "https://...", "targets": ["ops"], "email": "me@example.org"}

A client names chat and mail targets that the configuration knows; it never sends a URL that a library would interpret, as such URLs
reach files and other hosts. Addresses behind host names are judged when they are connected to (see `guarded`), not here. This module sends
nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from feature_pipelines.errors import did_you_mean
from jobs.online.protocol import refuse
from jobs.runs.settings_notify import NotifySettings
from jobs.submissions.guarded import is_public

__all__ = ["Target", "named", "targets_of"]

_KEYS = ("email", "targets", "webhook")
_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+)")
_LONGEST_URL = 2048
_MOST_TARGETS = 10


class Target(NamedTuple):
    """One who is to be told.

    Args:
        kind: "webhook", "target" or "email".
        where: the webhook's URL, the target's name or the address.
    """

    kind: str
    where: str


def named(notify: Mapping[str, Any]) -> list[Target]:
    """Return who is to be told, each once, in order.

    Args:
        notify: as a client sent it; `targets`, where it is there, is a list. What it holds is not judged.
    """
    found = [Target("target", name) for name in notify.get("targets") or ()]
    if notify.get("webhook") is not None:
        found.insert(0, Target("webhook", notify["webhook"]))
    if notify.get("email") is not None:
        found.append(Target("email", notify["email"]))
    return [target for i, target in enumerate(found) if target not in found[:i]]


def targets_of(notify: Mapping[str, Any], settings: NotifySettings) -> list[Target]:
    """Return who is to be told, as `named`, when this server may and can tell each of them.

    Args:
        notify: as a client sent it.
        settings: what this server can and may tell.

    Raises:
        ContractError: evidence `status` 422 and `code`: unknown keys, a URL that is none or not allowed, a target that is not configured.
    """
    unknown = [name for name in notify if name not in _KEYS]
    if unknown:
        _refuse(f"notify has the unknown key {unknown[0][:80]!r}.{did_you_mean(unknown[0], _KEYS)}")
    names = notify.get("targets")
    if names is not None and not (isinstance(names, list) and len(names) <= _MOST_TARGETS):
        _refuse(f"notify.targets must be a list of at most {_MOST_TARGETS} names")
    found = named(notify)
    for kind, where in found:
        _CHECKS[kind](where, settings)
    return found


def _check_webhook(url: Any, settings: NotifySettings) -> None:
    if settings.webhook_secret is None:
        _refuse("this server sends no webhooks (notify.webhook_secret is not set)")
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        _refuse("notify.webhook must be a URL in ASCII, other characters percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        _refuse("notify.webhook is no URL that can be read")
    schemes = ("https", "http") if settings.webhook_http else ("https",)
    if len(url) > _LONGEST_URL or parts.scheme not in schemes or not host or port == 0:
        _refuse(
            f"notify.webhook must be {' or '.join(f'{one}://HOST' for one in schemes)}, at most {_LONGEST_URL} characters"
        )
    if parts.username is not None or parts.password is not None or parts.fragment:
        _refuse("notify.webhook must hold no user, password or fragment")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not settings.webhook_private and not is_public(address):
        _refuse("notify.webhook leads to an address that is not public")


def _check_name(name: Any, settings: NotifySettings) -> None:
    if not isinstance(name, str) or name not in settings.targets:
        said = repr(name[:80]) if isinstance(name, str) else "what is no text"
        known = ", ".join(sorted(settings.targets)) or "none"
        _refuse(f"notify.targets names {said}; this server knows {known}")


def _check_mailbox(address: Any, settings: NotifySettings) -> None:
    if settings.email is None:
        _refuse("this server writes no mail to addresses that clients give (notify.email is not set)")
    match = _MAILBOX.fullmatch(address) if isinstance(address, str) else None
    if match is None:
        _refuse("notify.email must be one plain address, such as me@example.org")
    if match[1].lower() not in {domain.lower() for domain in settings.email_domains}:
        _refuse("notify.email is of a domain that this server does not write to (notify.email_domains)")


_CHECKS = {"webhook": _check_webhook, "target": _check_name, "email": _check_mailbox}


def _refuse(message: str) -> NoReturn:
    refuse(422, "NOTIFY_NOT_TAKEN", message)
