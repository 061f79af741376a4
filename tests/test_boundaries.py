"""Who may import whom: the flow is one way, and reading needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOW = {  # stage -> modules, in the order of the flow; a module imports its own stage and what stands before it
    "ground": ["errors", "schema", "schema.history", "schema.manifest", "hashing", "home", "folders", "progress", "spec",
               "companding", "sets", "intervals", "claims"],
    "prompts": ["prompts", "prompt_files", "prompt_tables", "prompt_export", "prompt_import", "prompt_templates"],
    "model": ["architectures", "tokens", "model_sources", "model_folder", "registry", "devices", "placement", "fetch", "moe",
              "sites", "packed_linear", "identity_check", "model_files", "models", "conversion", "token_sequences"],
    "reduce": ["statistics", "jit", "host_rows", "reducers", "kernels", "kernels.rows", "kernels.ffn", "kernels.hopper",
               "kernels.gated", "device_reducers"],  # while activations pass by
    "capture": ["capture", "cett", "firing", "device_capture"],
    "store": ["store", "run_writer", "activation_files", "activation_table", "archive", "archive_import", "prompt_library",
              "retention"],
    "query": ["agreement", "slices", "query", "estimate"],
}
"""Modules that are not named (studies, jobs, commands) stand at the end: they may import all, nothing here imports them."""
WITHOUT_TORCH = ["query", "store", "schema", "jobs", "estimate", "archive", "run_writer", "registry", "prompts", "tokens",
                 "studies", "studies.requests", "figures.sweep", "figures.neuron", "figures.token_strip",
                 "studies.history.requests", "queries.history", "figures.history", "commands.history", "two_way",
                 "figures.map_payload", "agreement", "cli", "serve",
                 "model_sources", "model_folder",
                 "archive_import", "prompt_files", "prompt_import", "prompt_export", "prompt_library", "prompt_templates", "limits",
                 "schema.trinity", "studies.trinity.requests", "studies.trinity.operating", "queries.trinity", "figures.trinity",
                 "commands.trinity", "streams", "public", "retention", "worker", "job_reporter",
                 "export.view", "export.tables", "export.map_table", "figures.map_svg", "export.report", "export.notebook",
                 "slices", "queries.corpus", "datasets", "compaction", "cluster.engine",
                 "studies.predictors", "studies.predictors.request", "queries.predictors", "figures.predictors",
                 "figures.predictors_schemes", "figures.scheme_drawing", "methods.catalog",
                 "commands.predictors", "commands.fit", "methods.parts", "schema.predictors",
                 "studies.inertia", "queries.inertia", "figures.inertia", "figures.inertia_tests", "commands.inertia",
                 "studies.trial", "studies.trial.request", "studies.trial.verdicts", "schema.trial", "queries.trial",
                 "figures.trial", "commands.trial",
                 "theory", "monte_carlo", "studies.origin_requests", "queries.origin", "figures.origin"]
HEAVY = {"torch", "transformers", "safetensors", "accelerate"}


def sources(folder: str) -> dict[str, Path]:
    """Module name -> file, for a package of this repository."""
    files = sorted((ROOT / folder).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


CORE, APP = sources("moyu_core"), sources("app")


def type_checking(tree: ast.AST) -> set[ast.AST]:
    """Nodes that run for type checkers only."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(path: Path, lazy: bool = True) -> Iterator[str]:
    """Full names of what a file imports when it runs; without `lazy` only what it imports when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = type_checking(tree)
    if not lazy:
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
        skipped |= {inner for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in CORE or name in APP else str(node.module) for name in names)


def stage(module: str) -> int:
    """Where in the flow a module stands; the end for those that are not named."""
    name = module.removeprefix("moyu_core.")
    places = [number for number, modules in enumerate(FLOW.values()) if name in modules]
    return places[0] if places else len(FLOW)


def test_the_flow_names_modules_that_exist() -> None:
    named = {f"moyu_core.{module}" for modules in FLOW.values() for module in modules}
    assert named <= CORE.keys()


@pytest.mark.parametrize("module", [name for name in CORE if stage(name) < len(FLOW)])
def test_modules_import_only_upstream(module: str) -> None:
    for name in imports(CORE[module]):
        if name.startswith("moyu_core."):
            assert stage(name) <= stage(module), f"{module} imports {name}, which stands behind it in the flow"


def test_no_module_imports_itself_over_others() -> None:
    needs = {module: [name for name in imports(path, lazy=False) if name in CORE] for module, path in CORE.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path, module])}"
        if module not in done:
            for name in needs[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in CORE:
        visit(module, ())


@pytest.mark.parametrize("module", [name for name in CORE if name.startswith("moyu_core.figures")])
def test_figures_take_numbers(module: str) -> None:
    """They know no store, no query, no model: only each other and the ground."""
    allowed = {f"moyu_core.{name}" for name in FLOW["ground"]}
    for name in imports(CORE[module]):
        assert not name.startswith("moyu_core") or name in allowed or name.startswith("moyu_core.figures"), name


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_no_streamlit_and_no_pages(module: str) -> None:
    assert not [name for name in imports(CORE[module], lazy=False) if name.split(".")[0] in ("streamlit", "app")]
    if stage(module) < len(FLOW):
        assert not [name for name in imports(CORE[module]) if name.split(".")[0] in ("streamlit", "app")]


@pytest.mark.parametrize("module", APP)
def test_pages_import_no_torch_even_over_others(module: str) -> None:
    assert not [name for name in imports(APP[module]) if name.split(".")[0] in HEAVY]
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = list(imports({**CORE, **APP}[name], lazy=False))
        heavy = [other for other in found if other.split(".")[0] in HEAVY]
        assert not heavy, f"{module} reaches {name}, which imports {heavy[0]}"
        waiting += [other for other in found if other in CORE or other in APP]


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory of a fresh interpreter after the code has run."""
    script = f"{code}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_reading_loads_no_torch() -> None:
    found = loaded_by("\n".join(f"import moyu_core.{module}" for module in WITHOUT_TORCH))
    assert {"moyu_core", "pyarrow", "pandas", "plotly"} <= found
    assert not found & (HEAVY | {"streamlit"})


def test_the_app_loads_no_torch() -> None:
    helpers = [name for name in APP if name.startswith("app.ui.") or name.startswith("app.components.")]
    found = loaded_by("\n".join(f"import {name}" for name in helpers))
    assert {"app", "streamlit"} <= found
    assert not found & HEAVY
