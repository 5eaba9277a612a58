"""The house rules: floors, style, types, generated pages, and nothing of one machine in the tree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.paths import ROOT

BINARY = {".png", ".jpg", ".parquet", ".zip", ".gz", ".ico", ".pyc"}
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|home/\w+|root|Users/\w+|mnt/\w+)/[\w.-]+")
FLOORS = {"trading", "ml", "resources", "desk", "assets", "sensors", "pipelines"}
ALLOWED_PATHS = re.compile(r"/(?:home|Users)/(?:user|you|me|trader)\b")


def tracked() -> list[Path]:
    """Files that are, or would be, committed."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def tool(*command: str) -> None:
    """Run a program of the virtual environment; it must find nothing."""
    program = Path(sys.executable).with_name(command[0])
    result = subprocess.run([str(program), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_ruff_finds_nothing() -> None:
    tool("ruff", "check", ".")


def test_types_hold() -> None:
    tool("mypy")


def test_floors_hold_imports_go_only_downward() -> None:
    tool("lint-imports")


def test_no_path_of_one_machine_is_in_the_tree() -> None:
    found = []
    for path in tracked():
        if path.suffix in BINARY or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if MACHINE_PATHS.search(ALLOWED_PATHS.sub("", line)):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_nothing_written_at_run_time_is_in_the_tree() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked()]
    assert [name for name in names if name.startswith("data/") and not name.startswith("data/config/")] == []
    assert [name for name in names if name.endswith((".log", ".pyc")) or "egg-info" in name] == []


def test_links_between_pages_lead_somewhere() -> None:
    missing = []
    for page in [path for path in tracked() if path.suffix == ".md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                missing.append(f"{page.relative_to(ROOT)}: {target}")
    assert missing == []


def pins(name: str) -> dict[str, str]:
    """Package -> exact version of a requirements file."""
    rows = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    requirements = [Requirement(row) for row in rows if row]
    for requirement in requirements:
        assert re.fullmatch(r"==[\w.!+-]+", str(requirement.specifier)), f"{name}: {requirement} is not pinned"
    return {normal(requirement.name): str(requirement.specifier)[2:] for requirement in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(("direct", "lock"), [(f"{name}.txt", f"{name}.lock") for name in ("requirements", "requirements-dev")])
def test_every_direct_requirement_is_locked_at_the_same_version(direct: str, lock: str) -> None:
    wanted, locked = pins(direct), pins(lock)
    assert {name: locked.get(name) for name in wanted} == wanted


def test_runtime_and_tool_packages_do_not_overlap() -> None:
    assert set(pins("requirements.lock")) & set(pins("requirements-dev.lock")) == set()


def test_what_is_installed_is_what_is_locked() -> None:
    from importlib.metadata import distributions

    installed = {normal(d.metadata["Name"]): d.version.partition("+")[0] for d in distributions()}
    locked = {**pins("requirements.lock"), **pins("requirements-dev.lock")}
    assert {name: installed.get(name) for name in locked} == locked


def test_every_import_of_the_runtime_is_a_direct_requirement() -> None:
    """What is imported without being asked for vanishes when somebody else stops needing it."""
    from importlib.metadata import packages_distributions

    provided = packages_distributions()
    direct = set(pins("requirements.txt")) | set(pins("requirements-celery.txt"))
    own = {*FLOORS, "bench", "tests"}
    missing: dict[str, str] = {}
    for path in tracked():
        folder = path.relative_to(ROOT).parts[0]
        if path.suffix != ".py" or folder not in FLOORS:
            continue
        for name in re.findall(r"^\s*(?:from|import) ([A-Za-z_]\w*)", path.read_text(), re.MULTILINE):
            if name in sys.stdlib_module_names or name in own or name not in provided:
                continue
            if not {normal(dist) for dist in provided[name]} & direct:
                missing.setdefault(name, path.relative_to(ROOT).as_posix())
    assert missing == {}


def test_what_we_import_is_never_among_what_the_type_checker_skips() -> None:
    """What is skipped has no types: a wrong use of it would be found by nobody."""
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    skipped = [name.removesuffix(".*") for o in overrides if o["follow_imports"] == "skip" for name in o["module"]]
    assert skipped
    imports = re.compile(r"^\s*(?:from|import) ([\w.]+)(?: import ([\w, ]+))?", re.MULTILINE)
    found = []
    for path in tracked():
        if path.suffix != ".py" or path.relative_to(ROOT).parts[0] not in FLOORS:
            continue
        for module, names in imports.findall(path.read_text()):
            asked = {module, *(f"{module}.{name.strip()}" for name in names.split(","))}
            found += [f"{path.relative_to(ROOT)}: {a}" for a in asked for s in skipped if a == s or a.startswith(f"{s}.")]
    assert found == []
