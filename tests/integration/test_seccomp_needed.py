"""Permission is a debt: every entry of the system call list has a program that does not work without it.

`WITNESSES` names it: the program runs well with the list, and fails, or its agent does not even start, with the one
entry taken out. An entry is a call, or one value or flag of one argument that the list allows. An entry without a
witness is either missing from the table or not needed; both fail a test. The
programs are what models write when nobody restricts the language: files in scratch, SQLite, asyncio, threads, forks,
signals, clocks. `LEGITIMATE` and the corpus of the restricted language say that the list is also long enough.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar.sandbox import Image, Jail, ensure_image
from belljar.sandbox.jail.backend import Zygote
from belljar.sandbox.seccomp import Allowlist, Answer, Condition, Rule, load_allowlist
from tests.integration.support import adopting_orphans, no_process_left
from tests.integration.test_jail_lifecycle import SPEC, Told, run_in

CORPUS = Path(__file__).parents[1] / "conformance" / "programs"
# A program that needs the host's help cannot run here; what it needs of the kernel, others need as well.
HOSTS_HELP = re.compile(r"\b(context|llm_query|rlm_query|llm_query_batched|rlm_query_batched|budget)\b")
# Long for any of these programs. Some, bereft of a call, wait for ever.
PATIENCE_S = 2.5
# For what ends by itself, on a machine however busy.
LONG_S = 60.0
AT_ONCE = 4

FILES = """\
with open("/tmp/a", "w") as file: file.write("hello\\n" * 10)
with open("/tmp/a", "r+") as file:
    file.seek(0, 2); assert file.tell() == 60; file.seek(0); file.truncate(20)
with open("/tmp/a", "rb") as file: assert len(file.read()) == 20
"""
FOLDERS = """\
import glob, os, pathlib, shutil
os.makedirs("/tmp/s/a/b"); pathlib.Path("/tmp/s/a/f").write_text("1" * 100000)
shutil.copyfile("/tmp/s/a/f", "/tmp/s/g"); shutil.move("/tmp/s/g", "/tmp/s/a/h"); os.replace("/tmp/s/a/h", "/tmp/s/a/i")
assert sorted(path.name for path in pathlib.Path("/tmp/s").rglob("*")) == ["a", "b", "f", "i"]
assert len(list(os.walk("/tmp/s"))) == 3 and glob.glob("/tmp/s/a/*")
os.unlink("/tmp/s/a/f"); os.rmdir("/tmp/s/a/b")
shutil.rmtree("/tmp/s")
assert not os.path.exists("/tmp/s")
"""
TEMPORARY = """\
import tempfile, os
with tempfile.TemporaryDirectory() as folder: open(os.path.join(folder, "x"), "w").close()
with tempfile.NamedTemporaryFile("w") as file: file.write("a")
with tempfile.TemporaryFile() as file: file.write(b"a"); file.seek(0); assert file.read() == b"a"
"""
COPIES = """\
import os, shutil
os.mkdir("/tmp/s"); open("/tmp/s/f", "w").write("text")
shutil.copy("/tmp/s/f", "/tmp/s/g"); shutil.copy2("/tmp/s/f", "/tmp/s/h"); shutil.copytree("/tmp/s", "/tmp/t")
assert abs(os.stat("/tmp/t/h").st_mtime - os.stat("/tmp/s/f").st_mtime) < 1e-3
"""
CHDIR = """\
import contextlib, os
os.mkdir("d")
with contextlib.chdir("d"): assert os.getcwd() == "/tmp/d"
assert os.getcwd() == "/tmp"
folder = os.open("d", os.O_PATH); os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=folder)); os.stat("d/f")
"""
SQLITE = """\
import sqlite3
db = sqlite3.connect("/tmp/x.db")
db.execute("create table t(a)"); db.executemany("insert into t values(?)", [(n,) for n in range(1000)]); db.commit()
db.execute("create index i on t(a)"); db.execute("delete from t where a > 10"); db.commit()
db.execute("vacuum"); db.close()
assert sqlite3.connect("/tmp/x.db").execute("select count(*) from t").fetchone() == (11,)
"""
SYNC = """\
import os
with open("/tmp/a", "w") as file: file.write("1"); file.flush(); os.fsync(file.fileno())
for flag in (os.O_SYNC, os.O_DSYNC): os.write(os.open("/tmp/a", os.O_WRONLY | flag), b"2")
"""
LOCK = """\
import fcntl
with open("/tmp/a", "w") as file: fcntl.lockf(file, fcntl.LOCK_EX); fcntl.lockf(file, fcntl.LOCK_UN)
"""
FLAGS = """\
import fcntl, os
open("/tmp/a", "w").close()
for name in "RDONLY WRONLY RDWR APPEND NONBLOCK DSYNC SYNC NOFOLLOW DIRECTORY".split():
    file = os.open("/tmp" if name == "DIRECTORY" else "/tmp/a", getattr(os, "O_" + name))
    fcntl.fcntl(file, fcntl.F_SETFD, fcntl.fcntl(file, fcntl.F_GETFD))
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_NONBLOCK)
    assert not os.get_blocking(file)
