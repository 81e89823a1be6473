"""The shape of the project: who may import what, what lies where, and what a public name is."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("feature_pipelines", "udfs", "jobs")
MAX_LINES = 400

FOLDERS = {"conf", "feature_pipelines", "jobs", "notebooks", "tests", "udfs"}
FILES = {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.cfg"}


_BLOCK = """
import importlib, sys

class Block:
    def __init__(self, allowed, forbidden):
        self.allowed, self.forbidden = allowed, forbidden
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        standard = top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        if top in self.forbidden or (self.allowed and top not in self.allowed and not standard):
            raise ModuleNotFoundError(f"{name} is blocked by the import contract", name=name)
        return None

allowed, forbidden, *modules = sys.argv[1:]
sys.meta_path.insert(0, Block(set(filter(None, allowed.split(","))), set(filter(None, forbidden.split(",")))))
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        sys.exit(f"{module}: {error}")
"""


def modules_of(*packages: str) -> dict[str, Path]:
    """Return every module by dotted name, packages by their own name."""
    found = {}
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules_of(*PACKAGES)

# The three import contracts. A module of feature_pipelines that is named in no other is core.
ARROW_EDGE = sorted(m for m in MODULES if m.startswith("feature_pipelines") and m.endswith("_arrow"))
IMAGES = "feature_pipelines.images"
ADAPTERS = ("feature_pipelines.stores.redis", "feature_pipelines.offline", IMAGES)
CORE_OF_UDFS = ["udfs.trees"]
SPARK_SIDE_OF_UDFS = {"udfs.shipped", "udfs.spark_udf"}


def reads_images(module: str) -> bool:
    """Return whether a feature module needs the adapter to images."""
    return (
        module.startswith("feature_pipelines.features.")
        and f"from {IMAGES} import" in MODULES[module].read_text()
    )


def tracked_files() -> list[Path]:
    """Return what is, or could be, committed; without git, what is not a cache."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        command = [git, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
            "\0"
        )
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    hidden = {file.name for file in ROOT.iterdir() if file.is_dir() and file.name.startswith(".")} - {".ci"}
    made = {*hidden, "build", "dist", "__pycache__", "onescore.egg-info"}
    return [
        file for file in ROOT.rglob("*") if file.is_file() and not made & set(file.relative_to(ROOT).parts)
    ]


def import_blocked(
    modules: list[str], environment: dict[str, str], allowed: str = "", forbidden: str = ""
) -> None:
    """Import the modules in a new process in which only what is allowed, or all but what is forbidden, can be imported."""
    command = [sys.executable, "-c", _BLOCK, allowed, forbidden, *modules]
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


# Imports


def test_import_contracts_of_setup_cfg_hold(process_env: dict[str, str]) -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, cwd=ROOT, env=process_env, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_import_contracts_list_every_entry_point_and_subpackage_of_jobs() -> None:
    listed = set(
        re.findall(
            r"\bjobs\.\w+", (ROOT / "setup.cfg").read_text(encoding="utf-8").partition("[importlinter]")[2]
        )
    )
    assert listed == {module for module in MODULES if module.count(".") == 1 and module.startswith("jobs.")}


def test_core_needs_numpy_alone(process_env: dict[str, str]) -> None:
    pipelines = (m for m in MODULES if m.startswith("feature_pipelines") and m not in ARROW_EDGE)
    core = [m for m in pipelines if not m.startswith(ADAPTERS) and not reads_images(m)] + CORE_OF_UDFS
    assert set(core) > {"feature_pipelines.png", "feature_pipelines.features.flights"}
    import_blocked(core, process_env, allowed="numpy,feature_pipelines,udfs")


