"""Package a registered model as a function: a zip for AWS Lambda, and a container's context for Lambda and Google.

python -m jobs.package_serverless --model flights
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feature_pipelines.columns import DType
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError
from feature_pipelines.wire import encode
from jobs.runs.chosen_model import chosen_model
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.progress import say, table
from jobs.serverless.package import (
    MOST_BYTES,
    Packaged,
    add_code,
    describe_package,
    largest_parts,
    write_context,
    write_model,
    zip_runtime,
)
from jobs.serverless.package_check import ask_package
from jobs.serverless.package_settings import function_settings
from jobs.serverless.package_tree import write_zip
from jobs.serverless.settings import MANIFEST
from udfs.bundle import bundle_digest, read_golden

__all__ = ["main"]

_DIRECT_BYTES = 50_000_000
_WRITTEN = ("context", "function.zip")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    arguments = _parser().parse_args(argv)
    conf = load_from(arguments)
    with tempfile.TemporaryDirectory(prefix="onescore-") as scratch:
        found, bundle = chosen_model(conf, arguments.bundle, Path(scratch) if arguments.dry_run else None)
        version = None if found is None else found.version
        digest = bundle_digest(bundle) if found is None else found.digest
        feature_set = read_golden(bundle, digest).feature_set
        snapshot_of = _snapshot_of(conf, feature_set)
        name = f"{conf.model.name}-{version or digest[:12]}"
        target = Path(arguments.output or Path(conf.serverless.directory) / name)
        _require_replaceable(target)
        facts: dict[str, Any] = {
            "model": f"{conf.model.name} version {version or 'not known'} (digest {digest[:12]})",
            "package": target,
            "store": _said_store(conf, feature_set, snapshot_of),
        }
        if arguments.dry_run:
            print("plan (nothing was written)")
            print(table(facts))
            return 0
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".packaging-", dir=target.parent) as made:
        root = Path(made) / name
        app = root / "context" / "app"
        say("copying the model, its code and its libraries")
        through = write_model(
            app,
            bundle,
            function_settings(conf),
            version=version,
            digest=digest,
            views=feature_set.views,
            snapshot_of=snapshot_of,
        )
        modules, libraries = add_code(app, bundle, with_redis=conf.serverless.store == "environment")
        packaged = describe_package(app, modules, libraries, through)
        write_context(root / "context")
        say("asking the package its model's golden rows")
        checked = ask_package(app, bundle)
        zipped = _zipped(packaged, app, root / "function.zip")
        _require_replaceable(target)
        if target.exists():
            target.rename(Path(made) / "earlier")
        root.rename(target)
    facts |= _said(packaged, zipped)
    facts["golden rows"] = (
        f"{checked.rows} of {checked.rows} equal in every bit ({checked.verified}); first answer {checked.seconds:.2f} s after the start"
    )
    print(table(facts))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = job_parser("package_serverless", __doc__, _EPILOG)
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="package the model in this directory; no registry is asked"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the package goes (default: below serverless.directory); replaced if it holds an earlier package, "
        "refused if it holds anything else",
    )
    return parser


def _require_replaceable(target: Path) -> None:
    """Refuse to put a package where there is anything but an earlier one.

    Raises:
        ConfigurationError: the target is no directory, or has what no packaging wrote.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigurationError(f"{target} is there and is no directory: give another one with --output")
    found = sorted(path.name for path in target.iterdir())
    others = [name for name in found if name not in _WRITTEN]
    if found and (others or not (target / "context" / "app" / MANIFEST).is_file()):
        said = ", ".join((others or found)[:5])
        raise ConfigurationError(
            f"{target} is not empty and holds no earlier package alone ({len(others or found)} that are none: {said}), so it is not "
            "replaced: give a new, an empty or an earlier package's directory with --output, or empty it yourself"
        )


def _snapshot_of(conf: Conf, feature_set: FeatureSet) -> Path | None:
    if conf.serverless.store != "snapshot" or not feature_set.views:
        return None
    url = conf.store.url
    if not url.startswith("sqlite:///"):
        raise ConfigurationError(
            "serverless.store is snapshot, and store.url is no SQLite store: materialise into one (--set store.url=sqlite:///PATH) and "
            "package that, or set serverless.store=environment"
        )
    return Path(url.removeprefix("sqlite:///"))


def _said_store(conf: Conf, feature_set: FeatureSet, snapshot_of: Path | None) -> str:
    if not feature_set.views:
        return "not needed: the model has no stored features"
    if snapshot_of is not None:
        return f"a snapshot of {snapshot_of}"
    return {
        "environment": "that of ONESCORE_STORE_URL when it runs",
        "none": "none: rows bring their stored fields",
    }[conf.serverless.store]


def _zipped(packaged: Packaged, app: Path, target: Path) -> dict[str, Any]:
    """Write function.zip, unless Lambda would not take it; return what is said of it."""
    if packaged.unzipped_bytes > MOST_BYTES:
        said = (
            f"none: Lambda unzips {MOST_BYTES / 1e6:.0f} MB at most, and this has more; largest: {largest_parts(app)}. Deploy the "
            "container, context/, or leave out what it need not contain, such as a snapshot of a large store"
        )
        return {"function.zip": said}
    digest = write_zip(app, target)
    n_bytes = target.stat().st_size
    return {
        "function.zip": f"{n_bytes / 1e6:.1f} MB, SHA-256 {digest}"
        + (" (upload it through S3: Lambda takes 50 MB directly)" if n_bytes > _DIRECT_BYTES else ""),
        "zip runs on": zip_runtime(packaged.libraries),
    }


def _said(packaged: Packaged, zipped: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "unzipped": f"{packaged.unzipped_bytes / 1e6:.1f} MB of {MOST_BYTES / 1e6:.0f} MB",
        **zipped,
        "libraries": [f"{name} {version}" for name, version in packaged.libraries.items()],
        "modules": f"{len(packaged.modules)} of this project",
    }
    if packaged.through:
        facts["features through"] = {
            name: encode(DType("timestamp"), [w])[0] for name, w in packaged.through.items()
        }
    return facts


_EPILOG = """\
Lambda: create the function from function.zip with the handler jobs.serve_lambda.handler and the Python named in onescore.json, or
from an image built of context/. Google: build context/ with -f Dockerfile.functions. All read ONESCORE_* variables;
conf/README.md has the limits under serverless.
The libraries are those of this environment, so package on Linux with the Python and the processor that the function has.
Where the package has more than the 250 MB that Lambda unzips, there is no function.zip, and the container is complete.
Exit codes: 0 packaged and its golden rows equal; 1 code and libraries too large, or a bit differs; 2 usage or configuration."""

if __name__ == "__main__":
    sys.exit(run(main))
