"""What of a run's output is compared with that of another one."""

from __future__ import annotations

import pytest

from belljar.audit.printed import comparable

RUN = "20261129T090000-11bb"


@pytest.mark.parametrize(
    ("said", "same"),
    [
        (b"<object at 0x7f31c0a2b3d0>", b"<object at 0x>"),
        (b"0x12 is a number", b"0x12 is a number"),
        (b"child run " + RUN.encode() + b".00002 failed", b"child run run.00002 failed"),
        (b"guest.agent.names.PolicyDenied: no", b"PolicyDenied: no"),
    ],
)
def test_what_is_never_the_same_again_is_left_out(said: bytes, same: bytes) -> None:
    assert comparable(said, RUN) == comparable(said, f"{RUN}.00001") == same
