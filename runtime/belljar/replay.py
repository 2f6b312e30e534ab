"""Replaying a run: its code runs again in a fresh box, what it asks is answered from the record, and all is compared.

Theory of operation::

    journal, contents ──read──▶ Recording ──▶ a tape of answers, the code, the question
                                    │
    contexts by digest ─────────────┼──▶ a host of its own, in a folder that is gone afterwards ──▶ its log
                                    │         box, broker, engine, quotas: all of them real
                                    └── what was done ────────── compared with ──────────────────────┘

The host of its own has its own ledger, so a replay costs nobody anything and meets the limits of a run as the recorded
one did, but no tenant's: what such a quota refused then, and is not refused now, ends the comparison there. Its boxes
hash texts as those of the recorded run did, so that sets have the same order; a run from boxes of another hash seed
gets another host. Its models are the tape. In the real journal the replay is a run of the recorded run's tenant that
was charged nothing: it begins before anything is read, says which run it replays, and ends with what came of it.

A run with a root model is replayed by its question, with the recorded replies: the engine takes the same turns. Where
replies were not kept, or the questions came one by one in a session, its cells are run instead, one by one.

What is needed and not there is said, and what can be compared without it is compared: an answer that was not kept stops
the comparison where the program got it.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import msgspec

from belljar.audit import parent_of, records_below, runs
from belljar.audit.content import open_contents
from belljar.audit.events import RunFinished, RunStarted
from belljar.audit.export.words import printed
from belljar.audit.printed import comparable, digest
from belljar.audit.replay import Action, Actions, Comparison, Divergence, Setup, actions_of, compare, place_of
from belljar.audit.trajectory import Run, trajectory
from belljar.broker.keeping import SECRET_MARK
from belljar.engine import Result
from belljar.errors import InvalidInput, InvalidPolicy, PolicyDenied, Refusal
from belljar.host import Host, Ticket
from belljar.identity import BackendName, Tenant
from belljar.keys import Keys
from belljar.lifecycle import Fork
from belljar.models import FREE, Prices, Rates, Registry
from belljar.models.replay import ForkModel, ReplayModel, ReplayTool
from belljar.policy import Policy, load, parse, presets
from belljar.policy import digest as policy_digest
from belljar.recording import Recording, read_recording
from belljar.sources import ContextSource
from belljar.state import State

__all__ = ["Refused", "Replay", "Replays", "Setting", "setting_of"]

_MISSING_SHOWN_MAX: Final = 20
_TENANTS_QUOTA: Final = "quota.tenant."
Outcome = Literal["equal", "diverged", "incomplete"]
# How the replay's own run ends in the log.
_STATUS: Final[Mapping[Outcome, str]] = {"equal": "ok", "diverged": "diverged", "incomplete": "incomplete"}


class Refused(msgspec.Struct, frozen=True):
    """What was refused in a replay and not in the record: `where` it was, and the `code`, of how many requests."""

    where: str
    code: str
    count: int


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a replay.

    Attributes:
        run: the recorded run; `replay` is the one that the log has of the replay.
        outcome: `equal`: all that the record has was compared, and is the same; `incomplete`: what was compared is.
        by: how its code was run again: by the root model's `turns`, or by its `cells`; None if it was not.
        policy: under which it ran; `policy_changed`: not the one that the record names.
        backend: what it ran in; `differs` has what of that is another one, each as recorded and now.
        actions: how many recorded actions can be compared, of which `equal_actions` were done again.
        first: the first difference.
        lines: of a cell that printed something else, the first line that differs, as recorded and now.
        missing: what would have been needed, or compared, and is not there; the first few.
        status: how the replay ended; None if it did not begin.
        refused: what was refused now, and was not then.
        cost_nanousd: what its calls would have cost; `recorded_cost_nanousd` what they did.
    """

    run: str
    replay: str
    outcome: Outcome
    by: Literal["turns", "cells"] | None
    policy: str
    policy_changed: bool
    backend: str
    differs: dict[str, tuple[str | None, str | None]]
    actions: int
    equal_actions: int
    first: Divergence | None
    lines: tuple[str, str] | None
    missing: list[str]
    status: str | None
    refused: list[Refused]
    cost_nanousd: int
    recorded_cost_nanousd: int

    @property
    def logged_status(self) -> str:
        """How the replay's own run ends in the log: `ok`, `diverged` or `incomplete`."""
        return _STATUS[self.outcome]


