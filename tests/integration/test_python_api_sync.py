"""The synchronous names where they are hard to serve: in a running loop, forgotten, in a forked child, interrupted.

What ends processes runs as a program of its own, in which warnings are errors too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

import belljar
from belljar import ModelReply, ModelRequest
from belljar.models import NullModel, ScriptedModel
from tests.integration.support import PATIENCE_S, Jar, Outcome, Running, no_process_left, until


class Priceless(NullModel):
    """Says nothing of what it costs."""

    rates = None  # type: ignore[assignment,misc]


ANSWERS = "```repl\nFINAL(len(context))\n```\n"


def program(jar: Jar, code: str, *, warnings: str = "error") -> Running:
    """Start a Python program that has `belljar` and the state folder at hand."""
    start = f"import asyncio, contextlib, os, sys, threading, time\nimport belljar\nSTATE = {str(jar.at)!r}\n"
    process = subprocess.Popen(
        [sys.executable, "-W", warnings, str(jar.file("user.py", start + code))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=jar.environ(),
        cwd=jar.work,
        start_new_session=True,
    )
    running = Running(process)
    jar._running.append(running)
    return running


def ended(running: Running) -> Outcome:
    """The end of a program; one that hangs fails the test, and is killed with all its children."""
    try:
        running.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(running.process.pid, signal.SIGKILL)
        pytest.fail(f"it hangs, and had said: {running.wait()}")
    return running.wait()


def done(jar: Jar, code: str, *, warnings: str = "error") -> Outcome:
    return ended(program(jar, code, warnings=warnings))


def own_threads() -> list[str]:
    """But for the one that the whole process has for heavy work, once there was some."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("belljar") and not name.startswith("belljar-heavy")]


# ------------------------------------------------------------------------------------------------------ running loops


def test_all_three_work_in_a_running_loop_of_the_same_thread(jar: Jar) -> None:
    async def cell_of_a_notebook() -> list[Any]:
        ran = belljar.run("What?", context="text", model=ScriptedModel([ANSWERS]), state=jar.at)
        executed = belljar.execute("FINAL(context)", context="text", state=jar.at)
        with belljar.session(context="text", state=jar.at) as session:
            cell = session.execute("print(len(context))")
        assert session.result is not None
        return [ran.answer, executed.answer, cell.stdout, session.result.status]

    assert asyncio.run(cell_of_a_notebook()) == [4, "text", "4\n", "ok"]
    gc.collect()  # what was never awaited, or not closed, is told now
    no_process_left()
    assert own_threads() == []


def test_what_the_caller_s_loop_runs_beside_goes_on_in_its_thread_afterwards(jar: Jar) -> None:
    async def go() -> int:
        beside = asyncio.create_task(asyncio.sleep(0, 7))
        with belljar.session(state=jar.at) as session:
            session.execute("1")
        return await beside

    assert asyncio.run(go()) == 7


def test_the_synchronous_names_take_what_the_asynchronous_ones_do(jar: Jar) -> None:
    mine = ScriptedModel([ANSWERS], name="scripted:mine")
    prices = belljar.Prices({"scripted:sub": {"input_nanousd_per_token": 5, "output_nanousd_per_token": 0}})
    sub = Priceless("y", name="scripted:sub")
    options: dict[str, Any] = {"state": str(jar.at), "policy": jar.policy(""), "pool": 1, "prices": prices}
    ran = belljar.run("?", context="ab", model="scripted:mine", sub_model=sub, models=[mine], **options)
    assert (ran.answer, ran.cost) == (2, 0)
    asked = belljar.execute("FINAL(llm_query('x'))", sub_model="scripted:sub", models=[sub], **options)
    assert (asked.answer, asked.cost > 0) == ("y", True)
    with belljar.session(model="scripted:sub", models=[sub], **options) as session:
        assert session.execute("FINAL(llm_query('x'))").answer == "y"


def test_a_session_of_a_policy_at_a_path(jar: Jar) -> None:
    with belljar.session(state=str(jar.at), policy=jar.policy("")) as session:
        assert session.execute("print(1)").stdout == "1\n"
    assert [record.data["policy"] for record in jar.records("run.started")] == ["small"]


