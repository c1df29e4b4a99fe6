"""Rules of the house, read off the source: layers, sizes, names, banned calls."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unipot"
#: sources under our rules, tests included where the rule says so
MODULES = sorted(PACKAGE.rglob("*.py"))
OTHERS = sorted(path for name in ("data_recipes", "scripts", "tests") for path in (ROOT / name).rglob("*.py"))

#: first part of a module's path below `unipot` -> row of DESIGN §2
LAYERS = {
    "units": 0, "properties": 0, "resources": 0, "terminal": 0, "yaml_files": 0, "errors": 0, "nearest": 0,
    "structure": 1, "neighbors": 1, "batch": 1, "composition": 1, "occupancy": 1,
    "data": 2, "models": 2,
    "zoo": 3,
    "training": 4, "finetune": 4, "simulate": 4, "calculator": 4, "evaluation": 4, "testing": 4, "reporting": 4,
    "workflows": 5, "cli": 6, "api": 6, "commands": 0, "command_help": 5, "defects": 5,
}  # fmt: skip
SIBLINGS = {"data": "models", "models": "data"}
BANNED_NAMES = {"utils", "helpers", "common", "base", "misc"}
MAX_LINES, MAX_FUNCTION_LINES = 400, 40
#: functions that may be longer, up to the hard limit of 80, and why
LONGER_FUNCTIONS = {
    "pretrain": "a table of contents, at most 60 lines by DESIGN §1",
    "finetune": "a table of contents, at most 60 lines by DESIGN §1",
    "NativeBackbone.__init__": "one line per submodule",
}
HEAVY = {"fairchem", "wandb", "datasets", "huggingface_hub", "matplotlib", "pyscf", "tblite"}
FORBIDDEN_IMPORTS = {"pickle", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "pickle.load", "pickle.loads"}
#: may name pickle's exceptions (never its load), to tell a hostile or damaged file from a good one
CATCHES_UNPICKLING_ERRORS = {"unipot/models/fairchem_checkpoint.py"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def layer_name(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> list[str]:
    """Dotted names of everything imported anywhere in `tree`; what only type checkers see counts too: a reader follows it all the same."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] if node.module != "unipot" else [f"unipot.{alias.name}" for alias in node.names]
    return names


def arrows(paths: Iterable[Path]) -> dict[str, set[str]]:
    """File -> files of the package that it imports; packages themselves (`__init__.py`) are no places to import from."""
    modules = {name_of(path)[: -len(".py")].replace("/", "."): name_of(path) for path in paths if path.stem != "__init__"}
    found: dict[str, set[str]] = {name: set() for name in modules.values()}
    for path in paths:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module and path.stem != "__init__":
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                found[name_of(path)] |= {modules[name] for name in names if name in modules} - {name_of(path)}
    return found


