"""Where a box begins that starts an interpreter of its own: `python3 -I -S -B boot.py`.

The jail's boxes are clones of a process that has the agent loaded already, and begin in the zygote instead.

Isolated mode puts neither this folder nor the working directory on the path; this adds the one folder that holds the
guest package, read-only like the rest of the image.
"""

import sys

sys.path.insert(0, "/usr/lib/belljar")

from guest.agent import main

if __name__ == "__main__":
    main()
