"""`python -I timed.py OUTPUT COMMAND...`: runs it, its stdout to a file, and prints what it took as one line of JSON.

    {"seconds": ..., "memory_bytes": ..., "status": ...}     the most memory it had (RSS); its exit code

A process of its own because the kernel counts what a process had before it became the command: here that is a bare
interpreter, and not a benchmark with a store in its memory.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    output, *command = sys.argv[1:]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600)])
    _, status, used = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    took = {"seconds": seconds, "memory_bytes": used.ru_maxrss * 1024, "status": os.waitstatus_to_exitcode(status)}
    print(json.dumps(took))


if __name__ == "__main__":
    main()
