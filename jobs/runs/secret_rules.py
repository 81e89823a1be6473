"""What looks like a secret: names of settings and of URI parameters, credentials in a URI, options of a JVM.

Configuration refuses what these rules find, and messages mask it. The rules look at text alone: nothing is kept here, and no
message of this module has a value in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

__all__ = ["holds_secret", "is_secret_key", "masked_parameters", "secret_values"]

MASK = "***"
_KEY = re.compile(
    r"(?i)secret|passw|passphrase|token|credential|(?:account|access|api|private|encryption)[._-]?key(?!provider)"
    r"|(?:^|[._-])sas(?:[._-]|$)|(?-i:(?:^|[._-])(?:pass|pwd)|Pass|Pwd)$"
)
_PLACES = "file|path|length|enabled|provider|type|endpoint"
_NOT_A_SECRET = re.compile(
    rf"(?i:^spark\.security\.credentials\.|provider\.type\.|[._-](?:{_PLACES})$)"
    rf"|(?:{'|'.join(place.capitalize() for place in _PLACES.split('|'))})$"
)
_PARAMETER_NAME = re.compile(r"(?i)sig|key|pass|pwd|(?:.*[._-])?(?:signature|auth|authorization)")
_PARAMETER = re.compile(r"(?P<before>[?&;#])(?P<name>[^=?&;#/\s]+)=(?P<value>[^?&;#\s'\"]*)")
_JVM_OPTION = re.compile(r"(?P<before>-D)(?P<name>[^=\s'\"]+)=(?P<value>\"[^\"]*\"|'[^']*'|[^\s'\"]*)")
_WORD = re.compile(r"(?:^|[\s,])(?P<name>\w[\w.\-]*)=(?P<value>\S*)")
_USER_INFO = re.compile(r"(?P<scheme>[A-Za-z][\w+.\-]*)://(?P<info>[^/\s]*)@")
_SLASH_IN_USER_INFO = re.compile(r"://[^/\s@\[]*:(?!\d*/)(?P<value>[^/\s?#@]*/[^\s?#]*)@")
_NAMES_A_PLACE = {"abfs", "abfss", "wasb", "wasbs", "hdfs", "sftp"}
"""Schemes whose `name@` is a container or an account, and no secret unless a password follows."""


def is_secret_key(key: str) -> bool:
    """Return whether the value of a setting of this name is a secret: Spark's own redaction rule, wider, without file paths.

    >>> is_secret_key("spark.hadoop.fs.azure.account.key.store.dfs.core.windows.net"), is_secret_key("spark.ssl.keyPasswordFile")
    (True, False)
    """
    return bool(_KEY.search(key)) and not _NOT_A_SECRET.search(key)


def holds_secret(text: str) -> bool:
    """Return whether a URI, a location or the value of a setting has a secret in it: before an @, as a parameter, as an option.

    >>> holds_secret("sc://host:443/;token=x"), holds_secret("sc://host:443/;use_ssl=true;user_id=ann")
    (True, False)
    >>> holds_secret("s3://key:secret@bucket/x"), holds_secret("abfss://container@account.dfs.core.windows.net/x")
    (True, False)
    """
    return any(True for _ in secret_values(text))


def secret_values(text: str) -> Iterator[str]:
    """Yield what is secret in a text by these rules, as it is written there."""
    for found in _USER_INFO.finditer(text):
        user, colon, password = found["info"].partition(":")
        if colon or found["scheme"].lower() not in _NAMES_A_PLACE:
            yield password or user
    yield from (found["value"] for found in _SLASH_IN_USER_INFO.finditer(text))
    yield from (found["value"] for found in _PARAMETER.finditer(text) if _is_secret_parameter(found["name"]))
    for options in (_JVM_OPTION, _WORD):
        yield from (found["value"] for found in options.finditer(text) if is_secret_key(found["name"]))


def masked_parameters(text: str) -> str:
    """Return the text with the value of every secret parameter and JVM option replaced by ***.

    >>> masked_parameters("sc://host/;user_id=ann;token=x and -Dssl.password=y")
    'sc://host/;user_id=ann;token=*** and -Dssl.password=***'
    """

    def masked(found: re.Match[str]) -> str:
        is_option = found["before"] == "-D"
        secret = is_secret_key(found["name"]) if is_option else _is_secret_parameter(found["name"])
        return f"{found['before']}{found['name']}={MASK}" if secret else found[0]

    return _JVM_OPTION.sub(masked, _PARAMETER.sub(masked, text))


def _is_secret_parameter(name: str) -> bool:
    plain = unquote(name)
    return is_secret_key(plain) or bool(_PARAMETER_NAME.fullmatch(plain))
