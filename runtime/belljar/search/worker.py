"""Starts the search process, as a script: loads what it needs and no more.

Importing a package runs its face, and through that most of Belljar, which takes ten times as long as the search itself.
So the packages are put in place here without running them.
"""

import sys
import types
from pathlib import Path


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    for name in ("", "attribution", "context", "search"):
        package = types.ModuleType(f"belljar.{name}".rstrip("."))
        package.__path__ = [str(root / name)]
        sys.modules[package.__name__] = package

    from belljar.search import process

    process.main()


if __name__ == "__main__":
    main()
