"""Compiles the allowlist in `policies/seccomp.toml` to a classic BPF program, without a library.

The program checks the architecture first (a 32-bit call has other numbers), then refuses the x32 numbers, then goes
through the list. What is not on it gets `EPERM`; the kernel caches the numbers that are allowed whatever their
arguments, so the length of the list costs nothing at run time.

An entry can look at arguments, and says what they may be, never what they may not: `only` is a list of conditions that
must all hold. A call may be in several entries; the first whose conditions hold decides, and where none do it is
refused. An entry without conditions always holds, so its calls are in no other entry. A filter cannot follow pointers,
which is why `clone3` (its flags are behind one) answers `ENOSYS`: the C library then uses `clone`.
"""

from __future__ import annotations

import errno
import functools
import operator
import platform
import struct
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from belljar import assets
from belljar.errors import HostFault, LayerMissing
from belljar.sandbox.numbers import NUMBERS

__all__ = ["Allowlist", "Answer", "Condition", "Rule", "compile_filter", "load_allowlist"]

_MACHINE: Final = "x86_64"
_AUDIT_ARCH: Final = 0xC000003E
_X32_BIT: Final = 0x40000000

_LD_ABS: Final = 0x20
_ALU_AND: Final = 0x54
_JMP_JEQ: Final = 0x15
_JMP_JGE: Final = 0x35
_RET: Final = 0x06
_RET_KILL_PROCESS: Final = 0x80000000
_RET_ERRNO: Final = 0x00050000
_RET_ALLOW: Final = 0x7FFF0000
_NR_OFFSET: Final = 0
_ARCH_OFFSET: Final = 4
_ARGS_OFFSET: Final = 16
_INSTRUCTIONS_MAX: Final = 4096

Word = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
Instruction = tuple[int, int, int, int]
# The kernel does not make the call and returns the number in the low bits as the error: none.
_SUCCESS: Final[Instruction] = (_RET, 0, 0, _RET_ERRNO)


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The low 32 bits of argument `arg`: one of `values`, each with any of `bits` or none.

    So `bits` alone is a list of flags, any of which may be set and no others. With `whole`, the high 32 bits must be
    zero as well: for an argument that is a pointer, or that the kernel reads as a long.
    """

    arg: Annotated[int, msgspec.Meta(ge=0, le=5)]
    # The length of an entry, with a condition for every argument, must fit into an eight-bit jump.
    values: Annotated[list[Word], msgspec.Meta(min_length=1, max_length=32)] = msgspec.field(
        default_factory=lambda: [0]
    )
    bits: list[Word] = []
    whole: bool = False

    def __post_init__(self) -> None:
        if any(value & ~self.mask for value in self.values):
            raise ValueError("a value has bits that are not compared")

    @property
    def mask(self) -> int:
        """The bits of the low half that are compared."""
        return 0xFFFFFFFF & ~functools.reduce(operator.or_, self.bits, 0)


Only = Annotated[list[Condition], msgspec.Meta(max_length=6)]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`names` may be called where all of `only` hold. `why` is for reviewers."""

    names: Annotated[list[str], msgspec.Meta(min_length=1)]
    why: Annotated[str, msgspec.Meta(min_length=10)]
    only: Only = []

    def __post_init__(self) -> None:
        _check_one_for_each(self.only)


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where all of `only` hold, the calls in `names` are not made and answer something other than `EPERM`.

    `error`: one that libraries know how to work around, or `success` for a call that has nothing to do in a box.
    """

    names: Annotated[list[str], msgspec.Meta(min_length=1)]
    error: Literal["EAGAIN", "ENOSYS", "EOPNOTSUPP", "success"]
    why: Annotated[str, msgspec.Meta(min_length=10)]
    only: Only = []

    def __post_init__(self) -> None:
        _check_one_for_each(self.only)


_Entry = TypeVar("_Entry", Rule, Answer)


class Allowlist(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file, typed. Everything that it does not name is refused."""

    schema: Annotated[int, msgspec.Meta(ge=1, le=1)]
    allow: list[Rule]
    answer: list[Answer]
    # What a container's first process needs in addition, before it loads the filter made from the rest.
    boot: list[Rule]

    def names(self) -> list[str]:
        """Every system call that may be made, in the file's order."""
        return _names(self.allow)

    def answered(self) -> list[str]:
        """Every system call that is never made, whatever its arguments, and answers something other than `EPERM`."""
        return _names([answer for answer in self.answer if not answer.only])

    def without(self, name: str) -> Allowlist:
        """The same list with one call taken out, for the test that asks whether it is needed."""
        return msgspec.structs.replace(self, allow=_without(name, self.allow), answer=_without(name, self.answer))

    def without_boot(self, name: str) -> Allowlist:
        """The same list with one call removed from those that only the start of a container needs."""
        return msgspec.structs.replace(self, boot=_without(name, self.boot))


