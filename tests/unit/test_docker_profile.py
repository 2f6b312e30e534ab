"""The allowlist as a daemon's profile. What libseccomp makes of one is said here by `verdict`, a few lines; that the
two agree is tried with a real daemon (`test_docker_boot.py`). It must never refuse what the box's own filter allows.
"""

from __future__ import annotations

import errno
import json
from typing import Any

import msgspec
import pytest

from belljar.sandbox.docker.profile import docker_profile
from belljar.sandbox.numbers import NUMBERS
from belljar.sandbox.seccomp import Allowlist, Answer, Condition, Rule, compile_filter, load_allowlist
from tests.unit.test_seccomp import ALLOW, CONFORMING, parse, run

ALLOWED = "allowed"
SAMPLES = (*range(32), 0x80, 0x81, 0x109, 0x189, 0x5421, 0x3D0F00, 0x01200011, 1030, *(1 << bit for bit in range(64)))


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
        places = [each["index"] for each in call.get("args", ())]
        assert len(places) == len(set(places))


def test_it_allows_the_box_and_its_beginning_and_nothing_else(profile: dict[str, Any]) -> None:
    allowlist = load_allowlist()
    expected = {*allowlist.names(), *(name for each in allowlist.boot for name in each.names)}
    allowed = [call for call in profile["syscalls"] if call["action"] == "SCMP_ACT_ALLOW"]
    assert {name for call in allowed for name in call["names"]} == expected
    for name in set(NUMBERS) - expected - set(allowlist.answered()):
        assert verdict(profile, name) == "ENOSYS"


@pytest.mark.parametrize("values", [[0x10], [0x10, 0x30], [0]])
def test_only_is_one_rule_for_each_value(values: list[int]) -> None:
    document = profile_of(rule(only=[Condition(arg=1, values=values)]))
    assert len(document["syscalls"]) == len(values)
    for value in range(64):
        assert verdict(document, "kill", 9, value) == (ALLOWED if value in values else "ENOSYS")
        # The low half decides alone, as in the box's own filter.
        assert verdict(document, "kill", 9, value | 1 << 40) == (ALLOWED if value in values else "ENOSYS")


def test_flags_are_left_out_of_the_comparison() -> None:
    document = profile_of(rule(only=[Condition(arg=0, bits=[0x81FDFFFF])]))
    assert verdict(document, "kill", 0x3D0F00) == ALLOWED
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(document, "kill", flag | 0x11) == "ENOSYS"
        assert verdict(document, "kill", flag | 1 << 32) == "ENOSYS"


@pytest.mark.parametrize("bits", [[], [0xFFFFFF0F]])
def test_whole_wants_the_high_half_to_be_zero(bits: list[int]) -> None:
    document = profile_of(rule(only=[Condition(arg=2, values=[0x10], bits=bits, whole=True)]))
    assert verdict(document, "kill", 0, 0, 0x10) == ALLOWED
    assert verdict(document, "kill", 0, 0, 0x1F) == (ALLOWED if bits else "ENOSYS")
    for bit in range(32, 64):
        assert verdict(document, "kill", 0, 0, 0x10 | 1 << bit) == "ENOSYS"


def test_several_conditions_are_one_rule_for_each_combination() -> None:
    document = profile_of(rule(only=[Condition(arg=0, values=[1, 2]), Condition(arg=3, values=[8, 16], bits=[1])]))
    assert len(document["syscalls"]) == 4
    for first in range(4):
        for second in range(20):
            expected = ALLOWED if first in (1, 2) and second in (8, 9, 16, 17) else "ENOSYS"
            assert verdict(document, "kill", first, 0, 0, second) == expected


def test_certain_arguments_that_are_answered_are_left_to_the_box_s_own_filter() -> None:
    """Here they are refused like all that is not listed; the filter that was loaded last says how."""
    answer = Answer(names=["kill"], error="EAGAIN", why="for this test only", only=[Condition(arg=0, values=[2])])
    document = profile_of(rule(only=[Condition(arg=0, values=[1])]), answer=(answer,))
    assert [verdict(document, "kill", value) for value in range(4)] == ["ENOSYS", ALLOWED, "ENOSYS", "ENOSYS"]


def test_answers_come_out_as_they_are_named() -> None:
    answers = [("clone3", "ENOSYS"), ("listxattr", "EOPNOTSUPP"), ("fsync", "success")]
    given = tuple(
        Answer(names=[name], error=error, why="for this test only")  # type: ignore[arg-type]
        for name, error in answers
    )
    document = profile_of(rule(), answer=given)
    refused = {call["names"][0]: call["errnoRet"] for call in document["syscalls"] if "errnoRet" in call}
    assert refused == {"clone3": errno.ENOSYS, "listxattr": errno.EOPNOTSUPP, "fsync": 0}


def test_it_allows_what_the_box_s_own_filter_allows_and_no_more() -> None:
    """Of the calls whose arguments the list looks at; what only the beginning needs is left out."""
    allowlist = msgspec.structs.replace(load_allowlist(), boot=[])
    code = compile_filter(allowlist)
    own, document = parse(code), json.loads(docker_profile(allowlist))
    seen = 0
    for name in sorted({name for each in allowlist.allow if each.only for name in each.names}):
        conforming = [*CONFORMING.get(name, ()), *[0] * 6][:6]
        for place in range(6):
            for value in SAMPLES:
                arguments = [*conforming[:place], value, *conforming[place + 1 :]]
                granted = verdict(document, name, *arguments) == ALLOWED
                assert granted == (run(own, NUMBERS[name], *arguments) == ALLOW), (name, arguments)
                seen += granted
    assert seen > 500
