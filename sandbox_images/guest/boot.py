"""The first and only program of a box: `python3 -I -S -B boot.py`.

Isolated mode puts neither this folder nor the working directory on the path; this adds the one folder that holds the
guest package, read-only like the rest of the image.
"""

import sys

sys.path.insert(0, "/usr/lib/belljar")

from guest.agent import main

if __name__ == "__main__":
    main()
