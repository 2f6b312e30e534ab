"""Policies by name or path. The only module of the package that opens a file.

A word without a slash and without `.toml` is a preset; anything else is a path. A path inside a file is relative to
that file. A chain of `extends` has at most eight files and never returns to one of them.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Final

import msgspec

from belljar import assets
from belljar.errors import InvalidInput, InvalidPolicy
from belljar.policy.model import Policy
from belljar.policy.parse import parse

__all__ = ["load", "named_apart", "presets"]

# Eight is twice what anybody can still follow: provider, company, department, team.
_CHAIN_FILES_MAX: Final = 8
_FILE_BYTES_MAX: Final = 256 * 1024
# Lies beside the presets but is not one: the system calls that a box may make.
_SYSTEM_CALLS: Final = "seccomp.toml"
_PRESET: Final = re.compile(r"[a-z][a-z0-9-]*")


def load(name_or_path: str | Path) -> Policy:
    """The preset of that name (`"standard"`) or the policy in that file (`"./mine.toml"`, a `Path`).

    Raises:
        InvalidPolicy: there is none, or it is wrong.
        HostFault: the presets are missing.
    """
    if isinstance(name_or_path, Path):
        name_or_path = str(name_or_path) if name_or_path.is_absolute() else f"./{name_or_path}"
    try:
        return _load(name_or_path, Path(), ())
    except InvalidInput as error:
        raise InvalidPolicy(str(error), code=error.code) from error


def presets() -> tuple[str, ...]:
    """The names of the presets, sorted.

    Raises:
        HostFault: the presets are missing.
    """
    return tuple(sorted(path.stem for path in assets.policies_dir().glob("*.toml") if path.name != _SYSTEM_CALLS))


def named_apart(policy: Policy) -> Policy:
    """`policy`; if it has a preset's name but different contents, a copy under another name.

    Policies are values, and a copy of a preset with one field changed keeps the name. Logs and messages must not
    confuse such a copy with the preset.
    """
    if policy.name not in presets() or policy == load(policy.name):
        return policy
    return msgspec.structs.replace(policy, name=f"{policy.name}-changed")


def _load(name_or_path: str, beside: Path, chain: tuple[Path, ...]) -> Policy:
    path = _path(name_or_path, beside)
    text = _read(path)
    here = path.resolve()  # after reading: what could be read has no null in its name and ends no circle of links
    if here in chain:
        raise InvalidInput(f"extends leads back to {path.name}; remove one link of the cycle", code="policy.extends")
    if len(chain) == _CHAIN_FILES_MAX:
        message = f"extends leads through more than {_CHAIN_FILES_MAX} files; use fewer levels"
        raise InvalidInput(message, code="policy.extends", limit=_CHAIN_FILES_MAX)
    reserved = frozenset(presets()) - {here.stem if here == (assets.policies_dir() / here.name).resolve() else ""}
    return parse(text, source=str(path), base=lambda name: _load(name, path.parent, (*chain, here)), reserved=reserved)


def _path(name_or_path: str, beside: Path) -> Path:
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        return beside / name_or_path
    known = presets()
    if name_or_path not in known or _PRESET.fullmatch(name_or_path) is None:
        near = difflib.get_close_matches(name_or_path[:40], known, n=1)
        advice = f'write "{near[0]}"' if near else f"write one of {', '.join(known)}, or a path that ends in .toml"
        raise InvalidInput(f"there is no preset {name_or_path[:40]!r}; {advice}", code="policy.not_found")
    return assets.policies_dir() / f"{name_or_path}.toml"


def _read(path: Path) -> str:
    try:
        # A pipe or a device could give bytes for ever, or never.
        if not path.is_file():
            raise InvalidInput(f"{str(path)!r} is not a file; give the path of one", code="policy.not_found")
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
        if len(data) > _FILE_BYTES_MAX:
            raise InvalidInput(
                f"{str(path)!r} is too large to be a policy; name the right file", code="policy.too_large"
            )
        return data.decode("utf-8-sig")  # some editors write a byte order mark
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null character in the path
        message = f"{str(path)!r} cannot be read ({type(error).__name__}); write a readable UTF-8 file"
        raise InvalidInput(message, code="policy.unreadable") from error
