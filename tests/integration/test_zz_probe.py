import asyncio, json, os, re, subprocess, sys, time
from typing import Any
import pytest, msgspec
from belljar import Host, Policy, Result
from belljar.audit import records, runs, verify
from belljar.models import NullModel, ScriptedModel
from belljar.policy import load
from belljar.errors import *
from tests.integration.support import Jar, Outcome
from tests.integration.test_replay import Rig, recursing, TURNS, CHILD, CONTEXT

EVIL = "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\ \u202egnp\u202c \x9b31m \r\nverdict: ok\u2028x"


@pytest.fixture
def rig(jar: Jar) -> Rig:
    r = Rig(jar.at, {**os.environ, "BELLJAR_KEYS": str(jar.work / "keys")})
    r.jar = jar
    return r


def cli(rig, *a):
    return rig.jar(*a, env={"BELLJAR_KEYS": str(rig.jar.work / "keys")})


def raw(out):
    return [c for c in out if not (c.isprintable() or c == "\n")]


def test_tool_error(rig):
    def look(place: str) -> str:
        raise ValueError(EVIL)

    class M:
        name = "evil" + EVIL
        scripted = True
        from belljar.models import FREE

        rates = FREE

        async def complete(self, request):
            raise ModelFailed(EVIL)

        async def aclose(self):
            pass

    async def work(host):
        try:
            m = M()
        except Exception as e:
            print(e)
        return await host.execute(
            'try:\n  look("here")\nexcept Exception as e: print(e)\ntry:\n  llm_query("x")\nexcept Exception as e: print(repr(e))',
            tools=[look],
            policy="dev",
            sub_model=m,
        )

    try:
        result = rig.did(work)
    except Exception as e:
        print("EXC", type(e), ascii(str(e)))
        M.name = "evil"
        result = rig.did(work)
    print(result.status, ascii(result.stdout), ascii(result.error))
    for r in records(rig.state.journal, str(result.run)):
        print(ascii(r.event), ascii(r.data))
    for args in (
        ["audit", "replay", "last"],
        ["audit", "show", "last"],
        ["audit", "show", "last", "--full"],
        ["audit", "tail", "-n", "50"],
        ["audit", "ls"],
        ["audit", "show", "last", "--records"],
        ["audit", "show", "last", "--tree"],
    ):
        o = cli(rig, *args)
        print(args, o.code, "RAW:", raw(o.stdout), raw(o.stderr))
        print(ascii(o.stdout)[:600], o.stderr[:500])


