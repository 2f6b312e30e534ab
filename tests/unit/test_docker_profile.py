"""The allowlist as a daemon's profile. What libseccomp makes of one is said here by `verdict`, a few lines; that the
two agree is tried with a real daemon (`test_docker_boot.py`). It must never refuse what the box's own filter allows.
"""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from belljar.sandbox.docker.profile import docker_profile
from belljar.sandbox.numbers import NUMBERS
from belljar.sandbox.seccomp import Allowlist, Answer, Condition, Rule, load_allowlist
from tests.unit.test_seccomp import ALLOW, ERRNO, compiled, run

ALLOWED = "allowed"
SAMPLES = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    0x11,
    0x5421,
    0x5451,
    0x3D0F00,
    0x10020000,
    0x10000000,
    0x01200011,
    1030,
    1 << 32,
    2**63,
)


def profile_of(*rules: Rule, answer: tuple[Answer, ...] = ()) -> dict[str, Any]:
    document = json.loads(docker_profile(Allowlist(schema=1, allow=list(rules), answer=list(answer), boot=[])))
    assert isinstance(document, dict)
    return document


def verdict(profile: dict[str, Any], name: str, *arguments: int) -> str:
    """`allowed`, or the name of the error. A rule without a condition allows whatever another rule says."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    matching = [
        call
        for call in profile["syscalls"]
        if name in call["names"]
        and all(padded[each["index"]] & each["value"] == each["valueTwo"] for each in call.get("args", ()))
    ]
    if any(call["action"] == "SCMP_ACT_ALLOW" for call in matching):
        return ALLOWED
    return errno.errorcode.get(matching[0]["errnoRet"] if matching else profile["defaultErrnoRet"], "success")


def rule(**conditions: Any) -> Rule:
    return Rule(names=["kill"], why="for this test only", **conditions)


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    document = json.loads(docker_profile(load_allowlist()))
    assert isinstance(document, dict)
    return document


def test_it_has_the_form_that_a_daemon_takes(profile: dict[str, Any]) -> None:
    assert profile.keys() == {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["defaultErrnoRet"] == errno.ENOSYS
    # Nothing but this: 32-bit and x32 calls are strangers.
    assert profile["architectures"] == ["SCMP_ARCH_X86_64"]
    for call in profile["syscalls"]:
        assert call.keys() <= {"names", "action", "args", "errnoRet"}
        assert call["action"] in ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO")
        assert ("errnoRet" in call) == (call["action"] == "SCMP_ACT_ERRNO")
        assert {each["op"] for each in call.get("args", ())} <= {"SCMP_CMP_MASKED_EQ"}
        # One condition on an argument is the one form that every libseccomp takes.
        assert len(call.get("args", ())) <= 1


def test_it_allows_the_box_and_its_beginning_and_nothing_else(profile: dict[str, Any]) -> None:
    allowlist = load_allowlist()
    expected = {*allowlist.names(), *(name for each in allowlist.boot for name in each.names)}
    allowed = [call for call in profile["syscalls"] if call["action"] == "SCMP_ACT_ALLOW"]
    assert {name for call in allowed for name in call["names"]} == expected
    for name in set(NUMBERS) - expected - set(allowlist.answered()):
        assert verdict(profile, name) == "ENOSYS"


@pytest.mark.parametrize("values", [[0x10], [0x10, 0x30], [0]])
def test_only_is_one_rule_for_each_value(values: list[int]) -> None:
    document = profile_of(rule(only=Condition(arg=1, values=values)))
    assert len(document["syscalls"]) == len(values)
    for value in range(64):
        assert verdict(document, "kill", 9, value) == (ALLOWED if value in values else "ENOSYS")
        # The low half decides alone, as in the box's own filter.
        assert verdict(document, "kill", 9, value | 1 << 40) == (ALLOWED if value in values else "ENOSYS")


def test_a_mask_leaves_out_the_other_bits() -> None:
    document = profile_of(rule(only=Condition(arg=0, values=[0], mask=0x7E020000)))
    assert verdict(document, "kill", 0x3D0F00) == ALLOWED
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(document, "kill", flag | 0x11) == "ENOSYS"
        assert verdict(document, "kill", flag | 1 << 32) == "ENOSYS"


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0xF0])
def test_whole_wants_the_high_half_to_be_zero(mask: int) -> None:
    document = profile_of(rule(only=Condition(arg=2, values=[0x10], mask=mask, whole=True)))
    assert verdict(document, "kill", 0, 0, 0x10) == ALLOWED
    assert verdict(document, "kill", 0, 0, 0x1F) == (ALLOWED if mask == 0xF0 else "ENOSYS")
    for bit in range(32, 64):
        assert verdict(document, "kill", 0, 0, 0x10 | 1 << bit) == "ENOSYS"


def test_what_this_format_cannot_say_is_left_to_the_box_s_own_filter() -> None:
    both = (Condition(arg=0, values=[1]), Condition(arg=1, values=[1]))
    for conditions in (
        {"never": Condition(arg=0, values=[1])},
        {"never_both": both},
        {"only": Condition(arg=0, values=[1]), "pretend": Condition(arg=0, values=[2])},
    ):
        document = profile_of(rule(**conditions))
        assert document["syscalls"] == [{"names": ["kill"], "action": "SCMP_ACT_ALLOW"}]


def test_answers_come_out_as_they_are_named() -> None:
    answers = [("clone3", "ENOSYS"), ("listxattr", "EOPNOTSUPP"), ("fsync", "success")]
    given = tuple(
        Answer(names=[name], error=error, why="for this test only")  # type: ignore[arg-type]
        for name, error in answers
    )
    document = profile_of(rule(), answer=given)
    refused = {call["names"][0]: call["errnoRet"] for call in document["syscalls"] if "errnoRet" in call}
    assert refused == {"clone3": errno.ENOSYS, "listxattr": errno.EOPNOTSUPP, "fsync": 0}


def test_it_never_refuses_what_the_box_s_own_filter_allows() -> None:
    """For each conditional rule of the list; and where the rule says `only`, it refuses the same."""
    seen = 0
    for each in load_allowlist().allow:
        own, document = compiled(each), profile_of(each)
        conditions = [each.only, each.never, each.pretend, *(each.never_both or ())]
        for argument in {condition.arg for condition in conditions if condition is not None}:
            for value in SAMPLES:
                arguments = [0] * argument + [value]
                allowed = run(own, NUMBERS[each.names[0]], *arguments) in (ALLOW, ERRNO)
                granted = verdict(document, each.names[0], *arguments) == ALLOWED
                assert granted or not allowed, (each.names, arguments)
                if not each.pretend and each.only:
                    assert granted == allowed, (each.names, arguments)
                seen += 1
    assert seen > 100
