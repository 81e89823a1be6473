"""Which modules are shipped: what is reached, in functions and by names too, and nothing that cannot be imported there."""

from __future__ import annotations

import pytest

import feature_pipelines
import jobs
import udfs
from feature_pipelines.errors import VerificationError
from jobs.serverless.package_code import libraries_of_sources, needed_modules, sources_by_module
from udfs.sources import package_files

SOURCES = {
    "own": "",
    "own.start": "from own.used import a\n\ndef f():\n    from own import late\n    import_module('own.backend')\n",
    "own.used": "import numpy\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from own.typed import T\n",
    "own.late": "import json\n",
    "own.backend": "import redis\n",
    "own.typed": "",
    "own.unused": "",
    "own.chain": "from own.backend import x\n",
    "own.reaches": "import own.start\n\ndef f():\n    import own.chain\n",
    "own.images": "import PIL.Image\n",
}
FEATURES = ["from own.images import decode\nimport math\nfrom .calendar import day\n"]


def test_what_is_reached_is_shipped_with_the_packages_that_hold_it() -> None:
    found = needed_modules(SOURCES, ["own.start"], [], {"numpy"})
    assert found == ["own", "own.late", "own.start", "own.used"]
    with_redis = needed_modules(SOURCES, ["own.start"], [], {"numpy", "redis"})
    assert set(with_redis) - set(found) == {"own.backend"}


def test_module_that_needs_one_that_is_left_out_is_left_out() -> None:
    assert "own.chain" not in needed_modules(SOURCES, ["own.reaches"], [], {"numpy"})


def test_features_bring_their_libraries_and_need_them() -> None:
    assert libraries_of_sources(FEATURES, SOURCES) == {"PIL"}
    assert "own.images" in needed_modules(SOURCES, ["own.start"], FEATURES, {"numpy", "PIL"})
    with pytest.raises(VerificationError, match=r"module own\.images needs PIL, which the package is not to"):
        needed_modules(SOURCES, ["own.start"], FEATURES, {"numpy"})


def test_functions_own_code_is_found_and_what_needs_arrow_or_a_configuration_is_not() -> None:
    files = {
        path: content
        for package in (feature_pipelines, udfs, jobs)
        for path, content in package_files(package).items()
    }
    found = set(
        needed_modules(
            sources_by_module(files),
            ["jobs.serve_lambda", "jobs.serve_function"],
            [],
            {"numpy", "boto3", "botocore"},
        )
    )
    assert found >= {
        "feature_pipelines.stores.sqlite",
        "jobs.serverless.objects_file",
        "jobs.serverless.objects_gcs",
        "jobs.serverless.objects_s3",
        "udfs.stored_estimator",
        "udfs.trees",
    }
    assert not {name for name in found if name.startswith(("jobs.runs", "jobs.proof", "jobs.tables"))}
    assert not found & {
        "feature_pipelines.schema_arrow",
        "feature_pipelines.stores.redis",
        "jobs.serverless.package",
        "udfs.prediction_log",
        "udfs.pyfunc",
        "udfs.registry",
        "udfs.spark_udf",
    }