def load_allowlist(path: Path | None = None) -> Allowlist:
    """Read the list that comes with the package, or another file.

    Raises:
        HostFault: the file is missing or wrong.
    """
    path = path or assets.policies_dir() / "seccomp.toml"
    try:
        allowlist = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Allowlist)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise HostFault(f"{path}: {error}: reinstall belljar") from error
    doubled = sorted({*_doubled([*allowlist.allow, *allowlist.answer]), *_doubled(allowlist.boot)})
    unknown = sorted({*_names([*allowlist.allow, *allowlist.answer, *allowlist.boot])} - NUMBERS.keys())
    if doubled or unknown:
        raise HostFault(f"{path}: named twice: {doubled}, not a system call: {unknown}")
    return allowlist


def compile_filter(allowlist: Allowlist) -> bytes:
    """The filter as an array of `struct sock_filter`.

    Raises:
        LayerMissing: this machine is not x86_64. The list's numbers and flags mean other things on other machines (what
            is O_DIRECTORY here is O_DIRECT on aarch64), and no box is made without a filter.
    """
    if (machine := platform.machine()) != _MACHINE:
        raise LayerMissing(
            f"this machine is {machine}, but the system call filter is written for {_MACHINE}: run boxes on a machine "
            "of that kind",
            code="layer.missing",
        )
    code: list[Instruction] = [
        (_LD_ABS, 0, 0, _ARCH_OFFSET),
        (_JMP_JEQ, 1, 0, _AUDIT_ARCH),
        (_RET, 0, 0, _RET_KILL_PROCESS),
        (_LD_ABS, 0, 0, _NR_OFFSET),
        (_JMP_JGE, 0, 1, _X32_BIT),
        (_RET, 0, 0, _RET_KILL_PROCESS),
    ]
    entries: list[tuple[Rule | Answer, Instruction]] = [(answer, _told(answer)) for answer in allowlist.answer]
    entries += [(rule, (_RET, 0, 0, _RET_ALLOW)) for rule in allowlist.allow]
    for entry, verdict in entries:
        for name in entry.names:
            code += _call(NUMBERS[name], entry.only, verdict)
    code.append(_refuse("EPERM"))
    assert len(code) <= _INSTRUCTIONS_MAX
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _check_one_for_each(only: Sequence[Condition]) -> None:
    """A daemon would take two conditions on one argument as alternatives."""
    if len({condition.arg for condition in only}) < len(only):
        raise ValueError("two conditions on one argument")


def _names(entries: Sequence[Rule | Answer]) -> list[str]:
    """Each name once, in order."""
    return list(dict.fromkeys(name for entry in entries for name in entry.names))


def _doubled(entries: Sequence[Rule | Answer]) -> set[str]:
    """Names that are in another entry besides one that always holds, or twice in one entry."""
    names = [name for entry in entries for name in entry.names]
    always = {name for entry in entries if not entry.only for name in entry.names}
    twice = {name for entry in entries for name in entry.names if entry.names.count(name) > 1}
    return twice | {name for name in always if names.count(name) > 1}


def _without(name: str, entries: Sequence[_Entry]) -> list[_Entry]:
    return [
        msgspec.structs.replace(entry, names=[other for other in entry.names if other != name])
        for entry in entries
        if entry.names != [name]
    ]


def _call(number: int, only: Sequence[Condition], verdict: Instruction) -> list[Instruction]:
    """`verdict` for this number where all conditions hold, else continue; the next comparison still sees the number."""
    code = [verdict]
    for condition in reversed(only):
        code = [*_compare(condition, len(code)), *code]
    if only:
        # A path that continues from inside has loaded something else meanwhile.
        return [(_JMP_JEQ, 0, len(code) + 1, number), *code, (_LD_ABS, 0, 0, _NR_OFFSET)]
    return [(_JMP_JEQ, 0, len(code), number), *code]


def _compare(condition: Condition, rest: int) -> list[Instruction]:
    """Continue where the condition holds, else jump over the `rest` instructions that follow."""
    count = len(condition.values)
    code = [(_LD_ABS, 0, 0, _offset(condition.arg)), (_ALU_AND, 0, 0, condition.mask)]
    for index, value in enumerate(condition.values):
        last = index == count - 1
        code.append((_JMP_JEQ, count - 1 - index, rest if last else 0, value))
    if condition.whole:
        code = [(_LD_ABS, 0, 0, _offset(condition.arg) + 4), (_JMP_JEQ, 0, len(code) + rest, 0), *code]
    return code


def _offset(arg: int) -> int:
    """The offset of the low half: the machine is little-endian."""
    return _ARGS_OFFSET + 8 * arg


def _told(answer: Answer) -> Instruction:
    return _SUCCESS if answer.error == "success" else _refuse(answer.error)


def _refuse(name: str) -> Instruction:
    number: int = getattr(errno, name)
    return (_RET, 0, 0, _RET_ERRNO | number)