class Replays:
    """Replays runs of one state folder, one after the other. Use it in `async with`.

    Args:
        state: where the runs are, and their contexts.
        environ: where keys and daemons are looked up.
        host: an open host of this state, in whose log replays and forks are runs; one of its own when None.
    """

    def __init__(self, state: State, environ: Mapping[str, str], *, host: Host | None = None) -> None:
        self._state = state
        self._environ = environ
        self._given = host
        self._opened = contextlib.AsyncExitStack()
        # The host of its own: what ends it, whether it may have boxes, and of which hash seed.
        self._own_opened = contextlib.AsyncExitStack()
        self._own_used = False
        self._hash_seed: int | None = None

    async def __aenter__(self) -> Self:
        """Open the real journal, and a host of its own for the boxes. Raises as `Host.__aenter__`."""
        async with contextlib.AsyncExitStack() as stack:
            if self._given is not None:
                self._real = self._given
            else:
                real = Host(state=self._state.url or self._state.root, environ=self._environ)
                self._real = await stack.enter_async_context(real)
            self._folder = stack.enter_context(_folder(self._state))
            stack.push_async_callback(self._own_opened.aclose)
            await self._open_own()
            self._opened = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def _open_own(self) -> None:
        environ = {name: value for name, value in self._environ.items() if not name.startswith("BELLJAR_")}
        environ["BELLJAR_KEYS"] = str(self._folder / "keys")
        self._own = await self._own_opened.enter_async_context(Host(state=self._folder, environ=environ))

    async def _seed_own(self, recording: Recording) -> None:
        """Make the host of its own one in whose boxes this run can be the same again."""
        started = recording.started
        wanted = self._hash_seed if started.hash_seed is None else started.hash_seed
        if self._own_used and wanted != self._hash_seed:
            await self._own_opened.aclose()
            await self._open_own()
        self._own_used, self._hash_seed = True, wanted
        self._own.seeded(started.seed, wanted, recording.tape.clocks)

    async def replay(
        self,
        run: str,
        *,
        policy: str | Path | Policy | None = None,
        backend: BackendName | str | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
        policies: Mapping[str, Policy] | None = None,
        ticket: Ticket | None = None,
    ) -> Replay:
        """Replay a run that has ended, and compare it with its record.

        Args:
            run: its id.
            policy: under which it is to run; the recorded one when None.
            backend: in what; the recorded one when None.
            contexts: by name, those that are not registered any more, as sources. Others are found by their digests.
            policies: what a policy's name means besides presets, where the record does not have all of it.
            ticket: where the replay was ordered of a service.

        Raises:
            InvalidInput: there is no such run, or it cannot be replayed: `replay.child`, `replay.unfinished`,
                `replay.replay`, `replay.policy`, `replay.too_long`; `replay.context`: it had no context of a name that
                is given; `context.missing` and the like: one that is given cannot be read.
            HostFault: the log, the ledger or the box does not work.
        """
        keys = Keys.at(self._environ)
        recording = await asyncio.to_thread(read_recording, self._state.journal, keys, run)
        recording.had(contexts or ())
        setting = setting_of(recording, policy, backend, policies)
        started = _marked(recording, setting)
        async with self._real.noting(Tenant(recording.started.tenant), started, ticket) as note:
            again = await self._again(recording, setting, contexts or {})
            found = _report(recording, setting, *again)
            note.finished = RunFinished(status=found.logged_status, calls=0, cost_nanousd=0)
        lines = await asyncio.to_thread(self._lines, recording, again[0], found.first)
        return msgspec.structs.replace(found, replay=str(note.run), lines=lines)

    def _lines(self, recording: Recording, again: Run | None, first: Divergence | None) -> tuple[str, str] | None:
        if again is None or first is None or first.recorded is None or first.recorded.kind != "output":
            return None
        theirs, own = (self._state.journal, Keys.at(self._environ)), (State(self._folder).journal, self._own_keys)
        recorded, replayed = _printed(*theirs, recording.run, first), _printed(*own, again, first)
        if recorded is None or replayed is None:
            return None
        pairs = zip_longest(recorded, replayed, fillvalue=("", b""))
        return next(((one[0], two[0]) for one, two in pairs if one[1] != two[1]), None)

    async def fork(
        self,
        run: str,
        from_turn: int,
        *,
        model: str,
        sub_model: str | None = None,
        policy: str | Path | Policy | None = None,
        backend: BackendName | str | None = None,
        contexts: Mapping[str, ContextSource] | None = None,
    ) -> Result:
        """Run a recorded question anew: the turns before `from_turn` come from the record, the others from a model.

        That is a run like any other, of the same tenant, which is charged for what the model is asked. Tools give what
        they gave, and no more.

        Args:
            model: the root model from this turn on; `sub_model` answers queries, the same model when None.

        Raises:
            InvalidInput: as `replay`; `replay.turn`: there is no such turn, or not all before it is kept;
                `replay.context`: a context is gone, or one is given that the run did not have.
            Refusal, HostFault: as `Host.run`.
        """
        recording = await asyncio.to_thread(read_recording, self._state.journal, Keys.at(self._environ), run)
        recording.had(contexts or ())
        setting, tape = setting_of(recording, policy, backend), recording.until(from_turn)
        found = _contexts(self._real, recording, contexts or {})
        if found is None:
            raise InvalidInput(f"this cannot be forked without {recording.missing[-1]}", code="replay.context")
        assert recording.question is not None, "it has turns"
        async with contextlib.AsyncExitStack() as stack:
            registry = Registry(self._environ)
            stack.push_async_callback(registry.aclose)
            models = []
            for name in (model, sub_model or model):
                await registry.load(name)
                models.append(ForkModel(tape, registry.resolve(name)))
            self._real.seeded(recording.started.seed, recording.started.hash_seed, tape.clocks)
            root, sub = models if sub_model else (models[0], models[0])
            return await self._real.fork(
                recording.question,
                Fork(run, from_turn),
                model=root,
                sub_model=sub,
                **_common(recording, setting.asked, setting.backend, found),
            )

    async def _again(
        self, recording: Recording, setting: Setting, given: Mapping[str, ContextSource]
    ) -> tuple[Run | None, Actions]:
        """What it did now; nothing where it could not be run."""
        await self._seed_own(recording)
        contexts = _contexts(self._own, recording, given)
        if recording.by is None or contexts is None:
            return None, {}
        limit = recording.run.limit
        try:
            await _drive(self._own, recording, setting, contexts)
        except InvalidInput as error:
            if limit is None or limit.code != error.code:  # what it is given now is wrong
                raise
        except Refusal:  # it could not start: the log says so
            pass
        return await asyncio.to_thread(_done, State(self._folder).journal, self._own_keys)

    @property
    def _own_keys(self) -> Keys:
        return Keys(self._folder / "keys")