# ---------------------------------------------------------------------------------------------------------- afterwards


def test_after_the_end_a_session_says_so(jar: Jar) -> None:
    with belljar.session(state=jar.at) as session:
        pass
    for _ in range(2):
        with pytest.raises(belljar.PolicyDenied) as refusal:
            session.execute("1")
        assert refusal.value.code == "session.ended"


def test_a_block_is_entered_once(jar: Jar) -> None:
    block = belljar.session(state=jar.at)
    with block:
        pass
    with pytest.raises(belljar.InvalidInput), block:
        pass


def test_an_error_in_the_block_is_the_verdict_and_stays_the_caller_s(jar: Jar) -> None:
    mine = KeyError("mine")
    opened: list[belljar.SyncSession] = []

    def fail() -> None:
        with belljar.session(state=jar.at) as session:
            opened.append(session)
            raise mine

    with pytest.raises(KeyError) as raised:
        fail()
    assert raised.value is mine
    assert opened[0].result is not None
    assert opened[0].result.status == "killed"


def test_a_forgotten_session_is_closed_when_nobody_has_it_any_more(jar: Jar) -> None:
    belljar.session(state=jar.at).__enter__().execute("1")
    gc.collect()
    until(lambda: jar.records("run.finished"), what="the forgotten run is over")
    until(lambda: own_threads() == [], what="its threads are gone")


class CallsBack(NullModel):
    """Uses the session that waits for it."""

    def __init__(self) -> None:
        super().__init__(name="scripted:calls-back")
        self.session: belljar.SyncSession | None = None

    async def complete(self, request: ModelRequest) -> ModelReply:
        assert self.session is not None
        with pytest.raises(belljar.InvalidInput, match="its own callbacks"):
            self.session.execute("1")
        return await super().complete(request)


def test_a_session_used_by_its_own_model_is_refused_and_waits_for_nobody(jar: Jar) -> None:
    model = CallsBack()
    with belljar.session(model=model, state=jar.at) as session:
        model.session = session
        assert session.execute("llm_query('x')").status == "ok"


# ------------------------------------------------------------------------------------------------- never closed at all

OPEN = "belljar.session(context='abc', state=STATE)"
NEVER_CLOSED = {
    "the block is held": f"held = {OPEN}; session = held.__enter__(); print(session.execute('print(1)').stdout)",
    "nothing was executed": f"held = {OPEN}; held.__enter__(); print(1)",
    "only the session is held": f"session = {OPEN}.__enter__(); print(session.execute('print(1)').stdout)",
    "a service with an exit stack": f"""\
class Service:
    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.session = self.stack.enter_context({OPEN})
        self.me = self
service = Service()
print(service.session.execute('print(1)').stdout)
""",
    "in a function": f"def f():\n    held = {OPEN}\n    return held.__enter__().execute('print(1)').stdout\nprint(f())",
    "an abandoned generator": f"""\
def fixture():
    with {OPEN} as session:
        yield session
held = fixture()
print(next(held).execute('print(1)').stdout)
""",
    "a daemon thread in the middle of a cell": f"""\
begun = threading.Event()
def work():
    with contextlib.suppress(belljar.PolicyDenied), {OPEN} as session:
        session.execute("context[0:1]")
        begun.set()
        session.execute("while True: pass")
threading.Thread(target=work, daemon=True).start()
begun.wait(); time.sleep(0.1); print(1)
""",
    "a daemon thread in the middle of a run": """\
begun = threading.Event()
def work():
    with contextlib.suppress(belljar.PolicyDenied):
        belljar.execute("context[0:1]\\nwhile True: pass", context="abc", state=STATE, on_progress=seen)
def seen(progress):
    if progress.reads: begun.set()
threading.Thread(target=work, daemon=True).start()
begun.wait(); print(1)
""",
    "a thread that outlives the main one": f"""\
belljar.session  # loads it
def work():
    threading.main_thread().join()
    with {OPEN} as session:
        print(session.execute('print(1)').stdout)
    print(session.result.status)
threading.Thread(target=work).start()
""",
    "several at once": f"held = [{OPEN} for _ in range(3)]\nfor one in held: one.__enter__()\nprint(1)",
    "an exit in the block": f"with {OPEN} as session:\n    print(session.execute('print(1)').stdout)\n    sys.exit(0)",
}


