"""The configuration of a job: read in layers, checked as a whole, shown without secrets.

    conf/base.yaml  <-  conf/<env>.yaml  <-  conf/<model>.yaml  <-  --set key=value        (later wins, key by key)

The files come with the package (also inside a zip). A directory named by ONESCORE_CONF_DIR is laid over them: after each
packaged file, the file of the same name in it is read, and a model may be described there alone. Relative paths are below
ONESCORE_HOME, or the working directory. `python -m jobs.runs.conf` prints the table of all keys that conf/README.md shows.
This module starts nothing: no Spark, no MLflow.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, ValidationError
from pydantic.fields import FieldInfo

from feature_pipelines.errors import ConfigurationError, did_you_mean
from jobs.runs import layers
from jobs.runs.settings import (
    BuildSettings,
    InputSettings,
    Location,
    MlflowSettings,
    ModelSettings,
    OutputSettings,
    QuarantineSettings,
    ScoreSettings,
    Section,
    ServeSettings,
    SparkSettings,
    StorageSettings,
    StoreSettings,
    TrainSettings,
    setting,
)
from jobs.runs.settings_async import SubmissionsSettings
from jobs.runs.settings_dashboard import DashboardSettings
from jobs.runs.settings_notify import NotifySettings
from jobs.runs.settings_serverless import ServerlessSettings
from jobs.runs.settings_skew import SkewSettings
from jobs.runs.settings_stream import StreamSettings

__all__ = ["ENVIRONMENTS", "Conf", "defaults", "key_table", "known_models", "load"]

ENVIRONMENTS = ("local", "staging", "prod")
_MODEL_MUST_SET = ("model.name", "model.feature_set", "input.source", "output.scored", "output.quarantine")
_LOCATIONS = (
    "storage.tables",
    "storage.runs",
    "storage.cache",
    "mlflow.artifact_root",
    "serve.log_directory",
    "serverless.directory",
    "skew.directory",
    "stream.checkpoint",
    "submissions.reference_root",
)
_URIS = ("mlflow.tracking_uri", "mlflow.registry_uri", "store.url", "submissions.database_url")
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")


class Conf(Section):
    """All settings of one job, checked and immutable. Make one with `load`."""

    storage: StorageSettings
    store: StoreSettings
    mlflow: MlflowSettings
    spark: SparkSettings
    model: ModelSettings
    train: TrainSettings
    input: InputSettings
    views: dict[str, Location] = setting(
        "table of each stored feature view: `views.<view>: <table>`", digest=True
    )
    view_versions: dict[str, int] = setting(
        "version of a view's Delta table, `view_versions.<view>: <version>`; {}: the latest when the run starts"
    )
    view_sources: dict[str, Location] = setting(
        "table of events that a view with history is computed from: `view_sources.<view>: <table>`"
    )
    build: BuildSettings
    output: OutputSettings
    score: ScoreSettings
    quarantine: QuarantineSettings
    serve: ServeSettings
    serverless: ServerlessSettings
    skew: SkewSettings
    stream: StreamSettings
    dashboard: DashboardSettings
    submissions: SubmissionsSettings
    notify: NotifySettings

    _env: str = PrivateAttr(default="")
    _files: tuple[str, ...] = PrivateAttr(default=())
    _home: str = PrivateAttr(default="")

    @property
    def env(self) -> str:
        """The environment whose overlay was read: local, staging or prod."""
        return self._env

    @property
    def files(self) -> tuple[str, ...]:
        """The files that were read, in the order in which later ones win."""
        return self._files

    def resolved(self) -> dict[str, Any]:
        """Return every setting as plain JSON values, for a plan or an MLflow run; secrets are their references."""
        return {"env": self._env, **self.model_dump(mode="json")}

    def digested(self) -> dict[str, Any]:
        """Return the settings, by dotted key, that can change a score or the content of a table."""
        values = self.model_dump(mode="json")
        keys = (path for path, field in layers.declared_keys(Conf.model_fields) if _extra(field, "digest"))
        return {".".join(path): _value_at(values, path) for path in keys}

    def digest(self) -> str:
        """Return the SHA-256 (hex) of `digested()`: equal for two runs that must give the same rows.

        Where tables, logs and models are kept, how Spark is reached and how a run is cut up are not part of it.
        """
        text = json.dumps(self.digested(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def require(self, *keys: str) -> None:
        """Check that each dotted key has been given a value.

        Raises:
            ConfigurationError: some are empty or null; names all of them and the files that were read.
        """
        values = self.model_dump()
        empty = [key for key in keys if _value_at(values, tuple(key.split("."))) in ("", None, [], {})]
        if empty:
            models = ", ".join(known_models()) or "none"
            raise ConfigurationError(
                f"{', '.join(empty)}: not set, and this job needs it. Choose a model with --model (there are: {models}), "
                f"or use --set. {_files_read(self._files)}",
                keys=empty,
                files=self._files,
            )

    @property
    def input_location(self) -> str:
        """Where the input is; see `table_location`."""
        return self.table_location(self.input.source)

    def table_location(self, table: str) -> str:
        """Return where a table is: a name is below storage.tables, a path is made absolute.

        What has a slash or a leading dot or tilde is a path; a relative one is below ONESCORE_HOME or the working directory.
        A URI and `catalog:db.table` come back as they are.
        """
        if table.startswith("catalog:") or _HAS_SCHEME.match(table):
            return table
        if "/" in table or table.startswith((".", "~")):
            return _below(self._home, table)
        return f"{self.storage.tables.rstrip('/')}/{table}"


def load(
    env: str = "local",
    model: str | None = None,
    overrides: Sequence[str] = (),
    root: str | Path | None = None,
) -> Conf:
    """Return the configuration of an environment and a model, with overrides of single keys on top.

    Args:
        env: local, staging or prod.
        model: name of the file that describes the model (`flights` for conf/flights.yaml); None reads none, and then what only
            a model can say is empty (`Conf.require` checks).
        overrides: `section.key=value`, the value as YAML; below an open mapping the rest is one key, dots included
            (`spark.conf.spark.sql.shuffle.partitions=8`).
        root: what relative paths are below; None means ONESCORE_HOME, else the working directory.

    Raises:
        ConfigurationError: unknown environment, model or key, a wrong type, a literal secret: all problems of all files at
            once, with the files read and close matches.
    """
    home = _home(root)
    fields = Conf.model_fields
    texts = dict(_files_of(env, model))
    read = [layers.parse_file(name, text, fields) for name, text in texts.items()]
    read += [layers.parse_override(text, fields) for text in overrides]
    problems = [problem for layer in read for problem in layer.problems]
    values, origins = layers.merge(read, fields)
    conf = None
    try:
        conf = Conf.model_validate(layers.nest(_located(values, home)))
    except ValidationError as exc:
        problems.extend(layers.explain(exc, origins, fields))
    if problems or conf is None:
        message = f"{'; '.join(problems)}. {_files_read(tuple(texts))}"
        raise ConfigurationError(message, problems=problems, files=tuple(texts))
    conf._env, conf._files, conf._home = env, tuple(texts), home
    if model is not None:
        conf.require(*_MODEL_MUST_SET)
    return conf


def known_models() -> list[str]:
    """Return the models that have a file, in the package or in ONESCORE_CONF_DIR."""
    names = {entry.name for directory in _directories() for entry in directory.iterdir() if entry.is_file()}
    return sorted({Path(name).stem for name in names if name.endswith(".yaml")} - {"base", *ENVIRONMENTS})


def defaults() -> dict[str, Any]:
    """Return the packaged default of every key, by dotted key; those that each model must set have none."""
    fields = Conf.model_fields
    name = "conf/base.yaml"
    values = layers.parse_file(name, dict(_packaged_files())[name], fields).values
    found = {".".join(path): _default(values, path) for path, _ in layers.declared_keys(fields)}
    return {key: value for key, value in found.items() if key not in _MODEL_MUST_SET}


def key_table() -> str:
    """Return the Markdown table of every key: meaning, unit, default, which packaged files change it, part of the digest."""
    fields = Conf.model_fields
    read = {name: layers.parse_file(name, text, fields).values for name, text in _packaged_files()}
    base = read.pop("conf/base.yaml")
    rows = ["| Key | Meaning | Unit | Default | Changed in | Digest |", "|---|---|---|---|---|---|"]
    for path, field in layers.declared_keys(fields):
        changed = [
            Path(name).name
            for name, values in read.items()
            if any(key[: len(path)] == path for key in values)
        ]
        default = json.dumps(_default(base, path), ensure_ascii=False)
        cells = [
            f"`{'.'.join(path)}`",
            field.description or "",
            _extra(field, "unit"),
            f"`{default}`",
            ", ".join(changed),
        ]
        cells.append("yes" if _extra(field, "digest") else "")
        rows.append(f"| {' | '.join(cell or '-' for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _default(base: Mapping[layers.Path, Any], path: layers.Path) -> Any:
    """Return a key's value in a file, of an open mapping its entries."""
    entries = {key[-1]: value for key, value in base.items() if key[: len(path)] == path}
    return base.get(path, entries)


