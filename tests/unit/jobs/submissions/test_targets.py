from __future__ import annotations

from typing import Any

import pytest

from feature_pipelines.errors import ContractError
from jobs.runs.conf import load
from jobs.runs.settings_notify import NotifySettings
from jobs.submissions.targets import Target, targets_of


def settings(*overrides: str) -> NotifySettings:
    given = [
        "notify.webhook_secret=env:HOOK_SECRET",
        "notify.targets={ops: 'env:OPS_URL', desk: 'env:DESK_URL'}",
        "notify.email=env:MAIL_URL",
        "notify.email_domains=[example.org]",
    ]
    return load(model="flights", overrides=[*given, *overrides]).notify


def test_all_who_are_named_are_told_once() -> None:
    found = targets_of(
        {
            "webhook": "https://hooks.example.org:8443/done?x=1",
            "targets": ["ops", "desk", "ops"],
            "email": "me+score@Example.org",
        },
        settings(),
    )
    assert found == [
        Target("webhook", "https://hooks.example.org:8443/done?x=1"),
        Target("target", "ops"),
        Target("target", "desk"),
        Target("email", "me+score@Example.org"),
    ]


@pytest.mark.parametrize(
    ("notify", "message"),
    [
        ({"web_hook": "https://x.org"}, "Did you mean 'webhook'"),
        ({"webhook": 1}, "must be a URL"),
        ({"webhook": "https://x.org/\r\nhost: y"}, "must be a URL"),
        ({"webhook": "https://münchen.de/"}, "must be a URL"),
        ({"webhook": "http://hooks.example.org/"}, "must be https://HOST"),
        ({"webhook": "file:///etc/passwd"}, "must be https://HOST"),
        ({"webhook": "https:///path"}, "must be https://HOST"),
        ({"webhook": "https://[::1/"}, "no URL that can be read"),
        ({"webhook": "https://x.org:99999/"}, "no URL that can be read"),
        ({"webhook": "https://x.org:0/"}, "must be https://HOST"),
        ({"webhook": "https://x.org/" + "a" * 2048}, "at most 2048"),
        ({"webhook": "https://user:pw@x.org/"}, "no user, password"),
        ({"webhook": "https://127.0.0.1/"}, "not public"),
        ({"webhook": "https://[::ffff:10.0.0.1]/"}, "not public"),
        ({"webhook": "https://169.254.169.254/latest/meta-data"}, "not public"),
        ({"targets": ["operations"]}, "this server knows desk, ops"),
        ({"targets": ["mailto://me:pw@x.org"]}, "this server knows desk, ops"),
        ({"targets": [1]}, "what is no text"),
        ({"targets": "ops"}, "must be a list"),
        ({"targets": {}}, "must be a list"),
        ({"targets": False}, "must be a list"),
        ({"webhook": ""}, "must be https://HOST"),
        ({"email": False}, "one plain address"),
        ({"targets": ["ops"] * 11}, "at most 10"),
        ({"email": "me@elsewhere.org"}, "does not write to"),
        ({"email": "me@example.org,you@example.org"}, "one plain address"),
        ({"email": "me@example.org\nBcc: you@example.org"}, "one plain address"),
        ({"email": ["me@example.org"]}, "one plain address"),
    ],
)
def test_what_may_not_or_cannot_be_told_is_refused(notify: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message) as refused:
        targets_of(notify, settings())
    assert refused.value.evidence["status"] == 422
    assert refused.value.evidence["code"] == "NOTIFY_NOT_TAKEN"


@pytest.mark.parametrize(
    ("override", "notify", "message"),
    [
        ("notify.webhook_secret=null", {"webhook": "https://x.org/"}, "notify.webhook_secret is not set"),
        ("notify.email=null", {"email": "me@example.org"}, "notify.email is not set"),
    ],
)
def test_what_is_not_configured_is_refused(override: str, notify: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        targets_of(notify, settings(override))


def test_without_targets_none_is_known() -> None:
    with pytest.raises(ContractError, match="this server knows none"):
        targets_of({"targets": ["ops"]}, load(model="flights").notify)


def test_private_addresses_and_http_where_they_are_allowed() -> None:
    allowed = settings("notify.webhook_http=true", "notify.webhook_private=true")
    assert targets_of({"webhook": "http://127.0.0.1:8000/"}, allowed) == [
        Target("webhook", "http://127.0.0.1:8000/")
    ]
