"""What looks like a secret, by name and by place; most of it is tested where it matters, through the configuration."""

from __future__ import annotations

import pytest

from jobs.runs.secret_rules import holds_secret, is_secret_key, masked_parameters, secret_values


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("http://me:pass@host/x", ["pass"]),
        ("http://token@host", ["token"]),
        ("abfss://container@account/x", []),
        ("abfss://container:key@account/x", ["key"]),
        ("postgresql://h/db?user=u&password=p&sslmode=x", ["p"]),
        ("sc://h/;token=t;user_id=u;x-api-key=k", ["t", "k"]),
        ("-Xmx1g -Da.password=p -Db=c -Dd.token='q r'", ["p", "'q r'"]),
        ("-Da.password.file=/p", []),
        ("/data/token=3/x", []),
        ("plain", []),
    ],
)
def test_secrets_of_a_text_are_found(text: str, secrets: list[str]) -> None:
    assert list(secret_values(text)) == secrets
    assert holds_secret(text) == bool(secrets)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at http://h/x?sig=abc&n=1 failed", "at http://h/x?sig=***&n=1 failed"),
        ("sc://h/;use_ssl=true;TOKEN=abc", "sc://h/;use_ssl=true;TOKEN=***"),
        ("java -Dx.secret=abc -Dy=1", "java -Dx.secret=*** -Dy=1"),
        ("nothing=here; x = 1", "nothing=here; x = 1"),
    ],
)
def test_masking_replaces_the_values_of_secret_parameters_alone(text: str, masked: str) -> None:
    assert masked_parameters(text) == masked


@pytest.mark.parametrize(
    ("key", "is_secret"),
    [
        ("mlflow.token", True),
        ("model.allow_tolerance", False),
        ("fs.azure.sas.c.a", True),
        ("fs.azure.sas.token.provider.type.a", False),
        ("spark.sas", True),
        ("spark.disaster", False),
        ("spark.security.credentials.hive.enabled", False),
        ("x.token.profile", True),
        ("my.keystore.pass", True),
        ("my.keystorePass", True),
        ("spark.executorEnv.PWD", False),
        ("my.bypass", False),
    ],
)
def test_name_of_a_setting_says_whether_its_value_is_a_secret(key: str, is_secret: bool) -> None:
    assert is_secret_key(key) is is_secret
