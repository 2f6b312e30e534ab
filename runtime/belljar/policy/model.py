"""What a policy says, as frozen values. Each field carries its kind: how it is written, bounded and compared.

In the file a quantity has its unit in the value (`memory = "256 MiB"`); in memory the unit is the end of the name
(`memory_bytes`). `None` in a quota means an explicit `"unlimited"`.

The ranges are not advice but where a number stops making sense: below, nothing runs; above, a typo is more likely than
intent, or another part of the program cannot keep the promise.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, TypeAlias, get_args

import msgspec

from belljar.identity import BACKENDS, LANGUAGES, OTHER_BACKEND, Language
from belljar.policy import kinds

__all__ = [
    "CONTENTS",
    "LAYERS",
    "PERIODS",
    "SCHEMA_VERSION",
    "Audit",
    "Box",
    "ContentKind",
    "Context",
    "Layer",
    "Limits",
    "Models",
    "PeriodName",
    "Policy",
    "Quota",
    "Quotas",
    "RunQuota",
    "Spending",
    "Wire",
]

SCHEMA_VERSION: Final = 1

PeriodName: TypeAlias = Literal["day", "month", "total"]
Layer: TypeAlias = Literal[
    "userns",
    "pidns",
    "mountns",
    "netns",
    "ipcns",
    "utsns",
    "cgroupns",
    "rootfs",
    "rlimits",
    "no_new_privs",
    "caps",
    "seccomp",
    "landlock",
    "cgroup.memory",
    "cgroup.cpu",
    "cgroup.pids",
    "own_uid",
    "watched.memory",
    "watched.cpu",
    "watched.pids",
    "gvisor",
]

# What the log can keep beside its records, encrypted.
ContentKind: TypeAlias = Literal["code", "output", "prompts", "replies", "reads"]

CONTENTS: Final[tuple[ContentKind, ...]] = get_args(ContentKind)
PERIODS: Final[tuple[PeriodName, ...]] = get_args(PeriodName)  # loosest first
LAYERS: Final[tuple[Layer, ...]] = get_args(Layer)


class Box(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which boxes may be built. The first of `backends` and of `languages` is the default.

    A third-party backend is named with its owner, `acme.microvm`; a program has to register it as well. `image` is the
    digest of the only box image allowed; None means any that belljar makes.
    """

    backends: Annotated[tuple[str, ...], kinds.Subset("backends", BACKENDS, OTHER_BACKEND)]
    languages: Annotated[tuple[Language, ...], kinds.Subset("languages", LANGUAGES)]
    requires: Annotated[tuple[Layer, ...], kinds.Required("requires", LAYERS)]
    image: Annotated[str | None, kinds.Pin("image")]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one run may use. Walls and CPU in seconds; `processes` counts threads too."""

    run_wall_s: Annotated[float, kinds.Duration("run_wall", "100 ms", "168 h")]
    cell_wall_s: Annotated[float, kinds.Duration("cell_wall", "100 ms", "168 h")]
    grace_s: Annotated[float, kinds.Duration("grace", "10 ms", "1 min")]
    cpu_s: Annotated[float, kinds.Duration("cpu", "1 s", "168 h")]
    memory_bytes: Annotated[int, kinds.Size("memory", "64 MiB", "1024 GiB")]
    processes: Annotated[int, kinds.Count("processes", 4, 32768)]
    scratch_bytes: Annotated[int, kinds.Size("scratch", "0 B", "1024 GiB")]
    scratch_files: Annotated[int, kinds.Count("scratch_files", 1, 10_000_000)]
    open_files: Annotated[int, kinds.Count("open_files", 16, 65536)]
    output_bytes: Annotated[int, kinds.Size("output", "1 KiB", "1 GiB")]
    output_flood_bytes: Annotated[int, kinds.Size("output_flood", "1 KiB", "64 GiB")]
    answer_bytes: Annotated[int, kinds.Size("answer", "1 KiB", "1 GiB")]
    answer_values: Annotated[int, kinds.Count("answer_values", 1000, 1_000_000_000)]
    code_bytes: Annotated[int, kinds.Size("code", "1 KiB", "4 MiB")]


class Wire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How large a frame may be, and how many requests may be open at once, with how many bytes in all."""

    header_bytes_max: Annotated[int, kinds.Size("header", "1 KiB", "1 MiB")]
    body_bytes_max: Annotated[int, kinds.Size("body", "64 KiB", "1 GiB")]
    in_flight_max: Annotated[int, kinds.Count("in_flight", 1, 4096)]
    in_flight_bytes_max: Annotated[int, kinds.Size("in_flight_bytes", "64 KiB", "1024 GiB")]


