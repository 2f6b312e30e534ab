"""Where the process that searches begins, as a script: loads what it needs and no more.

To import a module is to import the packages around it, and those are the faces of all of Belljar: they take ten times as
long as the search itself. So the two packages are put in place here without running them.
"""

import sys
import types
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

for name, folder in (("belljar", FOLDER.parent), ("belljar.context", FOLDER)):
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package

from belljar.context.searching import main

if __name__ == "__main__":
    main()