@pytest.mark.parametrize("code", NEVER_CLOSED.values(), ids=NEVER_CLOSED)
def test_what_is_never_closed_keeps_no_process_and_ends_rightly(jar: Jar, code: str) -> None:
    outcome = done(jar, code)
    assert (outcome.code, outcome.stdout[:1], outcome.stderr) == (0, "1", "")
    # Not by the next start: nobody has started since.
    assert len(jar.records("run.finished")) == len(jar.records("run.started")) >= 1


def test_what_is_first_used_after_the_main_thread_says_what_to_do(jar: Jar) -> None:
    code = """\
def work():
    threading.main_thread().join()
    try:
        belljar.session
    except belljar.InvalidInput as error:
        print(error.code, error)
threading.Thread(target=work).start()
"""
    outcome = done(jar, code)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("runtime.late belljar.facade cannot be loaded after the end of the main thread")


def test_what_does_not_close_in_time_is_left_to_the_next_start(jar: Jar) -> None:
    code = f"import belljar.facade\nbelljar.facade._EXIT_S = 0.0\nheld = {OPEN}; held.__enter__(); print(1)"
    outcome = done(jar, code)
    assert (outcome.code, outcome.stdout) == (0, "1\n")
    jar.expect_unfinished = True


# --------------------------------------------------------------------------------------------------------- other ways


FORKED = """\
with {OPEN} as session:
    session.execute("x = 5")
    child = os.fork()
    if child == 0:
{IN_CHILD}
    print(os.waitpid(child, 0)[1])
    print(session.execute("print(x)").stdout)
print(session.result.status)
"""
IN_CHILD = {
    "leaves the block": "sys.exit(0)",
    "uses the session": "session.execute('print(1)')",
    "opens one of its own": f"with {OPEN} as own: print(own.execute('print(2)').stdout)\n        sys.exit(0)",
    "looks at the result": "assert session.result is None; sys.exit(0)",
    "executes in one call": "assert belljar.execute('FINAL(1)', state=STATE).answer == 1; sys.exit(0)",
}


@pytest.mark.parametrize("action", IN_CHILD.values(), ids=IN_CHILD)
def test_a_forked_child_does_no_harm_and_hangs_nowhere(jar: Jar, action: str) -> None:
    outcome = done(jar, FORKED.format(OPEN=OPEN, IN_CHILD=f"        {action}"))
    *own, ended, printed, nothing, status = outcome.stdout.splitlines()
    assert (outcome.code, printed, nothing, status) == (0, "5", "", "ok")
    if action.startswith("session.execute"):
        assert int(ended) != 0
        assert outcome.stderr.splitlines()[-1].startswith("belljar.errors.InvalidInput: this session belongs to")
    else:
        assert (ended, outcome.stderr) == ("0", "")
    assert own == (["2", ""] if "own" in action else [])


def test_a_child_of_multiprocessing_does_no_harm(jar: Jar) -> None:
    code = f"""\
import multiprocessing
def work(queue): queue.put(1)
with {OPEN} as session:
    session.execute("x = 5")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=work, args=(queue,))
    child.start(); child.join()
    print(child.exitcode, queue.get(), session.execute("print(x)").stdout)
"""
    outcome = done(jar, code)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "0 1 5\n\n", "")


def test_large_work_in_a_forked_child_has_a_thread_of_its_own(jar: Jar) -> None:
    code = """\
big = "FINAL('x' * 300_000)"
print(len(belljar.execute(big, state=STATE).answer), flush=True)
child = os.fork()
if child == 0:
    print(len(belljar.execute(big, state=STATE).answer))
    sys.exit(0)
print(os.waitpid(child, 0)[1])
"""
    outcome = done(jar, code)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "300000\n300000\n0\n", "")


# What a library does at the end of a thread, behind its Python part: `usleep`, with the value as its argument.
AT_ITS_END = """\
import ctypes, belljar.tasks
libc, key = ctypes.CDLL(None), ctypes.c_uint()
libc.pthread_key_create(ctypes.byref(key), libc.usleep)
thread = threading.Thread(target=lambda: libc.pthread_setspecific(key, ctypes.c_void_p(50_000)))
thread.start()
thread.join()
child = os.fork()
if child == 0: os._exit(0)
print(os.path.exists(f"/proc/self/task/{thread.native_id}"), os.waitpid(child, 0)[1])
"""


