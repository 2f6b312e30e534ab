"""Where the process that searches begins, as a script: loads what it needs and no more.

To import a module is to import the packages around it, and those are the faces of all of Belljar: they take ten times
as long as the search itself. So the two packages are put in place here without running them.
"""

import sys
import types
from pathlib import Path


def main() -> None:
    folder = Path(__file__).resolve().parent
    for name, place in (("belljar", folder.parent), ("belljar.context", folder)):
        package = types.ModuleType(name)
        package.__path__ = [str(place)]
        sys.modules[name] = package

    from belljar.context import searching

    searching.main()


if __name__ == "__main__":
    main()
