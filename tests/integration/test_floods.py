"""What a flood costs the host: its memory stays within a few frames, whatever a box sends and however fast."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar import Result, Runtime
from belljar.policy import Policy, load
from tests.integration.support import Jar

MIB = 2**20
# One frame of the policy below, the chunk behind it, and what Python itself takes for a second of hard work.
HOST_GROWTH_BYTES_MAX = 48 * MIB

FLOODS = {
    "output": "while True: print('x' * 100_000)",
    "empty output": (
        'import os, struct\nhead = b\'{"op":"output","cell":1,"stream":"stdout"}\'\n'
        "frame = struct.pack('!II', len(head), 0) + head\nwhile True: os.write(3, frame * 500)"
    ),
    "requests whose replies nobody reads": (
        'import os, struct\nn = 0\nwhile True:\n    n += 1\n    head = b\'{"op":"budget","id":%d}\' % (n % 2**31 + 1)\n'
        "    os.write(3, struct.pack('!II', len(head), 0) + head)"
    ),
    "bodies that never end": (
        'import os, struct\nhead = b\'{"op":"final","cell":1,"form":"text"}\'\n'
        "os.write(3, struct.pack('!II', len(head), 8 << 20) + head)\n"
        "while True: os.write(3, b'x' * 1000) and __import__('time').sleep(0.0001)"
    ),
    "garbage": "import os\nwhile True: os.write(3, b'x' * 65536)",
}


def policy_with(**limits: Any) -> Policy:
    policy = load("standard")
    limits = {
        "cell_wall_s": 2.0,
        "grace_s": 0.2,
        "cpu_s": 3.0,
        "answer_bytes": 4 * MIB,
        "output_bytes": 64 * 1024,
        **limits,
    }
    wire = msgspec.structs.replace(policy.wire, body_bytes_max=8 * MIB)
    return msgspec.structs.replace(policy, wire=wire, limits=msgspec.structs.replace(policy.limits, **limits))


def run(jar: Jar, policy: Policy, code: str) -> Result:
    async def main() -> Result:
        async with Runtime(policy, state=jar.at, language="python") as runtime:
            await runtime.execute("1")
            forget_high_water_mark()
            return await runtime.execute(code)

    return asyncio.run(main())


def forget_high_water_mark() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def memory_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("flood", FLOODS)
def test_the_host_s_memory_is_bounded(jar: Jar, flood: str) -> None:
    before = memory_bytes("VmRSS")
    result = run(jar, policy_with(), FLOODS[flood])
    assert result.status in ("output", "timeout", "cpu", "protocol", "quota")
    assert memory_bytes("VmHWM") - before < HOST_GROWTH_BYTES_MAX


def test_a_frame_that_comes_in_crumbs_and_never_ends_is_a_flood(jar: Jar) -> None:
    code = (
        'import os, struct, time\nhead = b\'{"op":"output","cell":1,"stream":"stdout"}\'\n'
        "os.write(3, struct.pack('!II', len(head), 4 << 20) + head)\n"
        "while True:\n    os.write(3, b'x')\n    time.sleep(0.0001)"
    )
    result = run(jar, policy_with(output_flood_bytes=MIB, cell_wall_s=60.0, cpu_s=30.0), code)
    assert (result.status, result.limit and result.limit.code) == ("output", "limits.output_flood")


def test_scratch_files_are_charged_to_the_box(jar: Jar) -> None:
    policy = policy_with(memory_bytes=128 * MIB, scratch_bytes=512 * MIB, cell_wall_s=60.0, cpu_s=60.0)
    code = "with open('/tmp/big', 'wb') as file:\n    for _ in range(300): file.write(bytes(2**20))"
    result = run(jar, policy, code)
    assert result.status == "memory"
    assert result.limit is not None
    assert result.limit.limit == 128 * MIB