class Setting(NamedTuple):
    """Under what a recorded run is run again."""

    policy: Policy
    asked: Policy  # as it is written; `policy` keeps what is to be compared, in a box of any image
    changed: bool
    backend: str


def setting_of(
    recording: Recording,
    wish: str | Path | Policy | None = None,
    backend: str | None = None,
    policies: Mapping[str, Policy] | None = None,
) -> Setting:
    """Under a policy and in a backend that somebody wishes, or else the recorded ones.

    Args:
        policies: what a policy's name means besides presets, where the record does not have all of it.

    Raises:
        InvalidInput: `replay.policy`: the recorded policy was not kept, and is none that is known here.
        InvalidPolicy: the wish is wrong.
    """
    started = recording.started
    if wish is None:
        wish = _recorded_policy(recording) or (policies or {}).get(started.policy or "")
    unknown = wish is None and started.policy not in presets()
    if wish is None:
        wish = started.policy or ""
        if unknown and recording.by is None:  # it is not run, and what it lacks can be said all the same
            wish = msgspec.structs.replace(load("strict"), name=wish)
        elif unknown:
            raise InvalidInput(
                f"{recording.run.run} ran under the policy {wish[:80]!a}, which is no preset: name its file with "
                "--policy",
                code="replay.policy",
            )
    policy = wish if isinstance(wish, Policy) else load(wish)
    backend = backend or started.backend or policy.box.backends[0]
    changed = not unknown and policy_digest(policy) != started.policy_digest
    return Setting(_open(policy, backend), policy, changed, backend)


def _recorded_policy(recording: Recording) -> Policy | None:
    """None where it was not kept, or not all of it, since no canary ever is; or an older Belljar knew other keys."""
    if recording.setup is None:
        return None
    with contextlib.suppress(InvalidPolicy):
        found = parse(recording.setup.policy, source=f"the policy of {recording.run.run}", base=load)
        return None if SECRET_MARK.decode() in found.models.canaries else found
    return None


def _open(policy: Policy, backend: str) -> Policy:
    """The policy, for a box of this backend whatever its image is, and keeping all that is to be compared."""
    backends = policy.box.backends if backend in policy.box.backends else (backend, *policy.box.backends)
    replace = msgspec.structs.replace
    return replace(
        policy,
        box=replace(policy.box, image=None, backends=backends),
        audit=replace(policy.audit, contents=("code", "output"), item_bytes_max=2**30, run_bytes_max=2**40),
    )


