"""The system call filter, without a kernel: the list's file is checked, and the compiled program is run by a small
interpreter of the four things a classic BPF program of ours can do: load a word, mask it, compare and jump, return.

`mistakes` says what is wrong with a program. That it says something is shown with programs that were spoilt on purpose.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from belljar import assets
from belljar.errors import HostFault, LayerMissing
from belljar.sandbox.numbers import NUMBERS
from belljar.sandbox.seccomp import Allowlist, Answer, Condition, Rule, compile_filter, load_allowlist

X86_64 = 0xC000003E
FOREIGN = {"i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028, "riscv64": 0xC00000F3, "none": 0}
X32_BIT = 0x40000000

LD_ABS, ALU_AND, JMP_JEQ, JMP_JGE, RET = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM = ERRNO | errno.EPERM
SUCCESS = ERRNO

NAMESPACES = {
    "CLONE_NEWTIME": 0x80,
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}
# What the C library gives clone for a thread and for a fork.
THREAD, FORK = 0x3D0F00, 0x01200011
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = 1, 2, 0x20
F_SETFL, F_SETLK, F_SETLKW = 4, 6, 7
FUTEX_PRIVATE, FUTEX_CLOCK_REALTIME = 0x80, 0x100
POINTER = 0x7FFF00001000
# Arguments with which each conditional call is legitimate.
CONFORMING: dict[str, tuple[int, ...]] = {
    "clock_nanosleep": (1, 1, POINTER),
    "clone": (THREAD,),
    "epoll_create1": (0x80000,),
    "fcntl": (3, 1),
    "futex": (POINTER, 0x189, 1, 0, 0, 0xFFFFFFFF),
    "ioctl": (3, 0x5421),
    "madvise": (POINTER, 4096, 4),
    "mmap": (0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE),
    "mprotect": (POINTER, 4096, PROT_READ),
    "mremap": (POINTER, 4096, 8192, 1),
    "openat": (0xFFFFFF9C, POINTER, 0x80241, 0o666),
    "pipe2": (POINTER, 0x80000),
    "prlimit64": (0, 3, 0, POINTER),
    "sendto": (3, POINTER, 1, 0, 0, 0),
    "socketpair": (1, 0x80001, 0, POINTER),
}
# What a call's argument may be at most: the call, the argument's place, its flags. Any other bit is refused.
FLAGS = {
    "openat": (2, 0x80000 | 0x100000 | 0x200000 | 0x20000 | 0x10000 | 0x1000 | 0x800 | 0x400 | 0x200 | 0x80 | 0x40 | 3),
    "newfstatat": (3, 0x1100),
    "utimensat": (3, 0),
    "pipe2": (1, 0x80800),
    "mprotect": (2, PROT_READ | PROT_WRITE),
    "wait4": (2, 1),
    "getrandom": (2, 1),
    "sendto": (3, 0x4040),
    "recvfrom": (3, 0x142),
    "rseq": (2, 0),
    "sched_getaffinity": (0, 0),
}
# The only values of an argument: the call, the argument's place, and with what before it.
VALUES: dict[str, tuple[tuple[int, ...], set[int]]] = {
    "lseek": ((3, 0), {0, 1, 2}),
    "epoll_create1": ((), {0x80000}),
    "mremap": ((POINTER, 4096, 8192), {1}),
    "madvise": ((POINTER, 4096), {4, 8, 14, 15}),
    "clock_nanosleep": ((), {0, 1}),
    "ioctl": ((3,), {0x5421, 0x5450, 0x5451}),
    "futex": ((POINTER,), {0x80, 0x81, 0x89, 0x189}),
    "clone": ((), {THREAD, FORK}),
}

Program = list[tuple[int, int, int, int]]


# --------------------------------------------------------------------------------------------------- the interpreter


def parse(code: bytes) -> Program:
    return [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]


def run(program: Sequence[tuple[int, int, int, int]], number: int, *arguments: int, arch: int = X86_64) -> int:
    """What the kernel would do with this call: the returned word. Anything a verifier would refuse is an IndexError."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, arch, 0x7FFFDEADBEEF, *padded)
    word, at = 0, 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        match code:
            case 0x20:
                assert value in range(0, 64, 4)
                (word,) = struct.unpack_from("=I", data, value)
            case 0x54:
                word &= value
            case 0x15:
                at += yes if word == value else no
            case 0x35:
                at += yes if word >= value else no
            case 0x06:
                return value
            case _:
                raise AssertionError(f"an instruction that we never write: {code:#x}")


