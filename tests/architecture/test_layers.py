"""Who may import whom. A module that is not in the table fails: whoever adds one decides where it stands.

The order is that of trust and of reading: what is lower knows nothing of what is higher, and siblings of one level do
not know each other. A package stands on one level with all its modules.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import belljar

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "runtime" / "belljar"
GUEST = ROOT / "sandbox_images" / "guest"

# From the top down. A name may import names of lower lines, and no other of its own line.
LEVELS = [
    {"cli"},
    {"__init__"},
    {"bench"},
    {"service"},
    {"facade", "demo", "testing", "doctor", "backup", "exporting"},
    {"jobs", "hooks"},
    {"runtime", "upkeep", "replay"},
    {"host"},
    {"sessions", "streaming", "sources", "quotas", "config"},
    {"lifecycle", "recovery", "recording", "state", "arguments", "bounds", "access"},
    {"engine"},
    {"broker", "sandbox"},
    {"search"},
    {"policy", "ledger", "audit", "context", "attribution", "models"},
    {"wire", "states", "journal", "tasks", "processes", "owners", "assets", "units", "spans", "heavy", "keys"},
    {"protocol", "glyphs", "fitting", "durable", "paths", "members"},
    {"identity"},
    {"errors"},
]
# The guest's folders, likewise.
GUEST_LEVELS = ["box", "agent", "language", "context", "exact.py"]
# Packages that know less than their level would let them, and all that they may know.
NARROWER = {
    "bench": {"models", "demo"},
    "demo": {"errors", "models"},
    "policy": {"errors", "glyphs", "identity", "units", "assets"},
    "ledger": {"errors", "identity", "journal", "tasks", "units"},
    "audit": {"errors", "glyphs", "identity", "journal", "keys", "spans"},
    "context": {"errors", "identity", "durable"},
    # What computes which text was shown knows ranges, and nothing of files or processes.
    "attribution": {"spans"},
    "search": {"errors", "spans", "tasks", "context", "attribution"},
    "models": {"errors", "glyphs", "heavy", "members"},
    "sandbox": {"errors", "identity", "assets", "tasks", "processes"},
    "state": {"errors", "paths"},
    "bounds": {"errors", "ledger", "units"},
    "config": {
        *("errors", "glyphs", "identity", "ledger", "audit", "policy", "state", "bounds", "access", "units", "fitting"),
        "paths",
    },
    "hooks": {"errors", "identity", "tasks", "journal", "keys", "audit", "ledger", "access", "quotas"},
    "access": {"errors", "glyphs", "identity", "journal", "audit", "keys"},
    "arguments": {"errors", "identity"},
    "states": {"errors", "protocol"},
    "journal": {"errors"},
    "assets": {"errors"},
    "units": {"errors", "glyphs"},
    "glyphs": set(),
    "fitting": set(),
    "members": set(),
    "durable": set(),
    "paths": {"errors"},
    "spans": set(),
    "heavy": set(),
    "tasks": set(),
    "processes": set(),
    "owners": {"errors"},
    "keys": {"errors", "durable", "paths"},
}
# The wire is for those who speak it: nobody else reads or writes frames.
SPEAKERS = {"broker", "engine", "wire"}
# Packages whose only importers are these.
ONLY_FOR = {"bench": {"cli"}, "demo": {"cli", "bench"}, "facade": {"__init__", "cli"}}

# What touches the world. `errors`, `identity`, `protocol`, `wire` and `policy` compute; time and files come in as
# arguments.
WORLD = {
    *("socket", "ssl", "select", "selectors", "threading", "_thread", "multiprocessing", "concurrent", "subprocess"),
    *("asyncio", "signal", "time", "random", "secrets", "uuid", "os", "io", "shutil", "tempfile", "pathlib", "sys"),
    *("datetime", "ctypes", "mmap", "fcntl", "sqlite3", "http", "urllib", "logging"),
}
PURE = [
    "errors.py",
    "identity.py",
    "protocol.py",
    "wire.py",
    "glyphs.py",
    "states.py",
    *(f"{folder}/{path.name}" for folder in ("policy", "attribution") for path in HOST.joinpath(folder).glob("*.py")),
]
# Presets and the operator's own files are read somewhere: here, and nowhere else in `policy`. A memory map is a type of
# bytes. And a time that came in as an argument is written into an id, or told by an
# error.
PURE_BUT = {
    "policy/files.py": {"pathlib"},
    "attribution/tracing.py": {"mmap"},
    "attribution/repeats.py": {"mmap"},
    "identity.py": {"datetime"},
    "errors.py": {"datetime"},
}

# Run as scripts by an interpreter of their own: never imported by the host.
SCRIPTS: dict[str, set[str]] = {
    "sandbox/jail/launcher.py": set(),
    "search/worker.py": {"belljar"},
}
GUEST_SCRIPTS = {"box/boot.py", "box/zygote.py"}
# Besides packages, what gives names of others as its own: the guest's `re`.
FACADES = {"context/regex.py"}


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "_assets" not in path.parts)


def name_of(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@functools.cache
def imported(path: Path) -> tuple[str, ...]:
    """The absolute dotted names that a file imports anywhere in it, `from x import y` as `x.y`."""
    found: list[str] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            found += (f"{prefix}.{alias.name}" for alias in node.names)
    return tuple(found)


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def parts(path: Path) -> set[str]:
    """The parts of belljar that a file imports: `belljar.ledger.base` is `ledger`."""
    found = {name.split(".")[1] for name in imported(path) if name.startswith("belljar.")}
    known = set().union(*LEVELS)
    # `from belljar import __version__` takes a name of the package itself.
    return {part if part in known else "__init__" for part in found}


def part_of(path: Path) -> str:
    return path.relative_to(HOST).parts[0].removesuffix(".py")


def level(part: str) -> int:
    return next(number for number, names in enumerate(LEVELS) if part in names)


HOST_MODULES = modules(HOST)
GUEST_MODULES = modules(GUEST)


def test_every_part_has_its_place() -> None:
    present = {part_of(path) for path in HOST_MODULES}
    assert present == set().union(*LEVELS)


@pytest.mark.parametrize("path", HOST_MODULES, ids=lambda path: name_of(path, HOST))
def test_imports_go_down(path: Path) -> None:
    here = part_of(path)
    for there in parts(path) - {here}:
        assert level(here) < level(there), f"{here} imports {there}"
        assert there in NARROWER.get(here, {there}), f"{here} imports {there}"
        assert there != "wire" or here in SPEAKERS, f"{here} imports the wire"
        assert here in ONLY_FOR.get(there, {here}), f"{here} imports {there}"


def test_the_table_names_nothing_that_is_not_there() -> None:
    known = set().union(*LEVELS)
    assert {*NARROWER, *ONLY_FOR, *SPEAKERS}.union(*NARROWER.values(), *ONLY_FOR.values()) <= known


def test_the_host_imports_itself_by_its_full_name() -> None:
    for path in HOST_MODULES:
        assert not [name for name in imported(path) if name.startswith(".")], path


@pytest.mark.parametrize("name", PURE)
def test_what_only_computes_touches_no_world(name: str) -> None:
    assert roots(HOST / name) & WORLD <= PURE_BUT.get(name, set())


def test_the_lowest_parts_know_what_they_need() -> None:
    assert parts(HOST / "errors.py") == set()
    assert parts(HOST / "identity.py") == {"errors"}
    assert parts(HOST / "protocol.py") == {"identity"}
    assert parts(HOST / "wire.py") == {"errors", "protocol"}


@pytest.mark.parametrize("path", HOST_MODULES, ids=lambda path: name_of(path, HOST))
def test_the_host_runs_and_revives_nothing_that_it_was_given(path: Path) -> None:
    forbidden = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "code", "runpy"}
    assert not roots(path) & forbidden
    assert "guest" not in roots(path) - SCRIPTS.get(name_of(path, HOST), set())
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", GUEST_MODULES, ids=lambda path: name_of(path, GUEST))
def test_the_guest_knows_the_standard_library_and_itself_only(path: Path) -> None:
    own = {"guest"}
    assert roots(path) <= {*sys.stdlib_module_names, *own, "RestrictedPython"}
    if "RestrictedPython" in roots(path):
        assert path.name in {"restricted.py", "guards.py"}


@pytest.mark.parametrize("path", GUEST_MODULES, ids=lambda path: name_of(path, GUEST))
def test_the_guests_imports_go_down(path: Path) -> None:
    here = path.relative_to(GUEST).parts[0]
    if here == "__init__.py":
        assert not list(imported(path))
        return
    for name in imported(path):
        if name.startswith("guest."):
            there = name.split(".")[1]
            there = there if there in GUEST_LEVELS else f"{there}.py"
            assert here == there or GUEST_LEVELS.index(here) < GUEST_LEVELS.index(there), f"{here} imports {name}"


def test_the_scripts_know_the_standard_library_only() -> None:
    present = {name: more for name, more in SCRIPTS.items() if (HOST / name).exists()}
    assert "sandbox/jail/launcher.py" in present
    for name, more in present.items():
        assert roots(HOST / name) <= {*sys.stdlib_module_names, *more}, name
    for path in HOST_MODULES:
        assert not [name for name in imported(path) if name.endswith("launcher")], path


def test_each_side_of_the_wall_asks_the_kernel_by_ctypes_in_few_places() -> None:
    """Outside there are two, each for a process that confines itself: the launcher may import nothing of ours.

    Inside, one of two asks the interpreter, and not the kernel.
    """
    asking = [name_of(path, HOST) for path in HOST_MODULES if "ctypes" in roots(path)]
    assert asking == ["sandbox/jail/launcher.py", "search/process.py"]
    assert [name_of(path, GUEST) for path in GUEST_MODULES if "ctypes" in roots(path)] == [
        "agent/clock.py",
        "box/kernel.py",
    ]


# --------------------------------------------------------------------------------------------------------- __all__


def defined(tree: ast.Module) -> Iterator[str]:
    """The public names that a module's top level makes, imports left out."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            value = ast.literal_eval(node.value)
            assert isinstance(value, list)
            return value
    return None


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether a decorator hands it to the command line: then nobody calls it by its name."""
    return any(re.search(r"\.(command|group)\b", ast.unparse(decorator)) for decorator in node.decorator_list)


def needed_elsewhere(names: list[str], path: Path, folder: Path) -> set[str]:
    """The names that other modules of the tree import from this one."""
    dotted = ".".join((folder.name, *path.relative_to(folder).with_suffix("").parts))
    relative = "." + path.stem
    found = set()
    for other in modules(folder):
        for name in imported(other):
            head, _, last = name.rpartition(".")
            if head == dotted or (other != path and head == relative):
                found.add(last)
    return found & set(names)


ALL_MODULES = [
    *((path, HOST) for path in HOST_MODULES if name_of(path, HOST) not in SCRIPTS),
    *((path, GUEST) for path in GUEST_MODULES if name_of(path, GUEST) not in GUEST_SCRIPTS),
]


@pytest.mark.parametrize(
    ("path", "folder"),
    ALL_MODULES,
    ids=lambda value: (
        value.name if value in (HOST, GUEST) else name_of(value, HOST if HOST in value.parents else GUEST)
    ),
)
def test_all_is_what_is_there_and_what_others_take(path: Path, folder: Path) -> None:
    """`__all__` names each thing once, only what is there, every public class and function, and all that others use."""
    tree = parsed(path)
    names = exported(tree)
    if names is None:
        assert path.name == "__init__.py", "no __all__"
        assert not [node for node in tree.body if not isinstance(node, ast.Expr)], "no __all__"
        return
    assert len(names) == len(set(names))
    made = list(defined(tree))
    taken = [node.names for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    re_exported = {alias.asname or alias.name for aliases in taken for alias in aliases}
    assert set(names) <= {
        *made,
        *(re_exported if name_of(path, folder) in FACADES or path.name == "__init__.py" else ()),
    }
    things = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    public = {node.name for node in things if not node.name.startswith("_") and not is_command(node)}
    used = needed_elsewhere([name for name in made if not name.startswith("_")], path, folder)
    assert sorted({*public, *used} - set(names)) == []


# ----------------------------------------------------------------------------------------------- what is loaded when

# What takes long to load, and is not needed by whoever only looks, or asks no such model or daemon.
HEAVY = ("anthropic", "docker", "genai_prices", "httpx", "httpx2", "jinja2", "pydantic", "requests", "rich")
COMMAND = ROOT / "runtime" / "belljar_command.py"


@pytest.mark.parametrize(
    "name",
    [
        *("belljar", "belljar.facade", "belljar.cli", "belljar.cli.run", "belljar.cli.policy", "belljar.cli.audit"),
        *("belljar.cli.context", "belljar.cli.bench", "belljar.cli.demo", "belljar.cli.doctor", "belljar.cli.image"),
    ],
)
def test_nobody_pays_for_what_is_not_used(name: str) -> None:
    code = f"import sys, {name}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# How many modules Python loads, and how many may be loaded besides: measured 28 and 158 (0.09 s of CPU), and a fifth to
# spare. The whole front is 290, and takes three times as long as the second.
LOADED_MAX = {"import belljar.errors": 34, "import belljar": 34, "import belljar_command; belljar_command.main()": 190}


@pytest.mark.parametrize("code", LOADED_MAX)
def test_what_asks_for_little_loads_little(code: str) -> None:
    script = f"""
