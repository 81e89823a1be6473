"""Messages to people by Apprise: mail, chat, and whatever else it sends. Its URLs hold passwords, so none is printed, not by it either."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from urllib.parse import quote

from jobs.runs.secret_refs import SecretRef
from jobs.runs.settings_notify import NotifySettings

__all__ = ["Sender"]


class Sender:
    """Sends messages to configured targets.

    Args:
        settings: names them; references are read when something is sent.
    """

    def __init__(self, settings: NotifySettings) -> None:
        self._settings = settings
        logging.getLogger("apprise").setLevel(logging.CRITICAL)

    def to_target(self, name: str, title: str, text: str) -> bool:
        """Send to a target of `notify.targets`; return whether all that it stands for took it."""
        reference = self._settings.targets.get(name)
        return reference is not None and _sent([_url(reference)], title, text)

    def to_email(self, address: str, title: str, text: str) -> bool:
        """Write to an address by `notify.email`; return whether the mail server took it."""
        if self._settings.email is None:
            return False
        base = _url(self._settings.email)
        return _sent([f"{base}{'&' if '?' in base else '?'}to={quote(address, safe='')}"], title, text)


def _url(reference: SecretRef) -> str:
    return reference.reveal()


def _sent(urls: Sequence[str], title: str, text: str) -> bool:
    from apprise import Apprise, NotifyFormat  # slow to import, and nobody may ever be told

    apprise = Apprise()
    return all(apprise.add(url) for url in urls) and bool(
        apprise.notify(body=text, title=title, body_format=NotifyFormat.TEXT)
    )
