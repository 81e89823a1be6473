"""A model's own copy of its features: found, imported under a private name, several at once, refused when it was changed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from feature_pipelines.columns import Strings
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import DefinitionError, ModelIntegrityError
from feature_pipelines.evaluate import evaluate
from feature_pipelines.features.flights import FEATURES as FLIGHTS
from feature_pipelines.fingerprint import fingerprint
from feature_pipelines.packaged import (
    _imported_from,
    import_packaged,
    imported_libraries,
    load_reference,
    package_sources,
)

Toy = Callable[[Mapping[str, tuple[str, str]]], tuple[str, FeatureSet]]
FLIGHTS_REFERENCE = "feature_pipelines.features.flights:FEATURES"


def scores(feature_set: FeatureSet) -> list[float]:
    columns: dict[str, Any] = {"carrier": Strings.of(["UA", "??"]), "speed": np.array([10.0, 20.0])}
    matrix = evaluate(feature_set, columns, {"mean_speed": 1.0}, 2)
    return [float(value) for value in matrix[0]]


@pytest.fixture(autouse=True)
def _forget_private_packages() -> Any:
    yield
    for name in [name for name in sys.modules if name.startswith("_onescore_")]:
        del sys.modules[name]


def test_load_reference_finds_the_feature_set() -> None:
    assert load_reference(FLIGHTS_REFERENCE) is FLIGHTS
    assert load_reference("feature_pipelines.features.flights") is FLIGHTS


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("feature_pipelines.features.flight:FEATURES", "no module 'feature_pipelines.features.flight'"),
        ("nowhere.at.all:X", "feature set 'nowhere.at.all:X': no module 'nowhere'"),
        (
            "feature_pipelines.features.flights:FEATURE",
            r"is not a FeatureSet. Did you mean 'FEATURES'\? Available: FEATURES",
        ),
        (
            "feature_pipelines.features.flights:REQUEST",
            "'feature_pipelines.features.flights:REQUEST' is not a FeatureSet",
        ),
    ],
)
def test_load_reference_names_what_is_not_there(reference: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        load_reference(reference)


def test_package_sources_are_the_files_that_the_module_needs() -> None:
    files = package_sources(FLIGHTS_REFERENCE)
    assert set(files) == {"flights.py", "flight_history.py", "calendar.py"}
    assert b"def plane_age_years" in files["flights.py"]


def test_package_sources_follow_only_imports_inside_the_package(toy: Toy) -> None:
    package, _ = toy(
        {"features": ("from .tables import", "from .tables import capped as _c\nfrom .tables import")}
    )
    assert set(package_sources(f"{package}.features:TOY")) == {"features.py", "tables.py"}
    absolute = (
        "from .tables import RATES",
        "from feature_pipelines.features.calendar import YEAR\nfrom .tables import RATES",
    )
    package, _ = toy({"features": absolute})
    assert set(package_sources(f"{package}.features:TOY")) == {"features.py", "tables.py"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "from {package}.tables import RATES",
            "ties features to the installed package; write 'from .tables import ...'",
        ),
        ("from {package} import tables", "ties features to the installed package"),
        (
            "import {package}.tables as t",
            "ties features to the installed package; write 'from .tables import ...'",
        ),
        ("import {package}", "ties features to the installed package"),
        ("from ..other import x", "leaves the package"),
        ("from . import tables", "hides what is used; write 'from .tables import ...'"),
        ("from .tables import *", "hides what is used; name it"),
        ("def f():\n    from .tables import RATES", "escapes the fingerprint; move it to the top"),
    ],
)
def test_package_sources_refuse_an_import_that_a_copy_could_not_follow(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    package, _ = toy({})
    module = sys.modules[f"{package}.features"]
    text = source.format(package=package)
    monkeypatch.setattr(module.__spec__.loader, "get_source", lambda name: text, raising=False)
    with pytest.raises(DefinitionError, match=message):
        package_sources(f"{package}.features:TOY")


def test_package_sources_refuse_an_import_of_the_package_from_its_parent() -> None:
    with pytest.raises(DefinitionError, match="ties features to the installed package"):
        _imported_from("feature_pipelines.features", "from feature_pipelines import features")


def test_the_copy_is_another_module_with_the_same_fingerprint() -> None:
    files = package_sources(FLIGHTS_REFERENCE)
    copy = import_packaged(files, "flights", "FEATURES", fingerprint(FLIGHTS))
    assert copy is not FLIGHTS
    assert copy.feature_names == FLIGHTS.feature_names
    assert {f.__module__.partition(".")[0] for f in copy.features} == {
        copy.features[0].__module__.partition(".")[0]
    }
    assert copy.features[0].__module__.startswith(f"_onescore_{fingerprint(FLIGHTS)[:16]}_")
    assert copy.features[0].__globals__["DAY_OF_YEAR"] is not FLIGHTS.features[0].__globals__["DAY_OF_YEAR"]


def test_one_content_is_imported_once(toy: Toy) -> None:
    package, original = toy({})
    files = package_sources(f"{package}.features:TOY")
    first = import_packaged(files, "features", "TOY", fingerprint(original))
    assert import_packaged(dict(files), "features", "TOY", fingerprint(original)) is first
    assert scores(first) == scores(original)
    assert fingerprint(first) == fingerprint(original)


def test_two_versions_with_other_code_live_in_one_process(toy: Toy) -> None:
    versions = {}
    for number, rate in ((1, "1.5"), (2, "7.5")):
        package, original = toy({"tables": ('RATES = {"UA": 1.5}', f'RATES = {{"UA": {rate}}}')})
        files = package_sources(f"{package}.features:TOY")
        versions[number] = import_packaged(files, "features", "TOY", fingerprint(original))
        for name in [name for name in sys.modules if name.startswith(package)]:
            del sys.modules[name]
    assert scores(versions[1]) == [1.5, 2.0]
    assert scores(versions[2]) == [7.5, 2.0]
    assert scores(versions[1]) == [1.5, 2.0]


def test_the_copy_is_run_even_when_the_installed_module_has_changed(toy: Toy) -> None:
    package, original = toy({})
    files = package_sources(f"{package}.features:TOY")
    expected = fingerprint(original)
    sys.modules[f"{package}.tables"].RATES["UA"] = 99.0
    assert scores(original) == [99.0, 2.0]
    assert scores(import_packaged(files, "features", "TOY", expected)) == [1.5, 2.0]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tables.py", 'RATES = {"UA": 1.5}', 'RATES = {"UA": 1.6}'),
        ("features.py", "value / 2", "value / 3"),
        ("features.py", "ttl_seconds=60", "ttl_seconds=61"),
    ],
)
def test_a_changed_file_is_refused(toy: Toy, name: str, old: str, new: str) -> None:
    package, original = toy({})
    files = package_sources(f"{package}.features:TOY")
    changed = {**files, name: files[name].replace(old.encode(), new.encode())}
    assert changed != files
    expected = fingerprint(original)
    message = f"the model's packaged features have fingerprint [0-9a-f]{{12}}, it recorded {expected[:12]}"
    with pytest.raises(ModelIntegrityError, match=message) as caught:
        import_packaged(changed, "features", "TOY", expected)
    assert caught.value.evidence["expected"] == expected
    assert scores(import_packaged(files, "features", "TOY", expected)) == [1.5, 2.0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"features.py": b"def ("}, "the model's packaged features cannot be imported: "),
        (
            {"features.py": b"import no_such_library"},
            "cannot be imported: No module named 'no_such_library'. Install what the model's features import",
        ),
        (
            {"features.py": b"from .gone import x"},
            r"cannot be imported: No module named '_onescore_.*\.gone'$",
        ),
        ({"features.py": b"TOY = 5"}, "cannot be imported: 'features:TOY' is not a FeatureSet"),
        ({}, r"cannot be imported: No module named '_onescore_.*\.features'"),
    ],
)
def test_what_cannot_be_imported_is_refused(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ModelIntegrityError, match=message):
        import_packaged(files, "features", "TOY", "0" * 64)


def test_threads_that_import_at_once_share_one_copy(toy: Toy) -> None:
    package, original = toy({})
    files = package_sources(f"{package}.features:TOY")
    expected = fingerprint(original)
    found: list[FeatureSet] = []
    barrier = threading.Barrier(8)

    def run() -> None:
        barrier.wait()
        found.append(import_packaged(files, "features", "TOY", expected))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(feature_set) for feature_set in found}) == 1


def test_what_features_import_is_found_through_this_package_too() -> None:
    files = {
        "features.py": b"from __future__ import annotations\nimport json\nimport numpy as np\nfrom .more import x\n"
        b"from feature_pipelines.columns import Float64\nif True:\n    import maybe\ndef f():\n    import later\n",
        "more.py": b"import some_library.part as p\nfrom other.inner import y\n",
    }
    assert imported_libraries(files) == {"numpy", "some_library", "other"}
    assert imported_libraries({"a.py": b"from feature_pipelines.images import grey_values"}) == {
        "numpy",
        "PIL",
    }
    assert imported_libraries({}) == set()
