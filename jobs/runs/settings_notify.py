"""The typed section of notification: who may be told that a submission is done or that an alert fires, and how often it is tried.

As in `jobs.runs.settings`, a default is in conf/base.yaml and nowhere else. Nothing here can change a score.
"""

from __future__ import annotations

from jobs.runs.secret_refs import SecretRef
from jobs.runs.settings import Location, Section, setting

__all__ = ["NotifySettings"]


class NotifySettings(Section):
    """Notification: webhooks, and whatever Apprise sends."""

    webhook_secret: SecretRef | None = setting(
        "what webhooks are signed with (HMAC-SHA256), as a reference `env:NAME` or `file:PATH`, to `whsec_` and base64 as Standard "
        "Webhooks has it, or to any text of 24 characters or more; null: no webhook is taken"
    )
    webhook_http: bool = setting("whether a webhook may be http:// too, not https:// alone")
    webhook_private: bool = setting(
        "whether a webhook may lead to an address that is not public (loopback, private, link-local)"
    )
    targets: dict[str, SecretRef] = setting(
        "by the name that a client uses: a reference `env:NAME` or `file:PATH` to an Apprise URL (mail, chat)"
    )
    email: SecretRef | None = setting(
        "reference to the Apprise URL (`mailtos://...?from=...`) by which clients' own addresses are written to; null: none is"
    )
    email_domains: list[str] = setting("domains of addresses that may be written to")
    public_url: Location | None = setting(
        "address of the gateway as its clients see it, for links in messages"
    )
    timeout_seconds: float = setting("how long one delivery may take in all", "s", gt=0)
    max_attempts: int = setting("a delivery that failed so often is given up", gt=0)
    retry_seconds: float = setting(
        "pause before the second attempt; it doubles each time, up to an hour", "s", gt=0
    )