class Context(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the contexts may be read: at once, in a run, and as one string; and what a search may take.

    `search_total_bytes_max` is the text gone through, `search_hits_max` the matches returned by one search.
    """

    read_bytes_max: Annotated[int, kinds.Size("read", "4 KiB", "1 GiB")]
    read_total_bytes_max: Annotated[int, kinds.Size("read_total", "4 KiB", "524288 GiB")]
    materialise_bytes_max: Annotated[int, kinds.Size("materialise", "0 B", "64 GiB")]
    search_wall_s: Annotated[float, kinds.Duration("search_wall", "10 ms", "1 h")]
    search_hits_max: Annotated[int, kinds.Count("search_hits", 1, 100_000)]
    search_total_bytes_max: Annotated[int, kinds.Size("search_total", "0 B", "524288 GiB")]


class Models(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which models may be asked, and how. `turns_max` counts the root model's answers.

    `coalesce` and `cache_s` say whether a query may have the answer of an equal one that is under way, or was answered
    so many seconds ago (0 for never).

    `depth_max` counts the levels of models below a root model: with 1 there are sub-models alone, with 2 child runs
    whose programs have sub-models, and so on; `beyond_depth` says what `rlm_query` then does. `children_max` bounds the
    children of one run at the same time, `child_share_percent` what one of them may spend of what the run has left. No
    prompt of a program may contain a match of one of `deny_prompts` (RE2), or more of its contexts' text than
    `prompt_share_percent`. `by_depth` narrows `allow` for each depth.
    `canaries` are texts that are not to turn up anywhere: where one does, the log says so, and `on_canary` whether that
    ends the run.

    `partial` names the variables that are looked at, one after the other, for what a run has of an answer when it ends
    without one and with no draft.
    """

    allow: Annotated[tuple[str, ...], kinds.Patterns("allow")]
    prompt_bytes_max: Annotated[int, kinds.Size("prompt", "1 KiB", "1 GiB")]
    output_tokens_max: Annotated[int, kinds.Count("output_tokens", 1, 10_000_000)]
    batch_max: Annotated[int, kinds.Count("batch", 1, 100_000)]
    parallel_max: Annotated[int, kinds.Count("parallel", 1, 4096)]
    call_wall_s: Annotated[float, kinds.Duration("call_wall", "100 ms", "24 h")]
    attempts_max: Annotated[int, kinds.Count("attempts", 1, 20)]
    turns_max: Annotated[int, kinds.Count("turns", 1, 10_000)]
    depth_max: Annotated[int, kinds.Count("depth", 0, 16)]
    beyond_depth: Annotated[Literal["query", "refuse"], kinds.Choice("beyond_depth", ("query", "refuse"))]
    children_max: Annotated[int, kinds.Count("children", 1, 256)]
    child_share_percent: Annotated[int, kinds.Count("child_share", 1, 100)]
    child_context_bytes_max: Annotated[int, kinds.Size("child_context", "1 KiB", "1 GiB")]
    by_depth: Annotated[tuple[tuple[str, ...], ...], kinds.PatternsByDepth("by_depth", 17)]
    deny_prompts: Annotated[tuple[str, ...], kinds.Expressions("deny_prompts")]
    prompt_share_percent: Annotated[int, kinds.Count("prompt_share", 1, 100)]
    canaries: Annotated[tuple[str, ...], kinds.Texts("canaries")]
    on_canary: Annotated[Literal["flag", "end"], kinds.Choice("on_canary", ("flag", "end"))]
    coalesce: Annotated[Literal["off", "on"], kinds.Sharing("coalesce", ("off", "on"))]
    cache_s: Annotated[float, kinds.Wait("cache", "0 s", "24 h")]
    partial: Annotated[tuple[str, ...], kinds.Variables("partial")]

    def permits(self, model: str) -> bool:
        """Whether `model` matches one of the allowed patterns, case-sensitively."""
        return any(fnmatchcase(model, pattern) for pattern in self.allow)

    @property
    def reuses(self) -> bool:
        """Whether a query may have the answer of an equal one."""
        return self.coalesce == "on" or self.cache_s > 0

    def permits_at(self, model: str, depth: int) -> bool:
        """Whether `by_depth` lets it be asked at this depth, too: 0 is the root model of a run that is no child."""
        return not self.by_depth or any(fnmatchcase(model, one) for one in kinds.at_depth(self.by_depth, depth))


class Spending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be spent in a period. `None` is an explicit `"unlimited"`."""

    period: Annotated[PeriodName, kinds.Period("period", PERIODS)]
    calls: Annotated[int | None, kinds.Amount("calls", 10**15)]
    input_tokens: Annotated[int | None, kinds.Amount("input_tokens", 10**15)]
    output_tokens: Annotated[int | None, kinds.Amount("output_tokens", 10**15)]
    cost_nanousd: Annotated[int | None, kinds.Cost("cost", "1000000.00 USD")]


class Quota(Spending, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all runs of a tenant together may spend, read of their contexts, and use of boxes.

    `boxes` and `calls_in_flight` are how many there may be at once, whatever the period.
    """

    read_bytes: Annotated[int | None, kinds.Volume("read", "524288 GiB")]
    cpu_ms: Annotated[int | None, kinds.Time("cpu", "1000000 h")]
    wall_ms: Annotated[int | None, kinds.Time("wall", "1000000 h")]
    memory_mib_s: Annotated[int | None, kinds.MemoryTime("memory_time", "1000000 GiBh")]
    boxes: Annotated[int | None, kinds.Amount("boxes", 1_000_000)]
    calls_in_flight: Annotated[int | None, kinds.Amount("calls_in_flight", 1_000_000)]


class RunQuota(Spending, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run has no calendar: its quota covers all of it.

    What it may read is under `context`, its time under `limits`, and its calls at once are `models.parallel`.
    """

    period: Annotated[Literal["total"], kinds.Period("period", ("total",))]
    memory_mib_s: Annotated[int | None, kinds.MemoryTime("memory_time", "1000000 GiBh")]


class Quotas(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each run is held to both: what one run may spend, and what all runs of its tenant may.

    `wait_s` is how long a call that a used-up period refuses may wait for the next period.
    """

    wait_s: Annotated[float, kinds.Wait("wait", "0 s", "24 h")]
    run: RunQuota
    tenant: Quota


class Audit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which contents are kept beside the log, encrypted, and how much of them for how long.

    Digests and lengths are in the log whatever this says. `code` is what cells ran, `output` what they printed and gave
    as answers, `prompts` what models and tools were sent, with the run's question, `replies` what came back, and
    `reads` what the program was given of its contexts, by reads and by searches. A content longer than `item_bytes_max`
    is left out, and so is whatever would make those of the run more than `run_bytes_max` before they are compressed.
    """

    contents: Annotated[tuple[ContentKind, ...], kinds.Contents("contents", CONTENTS)]
    keep_days: Annotated[int, kinds.Days("keep_days", 1, 36_500)]
    item_bytes_max: Annotated[int, kinds.Room("item", "1 KiB", "1 GiB")]
    run_bytes_max: Annotated[int, kinds.Room("run", "1 KiB", "1024 GiB")]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole policy, with every `extends` already applied."""

    schema: Annotated[int, kinds.Version("schema", SCHEMA_VERSION)]
    name: Annotated[str, kinds.Label("name")]
    description: Annotated[str, kinds.Prose("description")]
    box: Box
    limits: Limits
    wire: Wire
    context: Context
    models: Models
    quota: Quotas
    audit: Audit
