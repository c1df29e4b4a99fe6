"""A wheel installed outside the checkout has the configurations and recipes inside, and its command works."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling builds the wheel without a download")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    (path,) = folder.glob("unipot-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


def _unipot(installed, folder, *words):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "unipot.cli", *words]
    return subprocess.run(command, cwd=folder, env={**environment, "PYTHONPATH": str(installed)}, capture_output=True, text=True)


def test_dependencies_do_not_force_fairchem_on_anyone():
    required = " ".join(_project()["project"]["dependencies"])
    assert "torch>=" in required
    assert not {"fairchem", "tblite", "pyscf"} & set(required.replace(">", " ").split())


def test_every_pinned_version_satisfies_the_requirements():
    from packaging.requirements import Requirement

    lines = [line.split("#")[0].strip() for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines()]
    pinned = {Requirement(line).name.replace("_", "-"): Requirement(line) for line in lines if line}
    project = _project()["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, wanted):
        pin = pinned.get(requirement.name.replace("_", "-"))
        if pin is not None:
            (specifier,) = pin.specifier
            assert requirement.specifier.contains(specifier.version), f"{pin} does not satisfy {requirement}"
    assert str(pinned["torch"].specifier) == "==2.13.0"


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_the_malicious_releases_of_lightning_are_never_installed(name, version):
    from packaging.requirements import Requirement

    (requirement,) = [r for r in map(Requirement, _project()["project"]["dependencies"]) if r.name == name]
    assert not requirement.specifier.contains(version)
    assert requirement.specifier.contains("2.6.1") and requirement.specifier.contains("2.6.4")


def test_every_package_that_is_imported_is_required():
    """Not only what another package happens to bring along."""
    from packaging.requirements import Requirement

    project = _project()["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    required = {Requirement(line).name.replace("-", "_").lower() for line in wanted}
    names = {"hydra": "hydra_core", "yaml": "pyyaml", "fairchem": "fairchem_core"}
    imported = set()
    for file in (ROOT / "unipot").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "unipot"}
    assert {name for name in imported if names.get(name, name) not in required} == set()


def test_every_lower_limit_can_be_made_a_constraint():
    result = subprocess.run([sys.executable, "scripts/version_limits.py", "oldest"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split()
    assert "torch==2.13.0" in lines and "lmdb==1.5.1" in lines and all(line.count("==") == 1 for line in lines)


@pytest.mark.slow
def test_wheel_holds_configurations_and_recipes(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for source, target in (("conf", "_conf"), ("data_recipes", "_data_recipes")):
        files = [p for p in (ROOT / source).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        assert {f"unipot/{target}/{p.relative_to(ROOT / source).as_posix()}" for p in files} <= names
    assert not [n for n in names if n.startswith(("tests/", "scripts/"))]


@pytest.mark.slow
def test_wheel_holds_the_sources_of_compiled_kernels(wheel):
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "unipot").rglob("*.c")}
    assert "unipot/models/native/neighbor_sums.c" in sources
    assert sources <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_installed_command_works_outside_the_checkout(installed, tmp_path):
    result = _unipot(installed, tmp_path, "models", "list")
    assert result.returncode == 0, result.stderr
    assert "native" in result.stdout


@pytest.mark.slow
def test_installed_recipes_and_configurations_are_used(installed, tmp_path):
    words = ["prepare", "recipe=emt_slabs", "options.n_frames=2", "out=few.unipot"]
    result = _unipot(installed, tmp_path, *words)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "few.unipot").is_dir()
    code = "from unipot.resources import conf_dir, data_recipes_dir; print(conf_dir()); print(data_recipes_dir())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert [Path(line).parent.parent for line in shown.split()] == [installed, installed]