def test_cmds(rig):
    j = rig.jar
    long = "a" * 300
    print(j.exec("print(1)").code)
    print(j.exec("print(2)").code)
    a, b = [r.run for r in runs(rig.state.journal)]
    o = j("audit", "diff", a, b)
    print("diff code differs", o.stdout, o.code)
    p = j.file("t.py", "import time\nprint(time.time_ns())")
    j("exec", p)
    j("exec", p)
    *_, a, b = [r.run for r in runs(rig.state.journal)]
    o = j("audit", "diff", a, b)
    print("diff same length other output:", o.stdout, o.code)
    o = j("audit", "replay", a, "--context", long)
    print("long", o.code, o.stderr)
    o = j("audit", "replay", a, "--context", "x=" + long)
    print("long2", o.code, o.stderr)
    o = j("audit", "replay", a, "--context", "=/etc/passwd")
    print("empty", o.code, o.stderr, o.stdout)
    o = j("audit", "replay", a, "--context", "other=/etc/passwd")
    print("other", o.code, o.stderr, o.stdout)
    o = j("audit", "replay", a, "--context", "other=/nope")
    print("nope", o.code, o.stderr, o.stdout)
    o = j("audit", "replay", a, "--context", "/dev/zero")
    print("zero", o.code, o.stderr, o.stdout)
    o = j("audit", "replay", a, "--backend", "gvisor")
    print("gvisor", o.code, o.stderr, o.stdout)
    pol = j.policy('[language]\nallow=["restricted"]')
    o = j("audit", "replay", a, "--policy", pol)
    print("lang", o.code, o.stderr, o.stdout)
    pol = j.file("r.toml", 'schema=1\nname="r"\nextends="strict"\ndescription="d"\n')
    o = j("audit", "replay", a, "--policy", pol)
    print("strict", o.code, o.stderr, o.stdout)
    for cmd in (
        ["show"],
        ["show", "--tree"],
        ["show", "--json"],
        ["show", "--full"],
        ["tail"],
        ["coverage"],
        ["coverage", "--json"],
        ["receipt"],
        ["export", "--format", "html"],
        ["export", "--format", "atif"],
        ["export", "--format", "rlm"],
        ["export", "--format", "otel"],
        ["export", "--format", "jsonl"],
        ["replay"],
        ["replay", "--json"],
        ["erase", "--yes"],
        ["content"],
    ):
        args = ["audit", cmd[0], "host.reads", *cmd[1:]] + (["x"] if cmd[0] == "content" else [])
        o = j(*args)
        print(args, o.code, o.stderr[:300], o.stdout[:150].replace("\n", "|"))
    o = j("audit", "diff", "host.reads", "host.reads")
    print(o.code, o.stdout, o.stderr)
    # refused run
    o = j("exec", p, "--policy", "strict", "--sub-model", "claude-none")
    print(o.code, o.stderr)
    o = j("exec", p, "--policy", "strict", "--language", "python")
    print(o.code, o.stderr)
    print(j("audit", "ls").stdout)
    print("REFUSED", j("audit", "ls", "--refused").stdout)
    t = time.time()
    r = j.start("audit", "tail", a, "-f", "-n", "0")
    try:
        o = r.wait(seconds=8)
        print("tail", o)
    except subprocess.TimeoutExpired:
        print("TAIL HANGS")


def show(found):
    print(
        found.outcome,
        found.by,
        found.status,
        found.actions,
        found.equal_actions,
        found.refused,
        found.missing[:3],
        found.cost_nanousd,
        found.recorded_cost_nanousd,
    )
    if found.first:
        print("  REC", ascii(found.first.recorded and found.first.recorded.says())[:400])
        print("  REP", ascii(found.first.replayed and found.first.replayed.says())[:400])
        print("  lines", found.lines)


class Flaky:
    name = "flaky"
    scripted = True
    from belljar.models import FREE

    rates = FREE

    def __init__(self):
        self.n = 0

    async def complete(self, request):
        from belljar.models import ModelReply, Usage

        self.n += 1
        if self.n == 1:
            raise ModelFailed("busy", retryable=True, retry_after_s=0.0)
        if self.n == 2:
            return ModelReply("ok", Usage(input_tokens=3, output_tokens=2), "flaky", "end_turn")
        raise ModelFailed("down for good", charged=False)

    async def aclose(self):
        pass


def sess(rig, cells, **kw):
    async def work(host):
        async with host.session(**({"policy": "dev"} | kw)) as s:
            for c in cells:
                r = await s.execute(c)
                print("   cell", ascii(getattr(r, "status", None)), ascii(getattr(r, "stdout", ""))[:200])
        return s.result

    return rig.did(work)


def test_replays(rig):
    r = sess(
        rig, ["for i in range(2):\n  try: print(llm_query('x'))\n  except Exception as e: print(e)"], sub_model=Flaky()
    )
    show(rig.replay(str(r.run)))
    print("refusals")
    r = sess(
        rig,
        ["n=0\nfor i in range(200):\n  try: context[0:10**9]\n  except Exception as e: n+=1\nprint(n)"],
        context="abc" * 100,
    )
    for x in records(rig.state.journal, str(r.run)):
        if "refus" in x.event:
            print(x.data)
    show(rig.replay(str(r.run), contexts={"context": "abc" * 100}))
    p = load("dev")
    small = msgspec.structs.replace(p, context=msgspec.structs.replace(p.context, read_total_bytes_max=5))
    r = sess(
        rig,
        ["n=0\nfor i in range(200):\n  try: context[0:10]; n+=1\n  except Exception as e: pass\nprint(n)"],
        context="abc" * 100,
    )
    show(rig.replay(str(r.run), contexts={"context": "abc" * 100}, policy=small))