def _marked(recording: Recording, setting: Setting) -> RunStarted:
    old = recording.started
    return RunStarted(
        tenant=old.tenant,
        contexts=old.contexts,
        backend=setting.backend,
        policy=setting.policy.name,
        language=old.language,
        root_model=old.root_model,
        sub_model=old.sub_model,
        scripted=True,
        replays=recording.run.run,
    )


@contextlib.contextmanager
def _folder(state: State) -> Iterator[Path]:
    """A state folder for one replay. It has the images and contexts of the real one."""
    with tempfile.TemporaryDirectory(prefix="belljar-replay-") as name:
        folder = Path(name)
        for part in (state.images, state.contexts):
            part.mkdir(mode=0o700, exist_ok=True)
            (folder / part.name).symlink_to(part)
        yield folder


def _contexts(host: Host, recording: Recording, given: Mapping[str, ContextSource]) -> dict[str, ContextSource] | None:
    """The recorded contexts, if they are all still there."""
    found: dict[str, ContextSource] = dict(given)
    for one in recording.started.contexts:
        if one.name in found:
            continue
        try:
            found[one.name] = host.registered(f"sha256:{one.sha256}", tenant=recording.started.tenant)
        except InvalidInput:
            recording.missing.append(
                f"the context {one.name!a}, SHA-256 {one.sha256}: give it with --context, or `belljar context add` it"
            )
    return found if found.keys() >= {one.name for one in recording.started.contexts} else None


async def _drive(host: Host, recording: Recording, setting: Setting, contexts: dict[str, ContextSource]) -> None:
    """Run the code again. Raises Refusal if it cannot even start."""
    old = recording.started
    names = dict.fromkeys(name for name in (old.root_model, old.sub_model) if name is not None)
    models = {name: ReplayModel(recording.tape, name=name, rates=await _rates(recording, name)) for name in names}
    root, sub = (None if name is None else models[name] for name in (old.root_model, old.sub_model))
    common = _common(recording, setting.policy, setting.backend, contexts)
    setup = recording.setup
    if recording.by == "turns":
        assert recording.question is not None
        assert root is not None
        await host.run(recording.question, model=root, sub_model=sub, **common)
        return
    common.pop("answer_type")
    if setup is not None and setup.alone and len(recording.codes) == 1:
        await host.execute(recording.codes[0].text, sub_model=sub, **common)
        return
    async with host.session(root_model=root, sub_model=sub, **common) as session:
        with contextlib.suppress(PolicyDenied):  # it has ended before the recorded one
            for code in recording.codes:
                await session.execute(code.text, timeout=code.wall_s)


def _common(
    recording: Recording, policy: Policy, backend: str, contexts: Mapping[str, ContextSource]
) -> dict[str, Any]:
    """What a run is given again, besides its models and its question."""
    others, setup = dict(contexts), recording.setup or Setup(policy="")
    return {
        "context": others.pop("context", None),
        "contexts": others,
        "tenant": recording.started.tenant,
        "policy": policy,
        "backend": backend,
        "language": recording.started.language,
        "answer_type": setup.answer_schema,
        "tools": [ReplayTool(recording.tape, one[:3], cost_nanousd=one[3]) for one in setup.tools],
    }


async def _rates(recording: Recording, model: str) -> Rates | None:
    """As listed if that is what was paid, else as the record has it; None is as listed."""

    def find() -> Rates | None:
        prices = Prices()
        is_listed = prices.has(model)
        found = recording.rates(model, partial(prices.cost, model) if is_listed else None)
        return found if found is not None or is_listed else FREE

    return await asyncio.to_thread(find)


def _printed(journal: Path | str, keys: Keys, run: Run, where: Divergence) -> list[tuple[str, bytes]] | None:
    """The lines that a cell printed, each with what of it is compared; None where that is not kept."""
    whose = next((one for one in run.below() if place_of(one.run, run.run) == where.place), run)
    output = next((printed(cell) for cell in whose.cells() if cell.number == where.cell), None)
    with open_contents(journal, keys) as contents:
        said = None if output is None else output.words(contents)
    if not isinstance(said, str):
        return None
    return [(line, comparable(line.encode("utf-8", "surrogatepass"), run.run)) for line in said.split("\n")]


def _done(journal: Path | str, keys: Keys) -> tuple[Run, Actions]:
    """What the log of the replay has."""
    last = [one.run for one in runs(journal) if parent_of(one.run) is None][-1]
    with open_contents(journal, keys) as contents:
        run = trajectory(records_below(journal, last))
        assert run is not None, "the log has the run"
        return run, actions_of(run, partial(digest, contents=contents))


