"""Where the model versions of submissions are on this machine: fetched from the registry once each, by number and digest.

A submission names its version, not an alias, so what it is scored with does not change while it waits. MLflow is imported when the first
version has to be fetched.
"""

from __future__ import annotations

import threading
from pathlib import Path

from feature_pipelines.errors import ModelError
from jobs.runs.conf import Conf
from jobs.submissions.ledger import Submission
from jobs.submissions.scoring import Model
from udfs.bundle import bundle_digest

__all__ = ["Models"]


class Models:
    """Finds versions; any number of threads may ask.

    Args:
        conf: names the registry and the cache.
        bundle: the one model of a worker that asks no registry; None = ask.
    """

    def __init__(self, conf: Conf, bundle: Path | None) -> None:
        self._conf = conf
        self._lock = threading.Lock()
        self._found: dict[str, Path] = {}
        self._asks = bundle is None
        if bundle is not None:
            self._found[bundle_digest(bundle)] = bundle.resolve()

    def of(self, submission: Submission) -> Model:
        """Return the version that a submission is to be scored with.

        Raises:
            ModelError: this worker cannot have it: it is gone, changed, or of another registry. UnavailableError: not just now.
        """
        return self.known(submission.model, submission.model_version, submission.model_digest)

    def known(self, name: str, version: str | None, digest: str) -> Model:
        """Return a version by its name, number and digest. Raises as `of` does."""
        with self._lock:
            directory = self._found.get(digest)
            if directory is None:
                directory = self._found[digest] = self._fetched(name, version, digest)
        return Model(str(directory), version, digest, self._conf.model.allow_tolerance)

    def _fetched(self, name: str, version: str | None, digest: str) -> Path:
        if not self._asks or version is None:
            raise ModelError(
                "this worker serves one directory, and the submission was taken for another model"
            )
        from jobs.runs.tracking import connect_from
        from udfs.registry import fetch, resolve

        uri = f"models:/{name}/{version}"
        found = resolve(uri, connect_from(self._conf))
        if found.digest != digest:
            raise ModelError(
                f"{uri} is not the model that the submission was taken for: its digest is another"
            )
        return fetch(found, Path(self._conf.storage.cache))