CELLS = (
    "x = bytearray(10**9); x = [bytearray(10**8) for _ in range(50)]",
    "while True: pass",
    "import os; os.kill(os.getpid(), 9)",
    "raise SystemExit(3)",
    "import threading,time\nts=[threading.Thread(target=lambda i=i: print(i, llm_query(str(i)))) for i in range(8)]\n[t.start() for t in ts]; [t.join() for t in ts]",
    "print(llm_query_batched([str(i%3) for i in range(30)]))",
    "FINAL({'a': [1,2,'\\ud800']})",
    "print('\\ud800\\x00\\x1b]0;x\\x07')\nimport sys; print('err', file=sys.stderr)",
    "def f(): f()\nf()",
    "import sys; sys.stdout.write('x'*3_000_000)",
    "import time; time.sleep(100)",
    "import os, time\nfor i in range(1000):\n  if os.fork()==0: time.sleep(100)",
    "open('/scratch/x','wb').write(b'x'*10**9)",
)


def test_kills(rig):
    pol = rig.jar.policy(
        '[limits]\ncpu = "2 s"\ncell_wall = "4 s"\ngrace="1 s"\nrun_wall="60 s"\nmemory="256 MiB"\n[models]\ncall_wall="10 s"\n'
    )
    for cell in CELLS:
        t = time.time()
        r = sess(
            rig,
            [cell],
            sub_model=ScriptedModel([], default="yes", name="scripted:s"),
            policy=str(pol),
            language="python" if 0 else None,
        )
        print("RUN", ascii(cell[:40]), r.status, ascii(r.error)[:300], round(time.time() - t, 1))
        t = time.time()
        show(rig.replay(str(r.run)))
        print("  took", round(time.time() - t, 1))


def test_lang(rig):
    j = rig.jar
    print(j.exec("print(1)", "--language", "python", "--policy", "dev").code)
    for text in (
        '[box]\nlanguages=["restricted"]',
        '[context]\ntotal = "1 KiB"',
        "[models]\nallow=[]",
        '[limits]\ncode = "4 bytes"',
        "[quota.run]\nboxes=0",
        "[models]\ndepth=0",
    ):
        pol = j.policy(text)
        for js in ([], ["--json"]):
            o = j("audit", "replay", "last", "--policy", pol, *js)
            print(text, o.code, o.stderr[-600:], o.stdout[:600])
    print(j("audit", "ls").stdout)


class Priced:
    scripted = False

    def __init__(self, name="claude-haiku-4-5", turns=()):
        self.name, self.turns, self.n = name, list(turns), 0

    async def complete(self, request):
        from belljar.models import ModelReply, Usage

        self.n += 1
        if request.purpose == "root":
            text = self.turns.pop(0)
            return ModelReply(
                text,
                Usage(
                    input_tokens=100 + self.n, output_tokens=50, cache_read_tokens=1000 * self.n, cache_write_tokens=500
                ),
                self.name,
                "end_turn",
            )
        return ModelReply("yes", Usage(input_tokens=30 + self.n, output_tokens=7 * self.n), self.name, "end_turn")

    async def aclose(self):
        pass


def test_cost(rig):
    m = Priced(turns=TURNS[:2] + ['```repl\nFINAL("green")\n```'])

    async def work(host):
        return await host.run("Which colour?", context=await host.add_context(CONTEXT), model=m, policy=recursing())

    r = rig.did(work)
    print(r.status, r.cost_nanousd, r.error)
    show(rig.replay(str(r.run)))