def in_circles(found: dict[str, set[str]]) -> list[str]:
    """Files from which a chain of imports leads back to themselves."""

    def reached(start: str) -> set[str]:
        seen, waiting = set(), list(found[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += found[name]
        return seen

    return sorted(name for name in found if name in reached(name))


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """(qualified name, node) of every function."""
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        name = f"{prefix}{node.name}" if is_function or isinstance(node, ast.ClassDef) else prefix.removesuffix(".")
        if is_function:
            yield name, node
        yield from functions(node, f"{name}." if name else "")


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    docstring = ast.get_docstring(function, clean=False)
    return function.end_lineno - function.lineno + 1 - (len(docstring.splitlines()) if docstring else 0)


def at(path: Path, node: ast.AST) -> str:
    return f"{name_of(path)}:{node.lineno}"


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def called_name(call: ast.Call) -> str:
    return ast.unparse(call.func)


def test_imports_go_down_only():
    violations = []
    for path in MODULES:
        own = layer_name(path)
        if own == "__init__":
            continue
        assert own in LAYERS, f"{name_of(path)} has no layer; add {own!r} to LAYERS"
        for module in imported(tree_of(path)):
            target = module.split(".")[1] if module.startswith("unipot.") else own
            if target not in (own, "__version__") and (LAYERS.get(target, -1) > LAYERS[own] or SIBLINGS.get(own) == target):
                violations.append(f"{name_of(path)} imports {module}")
    assert violations == []


def test_no_imports_run_in_circles():
    assert in_circles(arrows(MODULES)) == []


def test_parts_never_import_commands():
    """Files flat in `workflows/` are commands, folders in it are their parts; a command may be run by the command line alone."""
    commands = {name_of(path) for path in (PACKAGE / "workflows").glob("*.py")}
    violations = [f"{name} imports {other}" for name, others in arrows(MODULES).items() for other in others & commands]
    assert [line for line in violations if not line.startswith("unipot/cli.py")] == []


def test_files_are_short():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in [*MODULES, *OTHERS]}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_functions_are_short():
    violations = []
    for path in MODULES:
        for name, function in functions(tree_of(path)):
            limit = 60 if name in LONGER_FUNCTIONS else MAX_FUNCTION_LINES
            if body_lines(function) > limit:
                violations.append(f"{at(path, function)} {name} has {body_lines(function)} lines")
    assert violations == []


def test_files_have_names_that_say_something():
    assert [name_of(path) for path in [*MODULES, *OTHERS] if path.stem in BANNED_NAMES] == []


def test_nothing_unsafe_is_imported_or_called():
    violations = []
    for path in [*MODULES, *OTHERS]:
        tree = tree_of(path)
        bad = [module for module in imported(tree) if module.split(".")[0] in FORBIDDEN_IMPORTS]
        if name_of(path) not in CATCHES_UNPICKLING_ERRORS and "tests" not in path.parts:
            violations += [f"{name_of(path)} imports {module}" for module in bad]
        violations += [f"{at(path, call)} calls {called_name(call)}" for call in calls(tree) if called_name(call) in FORBIDDEN_CALLS]
    assert [line for line in violations if not line.startswith("tests/")] == []


def test_torch_load_is_weights_only():
    violations = []
    for path in MODULES:
        for call in calls(tree_of(path)):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if called_name(call) == "torch.load" and options.get("weights_only") != "True":
                violations.append(at(path, call))
    assert violations == []


def test_squeeze_says_which_dimension():
    squeezes = [(path, call) for path in MODULES for call in calls(tree_of(path)) if getattr(call.func, "attr", "") == "squeeze"]
    assert [at(path, call) for path, call in squeezes if not call.args and not call.keywords] == []


def test_models_are_differentiated_in_one_place():
    # recomputation.py and operators.py pull gradients through a layer or an operator on behalf of autograd; they know no geometry
    allowed = ("derivatives.py", "recomputation.py", "operators.py")
    models = [path for path in MODULES if layer_name(path) == "models" and path.name not in allowed]
    assert [at(path, call) for path in models for call in calls(tree_of(path)) if called_name(call).endswith("autograd.grad")] == []


def test_heavy_packages_are_imported_where_needed():
    violations = []
    for path in MODULES:
        top_level = [node for node in tree_of(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name.split(".")[0] for node in top_level for name in imported(node)}
        violations += [f"{name_of(path)} imports {name}" for name in sorted(names & HEAVY)]
    assert violations == []


def test_no_exception_is_swallowed():
    violations = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            broad = isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
            if broad and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                violations.append(at(path, node))
    assert violations == []


def test_public_functions_have_a_return_type():
    violations = []
    for path in MODULES:
        for name, function in functions(tree_of(path)):
            if not any(part.startswith("_") for part in name.split(".")) and function.returns is None:
                violations.append(f"{at(path, function)} {name}")
    assert violations == []


def test_a_circle_of_imports_is_seen():
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


def test_rules_see_what_they_forbid():
    tree = ast.parse("from unipot.workflows.pretrain import pretrain\nimport torch\nclass A:\n    def f(self):\n        def g(): ...\n")
    assert imported(tree) == ["unipot.workflows.pretrain", "torch"]
    assert [name for name, _ in functions(tree)] == ["A.f", "A.f.g"]
    assert LAYERS["workflows"] > LAYERS["data"]
