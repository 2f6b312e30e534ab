"""Finds the files that belong to the program but are not among its Python modules.

An installed package carries them inside itself (`belljar/_assets/`); in a checkout they are at the top, where people
look for them. The package comes first, so that an installed program never uses what happens to lie beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from belljar.errors import HostFault

__all__ = ["find", "guest_dir", "policies_dir"]

_PACKAGE: Final = Path(__file__).resolve().parent


def policies_dir() -> Path:
    """The folder of the policy presets.

    Raises:
        HostFault: it is neither in the package nor in a checkout around it.
    """
    return find("policies", "policies", witness="standard.toml")


def guest_dir() -> Path:
    """The folder of the guest agent's source, the package `guest`.

    Raises:
        HostFault: it is neither in the package nor in a checkout around it.
    """
    return find("guest", "sandbox_images/guest", witness="__init__.py")


def find(packaged: str, in_checkout: str, *, witness: str, package: Path = _PACKAGE) -> Path:
    """The first of `package/_assets/packaged` and `package/../../in_checkout` that holds the file `witness`.

    Raises:
        HostFault: neither does.
    """
    candidates = (package / "_assets" / packaged, package.parent.parent / in_checkout)
    for folder in candidates:
        if (folder / witness).is_file():
            return folder
    tried = " and ".join(str(folder) for folder in candidates)
    raise HostFault(f"{witness} is in neither {tried}; install the package again")
