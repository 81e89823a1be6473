"""Configuration: layers, what is refused and how it says so, paths, the digest, and that every key is documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from feature_pipelines.errors import ConfigurationError
from jobs.runs import layers
from jobs.runs.conf import ENVIRONMENTS, Conf, key_table, known_models, load

CANARY = "canary-0ddba11"


def error_of(*overrides: str, env: str = "local", model: str | None = "flights") -> str:
    with pytest.raises(ConfigurationError) as info:
        load(env, model, overrides)
    assert info.value.exit_code == 2
    return str(info.value)


# Layers


@pytest.mark.parametrize("env", ENVIRONMENTS)
@pytest.mark.parametrize("model", [None, *known_models()])
def test_every_packaged_combination_loads(env: str, model: str | None) -> None:
    conf = load(env, model)
    assert conf.env == env
    assert conf.files == ("conf/base.yaml", f"conf/{env}.yaml", *([f"conf/{model}.yaml"] if model else []))


def test_later_layers_win_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.yaml").write_text(
        "score: {batch_rows: 11, unit_rows: 12}\nspark: {conf: {spark.a: 1, spark.b: true}}\n"
    )
    (tmp_path / "staging.yaml").write_text("score: {unit_rows: 22, chunk_rows: 23}\nquarantine:\n")
    (tmp_path / "flights.yaml").write_text("score: {chunk_rows: 33}\nspark: {conf: {spark.b: text}}\n")
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(tmp_path))

    conf = load("staging", "flights", ["spark.conf.spark.c=4", "train.params.max_iter=5"])

    assert (conf.score.batch_rows, conf.score.unit_rows, conf.score.chunk_rows) == (11, 22, 33)
    assert conf.spark.conf == {"spark.a": "1", "spark.b": "text", "spark.c": "4"}
    assert conf.train.params == {"max_iter": 5, "learning_rate": 0.1}
    assert conf.quarantine.max_share == 0.05
    assert [Path(name).name for name in conf.files] == [
        *("base.yaml", "base.yaml", "staging.yaml", "staging.yaml", "flights.yaml", "flights.yaml"),
    ]


def test_model_may_be_described_in_the_users_directory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taxi.yaml").write_text(
        "model: {name: taxi, feature_set: 'my.features:TAXI'}\ninput: {source: rides}\n"
        "output: {scored: taxi_scored, quarantine: taxi_quarantine}\n"
    )
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(tmp_path))
    assert "taxi" in known_models()
    assert load(model="taxi").model.name == "taxi"


def test_conf_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().score.chunk_rows = 1


def test_spark_values_are_text_as_spark_reads_them() -> None:
    conf = load(
        overrides=["spark.conf.spark.ui.enabled=true", "spark.conf.spark.x=1.5", "spark.conf.spark.y={}"][:2]
    )
    assert conf.spark.conf == {"spark.ui.enabled": "true", "spark.x": "1.5"}


# What is refused


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lable_column=x", "unknown key 'train.lable_column'. Did you mean 'label_column'?"),
        ("trian.seed=1", "unknown key 'trian'. Did you mean 'train'?"),
        (
            "score.chunk_rows=many",
            "score.chunk_rows (--set score.chunk_rows): Input should be a valid integer",
        ),
        ("score.chunk_rows=0", "Input should be greater than 0, got 0"),
        ("score=5", "score: expected a mapping of keys, got 5"),
        ("views=5", "views: expected a mapping, got 5"),
        (
            "views.weather=[a]",
            "views (--set views.weather, conf/flights.yaml): Input should be a valid string, got ['a']",
        ),
        ("quarantine.max_share=2", "less than or equal to 1, got 2"),
        (
            "train.split_at=2013-10-01T00:00:00",
            "train.split_at (--set train.split_at): Input should have timezone info",
        ),
        ("train.task=ranking", "'classification', 'multiclass' or 'regression', got 'ranking'"),
        ("train.label_above=null", "label_above: expected a number with task: classification"),
        ("train.task=multiclass", "classification, and null with task: multiclass or regression"),
        (
            "spark.remote=localhost",
            "spark.remote (--set spark.remote): expected a Spark Connect URL sc://host:port",
        ),
        (
            "model.feature_set=flights",
            "model.feature_set (--set model.feature_set): String should match pattern",
        ),
        ("model.name=''", "model.name: not set, and this job needs it"),
        ("serverless.sink=s3:/typo", "serverless.sink): sink 's3:/typo': expected s3://bucket/prefix"),
    ],
)
def test_bad_override_is_refused_with_reason_and_files(override: str, expected: str) -> None:
    message = error_of(override)
    assert expected in message
    assert message.endswith("Files read: conf/base.yaml, conf/local.yaml, conf/flights.yaml.")
    assert "\n" not in message


@pytest.mark.parametrize("override", ["score.chunk_rows", "=5", " = 5", "score: x=5"])
def test_override_without_key_or_value_is_refused(override: str) -> None:
    assert "expected section.key=value" in error_of(override)
    assert "score: x" not in error_of(override)


def test_all_problems_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local.yaml").write_text("score: {chunk: 1}\nsparc: {}\n")
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(tmp_path))
    message = error_of("score.batch_rows=x", "train.seed=-1")
    for expected in (
        f"{tmp_path}/local.yaml: unknown key 'score.chunk'",
        "unknown key 'sparc'",
        "score.batch_rows",
        "train.seed",
    ):
        assert expected in message
    assert f"conf/local.yaml, {tmp_path}/local.yaml, conf/flights.yaml" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "score: {chunk_rows: 1}\nscore: {unit_rows: 1}\n",
            "local.yaml, line 2: key 'score' is written twice",
        ),
        ("score:\n  chunk_rows: [1\n", "local.yaml, line 3: "),
        ("just text\n", "local.yaml: the whole: expected a mapping of keys, got 'just text'"),
    ],
)
def test_bad_file_is_refused_with_its_line(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local.yaml").write_text(text)
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(tmp_path))
    assert f"{tmp_path}/{expected}" in error_of()


def test_unknown_environment_and_model_name_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        error_of(env="prd")
        == "Unknown environment 'prd'. Did you mean 'prod'? Available: local, prod, staging."
    )
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(tmp_path))
    message = error_of(model="flight")
    assert message.startswith(
        f"Unknown model 'flight': no flight.yaml in conf/, {tmp_path}. Did you mean 'flights'?"
    )


@pytest.mark.parametrize("model", ["base", "local", "../conf/flights", ""])
def test_file_that_describes_no_model_is_no_model(model: str) -> None:
    assert "Unknown model" in error_of(model=model)


def test_missing_user_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESCORE_CONF_DIR", "/nowhere/conf")
    assert error_of() == "ONESCORE_CONF_DIR=/nowhere/conf: expected a directory, found none."


def test_require_names_every_key_that_is_empty() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^train\.requests, train\.split_at: not set.*there are: .*flights"
    ):
        load().require("train.requests", "train.seed", "train.split_at")


# Secrets


LITERAL_SECRETS = [
    f"notify.webhook_secret={CANARY}",
    f"notify.targets.ops=slack://{CANARY}/b/c",
    f"notify.email=mailto://me:{CANARY}@host",
    f"mlflow.token={CANARY}",
    f"mlflow.token: {CANARY}=x",
    f"mlflow.token={{a: {CANARY}}}",
    f"mlflow.token=: [{CANARY}",
    f"mlflow.tracking_uri=http://me:{CANARY}@host/",
    f"mlflow.tracking_uri=http://{CANARY}@host/",
    f"mlflow.tracking_uri=postgresql://h/db?user=u&password={CANARY}",
    f"mlflow.tracking_uri=postgresql://u:{CANARY}/x@h/db",
    f"mlflow.registry_uri=mysql://h/db?PASSWORD={CANARY}",
    f"mlflow.artifact_root=s3://key:{CANARY}@bucket/a",
    f"store.url=redis://h/0?password={CANARY}",
    f"store.url=redis://:{CANARY}@h/0",
    f"store.url={{a: {CANARY}}}",
    f"storage.root=s3://key:{CANARY}@bucket/x",
    f"storage.tables=abfss://c:{CANARY}@account.dfs.core.windows.net/x",
    f"input.source=s3://key:{CANARY}@bucket/x",
    f"input.source=s3://key:{CANARY}/with/slashes@bucket/x",
    f"input.source=https://account.blob.core.windows.net/c/x?sv=2024&sig={CANARY}",
    f"input.source=s3://bucket/x?X-Amz-Signature={CANARY}",
    f"input.source=gs://bucket/x?key={CANARY}",
    f"views.weather=s3://key:{CANARY}@bucket/x",
    f"view_sources.weather=s3://bucket/x?secret={CANARY}",
    f"output.scored=s3://key:{CANARY}@bucket/x",
    f"train.requests=s3://key:{CANARY}@bucket/x",
    f"serve.log_directory=s3://key:{CANARY}@bucket/x",
    f"spark.remote=sc://h:443/;token={CANARY}",
    f"spark.remote=sc://h:443/;use_ssl=true;token={CANARY};user_id=ann",
    f"spark.remote=sc://h:443/;%74oken={CANARY}",
    f"spark.remote=sc://h:443/token={CANARY}",
    f"spark.remote=sc://ann:{CANARY}@h:443",
    f"spark.remote=[sc://h:443/;token={CANARY}]",
    f"spark.remote={{a: {CANARY}}}",
    f"spark.remote={CANARY}",
    f"spark.master=spark://me:{CANARY}@h:7077",
    f"spark.conf.spark.hadoop.fs.s3a.secret.key={CANARY}",
    f"spark.conf.spark.hadoop.fs.azure.account.key.store.dfs.core.windows.net={CANARY}",
    f"spark.conf.spark.hadoop.fs.azure.account.key.profile={CANARY}",
    f"spark.conf.spark.hadoop.fs.azure.sas.container.account.blob.core.windows.net={CANARY}",
    f"spark.conf.spark.hadoop.fs.gs.auth.service.account.private.key={CANARY}",
    f"spark.conf.spark.hadoop.fs.x.credential={CANARY}",
    f"spark.conf.spark.executorEnv.AWS_ACCESS_KEY_ID={CANARY}",
    f"spark.conf.fs.s3a.access.key={CANARY}",
    f"spark.conf.spark.executor.extraJavaOptions=-Xss4m -Dx.password={CANARY} -Dy=1",
    f"spark.conf.spark.driver.extraJavaOptions=-Djavax.net.ssl.trustStorePassword={CANARY}",
    f"spark.conf.spark.driver.defaultJavaOptions=-Dmy.token={CANARY}",
    f"spark.conf.spark.hadoop.javax.jdo.option.ConnectionURL=jdbc:mysql://h/db?user=u&password={CANARY}",
    f"spark.conf.spark.jars.repositories=https://me:{CANARY}@host/maven",
    f"spark.conf.spark.x.jaas=Login required username=ann password={CANARY};",
    f"spark.conf={CANARY}",
    f"spark.conf.spark.ssl.keyPassword=[{CANARY}]",
]


@pytest.mark.parametrize("override", LITERAL_SECRETS)
def test_literal_secret_is_refused_and_never_shown(override: str) -> None:
    assert CANARY not in error_of(override)


def locations() -> list[str]:
    """Every key whose value is a location, a URI or a mapping of them, by its declaration."""
    declared = {".".join(path): field for path, field in layers.declared_keys(Conf.model_fields)}
    plain = (
        "model.",
        "train.label",
        "train.join",
        "train.estimator",
        "train.params",
        "view_versions",
        "input.range",
        "train.task",
    )
    texts = [key for key, field in declared.items() if "str" in str(field.annotation)]
    others = {
        *("spark.app_name", "spark.log_level", "spark.conf", "mlflow.experiment", "input.row_id"),
        *("input.partitions", "output.pass_through", "serve.host", "serve.log_pii"),
        *("stream.format", "stream.options", "stream.columns", "stream.select"),
        *("stream.trigger", "stream.event_time", "stream.watermark"),
        *("submissions.host", "notify.targets", "notify.email_domains"),
        *("dashboard.host", "dashboard.alerts", "dashboard.notify"),
    }
    return [key for key in texts if not key.startswith(plain) and key not in others]


@pytest.mark.parametrize("key", locations())
def test_no_location_takes_credentials(key: str) -> None:
    name = f"{key}.x" if key in ("views", "view_sources") else key
    for secret in (f"s3://key:{CANARY}@bucket/x", f"https://host/x?sig={CANARY}"):
        message = error_of(f"{name}={secret}")
        assert "is refused (not shown)" in message
        assert CANARY not in message


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("spark.remote=sc://h/;token=x", "refer to it, env:NAME or file:PATH, or set SPARK_REMOTE"),
        ("mlflow.tracking_uri=http://a:b@h", "leave the URI null and set MLFLOW_TRACKING_URI"),
        ("store.url=redis://:b@h/0", "set ONESCORE_STORE_PASSWORD, or refer to the whole URL"),
        ("input.source=s3://a:b@h/x", "give a storage's credentials to the environment, the platform or"),
        (
            "spark.conf.spark.x.extraJavaOptions=-Dpassword=x",
            "refer to the whole value, env:NAME or file:PATH",
        ),
    ],
)
def test_refusal_says_where_the_secret_belongs(override: str, instead: str) -> None:
    assert instead in error_of(override)


@pytest.mark.parametrize(
    "override",
    [
        "spark.remote=sc://host",
        "spark.remote=sc://host:15002/",
        "spark.remote=sc://host:443/;use_ssl=true;user_id=ann;x-databricks-cluster-id=1-2",
        "spark.remote=sc://[::1]:15002/;user_id=ann@example.org",
        "spark.master=local[*,4]",
        "spark.master=k8s://https://host:6443",
        "mlflow.tracking_uri=databricks://scope:prefix",
        "mlflow.tracking_uri=http://host:5000/team@x",
        "mlflow.tracking_uri=postgresql://host:5432/db?sslmode=verify-full&sslkey=/certs/key.pem&passfile=/run/pgpass",
        "mlflow.artifact_root=sftp://ann@host/a",
        "store.url=redis://host:6379/0?cluster=true",
        "store.url=rediss://host/0?ssl_keyfile=/certs/key.pem",
        "storage.root=abfss://container@account.dfs.core.windows.net/x",
        "storage.root=hdfs://namenode:8020/user@x/y",
        "input.source=data/by_key/key=5",
        "input.source=s3://bucket/x@v1",
        "input.source=catalog:main.flights",
        "spark.conf.spark.executor.extraJavaOptions=-Xss4m -Duser.timezone=UTC -Djavax.net.ssl.trustStore=/t.jks",
        "spark.conf.spark.security.credentials.renewalRatio=0.75",
        "spark.conf.spark.hadoop.fs.azure.account.keyprovider.x=org.apache.hadoop.fs.azure.SimpleKeyProvider",
        "spark.conf.spark.hadoop.fs.azure.account.auth.type.x=OAuth",
        "spark.conf.spark.hadoop.fs.s3a.aws.credentials.provider=plain",
        "spark.conf.spark.ssl.keyPasswordFile=plain",
        "spark.conf.spark.x.token.path=plain",
        "spark.conf.spark.executorEnv.AWS_WEB_IDENTITY_TOKEN_FILE=/run/token",
    ],
)
def test_what_is_no_secret_is_taken(override: str) -> None:
    key, _, value = override.partition("=")
    conf = load(overrides=[override]).resolved()
    if key.startswith("spark.conf."):
        assert conf["spark"]["conf"] == {key.removeprefix("spark.conf."): value}
    else:
        section, _, name = key.partition(".")
        assert str(conf[section][name]).endswith(value)


def test_connect_url_with_its_token_is_a_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"sc://host:443/;use_ssl=true;token={CANARY}"
    monkeypatch.setenv("CONNECT_URL_OF_TEST", url)
    (tmp_path / "url").write_text(f"{url}\n")
    for reference in ("env:CONNECT_URL_OF_TEST", f"file:{tmp_path}/url"):
        conf = load(overrides=[f"spark.remote={reference}"])
        assert conf.spark.revealed_remote() == url
        assert conf.resolved()["spark"]["remote"] == reference
        assert CANARY not in str(conf) + repr(conf) + json.dumps(conf.resolved())
    assert load().spark.revealed_remote() is None
    assert load(overrides=["spark.remote=sc://host"]).spark.revealed_remote() == "sc://host"


@pytest.mark.parametrize("value", [CANARY, f"https://host/{CANARY}", f"sc://host/{CANARY}"])
def test_reference_to_no_connect_url_is_refused_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CONNECT_URL_OF_TEST", value)
    conf = load(overrides=["spark.remote=env:CONNECT_URL_OF_TEST"])
    with pytest.raises(
        ConfigurationError, match="env:CONNECT_URL_OF_TEST holds no Spark Connect URL"
    ) as info:
        conf.spark.revealed_remote()
    assert CANARY not in str(info.value)


def test_secrets_are_shown_as_references_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_OF_TEST", CANARY)
    conf = load(
        model="flights",
        overrides=["mlflow.token=env:CANARY_OF_TEST", "spark.conf.spark.a.password=env:CANARY_OF_TEST"],
    )
    for text in (
        str(conf),
        repr(conf),
        json.dumps(conf.resolved()),
        conf.model_dump_json(),
        json.dumps(conf.digested()),
    ):
        assert CANARY not in text
    assert conf.resolved()["mlflow"]["token"] == "env:CANARY_OF_TEST"
    assert conf.mlflow.token is not None
    assert conf.mlflow.token.reveal() == CANARY
    assert conf.spark.revealed_conf() == {"spark.a.password": CANARY}


def test_secret_that_is_not_set_matters_only_when_used() -> None:
    conf = load(overrides=["mlflow.token=env:TOKEN_THAT_IS_NOT_SET"])
    assert conf.mlflow.token is not None
    with pytest.raises(ConfigurationError, match="env:TOKEN_THAT_IS_NOT_SET"):
        conf.mlflow.token.reveal()


# Paths


def test_paths_are_below_the_working_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONESCORE_HOME")
    conf = load()
    assert conf.storage.tables == f"{home}/.onescore/tables"
    assert conf.mlflow.tracking_uri == f"sqlite:///{home}/.onescore/mlflow.db"
    assert conf.mlflow.artifact_root == f"{home}/.onescore/mlartifacts"


def test_onescore_home_wins_over_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONESCORE_HOME", str(tmp_path))
    assert load().storage.runs == f"{tmp_path}/.onescore/runs"
    assert load(root="/elsewhere").storage.runs == "/elsewhere/.onescore/runs"


def test_home_and_root_may_be_uris() -> None:
    assert load(root="s3://bucket/one/").storage.tables == "s3://bucket/one/.onescore/tables"
    conf = load(
        root="/home-of-test",
        overrides=["storage.root=s3://bucket/x", "storage.cache=cache", "storage.runs=/runs"],
    )
    assert conf.storage.tables == "s3://bucket/x/tables"
    assert (conf.storage.cache, conf.storage.runs) == ("/home-of-test/cache", "/runs")


def test_relative_sqlite_database_is_below_home() -> None:
    assert (
        load(root="/h", overrides=["mlflow.tracking_uri=sqlite:///a/b.db"]).mlflow.tracking_uri
        == "sqlite:////h/a/b.db"
    )


@pytest.mark.parametrize(
    ("table", "location"),
    [
        ("flights", "/h/.onescore/tables/flights"),
        ("data/flights", "/h/data/flights"),
        ("./flights", "/h/flights"),
        ("/data/flights", "/data/flights"),
        ("s3://bucket/flights", "s3://bucket/flights"),
        ("catalog:main.flights", "catalog:main.flights"),
    ],
)
def test_table_location(table: str, location: str) -> None:
    assert load(root="/h").table_location(table) == location


# Digest


def test_digest_changes_with_what_can_change_a_row_and_with_nothing_else() -> None:
    before = load(model="flights").digest()
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    same = [
        "score.chunk_rows=5",
        "spark.master=local[1]",
        "storage.root=/x",
        "mlflow.experiment=y",
        "train.seed=3",
        # a run's identity holds what these come to; with them a run is put back on the versions that it began with
        *("model.alias=challenger", "model.version=1", "input.version=3", "view_versions.weather=3"),
    ]
    assert load("staging", "flights", same, root="/elsewhere").digest() == before
    for override in (
        *("input.source=other", "views.planes=planes_v2"),
        *("output.pass_through=[carrier]", "input.partitions.day=1"),
    ):
        assert load(model="flights", overrides=[override]).digest() != before


def test_digest_is_the_same_in_every_release() -> None:
    """Scored rows carry it: a change of a default or a new key must be meant, and named in the CHANGELOG."""
    assert (
        load(model="flights").digest() == "ffa8c3171c39416b3acf8f45b2404deac7d61ae1272a001db502ad69b0d0889a"
    )


# Documentation and packaging


def test_readme_lists_every_key_as_it_is(root: Path) -> None:
    text = (root / "conf" / "README.md").read_text(encoding="utf-8")
    assert text.endswith(key_table()), (
        "conf/README.md: replace the table by the output of `python -m jobs.runs.conf`"
    )


def test_readme_prose_names_only_keys_that_exist(root: Path) -> None:
    text = (root / "conf" / "README.md").read_text(encoding="utf-8")
    keys = {".".join(path) for path, _ in layers.declared_keys(Conf.model_fields)}
    sections = {key.partition(".")[0] for key in keys}
    named = {name for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", text) if name.partition(".")[0] in sections}
    assert named
    assert named <= keys


def test_every_key_has_a_meaning_and_base_gives_its_default(root: Path) -> None:
    base = yaml.safe_load((root / "conf" / "base.yaml").read_text(encoding="utf-8"))
    stated = {(section, key) for section, values in base.items() for key in values}
    declared = dict(layers.declared_keys(Conf.model_fields))
    assert stated == {path for path in declared if len(path) == 2}
    assert all(field.description and field.is_required() for field in declared.values())


def test_configuration_is_read_from_a_zip_on_the_path(
    tmp_path: Path, root: Path, process_env: dict[str, str]
) -> None:
    archive = tmp_path / "code.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for package in ("conf", "feature_pipelines", "jobs"):
            for file in (root / package).rglob("*"):
                if file.suffix in (".py", ".yaml"):
                    packed.write(file, file.relative_to(root))
    program = (
        "import jobs.runs.conf as c; print(c.__file__, c.known_models(), c.load('prod', 'flights').digest())"
    )
    environment = {**process_env, "PYTHONPATH": str(archive)}
    answer = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(str(archive))
    assert "'flights'" in answer.stdout
    assert load("prod", "flights").digest() in answer.stdout