def _report(recording: Recording, setting: Setting, again: Run | None, actions: Actions) -> Replay:
    recorded = recording.actions
    if recording.by == "cells" and not (recording.setup is not None and recording.setup.alone):
        recorded, actions = _of_cells(recorded), _of_cells(actions)
    found = _compared(recording, recorded, actions) if again is not None else Comparison(actions=0, equal_actions=0)
    whole = again is not None and not recording.missing and not found.cut
    outcome: Outcome = "diverged" if found.first is not None else "equal" if whole else "incomplete"
    return Replay(
        run=recording.run.run,
        replay="",
        outcome=outcome,
        by=recording.by if again is not None else None,
        policy=setting.policy.name,
        policy_changed=setting.changed,
        backend=setting.backend,
        differs=_differs(recording.run, again) if again is not None else {},
        actions=found.actions,
        equal_actions=found.equal_actions,
        first=found.first,
        lines=None,
        missing=recording.missing[:_MISSING_SHOWN_MAX],
        status=again.status if again is not None else None,
        refused=_refused(recorded, actions),
        cost_nanousd=again.total.cost_nanousd if again is not None else 0,
        recorded_cost_nanousd=recording.run.total.cost_nanousd,
    )


def _compared(recording: Recording, recorded: Actions, actions: Actions) -> Comparison:
    """Up to where a tenant's quota stood in the way that does not now; that is missing, and no divergence."""
    stops = dict(recording.stops)
    while True:
        found = compare(recorded, actions, stops)
        if found.first is None or (code := _of_tenants_quota(found.first, recording.run)) is None:
            return found
        place, cell = found.first.place, found.first.cell
        stops[place] = cell
        run = f"{recording.run.run}.{place}" if place else recording.run.run
        recording.missing.append(
            f"what would have come of cell {cell} of {run}: a tenant's quota ({code}) stood in its way then, and none "
            "does in a replay"
        )


def _of_tenants_quota(first: Divergence, recorded: Run) -> str | None:
    """The code of the tenant's quota that refused what is not so again, or stopped its run."""
    if first.recorded is None:
        return None
    about = dict(first.recorded.about)
    code = about.get("denied") or about.get("code")
    if about.get("status") == "quota":
        ends = (one.limit for one in recorded.below() if place_of(one.run, recorded.run) == first.place)
        code = next((limit.code for limit in ends if limit is not None), None)
    return code if code is not None and code.startswith(_TENANTS_QUOTA) else None


def _of_cells(actions: Actions) -> Actions:
    """Where cells were run one by one, nobody asked the first run's root model, nor ended the run as it did, nor said
    of which type an answer is to be."""
    kept = [[_untyped(one) for one in cell if one.kind not in ("turn", "end")] for cell in actions.get("", [])]
    return actions | {"": kept}


def _untyped(action: Action) -> Action:
    return msgspec.structs.replace(action, kind="answer") if action.kind == "void" else action


def _differs(recorded: Run, again: Run) -> dict[str, tuple[str | None, str | None]]:
    """What of the box is another one now."""
    if again.backend is None:  # it did not begin
        return {}
    old = {"backend": recorded.backend, **recorded.facts}
    new = {"backend": again.backend, **again.facts}
    return {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}


def _refused(recorded: Actions, again: Actions) -> list[Refused]:
    """What was refused in the replay alone, by code, each at its first place."""
    left: Counter[str] = Counter()
    for _, code, count in _refusals(recorded):
        left[code] += count
    found: dict[str, Refused] = {}
    for where, code, count in _refusals(again):
        left[code] -= count
        if (more := min(-left[code], count)) > 0:
            before = found.get(code)
            found[code] = Refused(before.where, code, before.count + more) if before else Refused(where, code, more)
    return list(found.values())


def _refusals(actions: Actions) -> Iterator[tuple[str, str, int]]:
    """Each refusal: where it was, its code, and how many there were that are not told of before."""
    for cells in actions.values():
        all_of_them = [one for cell in cells for one in cell]
        # A run that could not start has its end alone. Of any other the end follows from what is before it.
        kinds = ("refused", "end") if len(cells) == 2 else ("refused",)
        told: Counter[tuple[str, str]] = Counter()
        for action in all_of_them:
            about = dict(action.about)
            code = about.get("denied") or (about.get("code") if action.kind in kinds else None)
            if code is None:
                continue
            kind = about.get("asked", "query"), code
            count = 1 if about.get("count") is None else about["count"] - told[kind]
            told[kind] += count
            yield action.says(), code, count
