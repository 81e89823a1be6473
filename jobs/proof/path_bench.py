"""What the paths run on: one model, and Spark and the servers, started when a path first asks for them.

Everything that was started ends with the bench, also on an error and on Ctrl-C. Nothing that production reads or writes is
touched: tables, runs, store and log are in a scratch directory. This module knows no path.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError, OnescoreError
from jobs.proof.path_servers import Server, async_server, lean_server, stock_server
from jobs.runs.chosen_model import chosen_model
from jobs.runs.conf import Conf
from jobs.runs.progress import say
from jobs.runs.tracking import connect_from
from udfs.bundle import load_bundle, read_golden
from udfs.registry import ModelVersion
from udfs.scorer import Scorer

__all__ = ["Bench"]

_CODE = Path(__file__).resolve().parents[2]


class Bench:
    """One model and what scores with it; a context manager.

    Args:
        conf_with: returns the configuration with further overrides of single keys.
        flags: the same configuration as flags of a job's command line.
        bundle: the model's directory instead of the registry's version; then no path that needs the registry can be asked.
        cache: where the version's files are fetched to; None = storage.cache.
        environment: of the processes that are started.

    Raises:
        ModelError, UnavailableError, ConfigurationError: see `chosen_model` and `read_golden`.
    """

    def __init__(
        self,
        conf_with: Callable[[Sequence[str]], Conf],
        flags: Sequence[str],
        *,
        bundle: Path | None = None,
        cache: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.conf_with, self._flags, self._environment = conf_with, flags, environment
        self.conf = conf_with([])
        self.version, self.bundle = chosen_model(self.conf, bundle, cache)
        self._digest = self.version.digest if self.version is not None else None
        self.golden = read_golden(self.bundle, self._digest)
        self._open = ExitStack()
        self._started: dict[str, Any] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End what was started, in reverse order."""
        self._started.clear()
        self._open.close()

    @property
    def feature_set(self) -> FeatureSet:
        """The model's own features; nothing of it was asked."""
        return self.golden.feature_set

    @functools.cached_property
    def scorer(self) -> Scorer:
        """The model, verified when this is first asked for: a server elsewhere may be right where this machine is not.

        Raises:
            ModelError: see `load_bundle`.
        """
        tolerated = self.conf.model.allow_tolerance
        return load_bundle(self.bundle, expected_digest=self._digest, allow_tolerance=tolerated)

    @property
    def model(self) -> ModelVersion:
        """The registered version, or what a bundle alone says of itself."""
        info = self.golden.info
        alone = ModelVersion(info["name"], "none", None, info["digest"], info["feature_fingerprint"])
        return self.version or alone

    def model_uri(self) -> str:
        """Return the URI of the registered version, with MLflow pointed at its registry.

        Raises:
            ConfigurationError: the model is a bundle, of no registry.
        """
        if self.version is None:
            raise ConfigurationError("a model that --bundle names is in no registry")
        connect_from(self.conf)
        return self.version.uri

    def scratch(self) -> Path:
        """Return a directory that is deleted at the end, below storage.root, which workers see, where that is a directory."""
        root = Path(self.conf.storage.root)
        where = root if root.is_absolute() and root.is_dir() else None
        made = tempfile.TemporaryDirectory
        name = self._once("scratch", lambda: self._open.enter_context(made(prefix="proof-", dir=where)))
        return Path(name)

    def spark(self) -> Any:
        """Return the Spark session: the active one, or one as the configuration says."""
        return self._once("spark", self._start_spark)

    def lean(self) -> Server:
        """Return a lean server of the model."""
        server: Server = self._once("lean", self._start_lean)
        return server

    def submissions(self, batch_rows: int) -> Server:
        """Return a gateway of the model whose worker gives what has more than `batch_rows` rows to a Spark job."""
        name = f"async-{batch_rows}"
        server: Server = self._once(name, lambda: self._start_async(name, batch_rows))
        return server

    def stock(self) -> Server:
        """Return MLflow's own server of the model."""
        server: Server = self._once("stock", self._start_stock)
        return server

    def _once(self, name: str, start: Callable[[], Any]) -> Any:
        """Start something, or say again why it could not be: paths that share a server do not each wait for it in vain."""
        if name not in self._started:
            try:
                self._started[name] = start()
            except OnescoreError as exc:
                self._started[name] = exc
        found = self._started[name]
        if isinstance(found, OnescoreError):
            raise found
        return found

    def _start_spark(self) -> Any:
        from jobs.runs.session import spark_log, spark_session

        say("starting Spark")
        return self._open.enter_context(spark_session(self.conf.spark, spark_log(self.conf)))

    def _start_lean(self) -> Server:
        """Start the job itself, with a store that is empty and no log."""
        directory = self._directory("lean")
        settings = ["serve.log_directory=null", "serve.max_staleness_seconds=null"]
        command = self._command("jobs.serve_realtime", directory, settings)
        command += ["--host", "127.0.0.1", "--port", "0", "--workers", "1"]
        say("starting the lean server")
        return self._open.enter_context(lean_server(command, self._code_environment(), directory))

    def _start_async(self, name: str, batch_rows: int) -> Server:
        """Start gateway and worker with a database of their own, a store that is empty and no log."""
        directory = self._directory(name)
        settings = [
            "serve.log_directory=null",
            f"submissions.database_url=sqlite:///{directory}/submissions.db",
            f"submissions.batch_rows={batch_rows}",
            "submissions.scorers=1",
        ]
        gateway = self._command("jobs.serve_async", directory, settings)
        gateway += ["--host", "127.0.0.1", "--port", "0"]
        worker = self._command("jobs.work_async", directory, settings)
        say("starting a gateway and a worker")
        environment = self._code_environment()
        return self._open.enter_context(async_server(gateway, worker, environment, directory))

    def _command(self, job: str, directory: Path, settings: Sequence[str]) -> list[str]:
        """Return the command of a job with this model, its version pinned, and an online store that is empty."""
        pinned = [f"model.version={self.version.version}"] if self.version is not None else []
        settings = [*pinned, f"store.url=sqlite:///{directory}/online.db", *settings]
        command = [sys.executable, "-m", job, *self._flags]
        command += [part for setting in settings for part in ("--set", setting)]
        return command if self.version is not None else [*command, "--bundle", str(self.bundle)]

    def _code_environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(_CODE), self._environment.get("PYTHONPATH", "")]))
        return {**self._environment, "PYTHONPATH": path}

    def _start_stock(self) -> Server:
        """Start MLflow's command, in which the model runs with the code that it brings."""
        uri = self.model_uri()
        import mlflow

        environment = {
            name: value
            for name, value in {**os.environ, **self._environment}.items()
            if name != "PYTHONPATH" and not name.startswith("ONESCORE_")
        }
        environment |= {
            "MLFLOW_TRACKING_URI": str(mlflow.get_tracking_uri()),
            "MLFLOW_REGISTRY_URI": str(mlflow.get_registry_uri()),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
        }
        say("starting mlflow models serve")
        return self._open.enter_context(stock_server(uri, environment, self._directory("stock")))

    def _directory(self, name: str) -> Path:
        directory = self.scratch() / name
        directory.mkdir()
        return directory
