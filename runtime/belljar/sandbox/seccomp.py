"""From the allowlist in `policies/seccomp.toml` to a classic BPF program, without a library.

The program checks the architecture first (a 32-bit call has other numbers), then refuses the x32 numbers, then goes
through the list. What is not on it gets `EPERM`; the kernel remembers per number what is allowed whatever the
arguments, so the length of the list costs nothing in running. A rule can look at arguments: `only` names values of
which one must match, `never` names bits that must not all be set, `pretend` names values with which the call is not
made and answers 0 all the same. A filter cannot follow pointers, which is why `clone3` (its flags are behind one)
answers `ENOSYS`: the C library then takes `clone`.
"""

from __future__ import annotations

import errno
import platform
import struct
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from belljar import assets
from belljar.errors import HostFault
from belljar.sandbox.numbers import NUMBERS

__all__ = ["Allowlist", "Answer", "Condition", "Rule", "compile_filter", "load_allowlist"]

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E}
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
# The kernel makes no call and gives the number in the low bits as the error: none.
_SUCCESS: Final[Instruction] = (_RET, 0, 0, _RET_ERRNO)


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The low 32 bits of argument `arg`, masked: one of `values`. With `whole`, the high 32 bits must be zero."""

    arg: Annotated[int, msgspec.Meta(ge=0, le=5)]
    # The length of a rule must fit in a jump of eight bits, with all three conditions.
    values: Annotated[list[Word], msgspec.Meta(min_length=1, max_length=32)]
    mask: Word = 0xFFFFFFFF
    whole: bool = False


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`names` may be called; with `only` and `never` under these conditions. `why` is for whoever reviews it.

    Where `pretend` matches, the call answers 0 without being made, whatever the other conditions say. `never_both`
    names two conditions of one value each that must not hold together.
    """

    names: Annotated[list[str], msgspec.Meta(min_length=1)]
    why: Annotated[str, msgspec.Meta(min_length=10)]
    only: Condition | None = None
    never: Condition | None = None
    pretend: Condition | None = None
    never_both: tuple[Condition, Condition] | None = None


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`names` are not made and answer something else than `EPERM`.

    `error`: one that a library knows a way around, or `success` for a call that has nothing to do in a box.
    """

    names: Annotated[list[str], msgspec.Meta(min_length=1)]
    error: Literal["ENOSYS", "EOPNOTSUPP", "success"]
    why: Annotated[str, msgspec.Meta(min_length=10)]


_Entry = TypeVar("_Entry", Rule, Answer)


class Allowlist(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file, typed. Everything that it does not name is refused."""

    schema: Annotated[int, msgspec.Meta(ge=1, le=1)]
    allow: list[Rule]
    answer: list[Answer]
    # What a container's first process needs besides, before it loads the filter that is made of the rest.
    boot: list[Rule]

    def names(self) -> list[str]:
        """Every system call that may be made, in the file's order."""
        return [name for rule in self.allow for name in rule.names]

    def answered(self) -> list[str]:
        """Every system call that is not made and answers something else than `EPERM`, in the file's order."""
        return [name for answer in self.answer for name in answer.names]

    def without(self, name: str) -> Allowlist:
        """The same list with one call taken out, for the test that asks whether it is needed."""
        return msgspec.structs.replace(self, allow=_without(name, self.allow), answer=_without(name, self.answer))

    def without_boot(self, name: str) -> Allowlist:
        """The same list with one call taken out of what only the start of a container needs."""
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
    names = [*allowlist.names(), *allowlist.answered()]
    doubled = sorted({name for name in names if names.count(name) > 1})
    unknown = sorted({*names, *(name for rule in allowlist.boot for name in rule.names)} - NUMBERS.keys())
    if doubled or unknown:
        raise HostFault(f"{path}: named twice: {doubled}, no system call: {unknown}")
    return allowlist


def compile_filter(allowlist: Allowlist) -> bytes | None:
    """The filter as an array of `struct sock_filter`, or None on a machine whose numbers we do not know."""
    arch = _AUDIT_ARCH.get(platform.machine())
    if arch is None:
        return None
    code: list[Instruction] = [
        (_LD_ABS, 0, 0, _ARCH_OFFSET),
        (_JMP_JEQ, 1, 0, arch),
        (_RET, 0, 0, _RET_KILL_PROCESS),
        (_LD_ABS, 0, 0, _NR_OFFSET),
        (_JMP_JGE, 0, 1, _X32_BIT),
        (_RET, 0, 0, _RET_KILL_PROCESS),
    ]
    for rule in allowlist.allow:
        for name in rule.names:
            code += _call(NUMBERS[name], _verdict(rule))
    for answer in allowlist.answer:
        for name in answer.names:
            code += _call(NUMBERS[name], [_SUCCESS if answer.error == "success" else _refuse(answer.error)])
    code.append(_refuse("EPERM"))
    assert len(code) <= _INSTRUCTIONS_MAX
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _without(name: str, entries: Sequence[_Entry]) -> list[_Entry]:
    return [
        msgspec.structs.replace(entry, names=[other for other in entry.names if other != name])
        for entry in entries
        if entry.names != [name]
    ]


def _call(number: int, verdict: Sequence[Instruction]) -> list[Instruction]:
    """`verdict` for this number; every path through it returns, so the next comparison still sees the number."""
    return [(_JMP_JEQ, 0, len(verdict), number), *verdict]


def _verdict(rule: Rule) -> list[Instruction]:
    code: list[Instruction] = []
    if rule.pretend is not None:
        code += _when(rule.pretend, _SUCCESS)
    if rule.never is not None:
        code += _when(rule.never, _refuse("EPERM"))
    if rule.never_both is not None:
        code += _when_both(*rule.never_both, _refuse("EPERM"))
    if rule.only is not None:
        code += _only(rule.only)
    return [*code, (_RET, 0, 0, _RET_ALLOW)]


def _when(condition: Condition, verdict: Instruction) -> list[Instruction]:
    """Give this verdict when the masked argument is one of the values, else go on."""
    code = _load(condition)
    for value in condition.values:
        code += [(_JMP_JEQ, 0, 1, value), verdict]
    return code


def _when_both(first: Condition, second: Condition, verdict: Instruction) -> list[Instruction]:
    """Give this verdict when the first condition's value and the second's match, else go on."""
    rest = [*_load(second), (_JMP_JEQ, 0, 1, second.values[0]), verdict]
    return [*_load(first), (_JMP_JEQ, 0, len(rest), first.values[0]), *rest]


def _only(condition: Condition) -> list[Instruction]:
    """Go on when the masked argument is one of the values, else refuse."""
    code: list[Instruction] = []
    if condition.whole:
        code += [(_LD_ABS, 0, 0, _offset(condition.arg) + 4), (_JMP_JEQ, 1, 0, 0), _refuse("EPERM")]
    code += _load(condition)
    count = len(condition.values)
    code += [(_JMP_JEQ, count - index, 0, value) for index, value in enumerate(condition.values)]
    return [*code, _refuse("EPERM")]


def _load(condition: Condition) -> list[Instruction]:
    return [(_LD_ABS, 0, 0, _offset(condition.arg)), (_ALU_AND, 0, 0, condition.mask)]


def _offset(arg: int) -> int:
    """Of the low half: both machines that we know are little-endian."""
    return _ARGS_OFFSET + 8 * arg


def _refuse(name: str) -> Instruction:
    number: int = getattr(errno, name)
    return (_RET, 0, 0, _RET_ERRNO | number)