def mistakes(program: Program, allowlist: Allowlist) -> list[str]:
    """Everything in which the program does something else than the list says; empty when it is right."""
    found = [f"{name} is not killed" for name, arch in FOREIGN.items() if run(program, 0, arch=arch) != KILL]
    found += [f"x32 {number} is not killed" for number in range(500) if run(program, X32_BIT | number) != KILL]
    allowed = {NUMBERS[name]: CONFORMING.get(name, ()) for name in allowlist.names()}
    answers = {NUMBERS[name]: answer.error for answer in allowlist.answer for name in answer.names}
    for number in range(501):
        expected = EPERM
        if number in allowed:
            expected = ALLOW
        elif number in answers:
            expected = SUCCESS if answers[number] == "success" else ERRNO | getattr(errno, answers[number])
        got = run(program, number, *allowed.get(number, ()))
        if got != expected:
            found.append(f"{number} gives {got:#x}, not {expected:#x}")
    return found


# ------------------------------------------------------------------------------------------------------ the fixtures


@pytest.fixture(scope="module")
def allowlist() -> Allowlist:
    return load_allowlist()


@pytest.fixture(scope="module")
def program(allowlist: Allowlist) -> Program:
    code = compile_filter(allowlist)
    assert len(code) % 8 == 0
    return parse(code)


def entries(allowlist: Allowlist) -> list[Rule | Answer]:
    return [*allowlist.allow, *allowlist.answer]


def called(program: Program, name: str, *arguments: int) -> int:
    return run(program, NUMBERS[name], *arguments)


# ---------------------------------------------------------------------------------------------------------- the file

ARG = "only = [{ arg = 0, values = [1] }]"
MINIMAL = """\
schema = 1
[[allow]]
names = ["read"]
why = "the wire itself"
[[answer]]
names = ["clone3"]
error = "ENOSYS"
why = "its flags are behind a pointer"
[[boot]]
names = ["execve"]
why = "a container begins with it"
"""


def test_the_list_loads_and_every_entry_has_a_reason(allowlist: Allowlist) -> None:
    assert len(allowlist.names()) > 50
    for entry in entries(allowlist):
        assert len(entry.why.split()) >= 4, entry.names
        assert entry.why.strip().endswith("."), entry.names


NEVER = """
execve execveat socket connect bind ptrace process_vm_readv process_vm_writev mount umount2 pivot_root unshare setns
bpf io_uring_setup userfaultfd keyctl add_key request_key perf_event_open memfd_create memfd_secret setuid setgid
setresuid capset personality modify_ldt name_to_handle_at open_by_handle_at pidfd_getfd pidfd_open open_tree fsopen
chroot mknod mknodat prctl arch_prctl seccomp flock sysinfo statfs fstatfs syslog msgget semget shmget
sched_setaffinity setpriority setrlimit pkey_mprotect mincore fadvise64 readahead msync mlock mlock2 inotify_init1
fanotify_init mq_open mq_timedsend msgsnd semop shmat set_robust_list get_robust_list futex_waitv set_tid_address
splice vmsplice tee sendfile copy_file_range sendmsg recvmsg timerfd_create eventfd2
"""


@pytest.mark.parametrize("name", NEVER.split())
def test_the_list_does_not_name(allowlist: Allowlist, name: str) -> None:
    assert name in NUMBERS
    assert name not in [*allowlist.names(), *allowlist.answered()]


def test_without_takes_one_name_out_and_leaves_the_rest(allowlist: Allowlist) -> None:
    for name in [*allowlist.names(), *allowlist.answered()]:
        less = allowlist.without(name)
        assert less.names() == [other for other in allowlist.names() if other != name]
        assert less.answered() == [other for other in allowlist.answered() if other != name]
        assert all(entry.names for entry in entries(less))