import atexit, sys
before = {{*sys.modules}}
atexit.register(lambda: print(len({{*sys.modules}} - before), file=sys.stderr))
{code}
"""
    command = [sys.executable, "-c", script, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert 0 < int(done.stderr) <= LOADED_MAX[code]


def test_a_run_in_the_jail_loads_no_daemon_s_or_provider_s_client(tmp_path: Path) -> None:
    code = (
        f"import sys, belljar; result = belljar.execute('print(6 * 7)', state={str(tmp_path)!r}, backend='jail')\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], result.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[] 42\n\n", "")


# ------------------------------------------------------------------------------------------------------ the lazy face


def test_the_face_says_three_times_the_same() -> None:
    """`__all__`, the table that names are found by, and the imports that type checkers read."""
    for_checkers = {name for name in imported(HOST / "__init__.py") if name.startswith("belljar.")}
    assert for_checkers == {f"belljar.{module}.{name}" for name, module in belljar._MODULE_OF.items()}
    assert {*belljar._MODULE_OF, "__version__"} == {*belljar.__all__}


def test_every_public_name_is_found_in_both_ways_whatever_was_imported_before() -> None:
    code = """
import importlib, sys, belljar
assert {*belljar.__all__} <= {*dir(belljar)}
for module in {*belljar._MODULE_OF.values()}:
    importlib.import_module(f"belljar.{module}")
for name in belljar.__all__:
    exec(f"from belljar import {name} as found")
    assert found is getattr(belljar, name)
    assert type(found) is not type(sys), name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'belljar' has no attribute 'nothing'"):
        belljar.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_no_module_takes_the_place_of_a_public_name() -> None:
    assert {part_of(path) for path in HOST_MODULES} & {*belljar.__all__} == set()


def test_the_command_can_be_stopped_before_it_loads_anything_of_ours() -> None:
    body = parsed(COMMAND).body
    loaded = {name for node in body if isinstance(node, ast.Import) for name in (alias.name for alias in node.names)}
    assert loaded == {"contextlib", "os", "signal", "sys"}
    assert {node.module for node in body if isinstance(node, ast.ImportFrom)} == {"__future__", "types"}
    assert {name for name in imported(COMMAND) if name.startswith("belljar")} == {"belljar.cli.main"}