def test_asks(rig):
    m = ScriptedModel(
        ["```repl\nx=1\nFINAL(1)\n```", '```repl\nFINAL("b")\n```', "```repl\nFINAL(7)\n```"],
        default="yes",
        name="scripted:r",
    )

    async def work(host):
        async with host.session(root_model=m, policy="dev") as s:
            print((await s.ask("one?")).answer)
            await s.execute("print(x)")
            print((await s.ask("two?", answer_type=int)).answer)
        return s.result

    r = rig.did(work)
    print(r.status)
    f = rig.replay(str(r.run))
    show(f)

    # fork of session
    async def fork(n, **k):
        async with Replays(rig.state, rig.environ) as rr:
            return await rr.fork(str(r.run), n, model="scripted:none.toml", **k)

    from belljar.replay import Replays

    for n in (1, 2, 3):
        try:
            print(asyncio.run(fork(n)))
        except Exception as e:
            print(type(e), e)


def test_fixture(rig):
    r = rig.run()
    j = rig.jar
    ctx = j.file("c.txt", CONTEXT)
    pol = j.file("rec.toml", 'schema=1\nname="rec"\nextends="standard"\ndescription="d"\n[models]\n')
    for name in (
        f"replay:{r.run}",
        f"replay:{r.run}.00001",
        "replay:",
        "replay:last",
        "replay:host.reads",
        "replay:nope",
    ):
        for backend in ([], ["--language", "python", "--policy", "dev"]):
            o = cli(rig, "run", "Which colour?", "--context", ctx, "--model", name, "--json", *backend)
            try:
                d = o.document
                print(name, o.code, d.get("status"), d.get("answer"), (d.get("error") or {}).get("message"))
            except Exception as e:
                print(name, o.code, o.stdout[:300], o.stderr[:300])
    show(
        rig.replay(
            runs(rig.state.journal)[-1].run
            if "." not in runs(rig.state.journal)[-1].run
            else runs(rig.state.journal)[-2].run,
            contexts={},
        )
    )
    print([(x.run, x.status) for x in runs(rig.state.journal)])


def test_forks(rig):
    r = rig.run()
    from belljar.replay import Replays

    script = rig.state.root.parent / "later.toml"
    script.write_text("default = \"new\"\n[[turn]]\ntext = '''\n```repl\nFINAL(\"x\")\n```\n'''\n")

    async def fork(n):
        async with Replays(rig.state, rig.environ) as rr:
            return await rr.fork(str(r.run), n, model=f"scripted:{script}")

    for n in (1, 2, 3, 4):
        try:
            f = asyncio.run(fork(n))
            print(n, f.status, f.answer, f.cost_nanousd)
            show(rig.replay(str(f.run)))
        except Exception as e:
            print(n, type(e), e)


def test_reuse(rig):
    from tests.unit.broker_fakes import policy_with

    K = policy_with(models={"coalesce": "on", "cache_s": 3600.0})
    code = "FINAL(llm_query_batched(['Which city?'] * 3 + ['a','b']))"
    from belljar.testing import FakeModel

    m = FakeModel(name="scripted:cities")

    async def work(host):
        a = await host.execute(code, sub_model=m, policy=K)
        b = await host.execute(code, sub_model=m, policy=K)
        return a, b

    a, b = rig.did(work)
    show(rig.replay(str(a.run)))
    show(rig.replay(str(b.run)))
    show(rig.replay(str(b.run), policy=policy_with(models={"coalesce": "off", "cache_s": 0.0})))
    print(cli(rig, "audit", "show", str(b.run)).stdout)


class Slow:
    scripted = True
    name = "scripted:slow"
    from belljar.models import FREE

    rates = FREE

    def __init__(self, s=1000):
        self.s = s

    async def complete(self, request):
        from belljar.models import ModelReply, Usage

        if request.messages[-1].text.endswith("slow"):
            await asyncio.sleep(self.s)
        return ModelReply("yes", Usage(), self.name, "end_turn")

    async def aclose(self):
        pass