def test_a_fork_waits_for_threads_that_are_at_their_end(jar: Jar) -> None:
    outcome = done(jar, AT_ITS_END)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "False 0\n", "")


OF_A_LIBRARY = """\
import ctypes, belljar.tasks
libc = ctypes.CDLL(None)
libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.sleep, ctypes.c_void_p(600))
sleep, waits = time.sleep, 0
def count(seconds):
    global waits
    waits += 1
    sleep(seconds)
time.sleep = count
def forked(in_child):
    global waits
    waits = 0
    child = os.fork()
    waited = waits > 0
    if child == 0:
        in_child()
        os._exit(0)
    os.waitpid(child, 0)
    print(waited, flush=True)
def nothing(): pass
forked(nothing)
forked(lambda: forked(nothing))
"""


def test_for_a_library_s_own_thread_only_the_first_fork_waits(jar: Jar) -> None:
    outcome = done(jar, OF_A_LIBRARY)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "True\nFalse\nFalse\n", "")


# ------------------------------------------------------------------------------------------------------------- Ctrl-C

INTERRUPTED = {
    "session": f"""\
with {OPEN} as session:
    try: session.execute("context[0:1]\\nwhile True: pass")
    except KeyboardInterrupt: print("interrupted")
print(session.result.status)
""",
    "execute": """\
try: belljar.execute("context[0:1]\\nwhile True: pass", context="abc", state=STATE)
except KeyboardInterrupt: print("interrupted")
""",
    "in a running loop": f"""\
async def go():
    with {OPEN} as session:
        try: session.execute("context[0:1]\\nwhile True: pass")
        except KeyboardInterrupt: print("interrupted")
loop = asyncio.new_event_loop()  # as in a notebook; `asyncio.run` only cancels its task, at the first Ctrl-C
loop.run_until_complete(go())
loop.close()
""",
}


def has_read(jar: Jar) -> bool:
    with contextlib.suppress(belljar.AuditUnavailable, belljar.InvalidInput):  # it is just being made
        return bool(jar.records("context.read"))
    return False


@pytest.mark.parametrize("code", INTERRUPTED.values(), ids=INTERRUPTED)
def test_ctrl_c_reaches_the_caller_when_the_work_has_ended(jar: Jar, code: str) -> None:
    running = program(jar, code)
    until(lambda: has_read(jar), what="the program runs")
    running.signal(signal.SIGINT)
    outcome = ended(running)
    assert (outcome.code, outcome.stdout.splitlines()[:1], outcome.stderr) == (0, ["interrupted"], "")


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Any:
    yield
    until(lambda: own_threads() == [], what="the threads have ended")


def test_quotas_are_set_and_shown_without_an_event_loop_and_inside_one(jar: Jar) -> None:
    def go() -> tuple[list[belljar.Quota], list[belljar.Used]]:
        quotas = belljar.SyncQuotas(state=jar.at)
        assert quotas.set("acme", "day", calls=10, by="test").calls == 10
        belljar.execute("print(1)", state=jar.at, tenant="acme/research")
        shown, used = quotas.show("acme"), quotas.history("acme")
        assert quotas.check() == []
        assert [limits.calls for limits in quotas.clear("acme", by="test")] == [10]
        assert all(quota.limits is None for quota in quotas.show("acme"))
        return shown, used

    async def inside() -> tuple[list[belljar.Quota], list[belljar.Used]]:
        return go()

    for shown, used in (go(), asyncio.run(inside())):
        (day,) = [quota for quota in shown if quota.period == "day"]
        assert (day.tenant, day.left.calls) == ("acme", 10)
        assert used[-1].used.wall_ms > 0
    assert [record.data["by"] for record in jar.records("quota.changed")] == ["test"] * 4
    with pytest.raises(TypeError, match="'cals' is not a limit: use calls, "):
        belljar.SyncQuotas(state=jar.at).set("acme", "day", cals=1)  # type: ignore[call-arg]
