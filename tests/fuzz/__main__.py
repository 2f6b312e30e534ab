"""Run the fuzzer of the restricted language: `python -m tests.fuzz --seed 1 --rounds 1`.

It prints one JSON document. A process of its own, because what it looks for can ruin the process that it happens in.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import re
import signal
import sys
import threading
import time
import warnings

from guest.language import restricted
from tests.fuzz.calls import CallFuzzer
from tests.fuzz.oracle import Oracle
from tests.fuzz.programs import ProgramFuzzer
from tests.fuzz.world import Find, World


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the functions in C, and of the foreign objects")
    parser.add_argument("--calls", default=None, help="call functions whose label matches this pattern")
    parser.add_argument("--programs", default=None, help="run programs of the ways that match this pattern")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda arguments: None
    restricted.preload()
    began = time.process_time()
    finds, calls, programs = [], 0, 0
    for seed in range(options.seed, options.seed + options.rounds):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found, called, ran = one_round(seed, options)
        finds += [(seed, *find) for find in found]
        calls, programs = calls + called, programs + ran
    said = {"calls": calls, "programs": programs, "cpu_s": round(time.process_time() - began, 1), "finds": finds}
    print(json.dumps(said, indent=1))
    sys.stdout.flush()
    os._exit(0)  # threads of the programs may wait for ever


def one_round(seed: int, options: argparse.Namespace) -> tuple[list[Find], int, int]:
    """One world with everything done to it: what was found, how many calls and programs it took."""
    world = World(Oracle())
    signal.signal(signal.SIGALRM, world.recorder.alarm)
    gc.freeze()  # so that asking who refers to a dict looks at new objects only
    calls = programs = 0
    if options.calls is not None:
        wanted = re.compile(options.calls).search
        calls = CallFuzzer(world, seed).run(lambda label: bool(wanted(label)), options.share)
    if options.programs is not None:
        programs = ProgramFuzzer(world, seed).run(options.programs, options.share)
    return world.recorder.finds, calls, programs


if __name__ == "__main__":
    main()