def test_slow(rig):
    pol = str(rig.jar.policy('[limits]\ncell_wall = "4 s"\ngrace="1 s"\nrun_wall="60 s"\n[models]\ncall_wall="20 s"\n'))
    print("cell timeout while asking")
    r = sess(
        rig,
        ["print(1)\nprint(llm_query('fast'))\nllm_query('slow')", "print(2)"],
        sub_model=Slow(),
        policy=pol,
        language="python",
    )
    print(r.status)
    t = time.time()
    show(rig.replay(str(r.run)))
    print(time.time() - t)
    print("cancelled run while asking")

    async def work(host):
        async def go():
            return await host.execute("print(llm_query('fast'))\nllm_query('slow')", sub_model=Slow(), policy=str(pol2))

        task = asyncio.ensure_future(go())
        while not any(x.event == "query.completed" for x in records(rig.state.journal)):
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled")

    pol2 = rig.jar.file(
        "p2.toml",
        'schema=1\nname="p2"\nextends="standard"\ndescription="d"\n[limits]\ncell_wall = "100 s"\nrun_wall="300 s"\n[models]\ncall_wall="80 s"\n',
    )
    import shutil

    rig2 = rig
    n0 = len(runs(rig.state.journal))

    async def work2(host):
        async def go():
            return await host.execute("print(llm_query('fast'))\nllm_query('slow')", sub_model=Slow(), policy=str(pol2))

        task = asyncio.ensure_future(go())
        await asyncio.sleep(2)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled")

    rig.did(work2)
    last = runs(rig.state.journal)[-1]
    print(last)
    for x in records(rig.state.journal, last.run):
        print(x.event, x.data)
    t = time.time()
    show(rig.replay(last.run))
    print(time.time() - t)

INVIS = "\u3164\ufe0f\U000e0100"
def test_export_states(rig):
    """running, abandoned, erased, partly erased, damaged, x all formats, exit codes"""
    j = rig.jar
    import signal, sqlite3
    j.expect_unfinished = True
    prog = j.file("w.py", "import time\nx = context[:3]\nprint(x)\ntime.sleep(600)")
    running = j.start("exec", prog, "--language", "python", "--policy","dev", "--context", j.file("text.txt", "abc"))
    from tests.waiting import until
    until(lambda: j.journal.exists() and j.records("context.read"), what="x")
    def all_():
        for f in ("html","atif","rlm","otel","jsonl"):
            for c in ([], ["--content"]):
                o = j("audit","export","last","--format",f,*c); print(f, c, o.code, o.stderr[:200], len(o.stdout), "not here" in o.stdout)
                if f == "atif":
                    import atif
                    json.loads(o.stdout); 
                    from atif import Trajectory
                    Trajectory.model_validate_json(o.stdout)
        for a in (["show"],["show","--full"],["show","--json"],["show","--tree"],["show","--tree","--json"],["coverage","--json"],["tail","--json"],["receipt"],["replay","--json","--context",str(j.work/"text.txt")]):
            o = j("audit", a[0], "last", *a[1:]); print(a, o.code, o.stderr[:200].strip(), len(o.stdout), ("unfinished" in o.stdout))
        o = j("audit","diff","last","last"); print("diff", o.code, o.stderr, o.stdout)
        o = j("audit","verify"); print(o.code, o.stdout, o.stderr)
    print("RUNNING"); all_()
    o = j("audit","erase","last","--yes"); print("erase running", o.code, o.stderr)
    running.signal(signal.SIGKILL); running.wait()
    print("DEAD"); all_()
    j.exec("print(1)")
    run = j.records()[0].run
    for f in ("html","atif"):
        o = j("audit","export",run,"--format",f); print(o.code, len(o.stdout), "abandoned" in o.stdout)
    o = j("audit","show",run); print(o.stdout[-600:])
    o = j("audit","ls"); print(o.stdout)
    for s in ("abandoned","unfinished","ok"): print(s, j("audit","ls","--status",s).stdout)
    print("ERASED"); o = j("audit","erase","last","--yes"); print(o.code, o.stdout, o.stderr); all_()
    j.exec("print('some output of this cell'*100); FINAL(context)", "--context", j.work/"text.txt")
    with sqlite3.connect(j.journal) as db:
        rows = db.execute("select run, digest from contents order by run desc").fetchall(); 
        db.execute("delete from contents where digest=?", (rows[1][1],))
    print("DAMAGED"); all_()