"""
PIPES = """\
import os
end, other = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
try: os.read(end, 1); raise AssertionError("it blocked")
except BlockingIOError: pass
"""
DUP = """\
import os
with open("/tmp/a", "w") as file:
    copy = os.dup(file.fileno()); os.set_inheritable(copy, True); os.set_blocking(copy, False); os.close(copy)
"""
ASYNCIO = """\
import asyncio, signal, os
async def work(n): await asyncio.sleep(0.001); return n
async def main():
    assert await asyncio.gather(*map(work, range(5))) == list(range(5))
    async with asyncio.timeout(30): assert await asyncio.to_thread(lambda: 3) == 3
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, event.set)
    os.kill(os.getpid(), signal.SIGUSR1); await event.wait()
asyncio.run(main())
"""
PAIR = """\
import socket
one, other = socket.socketpair(); one.send(b"x"); assert other.recv(1) == b"x"
one.send(b"abc", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
assert other.recv(1, socket.MSG_PEEK) == b"a" and other.recv(3, socket.MSG_WAITALL) == b"abc"
try: other.recv(1, socket.MSG_DONTWAIT); raise AssertionError("it blocked")
except BlockingIOError: pass
one.shutdown(socket.SHUT_WR); assert other.recv(1) == b""; one.close(); other.close()
"""
THREADS = """\
import threading, queue
from concurrent.futures import ThreadPoolExecutor
results = queue.Queue()
threads = [threading.Thread(target=results.put, args=(n,)) for n in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]; assert results.qsize() == 8
with ThreadPoolExecutor(8) as pool: assert list(pool.map(abs, range(50))) == list(range(50))
"""
THREAD_ENDS = """\
import threading, time
thread = threading.Thread(target=int); thread.start(); thread.join()
def of_others(): return time.process_time() - time.thread_time()
before, begun = of_others(), time.thread_time()
while time.thread_time() < begun + 0.5: pass  # on a busy machine neither gets much, and each about the same
assert of_others() - before < 0.02, "the thread never ended"
"""
FORK = """\
import os, threading, time
end, other = os.pipe()
pid = os.fork()
if pid == 0:
    threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
    os.write(other, b"42"); os._exit(3)
assert os.read(end, 10) == b"42" and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
"""
PROCESSES = """\
import mmap, multiprocessing, multiprocessing.connection
context = multiprocessing.get_context("fork")
one, other = context.Pipe()
memory = mmap.mmap(-1, 3)
def work(): memory[1] = 7; other.send("x")
process = context.Process(target=work); process.start()
assert multiprocessing.connection.wait([one], 30) == [one] and one.recv() == "x"
process.join(); assert process.exitcode == 0 and memory[:] == b"\\0\\7\\0" and not multiprocessing.active_children()
"""
POLLED = """\
import multiprocessing, time
context = multiprocessing.get_context("fork")
one, other = context.Pipe()
process = context.Process(target=other.recv); process.start(); assert process.is_alive(); one.send("x")
while process.is_alive(): time.sleep(0.01)
"""
WAITING = """\
import queue, threading
from concurrent.futures import ThreadPoolExecutor, wait
barrier, event, condition, seen = threading.Barrier(4), threading.Event(), threading.Condition(), []
def work(number):
    barrier.wait(30)
    with condition: seen.append(number); condition.notify_all()
    return event.wait(30)
with ThreadPoolExecutor(4) as pool:
    futures = [pool.submit(work, number) for number in range(4)]
    with condition: assert condition.wait_for(lambda: len(seen) == 4, 30)
    timer = threading.Timer(0.01, event.set); timer.start(); assert not wait(futures, 30).not_done; timer.join()
assert all(future.result() for future in futures)
lock = threading.RLock(); assert lock.acquire(timeout=1)
tickets = threading.BoundedSemaphore(2); assert tickets.acquire(timeout=0.01); tickets.release()
first = queue.PriorityQueue(2); first.put(2); first.put(1); assert (first.get(timeout=1), first.get()) == (1, 2)
try: first.get(timeout=0.01); raise AssertionError("somebody put one more")
except queue.Empty: pass
"""
# A lock of the C library's own, as a library in C may have.
BARRIER = """\
import ctypes, threading
libc, barrier = ctypes.CDLL(None), ctypes.create_string_buffer(64)
assert libc.pthread_barrier_init(barrier, None, 2) == 0
said = []
threads = [threading.Thread(target=lambda: said.append(libc.pthread_barrier_wait(barrier))) for _ in range(2)]
threads[0].start()
while not barrier.raw[:4].strip(b"\\0"): pass
import time; time.sleep(0.1); threads[1].start(); [thread.join() for thread in threads]; assert sorted(said) == [-1, 0]
"""
# CPython joins its threads so from 3.13 on, and a library in C its own.
JOINED = """\
import ctypes
libc, thread = ctypes.CDLL(None), ctypes.c_ulong()
for _ in range(20):
    assert libc.pthread_create(ctypes.byref(thread), None, libc.usleep, ctypes.c_void_p(10_000)) == 0
    assert libc.pthread_join(thread, None) == 0
"""
SELECT = """\
import os, select, selectors
end, other = os.pipe(); os.write(other, b"x")
assert select.select([end], [other], [], 1) == ([end], [other], [])
poll = select.poll(); poll.register(end, select.POLLIN); assert poll.poll(10)
with select.epoll() as epoll: epoll.register(end, select.EPOLLIN); assert epoll.poll(1)
with selectors.DefaultSelector() as selector: selector.register(end, selectors.EVENT_READ); assert selector.select(1)
"""
SIGNALS = """\
import signal, os, threading
hits = []
signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
os.kill(os.getpid(), signal.SIGUSR1); signal.raise_signal(signal.SIGUSR1)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
assert len(hits) == 3
"""
TIMER = """\
import signal, time
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(0.05); assert hits
"""
ALARM = """\
import signal, time
def late(*_): raise TimeoutError
signal.signal(signal.SIGALRM, late)
assert signal.alarm(1) == 0
try: time.sleep(2); raise AssertionError("nobody rang")
except TimeoutError: pass
"""
STOPPED = """\
import os, select, signal, time
end, other = os.pipe()
if (child := os.fork()) == 0:
    try: poll = select.poll(); poll.register(end, select.POLLIN); os._exit(not poll.poll(60_000))
    except OSError: os._exit(2)
for _ in range(20):  # in one of them the other waits
    time.sleep(0.01); os.kill(child, signal.SIGSTOP); time.sleep(0.01); os.kill(child, signal.SIGCONT)
os.write(other, b"x"); assert os.waitpid(child, 0)[1] == 0
"""
CLOCKS = """\
import time
time.sleep(0.01); time.time(); time.monotonic(); time.strftime("%c")
assert time.process_time() > 0 and time.thread_time() > 0 and time.get_clock_info("monotonic").monotonic
time.clock_getres(time.CLOCK_PROCESS_CPUTIME_ID)
"""
SLEEPS = """\
import ctypes
assert ctypes.CDLL(None).usleep(1000) == 0  # as SQLite waits for a lock
"""
MACHINE = """\
import os, platform, resource
assert os.cpu_count() >= 1 and os.sched_getaffinity(0) and os.uname().sysname == "Linux" and platform.platform()
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0 and resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
os.sched_yield(); assert os.times().elapsed > 0
"""
IDENTITY = (
    "import os; assert os.getuid() == os.geteuid() == os.getgid() == os.getegid() == 65534; os.path.expanduser('~')"
)
ACCESS = (
    "import os; open('/tmp/a', 'w').close(); assert os.access('/tmp/a', os.R_OK) and not os.access('/none', os.F_OK)"
)
REALPATH = "import os; assert os.path.realpath('/lib') == '/usr/lib'"
RANDOM = """\
import os, random, secrets, uuid
random.random(); uuid.uuid4(); secrets.token_hex(); os.getrandom(8); os.getrandom(8, os.GRND_NONBLOCK)
"""
LARGE = """\
for _ in range(20): block = bytes(10**8); del block
rows = [list(range(1000)) for _ in range(1000)]; rows.extend([0] * 10**6); text = "a" * 10**7; text += "b"
"""
MAPPED = """\
import mmap
with mmap.mmap(-1, 10**6) as memory:
    memory[:3] = b"abc"; memory.resize(2 * 10**6); memory.madvise(mmap.MADV_DONTNEED)
with mmap.mmap(-1, 10**7, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
    for advice in (mmap.MADV_FREE, mmap.MADV_HUGEPAGE, mmap.MADV_NOHUGEPAGE): memory.madvise(advice)
"""
EXTENSIONS = """\
import _ctypes, _elementtree, _sqlite3, bz2, ctypes, hashlib, lzma, mmap, sqlite3, ssl, zlib
db = sqlite3.connect(":memory:"); db.execute("create table t(a)"); db.execute("insert into t values (1)")
assert bz2.decompress(bz2.compress(b"a" * 10000)) == lzma.decompress(lzma.compress(b"a" * 10000)) == b"a" * 10000
hashlib.scrypt(b"a", salt=b"b", n=1024, r=8, p=1)
"""
STACKS = """\
import faulthandler, io
with open("/tmp/f", "w+") as file:
    faulthandler.enable(file); faulthandler.dump_traceback(file); faulthandler.disable()
    file.seek(0); assert "most recent call first" in file.read()
"""
LOGGING = """\
import logging, logging.handlers
handler = logging.handlers.RotatingFileHandler("/tmp/l.log", maxBytes=100, backupCount=2)
logging.basicConfig(level=logging.INFO, handlers=[handler, logging.StreamHandler()])
for n in range(20): logging.error("line %d", n)
"""
ARCHIVES = """\
import gzip, tarfile, zipfile
with zipfile.ZipFile("/tmp/z.zip", "w", zipfile.ZIP_DEFLATED) as file: file.writestr("a", "b" * 1000)
with zipfile.ZipFile("/tmp/z.zip") as file: file.extractall("/tmp/zz")
with gzip.open("/tmp/g.gz", "wt") as file: file.write("a")
with tarfile.open("/tmp/t.tar.gz", "w:gz") as file: file.add("/tmp/g.gz")
with tarfile.open("/tmp/t.tar.gz") as file: file.extractall("/tmp/tt", filter="data")
"""
NUMBERS = "import cmath, decimal, fractions, statistics; decimal.getcontext().prec = 200; decimal.Decimal(2).sqrt()"
DEEP = """\
import sys, threading
threading.stack_size(64 * 2**20); sys.setrecursionlimit(20000)
def down(n): return n and down(n - 1)
thread = threading.Thread(target=down, args=(15000,)); thread.start(); thread.join()
"""
# Calls that this machine's C library and vDSO spare and others make: an older C library selects by the older number,
# and where the clock source cannot be read without the kernel, SQLite and others ask it for the time.
OLD_SELECT = (
    "import ctypes; assert ctypes.CDLL(None).syscall(23, 0, None, None, None, (ctypes.c_long * 2)(0, 1000)) == 0"
)
OLD_CLOCK = "import ctypes; assert ctypes.CDLL(None).syscall(96, (ctypes.c_long * 2)(), None) == 0"

LEGITIMATE = {name: code for name, code in globals().items() if name.isupper() and isinstance(code, str)}

# One line a program. `call:2=0x4` is one value of its argument 2, `call:2|0x4` one flag; `call/2` is its second entry.
WITNESSES: dict[str, str] = {
    entry: name
    for name, entries in {
        "FILES": "read write poll openat close lseek ftruncate rt_sigaction lseek:2=0x0 lseek:2=0x1 lseek:2=0x2 "
        "openat:2|0x1 openat:2|0x2 openat:2|0x40 openat:2|0x200 openat:2|0x80000",
        "FOLDERS": "newfstatat getdents64 mkdir rename unlink rmdir unlinkat fcntl "
        "openat:2|0x800 openat:2|0x10000 newfstatat:3|0x100",
        "LOGGING": "openat:2|0x400",
        "TEMPORARY": "ioctl ioctl:1=0x5451 fcntl:1=0x2 fcntl:1=0x406 openat:2|0x80 openat:2|0x20000",
        "COPIES": "chmod utimensat listxattr",
        "CHDIR": "chdir getcwd openat:2|0x200000",
        "SQLITE": "newfstatat:3|0x1000 pread64 pwrite64 fdatasync fcntl/3:1=0x6",
        "SYNC": "fsync openat:2|0x1000 openat:2|0x100000",
        "LOCK": "fcntl/3:1=0x7",
        "FLAGS": "fcntl:1=0x1 fcntl:1=0x3 fcntl/2:1=0x4 fcntl/2:2|0x1 fcntl/2:2|0x2 fcntl/2:2|0x400 fcntl/2:2|0x800 "
        "fcntl/2:2|0x1000 fcntl/2:2|0x8000 fcntl/2:2|0x10000 fcntl/2:2|0x20000 fcntl/2:2|0x100000",
        "PIPES": "pipe2:1|0x800",
        "DUP": "ioctl:1=0x5450",
        "ASYNCIO": "ioctl:1=0x5421 epoll_create1 epoll_ctl epoll_wait socketpair socketpair:1|0x80000 rt_sigreturn",
        "PAIR": "sendto recvfrom shutdown sendto:3|0x40 sendto:3|0x4000 recvfrom:3|0x2 recvfrom:3|0x40 "
        "recvfrom:3|0x100",
        "THREADS": "mmap clone clone3 mprotect futex rseq clone:0=0x3d0f00 mprotect:2|0x1 mprotect:2|0x2 "
        "mmap:3|0x2 mmap:3|0x20000 futex:1=0x81 futex:1=0x89 futex:1=0x189",
        "BARRIER": "futex:1=0x80",
        "JOINED": "futex/2:1=0x109",
        "THREAD_ENDS": "exit",
        "FORK": "pipe2 wait4 exit_group clone:0=0x1200011 pipe2:1|0x80000",
        "POLLED": "wait4:2|0x1",
        "SELECT": "pselect6",
        "SIGNALS": "kill tgkill getpid gettid rt_sigprocmask",
        "STOPPED": "restart_syscall",
        "TIMER": "setitimer",
        "ALARM": "alarm",
        "CLOCKS": "clock_nanosleep clock_gettime clock_getres clock_nanosleep:0=0x1",
        "SLEEPS": "clock_nanosleep:0=0x0",
        "MACHINE": "uname getrusage sched_getaffinity sched_yield prlimit64 times",
        "IDENTITY": "getuid geteuid getgid getegid",
        "ACCESS": "access",
        "REALPATH": "readlink",
        "RANDOM": "getrandom getrandom:2|0x1",
        "LARGE": "brk munmap",
        "MAPPED": "mremap madvise mmap:2|0x2 mmap:3|0x1 mmap:3|0x20 "
        "madvise:2=0x4 madvise:2=0x8 madvise:2=0xe madvise:2=0xf",
        "EXTENSIONS": "mmap:2|0x1 mmap:3|0x10 mmap:3|0x800 mmap/2:2=0x5 mmap/2:3=0x2 mmap/2:3|0x10 mmap/2:3|0x800",
        "STACKS": "sigaltstack",
        "OLD_SELECT": "select",
        "OLD_CLOCK": "gettimeofday",
    }.items()
    for entry in entries.split()
}


def entries_of(allowlist: Allowlist) -> dict[str, Allowlist]:
    """Every name, and every value and flag of its arguments; each with the list that lacks it."""
    lacking = {name: allowlist.without(name) for name in (*allowlist.names(), *allowlist.answered())}
    entries: list[Rule | Answer] = [*allowlist.allow, *allowlist.answer]
    names = [name for entry in entries for name in entry.names]
    seen: list[str] = []
    for entry in entries:
        seen += entry.names
        for part, less in _parts(entry):
            (name,) = entry.names
            number = seen.count(name)
            if less is not None or names.count(name) > 1:  # else it is the call itself
                label = name if number == 1 else f"{name}/{number}"
                lacking[f"{label}:{part}"] = _instead(allowlist, entry, less)
    return lacking


def _parts(entry: Rule | Answer) -> Iterator[tuple[str, list[Condition] | None]]:
    """What can be taken out of its conditions; None where nothing is left of it."""
    for at, condition in enumerate(entry.only):
        for value in condition.values if condition.values != [0] else ():
            values = [other for other in condition.values if other != value]
            yield f"{condition.arg}={value:#x}", _put(entry, at, values=values) if values else None
        for bit in condition.bits:
            bits = [other for other in condition.bits if other != bit]
            yield f"{condition.arg}|{bit:#x}", _put(entry, at, bits=bits)


def _put(entry: Rule | Answer, at: int, **changes: list[int]) -> list[Condition]:
    return [*entry.only[:at], msgspec.structs.replace(entry.only[at], **changes), *entry.only[at + 1 :]]


def _instead(allowlist: Allowlist, entry: Rule | Answer, only: list[Condition] | None) -> Allowlist:
    """The list with other conditions on one entry, or without it."""

    def put(entries: list[Any]) -> list[Any]:
        changed = [] if only is None else [msgspec.structs.replace(entry, only=only)]
        return [new for old in entries for new in (changed if old is entry else [old])]

    return msgspec.structs.replace(allowlist, allow=put(allowlist.allow), answer=put(allowlist.answer))


@pytest.fixture(scope="module")
def image(images: Path) -> Image:
    return ensure_image(images)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with adopting_orphans():
        yield
        no_process_left()


def outcome_without(image: Image, allowlist: Allowlist, entries: list[str]) -> dict[str, Told]:
    """How each entry's witness ends in a box that lacks the entry."""
    lacking = entries_of(allowlist)

    async def main() -> dict[str, Told]:
        turns = asyncio.Semaphore(AT_ONCE)
        tolds = await asyncio.gather(*(one(entry, turns) for entry in entries))
        return dict(zip(entries, tolds, strict=True))

    async def one(entry: str, turns: asyncio.Semaphore) -> Told:
        async with turns:
            return await _try(image, lacking[entry], LEGITIMATE[WITNESSES[entry]])

    return asyncio.run(main())


class Unmeasured(Jail):
    """Makes its boxes without a look at their layers first, which needs calls too, and not by a program of anybody."""

    async def _measure(self, zygote: Zygote) -> tuple[str, ...]:
        return ()


async def _try(image: Image, allowlist: Allowlist, code: str, *, seconds: float = PATIENCE_S) -> Told:
    jail = Unmeasured(image, allowlist=allowlist)
    try:
        async with asyncio.timeout(seconds):
            return await run_in(jail, code)
    except TimeoutError:
        return Told("hung")
    finally:
        await jail.aclose()


@pytest.fixture(scope="module")
def jail_runs(image: Image) -> dict[str, Told]:
    """How every legitimate program ends with the whole list."""

    async def main() -> dict[str, Told]:
        jail = Jail(image)
        try:
            return {name: await run_in(jail, code) for name, code in LEGITIMATE.items()}
        finally:
            await jail.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("name", LEGITIMATE)
def test_a_legitimate_program_runs(jail_runs: dict[str, Told], name: str) -> None:
    assert jail_runs[name].status == "ok", jail_runs[name].error


def test_every_entry_has_a_witness_and_every_witness_an_entry() -> None:
    entries = entries_of(load_allowlist())
    assert sorted(set(entries) - WITNESSES.keys()) == [], (
        "no program needs these: take them out of policies/seccomp.toml"
    )
    assert sorted(WITNESSES.keys() - set(entries)) == [], "these are no longer in policies/seccomp.toml"


def test_no_entry_is_unneeded(image: Image) -> None:
    allowlist = load_allowlist()
    told = outcome_without(image, allowlist, [entry for entry in entries_of(allowlist) if entry in WITNESSES])
    unneeded = [f"{entry} (by {WITNESSES[entry]})" for entry, how in told.items() if how.status == "ok"]
    assert "; ".join(unneeded) == ""


def test_an_entry_that_nobody_needs_is_found_out(image: Image) -> None:
    more = Rule(names=["flock"], why="for this test only")
    spare = Answer(names=["statx"], error="ENOSYS", why="for this test only")
    allowlist = load_allowlist()
    wider = msgspec.structs.replace(allowlist, allow=[*allowlist.allow, more], answer=[*allowlist.answer, spare])
    assert set(entries_of(wider)) - WITNESSES.keys() == {"flock", "statx"}

    async def main() -> list[str]:
        tried = [(name, LEGITIMATE[program]) for name in ("flock", "statx") for program in ("FILES", "SQLITE", "LOCK")]
        return [(await _try(image, wider.without(name), code, seconds=LONG_S)).status for name, code in tried]

    assert asyncio.run(main()) == ["ok"] * 6


def test_the_corpus_of_the_restricted_language_runs(image: Image) -> None:
    programs = {path.name: path.read_text() for path in sorted(CORPUS.glob("*.py"))}
    alone = {name: code for name, code in programs.items() if not HOSTS_HELP.search(code)}
    assert len(alone) > 50

    async def main() -> dict[str, Told]:
        jail = Jail(image)
        try:
            return {name: await run_in(jail, code, spec=SPEC, language="restricted") for name, code in alone.items()}
        finally:
            await jail.aclose()

    told = asyncio.run(main())
    assert {name: how.error for name, how in told.items() if how.status != "ok"} == {}