def test_the_smallest_list_loads(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text(MINIMAL)
    assert load_allowlist(path).names() == ["read"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('"read"', '"raed"'), "raed"),
        (('"read"', '"read", "write", "read"'), "named twice: ['read']"),
        (('"read"', '"read", "clone3"'), "named twice: ['clone3']"),
        (("[[answer]]", f'[[allow]]\nnames = ["read"]\nwhy = "for this test"\n{ARG}\n[[answer]]'), "twice: ['read']"),
        (('"read"', ""), "length >= 1"),
        (('why = "the wire itself"\n', ""), "missing required field `why`"),
        (('"the wire itself"', '"because"'), "length >= 10"),
        (('why = "the', 'whence = "x"\nwhy = "the'), "unknown field `whence`"),
        (("schema = 1", "schema = 1\nsoon = true"), "unknown field `soon`"),
        (("schema = 1", "schema = 2"), "schema"),
        (('"ENOSYS"', '"EVERYTHING"'), "EVERYTHING"),
        (('why = "the', 'only = { arg = 1 }\nwhy = "the'), "array"),
        (('why = "the', 'only = [{ arg = 6, values = [0] }]\nwhy = "the'), "arg"),
        (('why = "the', 'only = [{ arg = 0, values = [-1] }]\nwhy = "the'), "values"),
        (('why = "the', 'only = [{ arg = 0, values = [] }]\nwhy = "the'), "length >= 1"),
        (('why = "the', f'only = [{{ arg = 0, values = {[*range(33)]} }}]\nwhy = "the'), "length <= 32"),
        (('why = "the', 'only = [{ arg = 0, values = [0], high = 1 }]\nwhy = "the'), "unknown field `high`"),
        (('why = "the', 'only = [{ arg = 0, values = [3], bits = [2] }]\nwhy = "the'), "not compared"),
        (('why = "the', 'only = [{ arg = 0 }, { arg = 0, bits = [1] }]\nwhy = "the'), "two conditions on one argument"),
        (("[[allow]]", "[[alow]]"), "unknown field `alow`"),
        (("schema = 1", "schema ="), "Invalid value"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_a_wrong_list_is_refused_with_its_path(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    path = tmp_path / "list.toml"
    assert change[0] in MINIMAL
    path.write_text(MINIMAL.replace(*change))
    with pytest.raises(HostFault) as caught:
        load_allowlist(path)
    assert str(path) in str(caught.value)
    assert complaint in str(caught.value)


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match="nowhere"):
        load_allowlist(tmp_path / "nowhere.toml")


def test_the_list_of_the_package_is_the_one_that_loads() -> None:
    assert load_allowlist() == load_allowlist(assets.policies_dir() / "seccomp.toml")


# ------------------------------------------------------------------------------------------------------- the program


def test_the_program_does_what_the_list_says_for_every_number(program: Program, allowlist: Allowlist) -> None:
    assert mistakes(program, allowlist) == []


def test_every_jump_stays_in_the_program_and_every_path_returns(program: Program) -> None:
    assert 0 < len(program) <= 4096
    for at, (code, yes, no, value) in enumerate(program):
        assert code in (LD_ABS, ALU_AND, JMP_JEQ, JMP_JGE, RET)
        if code in (JMP_JEQ, JMP_JGE):
            assert at + 1 + max(yes, no) < len(program)
        elif code == RET:
            assert value in (ALLOW, KILL) or value & 0xFFFF0000 == ERRNO
        else:
            assert at + 1 < len(program)


@pytest.mark.parametrize("number", [0, 1, 59, 231, 435, 0xFFFFFFFF])
@pytest.mark.parametrize("arch", FOREIGN.values(), ids=FOREIGN)
def test_a_call_of_another_architecture_kills(program: Program, arch: int, number: int) -> None:
    assert run(program, number, arch=arch) == KILL


def test_another_machine_gets_no_filter(allowlist: Allowlist, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list's numbers and flags are one machine's: on another they would allow something else."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(LayerMissing, match="this machine is aarch64"):
        compile_filter(allowlist)


def test_numbers_beyond_the_table_are_refused(program: Program) -> None:
    assert run(program, 0x3FFFFFFF) == EPERM
    assert run(program, X32_BIT) == run(program, 0xFFFFFFFF) == KILL


@pytest.mark.parametrize("dropped", [3, 6], ids=["architecture", "architecture and x32"])
def test_a_program_without_the_first_checks_is_found_out(program: Program, allowlist: Allowlist, dropped: int) -> None:
    # The three instructions before the x32 check are the architecture's; the number must still be loaded.
    spoilt = program[3:] if dropped == 3 else [program[3], *program[6:]]
    found = mistakes(spoilt, allowlist)
    assert "i386 is not killed" in found
    assert ("x32 0 is not killed" in found) == (dropped == 6)


def test_a_program_that_allows_one_more_is_found_out(program: Program, allowlist: Allowlist) -> None:
    more = [*program[:6], (JMP_JEQ, 0, 1, NUMBERS["execve"]), (RET, 0, 0, ALLOW), *program[6:]]
    assert mistakes(more, allowlist) == [f"{NUMBERS['execve']} gives {ALLOW:#x}, not {EPERM:#x}"]


def test_a_program_that_allows_by_default_is_found_out(program: Program, allowlist: Allowlist) -> None:
    assert len(mistakes([*program[:-1], (RET, 0, 0, ALLOW)], allowlist)) > 300


# ----------------------------------------------------------------------------------------------------- the arguments


def test_clone3_says_it_does_not_exist(program: Program) -> None:
    assert called(program, "clone3", 0, 88) == ERRNO | errno.ENOSYS


@pytest.mark.parametrize("flag", [flag for name, flag in NAMESPACES.items() if name != "CLONE_NEWTIME"])
@pytest.mark.parametrize("others", [0, THREAD, FORK], ids=["alone", "thread", "fork"])
def test_clone_makes_no_namespace(program: Program, flag: int, others: int) -> None:
    # CLONE_NEWTIME has a bit of the exit signal and does nothing in clone; unshare, which knows it, is not named.
    assert called(program, "clone", flag | others) == EPERM
    assert called(program, "clone", flag | others | 1 << 32) == EPERM


@pytest.mark.parametrize("flags", [THREAD, FORK])
def test_clone_makes_threads_and_forks(program: Program, flags: int) -> None:
    assert called(program, "clone", flags) == ALLOW


def test_clone_takes_two_combinations_of_flags_and_no_other(program: Program) -> None:
    for bit in range(64):
        for flags in (THREAD, FORK):
            assert called(program, "clone", flags ^ 1 << bit) == EPERM, hex(flags ^ 1 << bit)


@pytest.mark.parametrize("name", FLAGS)
def test_an_argument_has_the_flags_that_somebody_needs_and_no_other(program: Program, name: str) -> None:
    place, flags = FLAGS[name]
    conforming = [*CONFORMING.get(name, ()), *[0] * 6][:6]
    for bit in range(32):
        arguments = [*conforming[:place], 1 << bit, *conforming[place + 1 :]]
        assert called(program, name, *arguments) == (ALLOW if flags >> bit & 1 else EPERM), hex(1 << bit)
    assert called(program, name, *conforming[:place], flags, *conforming[place + 1 :]) == ALLOW


@pytest.mark.parametrize("name", VALUES)
def test_an_argument_has_the_values_that_somebody_needs_and_no_other(program: Program, name: str) -> None:
    before, values = VALUES[name]
    for value in (*range(0x400), *range(0x5400, 0x5480), *(1 << bit for bit in range(32)), 0xFFFFFFFF, *values):
        got = called(program, name, *before, value)
        told = ERRNO | errno.EAGAIN if (name, value) == ("futex", 0x109) else EPERM
        assert got == (ALLOW if value in values else told), hex(value)


def test_a_lock_waits_and_wakes_in_its_own_process_alone(program: Program) -> None:
    for operation in range(128):
        for clock in (0, FUTEX_CLOCK_REALTIME):
            # What CPython's join asks is answered with "look again", never waited for.
            told = ERRNO | errno.EAGAIN if operation | clock == 0x109 else EPERM
            assert called(program, "futex", POINTER, operation | clock) == told
            private = operation | clock | FUTEX_PRIVATE
            needed = private in (0x80, 0x81, 0x89, 0x189)
            assert called(program, "futex", POINTER, private) == (ALLOW if needed else EPERM)


def test_memory_is_never_writable_and_executable(program: Program) -> None:
    for junk in (0, 8, 0x01000000, 0x80000000):
        for protection in range(8):
            mapped = called(program, "mmap", 0, 4096, protection | junk, MAP_PRIVATE)
            assert mapped == (ALLOW if protection in (0, 1, 2, 3, 5) and not junk else EPERM)
            changed = called(program, "mprotect", 0, 4096, protection | junk)
            assert changed == (ALLOW if protection < 4 and not junk else EPERM)


@pytest.mark.parametrize("flags", [1, 3, 0x11, 0xFFFFFFFF00000001], ids=["shared", "validated", "fixed", "junk"])
def test_shared_memory_is_never_executable(program: Program, flags: int) -> None:
    for protection in range(8):
        expected = EPERM if protection & PROT_EXEC else ALLOW
        assert called(program, "mmap", 0, 4096, protection, flags) == expected
    assert called(program, "mmap", 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE) == ALLOW


def test_memory_comes_from_the_box_s_own_account(program: Program) -> None:
    known = MAP_SHARED | MAP_PRIVATE | MAP_ANONYMOUS | 0x10 | 0x800 | 0x20000
    for bit in range(32):
        expected = ALLOW if known >> bit & 1 else EPERM  # 0x40000 is HUGETLB
        assert called(program, "mmap", 0, 4096, PROT_READ, 1 << bit) == expected, hex(1 << bit)


def test_pairs_are_streams_of_the_unix_family(program: Program) -> None:
    assert called(program, "socketpair", 1, 1, 0, POINTER) == ALLOW
    for family in (*range(1), *range(2, 64), 0xFFFFFFFF):
        assert called(program, "socketpair", family, 1, 0, POINTER) == EPERM, family
    for kind in (*range(1), *range(2, 16), 0x801, 0x80002, 0x80005):
        assert called(program, "socketpair", 1, kind, 0, POINTER) == EPERM, kind
    assert called(program, "socketpair", 1, 1, 1, POINTER) == EPERM


@pytest.mark.parametrize("pointer", [1, 0x7FFF0000, 0xFFFFFFFF, 1 << 32, 0x7FFF00000000, 1 << 63])
def test_a_pointer_that_must_be_null_is_null_in_both_halves(program: Program, pointer: int) -> None:
    assert called(program, "prlimit64", 0, 7, 0, POINTER) == ALLOW
    assert called(program, "prlimit64", 0, 7, pointer, 0) == EPERM
    assert called(program, "prlimit64", pointer, 7, 0, POINTER) == EPERM
    assert called(program, "sendto", 3, POINTER, 1, 0, 0, 0) == ALLOW
    assert called(program, "sendto", 3, POINTER, 1, 0, pointer, 110) == EPERM


def test_file_locks_are_answered_and_not_made(program: Program) -> None:
    for command in (F_SETLK, F_SETLKW):
        assert called(program, "fcntl", 3, command, POINTER) == SUCCESS


def test_fcntl_knows_flags_and_nothing_else(program: Program) -> None:
    known = {1: ALLOW, 2: ALLOW, 3: ALLOW, 4: ALLOW, 1030: ALLOW, F_SETLK: SUCCESS, F_SETLKW: SUCCESS}
    # Owners and signals, leases, notifications, pipe sizes, seals, open file description locks.
    for command in (*range(64), *range(1024, 1050), 0xFFFFFFFF):
        assert called(program, "fcntl", 3, command) == known.get(command, EPERM), command


def test_a_file_s_flags_change_but_for_three_that_reach_further(program: Program) -> None:
    named = FLAGS["openat"][1] & ~0x2802C0 | 0x8000  # asked for, some are gone; one is new
    for bit in range(32):
        expected = ALLOW if named >> bit & 1 else EPERM  # 0x2000 ASYNC, 0x4000 DIRECT, 0x40000 NOATIME
        assert called(program, "fcntl", 3, F_SETFL, 1 << bit) == expected, hex(1 << bit)
        assert called(program, "fcntl", 3, F_SETFL, 1 << bit | 0x800) == expected


# -------------------------------------------------------------------------------------------------- conditions by hand


def compiled(rule: Rule, *answers: Answer, more: Sequence[Rule] = ()) -> Program:
    code = compile_filter(Allowlist(schema=1, allow=[rule, *more], answer=list(answers), boot=[]))
    return parse(code)


RULE = Rule(names=["kill"], why="for this test only")


def ruled(*only: Condition) -> Rule:
    return msgspec.structs.replace(RULE, only=list(only))


def test_a_condition_compares_the_low_half_without_its_bits_and_where_asked_the_high_half() -> None:
    masked = compiled(ruled(Condition(arg=1, values=[0x10, 0x30], bits=[1, 2, 0xC])))
    assert called(masked, "kill", 0, 0xFFFFFFFF_0000001F) == ALLOW
    assert called(masked, "kill", 0, 0x3A) == ALLOW
    assert called(masked, "kill", 0, 0x50) == called(masked, "kill", 0x10, 0x20) == EPERM
    whole = compiled(ruled(Condition(arg=5, values=[0, 7], whole=True)))
    assert called(whole, "kill", 1, 1, 1, 1, 1, 7) == ALLOW
    assert called(whole, "kill", 1, 1, 1, 1, 1, 7 | 1 << 40) == EPERM
    assert called(whole, "kill", 0, 0, 0, 0, 0, 6) == EPERM


def test_a_condition_without_values_is_flags_of_which_there_may_be_none() -> None:
    flags = compiled(ruled(Condition(arg=0, bits=[1, 4])))
    assert [value for value in range(64) if called(flags, "kill", value) == ALLOW] == [0, 1, 4, 5]


def test_all_conditions_of_an_entry_must_hold() -> None:
    both = compiled(ruled(Condition(arg=0, values=[1, 2]), Condition(arg=3, values=[8], bits=[1], whole=True)))
    for first in range(4):
        for second in (*range(16), 8 | 1 << 32):
            expected = ALLOW if first in (1, 2) and second in (8, 9) else EPERM
            assert called(both, "kill", first, 0, 0, second) == expected


def test_the_first_entry_whose_conditions_hold_decides() -> None:
    answer = Answer(names=["kill"], error="EAGAIN", why="for this test", only=[Condition(arg=1, values=[6])])
    more = ruled(Condition(arg=0, values=[9]), Condition(arg=1, values=[9]))
    after = Rule(names=["tkill"], why="for this test only")
    entries = compiled(ruled(Condition(arg=0, values=[1])), answer, more=[more, after])
    assert called(entries, "kill", 1) == called(entries, "kill", 9, 9) == ALLOW
    assert called(entries, "kill", 1, 6) == called(entries, "kill", 9, 6) == ERRNO | errno.EAGAIN
    assert called(entries, "kill", 9, 1) == called(entries, "kill", 2, 9) == EPERM
    # What an entry has loaded and compared does not stand in the way of those that follow.
    assert called(entries, "tkill", 200) == ALLOW
    assert called(entries, "tgkill", 200) == EPERM


def test_many_values_do_not_break_a_jump() -> None:
    most = [Condition(arg=arg, values=list(range(0, 64, 2)), whole=True) for arg in range(6)]
    many = compiled(ruled(*most), more=[Rule(names=["tkill"], why="for this test only")])
    for value in range(70):
        for arg in range(6):
            arguments = [62 if other != arg else value for other in range(6)]
            assert called(many, "kill", *arguments) == (ALLOW if value in most[0].values else EPERM)
    assert called(many, "tkill") == ALLOW
    assert called(many, "tgkill") == EPERM


def test_answers_come_out_as_they_are_named() -> None:
    answers = [
        Answer(names=["fsync"], error="success", why="for this test only"),
        Answer(names=["listxattr"], error="EOPNOTSUPP", why="for this test only"),
    ]
    program = compiled(RULE, *answers)
    assert called(program, "fsync", 3) == SUCCESS
    assert called(program, "listxattr") == ERRNO | errno.EOPNOTSUPP
