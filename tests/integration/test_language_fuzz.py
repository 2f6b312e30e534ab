"""The restricted language under a fuzzer: nothing is ever seen by a program that must not be, and nothing is changed.

The fuzzer (`tests/fuzz`) runs the language in a process of its own, which what it looks for could ruin. Here it runs in
slices with one seed. For a long run::

    BELLJAR_FUZZ_ROUNDS=20 BELLJAR_FUZZ_SEED=1000 pytest tests/integration/test_language_fuzz.py --timeout 3600

A find names the seed; `python -m tests.fuzz --seed N ...` with the same options makes the same calls again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guest.language import facades, restricted

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("BELLJAR_FUZZ_SEED", "1"))
ROUNDS = int(os.environ.get("BELLJAR_FUZZ_ROUNDS", "1"))
# Of the functions in C, which are many, and which the types of their arguments guard already.
SHARE = "0.3" if ROUNDS == 1 else "1"
# One round takes some ten seconds of the processor at most, a busy machine makes more of them.
ROUND_SECONDS = 170
MODULES = "^(" + "|".join(facades.module_names()) + r")\."


def fuzz(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.fuzz", "--seed", str(SEED), "--rounds", str(ROUNDS), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "sandbox_images"), str(ROOT)])}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=ROUND_SECONDS * ROUNDS, check=False
    )
    assert ran.returncode == 0, f"{command} ended with {ran.returncode}: {ran.stderr[-2000:]}"
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


@pytest.mark.parametrize("labels", [MODULES, f"^(?!{MODULES})"], ids=["of modules", "of the rest"])
def test_no_function_shows_a_spy_what_no_program_may_see(labels: str) -> None:
    said = fuzz("--calls", labels, "--share", SHARE)
    assert said["finds"] == []
    assert said["calls"] > 30_000 * ROUNDS


@pytest.mark.parametrize("way", ["dataclass", "pattern", "tuple", "enumeration", "other"])
def test_no_program_reaches_the_hidden_names_of_others(way: str) -> None:
    said = fuzz("--programs", way, "--share", "0.5" if ROUNDS == 1 else "1")
    assert said["finds"] == []
    assert said["programs"] > 50 * ROUNDS


def test_every_module_of_the_language_is_among_the_calls() -> None:
    restricted.preload()
    assert {"copy", "dataclasses", "enum", "concurrent.futures"} <= set(facades.module_names())