def test_features_of_images_need_the_adapters_one_library_besides(process_env: dict[str, str]) -> None:
    modules = [IMAGES, *(m for m in MODULES if reads_images(m))]
    assert len(modules) >= 2
    import_blocked(modules, process_env, allowed="numpy,PIL,feature_pipelines")
    with pytest.raises(AssertionError, match="PIL is blocked by the import contract"):
        import_blocked(modules[1:], process_env, allowed="numpy,feature_pipelines")


def test_arrow_edge_needs_pyarrow_besides(process_env: dict[str, str]) -> None:
    import_blocked(ARROW_EDGE, process_env, allowed="numpy,pyarrow,feature_pipelines")


def test_online_paths_need_no_spark(process_env: dict[str, str]) -> None:
    online = [m for m in MODULES if not m.startswith(("jobs", *ADAPTERS)) and m not in SPARK_SIDE_OF_UDFS]
    import_blocked(online, process_env, forbidden="pyspark,py4j")


def test_tasks_need_no_delta_and_no_mlflow_on_workers(process_env: dict[str, str]) -> None:
    forbidden = "deltalake,mlflow,pydantic,yaml,sklearn,skops,pandas,matplotlib"
    tasks = [module for module in MODULES if module.startswith("jobs.") and module.endswith("_task")]
    assert len(tasks) >= 4
    others = [
        "jobs.runs.csv_files",
        "jobs.runs.staging",
        "jobs.proof.logged_views",
        "jobs.tables.delta_additions",
        "jobs.tables.delta_stream",
        "feature_pipelines.offline.view_batches",
    ]
    import_blocked([*tasks, *others], process_env, forbidden=forbidden)


def test_who_runs_tasks_sends_them_the_code() -> None:
    """A task travels by the name of its module, which a worker without this project can import only once it was sent."""
    sent_by = {
        "jobs.runs.staging": "jobs.runs.score_run",
        "jobs.runs.shuffled_view": "jobs.runs.score_run",
        "jobs.proof.logged_views": "jobs.proof.reconcile_run",
        "jobs.runs.stream_batch": "jobs.runs.stream_model",
        "jobs.runs.stream_source": "jobs.runs.stream_run",
    }
    by_the_user = {
        "feature_pipelines.offline.as_of_join"
    }  # a layer below what sends code: its docstring says so
    runs_tasks = {"mapInArrow", "mapInPandas", "applyInArrow", "applyInPandas"}
    trees = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in MODULES.items()}
    found = {module for module, tree in trees.items() if called(tree) & runs_tasks} - by_the_user
    assert found >= {
        "jobs.runs.build_run",
        "jobs.runs.score_run",
        "jobs.runs.staging",
        "jobs.tables.resample",
    }
    for module in found:
        assert called(trees[sent_by.get(module, module)]) & {"ship", "ship_code"}, (
            f"{module} runs tasks, and nobody sends their code"
        )


def called(tree: ast.AST) -> set[str]:
    """Return the last name of everything that is called."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        f.attr if isinstance(f, ast.Attribute) else f.id
        for f in functions
        if isinstance(f, ast.Attribute | ast.Name)
    }


def test_worker_of_the_server_needs_no_spark_and_no_mlflow(process_env: dict[str, str]) -> None:
    forbidden = "pyspark,py4j,mlflow,deltalake,pydantic,yaml,matplotlib"
    import_blocked(["jobs.online.worker"], process_env, forbidden=forbidden)


def test_handlers_of_functions_need_numpy_alone(process_env: dict[str, str]) -> None:
    """Estimators' libraries, a Redis store and S3 are imported where they are used, and with flat trees nowhere."""
    allowed = "numpy,feature_pipelines,udfs,jobs"
    import_blocked(["jobs.serve_lambda", "jobs.serve_function"], process_env, allowed=allowed)


def test_process_that_scores_submissions_needs_no_spark_no_mlflow_and_no_database(
    process_env: dict[str, str],
) -> None:
    forbidden = "pyspark,py4j,mlflow,deltalake,pydantic,yaml,matplotlib,pandas,dbos,sqlalchemy,fastapi"
    import_blocked(["jobs.submissions.scorer_process"], process_env, forbidden=forbidden)


