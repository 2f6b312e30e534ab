"""The benchmarks of containers: `docker run` by hand has the options of a box, and who is compared with whom."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from belljar.lifecycle import box_spec
from belljar.policy import load
from belljar.sandbox.docker.options import RuntimeName, host_config
from benchmarks.by_hand import IMPORTS, PRINT, flags
from benchmarks.container_table import rows_of

_PROFILE = Path("/somewhere/seccomp.json")


@pytest.mark.parametrize("runtime", ["runc", "runsc"])
def test_every_option_of_a_box_has_words(runtime: RuntimeName) -> None:
    options = host_config(box_spec(load("standard")), runtime, "{}")
    words = flags(options, _PROFILE)
    pairs = list(itertools.pairwise(words))
    assert ("--runtime", runtime) in pairs
    assert ("--security-opt", f"seccomp={_PROFILE}") in pairs
    assert ("--security-opt", "no-new-privileges:true") in pairs
    assert ("--memory", str(options["Memory"])) in pairs
    assert ("--cpus", "1") in pairs
    assert ("--restart", "no") in pairs
    assert {"--read-only", "--rm"} <= set(words)
    assert words.count("--ulimit") == len(options["Ulimits"])
    assert words.count("--tmpfs") == len(options["Tmpfs"])


def test_an_option_without_words_is_an_error() -> None:
    with pytest.raises(KeyError, match="Privileged"):
        flags({"Privileged": False}, _PROFILE)


def test_a_writable_root_is_not_asked_for_as_a_read_only_one() -> None:
    assert flags({"ReadonlyRootfs": False}, _PROFILE) == []


def test_a_restart_policy_has_its_number_only_where_it_has_one() -> None:
    assert flags({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}, _PROFILE)[1] == "on-failure:3"


def test_both_programs_print_the_same_and_one_imports_the_entry_point() -> None:
    assert IMPORTS.endswith(PRINT)
    assert "import boot;" in IMPORTS


def test_a_box_is_compared_with_the_container_of_its_own_runtime() -> None:
    samples = {
        "ours": {"cold": [0.4], "read": [0.25], "start_small": [0.5], "start_large": [0.6]},
        "ours in gvisor": {"cold": [0.9]},
        "run": {"cold": [0.2]},
        "run in gvisor": {"cold": [0.3]},
        "peer": {"cold": [3.0]},
    }
    rows = rows_of(
        samples,
        ours={"ours": "docker", "ours in gvisor": "gvisor"},
        by_hand={("docker", "print"): "run", ("gvisor", "print"): "run in gvisor"},
        read_bytes=50_000_000,
    )
    found = {(row.measure, row.who): (round(row.value, 6), row.met) for row in rows}
    assert found["ratio_print", "ours"] == (2.0, False)
    assert found["ratio_print", "ours in gvisor"] == (3.0, False)
    assert found["ratio_context", "ours"] == (1.2, False)
    assert found["read", "ours"] == (200.0, True)
    assert found["cold", "peer"] == (3000.0, None)


def test_without_containers_by_hand_there_is_no_ratio_to_them() -> None:
    rows = rows_of({"ours": {"cold": [0.4]}}, ours={"ours": "docker"}, by_hand={}, read_bytes=1)
    assert [row.measure for row in rows] == ["cold"]