def _directories() -> list[Traversable]:
    directories: list[Traversable] = [resources.files("conf")]
    if extra := os.environ.get("ONESCORE_CONF_DIR"):
        if not Path(extra).expanduser().is_dir():
            raise ConfigurationError(
                f"ONESCORE_CONF_DIR={extra}: expected a directory, found none.", directory=extra
            )
        directories.append(Path(extra).expanduser())
    return directories


def _packaged_files() -> Iterator[tuple[str, str]]:
    packaged = resources.files("conf")
    names = sorted(entry.name for entry in packaged.iterdir() if entry.name.endswith(".yaml"))
    yield from ((f"conf/{name}", (packaged / name).read_text(encoding="utf-8")) for name in names)


def _files_of(env: str, model: str | None) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the files of an environment and a model, the winning one last."""
    if env not in ENVIRONMENTS:
        raise ConfigurationError(f"Unknown environment {env!r}.{did_you_mean(env, ENVIRONMENTS)}", env=env)
    packaged, *extra = _directories()
    if model is not None and model not in known_models():
        places = ", ".join(["conf/", *map(str, extra)])
        hint = did_you_mean(model, known_models())
        raise ConfigurationError(f"Unknown model {model!r}: no {model}.yaml in {places}.{hint}", model=model)
    for stem in ("base", env, *([model] if model else [])):
        for directory in (packaged, *extra):
            file = directory / f"{stem}.yaml"
            if file.is_file():
                name = f"conf/{stem}.yaml" if directory is packaged else str(file)
                yield name, file.read_text(encoding="utf-8")


def _home(root: str | Path | None) -> str:
    home = str(root if root is not None else os.environ.get("ONESCORE_HOME") or Path.cwd())
    return home.rstrip("/") if _HAS_SCHEME.match(home) else str(Path(home).expanduser().resolve())


def _below(home: str, location: str) -> str:
    if _HAS_SCHEME.match(location):
        return location
    path = Path(location).expanduser()
    if path.is_absolute():
        return str(path)
    return f"{home}/{path.as_posix()}" if _HAS_SCHEME.match(home) else os.path.normpath(Path(home) / path)


def _located(values: Mapping[layers.Path, Any], home: str) -> dict[layers.Path, Any]:
    """Return the values with `{root}` filled in and relative paths made absolute."""
    located = dict(values)
    root = located.get(("storage", "root"))
    if not isinstance(root, str):
        return located
    root = located["storage", "root"] = _below(home, root)
    for key in (*_LOCATIONS, *_URIS):
        path = tuple(key.split("."))
        value = located.get(path)
        if not isinstance(value, str):
            continue
        value = value.replace("{root}", root)
        if key in _LOCATIONS:
            value = _below(home, value)
        elif value.startswith("sqlite:///"):
            value = "sqlite:///" + _below(home, value.removeprefix("sqlite:///"))
        located[path] = value
    return located


def _files_read(files: Sequence[str]) -> str:
    return f"Files read: {', '.join(files)}."


def _extra(field: FieldInfo, name: str) -> Any:
    return field.json_schema_extra.get(name) if isinstance(field.json_schema_extra, dict) else None


def _value_at(values: Mapping[str, Any], path: layers.Path) -> Any:
    found: Any = values
    for part in path:
        found = found[part]
    return found


if __name__ == "__main__":
    sys.stdout.write(key_table())