def test_gateway_and_worker_of_submissions_need_no_spark_and_no_mlflow(process_env: dict[str, str]) -> None:
    modules = ["jobs.submissions.gateway", "jobs.submissions.worker"]
    import_blocked(modules, process_env, forbidden="pyspark,py4j,mlflow,matplotlib,sklearn,pandas")


def test_block_is_effective(process_env: dict[str, str]) -> None:
    """The three tests above would pass for the wrong reason if nothing were blocked."""
    with pytest.raises(AssertionError, match="pyarrow is blocked by the import contract"):
        import_blocked(ARROW_EDGE, process_env, allowed="numpy,feature_pipelines")
    with pytest.raises(AssertionError, match="pyspark is blocked by the import contract"):
        import_blocked(["pyspark"], process_env, forbidden="pyspark")


def test_import_contracts_name_modules_that_exist() -> None:
    assert set(MODULES) >= {"feature_pipelines.schema_arrow", *ARROW_EDGE, *CORE_OF_UDFS, *SPARK_SIDE_OF_UDFS}


# Layout


def test_top_level_is_fixed() -> None:
    files = [file.relative_to(ROOT) for file in tracked_files()]
    folders = {file.parts[0] for file in files if len(file.parts) > 1}
    assert {name for name in folders if not name.startswith(".")} == FOLDERS
    assert {str(file) for file in files if len(file.parts) == 1 and not file.name.startswith(".")} == FILES


def test_pyproject_says_only_how_to_build() -> None:
    assert len((ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("feature_pipelines.features.")])
def test_module_has_one_subject(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert module.rpartition(".")[2] not in {"utils", "util", "helpers", "common", "misc", "manager"}


def test_no_path_of_a_machine_is_committed() -> None:
    machine = re.compile(r"(?<![\w.])/(?:work|root|(?:Users|home)/(?!someone\b))/?\w")
    for file in tracked_files():
        if (
            file.suffix not in {".png", ".npz", ".parquet", ".skops", ".zip"}
            and file != Path(__file__).resolve()
        ):
            text = file.read_text(encoding="utf-8", errors="replace")
            found = [line.strip() for line in text.splitlines() if machine.search(line)]
            assert not found, f"{file.relative_to(ROOT)}: {found[:3]}"


# Public names


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("feature_pipelines.features")])
def test_all_names_every_public_function_and_class(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    defined, listed = set(), None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            listed = ast.literal_eval(node.value)
    public = {name for name in defined if not name.startswith("_")}
    assert listed is not None or not public, f"{module} has no __all__"
    assert public <= set(listed or ()), f"{module}: not in __all__: {sorted(public - set(listed or ()))}"
    assert len(listed or ()) == len(set(listed or ()))


def test_all_names_only_what_exists(process_env: dict[str, str]) -> None:
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        "    missing = [n for n in getattr(module, '__all__', ()) if not hasattr(module, n)]\n"
        "    if missing: sys.exit(f'{name}: {missing}')\n"
    )
    command = [sys.executable, "-c", program, *MODULES]
    answer = subprocess.run(command, cwd=ROOT, env=process_env, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


# Packaging


def test_conf_of_every_environment_and_model_is_package_data() -> None:
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert re.search(r"^conf = \*\.yaml", text, flags=re.MULTILINE)
    assert re.search(r"^    conf$", text, flags=re.MULTILINE)


def test_every_declared_dependency_is_pinned() -> None:
    pinned = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    }
    declared = re.findall(
        r"^    ([A-Za-z][\w.-]*)(?:\[[\w,]+\])?[<>=!].*\d", (ROOT / "setup.cfg").read_text(), re.MULTILINE
    )
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in declared}
    assert {"numpy", "pyspark", "mlflow", "pytest", "ruff"} <= names
    assert names <= pinned
