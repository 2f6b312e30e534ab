"""The package as people install it: built, put into an environment of its own, and used from there."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.integration.support import Jar

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=cwd, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel in it; what belljar depends on is lent by this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    options = ("--no-deps", "--no-index", "--no-warn-script-location", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # A path entry alone: the entries of that folder's own .pth files, this checkout among them, are not followed.
    (site / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin"


def test_the_wheel_holds_the_package_and_its_assets_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"belljar", "belljar_command.py"}
    assets = {name.removeprefix("belljar/_assets/") for name in names if name.startswith("belljar/_assets/")}
    for folder, packaged in (("policies", "policies"), ("sandbox_images/guest", "guest")):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        there = {path.relative_to(ROOT / folder).as_posix() for path in files}
        assert there <= {name.removeprefix(f"{packaged}/") for name in assets if name.startswith(f"{packaged}/")}
    # Not only modules: templates, too.
    ours = [path for path in (ROOT / "runtime").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    sources = {str(path.relative_to(ROOT / "runtime")) for path in ours}
    assert sources <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".db", ".toml~"))]


def test_it_is_the_installed_package_that_runs(installed: Path, jar: Jar) -> None:
    code = "import belljar, belljar.assets as a; print(belljar.__file__, a.policies_dir(), a.guest_dir(), sep='\\n')"
    paths = run(installed / "python", "-I", "-c", code, cwd=jar.work).split()
    assert all(path.startswith(f"{installed.parent}/") for path in paths), paths


def test_presets_are_found_in_the_package(installed: Path, jar: Jar) -> None:
    listed = run(installed / "belljar", "policy", "ls", cwd=jar.work)
    assert [line.split()[0] for line in listed.splitlines()] == ["dev", "standard", "strict"]


@pytest.mark.parametrize("language", ["restricted", "python"])
def test_a_program_runs_from_the_installed_package_with_an_image_of_its_own(
    installed: Path, jar: Jar, language: str
) -> None:
    program, state = jar.file("program.py", "print(len(context))\nFINAL('from the wheel')"), jar.work / "state"
    options = ("--context", program, "--state", state, "--language", language, "--quiet")
    assert run(installed / "belljar", "exec", program, *options, cwd=jar.work) == "43\nfrom the wheel\n"
    assert run(installed / "belljar", "audit", "verify", "--state", state, cwd=jar.work)
    assert (state / "images").is_dir()
