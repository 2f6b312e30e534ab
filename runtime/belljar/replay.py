"""Replaying a run: its code runs again in a fresh box, what it asks is answered from the record, and all is compared.

Theory of operation::

    journal, contents ──read──▶ Recording ──▶ a tape of answers, the code, the question
                                    │
    contexts by digest ─────────────┼──▶ a host of its own, in a folder that is gone afterwards ──▶ its log
                                    │         box, broker, engine, quotas: all of them real
                                    └── what was done ────────── compared with ──────────────────────┘

The host of its own has its own ledger, so a replay costs nobody anything and meets the limits of a run as the recorded
one did, but no tenant's. Its models are the tape. In the real journal the replay is a run of the recorded run's tenant
that was charged nothing: it begins before anything is read, says which run it replays, and ends with what came of it.

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
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from belljar.audit import records_below, runs
from belljar.audit.content import open_contents
from belljar.audit.events import RunFinished, RunStarted
from belljar.audit.hostkeys import keys_folder
from belljar.audit.replay import Actions, Comparison, Divergence, actions_of, compare
from belljar.audit.trajectory import Run, trajectory
from belljar.context import Document
from belljar.errors import InvalidInput, PolicyDenied, Refusal
from belljar.host import Host
from belljar.identity import BackendName, Tenant
from belljar.models import FREE, Prices, Rates
from belljar.models.replay import ReplayModel
from belljar.policy import Policy, digest, load, presets
from belljar.recording import Recording, output_digest, read_recording
from belljar.state import State

__all__ = ["Refused", "Replay", "replay_run"]

_MISSING_SHOWN_MAX: Final = 20
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
    missing: list[str]
    status: str | None
    refused: list[Refused]
    cost_nanousd: int
    recorded_cost_nanousd: int


async def replay_run(
    state: State,
    run: str,
    *,
    policy: str | Path | Policy | None = None,
    backend: BackendName | str | None = None,
    environ: Mapping[str, str],
) -> Replay:
    """Replay a run that has ended, and compare it with its record.

    Args:
        run: its id.
        policy: under which it is to run; the recorded one when None.
        backend: in what; the recorded one when None.

    Raises:
        InvalidInput: there is no such run, or it cannot be replayed: `replay.child`, `replay.unfinished`,
            `replay.policy`: its policy is no preset; `replay.too_long`.
        HostFault: the log, the ledger or the box does not work.
    """
    async with Host(state=state.url or state.root, environ=environ) as host:
        return await _logged(host, run, _Wish(state, policy, backend, environ))


class _Wish(NamedTuple):
    state: State
    policy: str | Path | Policy | None
    backend: BackendName | str | None
    environ: Mapping[str, str]


async def _logged(host: Host, run: str, wish: _Wish) -> Replay:
    """In the journal it begins before anything is run, as a run that is charged nothing."""
    recording = await asyncio.to_thread(read_recording, wish.state.journal, keys_folder(wish.environ), run)
    setting = _setting(recording, wish)
    started = _marked(recording, setting)
    async with host.noting(Tenant(recording.started.tenant), started) as note:
        found = await _replayed(recording, setting, wish)
        note.finished = RunFinished(status=_STATUS[found.outcome], calls=0, cost_nanousd=0)
    return msgspec.structs.replace(found, replay=str(note.run))


class _Setting(NamedTuple):
    """Under what it runs."""

    policy: Policy
    changed: bool
    backend: str


def _setting(recording: Recording, wish: _Wish) -> _Setting:
    started, policy = recording.started, wish.policy
    if policy is None:
        policy = started.policy or ""
        if policy not in presets():
            raise InvalidInput(
                f"{recording.run.run} ran under the policy {policy[:80]!a}, which is no preset: name its file with "
                "--policy",
                code="replay.policy",
            )
    found = policy if isinstance(policy, Policy) else load(policy)
    changed = digest(found) != started.policy_digest
    backend = wish.backend or started.backend or found.box.backends[0]
    return _Setting(_open(found, backend), changed, backend)


def _open(policy: Policy, backend: str) -> Policy:
    """The policy, for a box of this backend whatever its image is, and keeping all that is to be compared."""
    backends = policy.box.backends if backend in policy.box.backends else (backend, *policy.box.backends)
    replace = msgspec.structs.replace
    return replace(
        policy,
        box=replace(policy.box, image=None, backends=backends),
        audit=replace(policy.audit, contents=("code", "output"), item_bytes_max=2**30, run_bytes_max=2**40),
    )


def _marked(recording: Recording, setting: _Setting) -> RunStarted:
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


async def _replayed(recording: Recording, setting: _Setting, wish: _Wish) -> Replay:
    if recording.by is None:
        return _report(recording, setting, None, {})
    with _folder(wish.state) as folder:
        environ = {name: value for name, value in wish.environ.items() if not name.startswith("BELLJAR_")}
        environ["BELLJAR_KEYS"] = str(folder / "keys")
        async with Host(state=folder, environ=environ) as host:
            contexts = _contexts(host, recording)
            if contexts is None:
                return _report(recording, setting, None, {})
            with contextlib.suppress(Refusal):  # it could not start: the log says so
                await _drive(host, recording, setting, contexts)
        return _report(recording, setting, *await asyncio.to_thread(_done, State(folder).journal, folder / "keys"))


@contextlib.contextmanager
def _folder(state: State) -> Iterator[Path]:
    """A state folder for one replay. It has the images and contexts of the real one."""
    with tempfile.TemporaryDirectory(prefix="belljar-replay-") as name:
        folder = Path(name)
        for part in (state.images, state.contexts):
            part.mkdir(mode=0o700, exist_ok=True)
            (folder / part.name).symlink_to(part)
        yield folder


def _contexts(host: Host, recording: Recording) -> dict[str, Document] | None:
    """The recorded contexts, if they are all still there."""
    found: dict[str, Document] = {}
    for one in recording.started.contexts:
        try:
            found[one.name] = host.registered(f"sha256:{one.sha256}", tenant=recording.started.tenant)
        except InvalidInput:
            recording.missing.append(
                f"the context {one.name!a}, SHA-256 {one.sha256}: add it with `belljar context add`, and replay again"
            )
    return found if len(found) == len(recording.started.contexts) else None


async def _drive(host: Host, recording: Recording, setting: _Setting, contexts: dict[str, Document]) -> None:
    """Run the code again. Raises Refusal if it cannot even start."""
    old = recording.started
    names = dict.fromkeys(name for name in (old.root_model, old.sub_model) if name is not None)
    models = {name: ReplayModel(recording.tape, name=name, rates=await _rates(recording, name)) for name in names}
    root, sub = (None if name is None else models[name] for name in (old.root_model, old.sub_model))
    common: dict[str, Any] = {
        "context": contexts.pop("context", None),
        "contexts": contexts,
        "sub_model": sub,
        "tenant": old.tenant,
        "policy": setting.policy,
        "backend": setting.backend,
        "language": old.language,
    }
    if recording.by == "turns":
        assert recording.question is not None
        assert root is not None
        await host.run(recording.question, model=root, **common)
        return
    async with host.session(root_model=root, **common) as session:
        with contextlib.suppress(PolicyDenied):  # it has ended before the recorded one
            for code in recording.codes:
                await session.execute(code)


async def _rates(recording: Recording, model: str) -> Rates | None:
    """As the record has it, else as listed."""
    if (found := recording.rates(model)) is not None:
        return found
    return None if await asyncio.to_thread(Prices().has, model) else FREE


def _done(journal: Path | str, keys: Path) -> tuple[Run, Actions]:
    """What the log of the replay has."""
    first = runs(journal)[0].run
    with open_contents(journal, keys) as contents:
        found = trajectory(records_below(journal, first))
        assert found is not None, "the log has the run"
        return found, actions_of(found, lambda cell: output_digest(contents, cell))


def _report(recording: Recording, setting: _Setting, again: Run | None, actions: Actions) -> Replay:
    recorded = recording.actions
    if recording.by == "cells":
        recorded, actions = _without_turns(recorded), _without_turns(actions)
    found = compare(recorded, actions, recording.stops) if again is not None else Comparison(actions=0, equal_actions=0)
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
        missing=recording.missing[:_MISSING_SHOWN_MAX],
        status=again.status if again is not None else None,
        refused=_refused(recorded, actions),
        cost_nanousd=again.total.cost_nanousd if again is not None else 0,
        recorded_cost_nanousd=recording.run.total.cost_nanousd,
    )


def _without_turns(actions: Actions) -> Actions:
    """Where cells were run one by one, nobody asked the first run's root model, nor ended the run as it did."""
    kept = [[one for one in cell if one.kind not in ("turn", "end")] for cell in actions.get("", [])]
    return actions | {"": kept}


def _differs(recorded: Run, again: Run) -> dict[str, tuple[str | None, str | None]]:
    """What of the box is another one now."""
    old = {"backend": recorded.backend, **recorded.facts}
    new = {"backend": again.backend, **again.facts}
    return {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}


def _refused(recorded: Actions, again: Actions) -> list[Refused]:
    """What was refused in the replay alone, by code, each at its first place."""
    left = Counter(code for _, code in _refusals(recorded))
    found: dict[str, Refused] = {}
    for where, code in _refusals(again):
        if left[code] > 0:
            left[code] -= 1
            continue
        before = found.get(code)
        found[code] = Refused(where if before is None else before.where, code, 1 + (before.count if before else 0))
    return list(found.values())


def _refusals(actions: Actions) -> Iterator[tuple[str, str]]:
    for cells in actions.values():
        for action in (one for cell in cells for one in cell):
            about = dict(action.about)
            code = about.get("denied") or (about.get("code") if action.kind in ("refused", "end") else None)
            if code is not None:
                yield action.says(), code
