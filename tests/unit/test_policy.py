"""A policy file says exactly one thing, or is refused with its line; and `extends` never gives more than its base."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar import assets, policy, units
from belljar.errors import InvalidInput, InvalidPolicy, PolicyDenied
from belljar.policy import kinds
from belljar.policy.kinds import Kind
from belljar.policy.locate import locate
from belljar.policy.model import Policy
from belljar.policy.parse import FITS, all_kinds, fields_of, kind_at
from tests.examples import examples

PRESETS = ("dev", "standard", "strict")
HEAD = 'schema = 1\nname = "mine"\nextends = "standard"\n'
PIN, OTHER_PIN = f"sha256:{'0123456789abcdef' * 4}", f"sha256:{'f' * 64}"


def preset_text(name: str) -> str:
    return (assets.policies_dir() / f"{name}.toml").read_text(encoding="utf-8")


def read(text: str) -> Policy:
    return policy.parse(text, source="p.toml", base=policy.load)


# RE2 takes each of them, but not all.
LARGE_TOGETHER = [f"x{number}[^é-→]{{900}}" for number in range(40)]


def refusal(text: str) -> str:
    with pytest.raises(InvalidPolicy) as caught:
        read(text)
    message = str(caught.value)
    assert message.isprintable()
    assert re.match(r"p\.toml:\d+: .+; .+", message), message
    return message


def at_line(text: str, needle: str) -> int:
    """The line that `needle` stands in; it stands in one."""
    (line,) = [number for number, content in enumerate(text.split("\n"), 1) if needle in content]
    return line


# --- presets


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_read(name: str) -> None:
    assert policy.load(name).name == name


def test_the_presets_are_these() -> None:
    assert policy.presets() == PRESETS


def test_the_presets_differ_where_they_promise_to() -> None:
    strict, standard, dev = policy.load("strict"), policy.load("standard"), policy.load("dev")
    assert strict.box.languages == ("restricted",)
    assert standard.box.languages == ("restricted", "python")
    assert dev.box.languages[0] == "python"
    assert standard.box.backends[0] == "jail"
    assert strict.limits.memory_bytes < standard.limits.memory_bytes < dev.limits.memory_bytes


def test_a_run_over_a_million_tokens_fits_into_standard() -> None:
    standard = policy.load("standard")
    assert standard.models.batch_max >= 500
    assert standard.wire.body_bytes_max >= 500 * 20_000
    assert standard.limits.memory_bytes > (40 + 64 + 64) << 20
    assert standard.quota.run.calls is not None
    assert standard.quota.run.calls >= 2 * 500
    assert standard.limits.processes >= standard.wire.in_flight_max + 2


@pytest.mark.parametrize("name", PRESETS)
def test_every_rule_of_a_preset_has_its_reason_above_it(name: str) -> None:
    """One reason may stand above up to four rules. The head speaks for itself, and a run has but one period."""
    for table in preset_text(name).split("\n[")[1:]:
        unexplained = 5
        for line in table.split("\n")[1:]:
            if line.startswith("#"):
                unexplained = 0
            elif " = " in line and line != 'period = "total"':
                unexplained += 1
                assert unexplained <= 4, f"[{table[:20]} {line}"


def test_loading_by_name_and_by_path_is_the_same() -> None:
    assert policy.load(str(assets.policies_dir() / "strict.toml")) == policy.load("strict")


# --- what is not known


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_one() -> None:
    text = preset_text("standard").replace('memory = "512 MiB"', 'memroy = "512 MiB"')
    line = at_line(text, "memroy")
    assert refusal(text) == f'p.toml:{line}: [limits] has no key "memroy"; write "memory"'


def test_an_unknown_section_is_refused_with_its_line_and_the_nearest_one() -> None:
    text = HEAD + '\n# A comment.\n[limit]\nmemory = "64 MiB"\n'
    assert refusal(text) == 'p.toml:6: there is no key "limit"; write "limits"'


def test_a_key_in_the_wrong_section_is_sent_home() -> None:
    assert refusal(HEAD + "[box]\nscratch_files = 1\n") == (
        'p.toml:5: [box] has no key "scratch_files"; write it in [limits]'
    )


def test_a_key_like_no_other_gets_the_whole_list() -> None:
    assert refusal(HEAD + '[box]\n"quux\\n" = 1\n') == (
        r'p.toml:5: [box] has no key "quux\n"; write one of backends, languages, requires, image'
    )


def test_an_unknown_layer_is_refused_at_its_own_line() -> None:
    text = HEAD + '[box]\nrequires = [\n  "userns",  # "x"\n  "warpns",\n]\n'
    assert refusal(text).startswith('p.toml:7: box.requires has "warpns", which is not known; use only "userns", ')


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("limits.x = 1", 4),
        ("limits = { memory = '64 MiB', x = 1 }", 4),
        ("\n\n[limits]\n'x' = 1", 7),
        ('description = """a\n[limits]\nx = 1"""\n[limits]\nx = 1', 4),
        ('[box]\nbackends = [\n"jail" # [limits]\n]\n[limits]\nx = 1', 9),
        ("[quota]\n[quota.run]\nx = 1", 6),
        ("[quota]\nrun.x = 1", 5),
    ],
)
def test_the_line_is_found_however_the_key_is_written(body: str, line: int) -> None:
    assert refusal(HEAD + body).startswith(f"p.toml:{line}: ")


# --- what is wrong


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('memory = "256 s"', 'limits.memory = "256 s" is not a valid size; use a whole number, a space and one of'),
        ('memory = "5 MB"', 'limits.memory = "5 MB" is not a valid size; '),
        ("memory = 268435456", 'limits.memory is 268435456, which is not a valid size; add a unit, as in "256 MiB"'),
        ('memory = "unlimited"', 'limits.memory = "unlimited" is not a valid size; '),
        ('memory = "1 B"', 'limits.memory is "1 B", which is out of range; use 64 MiB to 1024 GiB'),
        ("memory = true", "limits.memory is true, which is not a valid size; "),
        ('run_wall = "60 MiB"', 'limits.run_wall = "60 MiB" is not a valid duration; '),
        ("run_wall = 60", 'limits.run_wall is 60, which is not a valid duration; add a unit, as in "60 s"'),
        ("run_wall = inf", "limits.run_wall is inf, which is not a valid duration; "),
        ('processes = "64"', 'limits.processes is "64", which is not a valid count; use a plain whole number'),
        ("processes = true", "limits.processes is true, which is not a valid count; "),
        ("processes = 64.0", "limits.processes is 64.0, which is not a valid count; "),
        ("processes = 0", "limits.processes is 0, which is out of range; use 4 to 32768"),
        ("processes = 1979-05-27", "which is not a valid count; "),
        (f"processes = 0x{'f' * 900}", "limits.processes is a number of over 128 bits, which is out of range; "),
    ],
)
def test_a_wrong_value_is_refused_with_what_to_write(written: str, message: str) -> None:
    assert message in refusal(f"{HEAD}[limits]\n{written}\n")
    assert refusal(f"{HEAD}[limits]\n{written}\n").startswith("p.toml:5: ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[box]\nbackends = []", "box.backends allows nothing; write at least one of "),
        ('[box]\nbackends = "jail"', 'box.backends is "jail"; write a list of strings'),
        ('[box]\nbackends = ["jail", "jail"]', 'box.backends has "jail" twice; write it once'),
        ('[box]\nbackends = ["jail", 1]', "box.backends has 1 in it; write only strings"),
        ('[box]\nbackends = ["podman"]', 'box.backends has "podman", which is not known; '),
        (
            f'[box]\nimage = "{PIN[:-1]}"',
            'which is not a digest; use "sha256:" and 64 lower-case hex digits, or "any"',
        ),
        (f'[box]\nimage = "{PIN.upper()}"', "which is not a digest; "),
        (f'[box]\nimage = "{PIN}\\n"', "which is not a digest; "),
        (f'[box]\nimage = "{PIN[7:]}"', "which is not a digest; "),
        ('[box]\nimage = "python:3.11"', 'box.image is "python:3.11", which is not a digest; '),
        ("[box]\nimage = []", "box.image is a list, which is not a digest; "),
        ('[models]\nallow = ["claude-[ab]"]', 'models.allow has "claude-[ab]", which is not a valid name pattern; '),
        ('[models]\nallow = ["claude-?"]', 'models.allow has "claude-?", which is not a valid name pattern; '),
        ('[models]\ndeny_prompts = ["("]', 'models.deny_prompts has "(", which RE2 does not accept ("missing ): '),
        ('[models]\ndeny_prompts = ["a", "(?=b)"]', 'models.deny_prompts has "(?=b)", which RE2 does not accept '),
        ('[models]\ndeny_prompts = ["a*"]', 'models.deny_prompts has "a*", which matches the empty text, and so every'),
        ('[models]\ndeny_prompts = ["a\\tb"]', 'models.deny_prompts has "a\\tb"; write printable text of at most 500 '),
        ('[models]\ncanaries = ["seven77"]', 'models.canaries has "seven77"; write 8 to 64 printable characters '),
        (f'[models]\ncanaries = ["{"x" * 65}"]', "; write 8 to 64 printable characters "),
        ('[models]\ncanaries = ["a line\\nmore"]', 'models.canaries has "a line\\nmore"; write 8 to 64 printable '),
        ('[models]\ncanaries = ["twice as", "twice as"]', 'models.canaries has "twice as" twice; write it once'),
        ('[models]\ndeny_prompts = ["a", "a"]', 'models.deny_prompts has "a" twice; write it once'),
        (
            f"[models]\ndeny_prompts = {LARGE_TOGETHER}",
            "models.deny_prompts has these together, which RE2 does not accept ",
        ),
        ('[quota.run]\nperiod = "day"', 'quota.run.period is "day", which is not a valid period here; use "total"'),
        ('[quota.tenant]\ncost = "5 EUR"', 'quota.tenant.cost = "5 EUR" is not a valid amount of money; '),
        ("[quota.tenant]\ncost = 5", "quota.tenant.cost is 5, which is not an amount of money; "),
        ("[quota.tenant]\ncalls = -1", "quota.tenant.calls is -1, which is out of range; use 0 to "),
        ('[quota.tenant]\ncalls = "none"', 'quota.tenant.calls is "none", which is not a valid amount; '),
        ("limits = 1", "limits is 1; write it as the table [limits]"),
        ("[[limits]]", "limits is a list; write it as the table [limits]"),
        ('description = "two\\nlines"', r'description is "two\nlines"; write one printable line'),
    ],
)
def test_a_wrong_table_list_or_word_is_refused(body: str, message: str) -> None:
    assert message in refusal(f"{HEAD}{body}\n")


def test_a_missing_key_is_refused_at_its_table() -> None:
    text = re.sub(r"(?m)^grace.*\n", "", preset_text("standard"))
    line = at_line(text, "[limits]")
    assert refusal(text).startswith(f"p.toml:{line}: limits.grace is missing; write it in [limits]")


@pytest.mark.parametrize(
    ("cut", "missing"), [("[models]", "models"), ("[quota]", "quota"), ("[quota.tenant]", "quota.tenant")]
)
def test_a_missing_table_is_refused(cut: str, missing: str) -> None:
    text = preset_text("standard").split(f"\n{cut}\n")[0]
    assert refusal(text).startswith(f"p.toml:1: the table [{missing}] is missing; ")


def test_without_extends_everything_must_be_there() -> None:
    root = tomllib.loads(preset_text("standard"))
    for table in ("box", "limits", "wire", "context", "models"):
        for key in root[table].keys() - {"coalesce", "cache"}:  # of these, silence means no
            text = re.sub(rf"(?ms)(^\[{table}\].*?)^{key} = [^\n]*\n", r"\1", preset_text("standard"), count=1)
            assert f"{table}.{key} is missing; " in refusal(text)


@pytest.mark.parametrize("field", ["schema", "name", "description"])
def test_the_head_must_be_there(field: str) -> None:
    text = re.sub(rf"(?m)^{field} = .*\n", "", preset_text("standard"))
    assert refusal(text).startswith(f"p.toml:1: {field} is missing; ")


def test_an_extending_policy_needs_a_name_of_its_own() -> None:
    assert refusal('schema = 1\nextends = "standard"\n').startswith("p.toml:1: name is missing; ")


@pytest.mark.parametrize("version", ["2", "true", '"1"', "1.0"])
def test_another_version_of_the_format_is_refused_first(version: str) -> None:
    text = f"new_thing = 1\nschema = {version}\n"
    assert refusal(text).startswith("p.toml:2: schema is ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("schema = 1\n[box\n", 2),
        ("schema = 1\nschema = 1\n", 2),
        ("schema = 1\n\nname = ", 3),
        ("x = " + "9" * 5000, 1),
        ("x = " + "9" * 990, 1),
        ("x = " + "[" * 60_000, 1),
        ("\n".join(["x = ", *["[" * 900] * 60]), 1),
        ("#" * 70_000, 1),
        ("schema = 1\n\x00", 2),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(text: str, line: int) -> None:
    assert refusal(text).startswith(f"p.toml:{line}: ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[limits]\nrun_wall = "1 min"', 'limits.cell_wall = "15 min" is more than limits.run_wall = "1 min"'),
        ('[wire]\nbody = "64 KiB"', 'limits.answer = "8 MiB" is more than wire.body = "64 KiB"'),
        ('[context]\nread_total = "1 MiB"', 'context.read = "4 MiB" is more than context.read_total = "1 MiB"'),
        ('[limits]\noutput_flood = "64 KiB"', 'limits.output = "1 MiB" is more than limits.output_flood = "64 KiB"'),
    ],
)
def test_limits_that_hold_each_other_must_fit(body: str, message: str) -> None:
    assert refusal(f"{HEAD}{body}\n").startswith(f"p.toml:5: {message}, which contains it; lower ")


def test_all_limits_that_do_not_fit_are_told_at_once() -> None:
    said = refusal(f'{HEAD}[limits]\nrun_wall = "10 s"\n[context]\nread_total = "1 MiB"\n')
    assert said.startswith('p.toml:5: limits.cell_wall = "15 min" is more than limits.run_wall = "10 s", which')
    assert said.endswith(
        '; also models.call_wall = "5 min" is more than limits.run_wall = "10 s"; '
        'also context.read = "4 MiB" is more than context.read_total = "1 MiB"'
    )


def test_of_two_limits_that_do_not_fit_the_one_that_was_written_is_to_blame() -> None:
    text = 'schema = 1\nname = "mine"\nextends = "x"\n[limits]\nmemory = "1 GiB"\n[context]\nmaterialise = "1025 MiB"\n'
    huge = msgspec.structs.replace(policy.load("dev").context, materialise_bytes_max=1 << 33)
    base = msgspec.structs.replace(policy.load("dev"), context=huge)
    with pytest.raises(
        InvalidPolicy, match=r'^p\.toml:7: context\.materialise = "1025 MiB" is more than limits\.memory'
    ):
        policy.parse(text, source="p.toml", base=lambda _: base)


# --- extends


def test_an_extending_policy_changes_what_it_says_and_nothing_else() -> None:
    standard = policy.load("standard")
    mine = read(HEAD + 'limits.memory = "128 MiB"\n')
    limits = msgspec.structs.replace(standard.limits, memory_bytes=128 << 20)
    assert mine == msgspec.structs.replace(standard, name="mine", limits=limits)


@pytest.mark.parametrize(
    "body",
    [
        'limits.memory = "512 MiB"',
        'limits.memory = "64 MiB"\ncontext.materialise = "1 MiB"',
        'limits.grace = "2000 ms"',
        "limits.processes = 96",
        'box.backends = ["gvisor", "jail"]',
        'box.languages = ["restricted"]',
        'box.image = "any"',
        f'box.image = "{PIN}"',
        'box.requires = ["rlimits", "no_new_privs", "userns", "pidns", "mountns", "netns", "ipcns", "utsns", "rootfs",'
        ' "caps", "seccomp"]',
        "models.allow = []",
        'models.allow = ["claude-*-5", "claude-haiku-5-5", "claude-*", "scripted*x"]',
        'quota.tenant.period = "total"',
        'quota.tenant.cost = "0 USD"',
    ],
)
def test_equal_or_tighter_is_accepted(body: str) -> None:
    assert read(HEAD + body).name == "mine"


@pytest.mark.parametrize(
    ("body", "mine", "base", "write"),
    [
        ('limits.memory = "513 MiB"', '"513 MiB"', '"512 MiB"', 'at most "512 MiB"'),
        ('limits.run_wall = "31 min"', '"31 min"', '"30 min"', 'at most "30 min"'),
        ("limits.processes = 97", "97", "96", "at most 96"),
        ("quota.run.calls = 2001", "2001", "2000", "at most 2000"),
        ('quota.run.calls = "unlimited"', '"unlimited"', "2000", "at most 2000"),
        ('quota.run.cost = "5.000000001 USD"', '"5.000000001 USD"', '"5.00 USD"', 'at most "5.00 USD"'),
        ('quota.run.cost = "unlimited"', '"unlimited"', '"5.00 USD"', 'at most "5.00 USD"'),
        ('box.requires = ["pidns"]', '["pidns"]', '["userns", ', 'at least ["userns", '),
        ('models.allow = ["*"]', '["*"]', '["claude-*", ', 'only patterns within ["claude-*", '),
        ('models.allow = ["claude*"]', '["claude*"]', '["claude-*", ', 'only patterns within ["claude-*", '),
        ('models.allow = ["replay", "gpt"]', '["gpt", "replay"]', '["claude-*", ', "only patterns within "),
    ],
)
def test_looser_is_refused_with_both_values(body: str, mine: str, base: str, write: str) -> None:
    key = body.split(" = ")[0]
    message = refusal(HEAD + body)
    assert message.startswith(f"p.toml:4: {key} = {mine} is looser than the {base}")
    assert f"; write {write}" in message


def test_what_is_denied_stays_denied() -> None:
    base = read(HEAD + 'models.deny_prompts = ["b[0-9]", "a"]')
    assert base.models.deny_prompts == ("a", "b[0-9]")

    def mine(patterns: str) -> Policy:
        text = f'schema = 1\nname = "other"\nextends = "x"\nmodels.deny_prompts = {patterns}\n'
        return policy.parse(text, source="p.toml", base=lambda _: base)

    assert mine('["c", "b[0-9]", "a"]').models.deny_prompts == ("a", "b[0-9]", "c")
    with pytest.raises(InvalidPolicy, match=r'= \["c"\] is looser than the \["a", "b\[0-9\]"\] .*; write all of those'):
        mine('["c"]')


def test_what_is_watched_for_stays_watched_for() -> None:
    base = read(HEAD + 'models.canaries = ["wolf in sheep", "K-4711 \\"Ä\\""]')
    assert base.models.canaries == ('K-4711 "Ä"', "wolf in sheep")
    assert read(policy.dump(base)) == base

    def mine(texts: str) -> Policy:
        text = f'schema = 1\nname = "other"\nextends = "x"\nmodels.canaries = {texts}\n'
        return policy.parse(text, source="p.toml", base=lambda _: base)

    assert mine("""["another one", "wolf in sheep", 'K-4711 "Ä"']""").models.canaries[1] == "another one"
    with pytest.raises(InvalidPolicy, match=r"models\.canaries = .* is looser than the "):
        mine('["wolf in sheep"]')


def test_as_many_texts_as_may_be_watched_for_are_found_in_one_pass() -> None:
    """RE2 with too little memory takes seconds for each MiB."""
    texts = [
        "".join(chr(0x1F600 + (number * 7 + place) % 70) for place in range(62)) + f"{number}"
        for number in range(10, 74)
    ]
    anything = policy.any_text(
        read(HEAD + "models.canaries = [\n" + "".join(f"'{one}',\n" for one in texts) + "]\n").models.canaries
    )
    nearly = memoryview((texts[5][:-1] * 5000).encode())
    began = time.thread_time()
    assert anything.search(nearly) is None
    assert time.thread_time() - began < 1
    for form in policy.forms_of(texts[63]):
        assert anything.search(memoryview(b"x" + form.encode()))


def test_models_of_a_depth_stay_within_those_of_the_policy_below() -> None:
    base = read(HEAD + 'models.by_depth = [["claude-*"], ["claude-haiku-*"]]')
    depths = [[base.models.permits_at(f"claude-{name}", depth) for depth in range(4)] for name in ("opus-5", "haiku-5")]
    assert depths == [[True, False, False, False], [True] * 4]

    def mine(lists: str) -> Policy:
        text = f'schema = 1\nname = "other"\nextends = "x"\nmodels.by_depth = {lists}\n'
        return policy.parse(text, source="p.toml", base=lambda _: base)

    for lists in ('[["claude-haiku-*"]]', '[["claude-*"], ["claude-haiku-*"], []]', "[[]]"):
        assert mine(lists).models.by_depth
    for lists in ("[]", '[["claude-*"]]', '[["claude-*"], ["claude-haiku-*"], ["claude-*"]]'):
        with pytest.raises(InvalidPolicy, match="is looser than the "):
            mine(lists)
    assert 'models.by_depth at depth 1 has "a?"' in refusal(HEAD + 'models.by_depth = [["a"], ["a?"]]\n')


def test_a_list_that_is_too_long_for_a_line_is_written_in_several() -> None:
    patterns = [rf"\d{number:03}" + 'x"' * 20 for number in range(40)]
    first = read(HEAD + "models.deny_prompts = [\n" + "".join(f"'{one}',\n" for one in patterns) + "]\n")
    assert first.models.deny_prompts == tuple(patterns)
    assert read(policy.dump(first)) == first


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('box.languages = ["restricted", "python"]', '= ["restricted", "python"] is looser than the ["restricted"]'),
        ('models.allow = ["claude-opus-5-5"]', '= ["claude-opus-5-5"] is looser than the ["claude-haiku-*", '),
    ],
)
def test_a_choice_that_the_base_took_away_stays_away(body: str, message: str) -> None:
    assert message in refusal(f'schema = 1\nname = "mine"\nextends = "strict"\n{body}\n')


def test_a_shorter_period_is_looser() -> None:
    message = refusal('schema = 1\nname = "mine"\nextends = "dev"\nquota.tenant.period = "day"\n')
    assert 'quota.tenant.period = "day" is looser than the "month"' in message
    assert '; write "month", "total"' in message


def bounds_of(kind: Kind[Any]) -> tuple[str, str]:
    """The tightest and the loosest literal of a kind."""
    match kind:
        case kinds.Size() | kinds.Duration():
            return f'"{kind.least}"', f'"{kind.most}"'
        case kinds.Count():
            return str(kind.least), str(kind.most)
        case kinds.Amount():
            return "0", '"unlimited"'
        case kinds.Volume():
            return '"0 B"', '"unlimited"'
        case kinds.Time():
            return '"0 s"', '"unlimited"'
        case kinds.MemoryTime():
            return '"0 MiBs"', '"unlimited"'
        case kinds.Cost():
            return '"0 USD"', '"unlimited"'
        case kinds.Contents():
            return '"metadata"', '"full"'
        case kinds.Subset():
            return kind.write(kind.known[:1]), kind.write(kind.known)
        case kinds.Required():
            return kind.write(kind.known), "[]"
        case kinds.Patterns():
            return "[]", '["*"]'
        case kinds.PatternsByDepth():
            return "[[]]", "[]"
        case kinds.Expressions():
            return '["a secret"]', "[]"
        case kinds.Choice():
            return f'"{kind.known[-1]}"', f'"{kind.known[0]}"'
        case kinds.Pin():
            return f'"{PIN}"', '"any"'
        case _:
            raise AssertionError(f"{kind} bounds nothing")


# A run's period is always all of it: it has one value, and none that is looser. Waiting allows nothing more, nor do
# answers that a tenant already has, or a variable that a program has.
FREE = (
    *("schema", "name", "description", "quota.run.period", "quota.wait"),
    *("models.coalesce", "models.cache", "models.partial"),
)
BOUNDING = [key for key in all_kinds() if key not in FREE]


@pytest.mark.parametrize("key", BOUNDING)
def test_no_key_may_be_looser_than_in_the_policy_it_extends(key: str) -> None:
    path = key.split(".")
    table: Any = Policy
    for name in path[:-1]:
        table = fields_of(table)[name][1]
    attribute, kind = fields_of(table)[path[-1]]
    assert isinstance(kind, Kind)
    tight, loose = (kind.read(tomllib.loads(f"x = {literal}")["x"]) for literal in bounds_of(kind))

    def replaced(value: Any, names: list[str]) -> Any:
        changed = {names[0]: replaced(getattr(value, names[0]), names[1:])} if names else {attribute: tight}
        return msgspec.structs.replace(value, **changed)

    def refused(literal: str) -> str:
        base = replaced(policy.load("dev"), path[:-1])
        with pytest.raises(InvalidPolicy) as caught:
            policy.parse(f"{HEAD}{key} = {literal}\n", source="p.toml", base=lambda _: base)
        return str(caught.value)

    assert refused(kind.write(loose)).startswith(f"p.toml:4: {key} = {kind.write(loose)} is looser than the ")


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_take_any_image_and_say_so_when_written_out(name: str) -> None:
    assert policy.load(name).box.image is None
    assert 'image = "any"' in policy.dump(policy.load(name))


def test_a_pin_is_in_the_digest_of_the_rules() -> None:
    digests = {policy.digest(read(HEAD + body)) for body in ("", f'box.image = "{PIN}"', f'box.image = "{OTHER_PIN}"')}
    assert len(digests) == 3
    assert policy.digest(read(HEAD + 'box.image = "any"')) == policy.digest(read(HEAD))


@pytest.mark.parametrize("name", PRESETS)
def test_a_policy_that_pins_no_image_permits_each(name: str) -> None:
    policy.check_pin(policy.load(name), PIN)


def test_a_pinned_image_is_the_only_one() -> None:
    pinned = read(HEAD + f'box.image = "{PIN}"')
    policy.check_pin(pinned, PIN)
    with pytest.raises(
        PolicyDenied, match=r"^the policy mine pins the box image sha256:0.*, but this host makes sha"
    ) as no:
        policy.check_pin(pinned, OTHER_PIN)
    assert no.value.code == "image.pinned"
    assert PIN in str(no.value)
    assert OTHER_PIN in str(no.value)


def test_unlimited_may_become_a_number() -> None:
    assert read('schema = 1\nname = "mine"\nextends = "dev"\nquota.run.calls = 7\n').quota.run.calls == 7


def names(pattern: str) -> st.SearchStrategy[str]:
    parts = st.lists(st.text("ab", max_size=3), min_size=pattern.count("*"), max_size=pattern.count("*"))
    return parts.map(lambda texts: pattern.replace("*", "{}").format(*texts))


PATTERN = st.text("ab*", min_size=1, max_size=5)


@settings(deadline=None)
@given(st.data(), st.lists(PATTERN, min_size=1, max_size=3), st.lists(PATTERN, min_size=1, max_size=3))
def test_no_model_is_allowed_by_a_tighter_list_alone(data: st.DataObject, mine: list[str], base: list[str]) -> None:
    if kinds.Patterns("allow").looser(tuple(mine), tuple(base)):
        return
    model = data.draw(names(data.draw(st.sampled_from(mine))))
    assert any(fnmatchcase(model, pattern) for pattern in base)


def test_permits_is_case_sensitive_and_whole() -> None:
    models = policy.load("strict").models
    assert models.permits("claude-haiku-5-5")
    assert not models.permits("Claude-haiku-5-5")
    assert not models.permits("my-claude-haiku-5-5")
    assert not models.permits("claude-opus-5-5")


@pytest.mark.parametrize("value", ["1", '""', '"a\\nb"', "[]"])
def test_extends_must_name_something(value: str) -> None:
    assert refusal(f'schema = 1\nname = "mine"\nextends = {value}\n').startswith("p.toml:3: extends is ")


def test_a_base_that_there_is_not_is_refused_where_it_is_named() -> None:
    def base(name: str) -> Policy:
        raise InvalidInput(f"there is no {name}; write another")

    with pytest.raises(InvalidPolicy, match=r"^p\.toml:4: there is no that; write another$"):
        policy.parse('schema = 1\nname = "mine"\n\nextends = "that"\n', source="p.toml", base=base)


def test_base_is_asked_for_nothing_else() -> None:
    asked: list[str] = []

    def base(name: str) -> Policy:
        asked.append(name)
        return policy.load("standard")

    policy.parse('schema = 1\nname = "mine"\nextends = "any thing"\n', source="p.toml", base=base)
    assert asked == ["any thing"]


# --- files


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def put(name: str, extends: str, body: str = "") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'schema = 1\nname = "{path.stem}"\nextends = "{extends}"\n{body}')
        return str(path)

    return put


Write = Callable[..., str]


def load_refusal(name_or_path: str) -> str:
    with pytest.raises(InvalidPolicy) as caught:
        policy.load(name_or_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_is_relative_to_the_file_that_names_it(write: Write) -> None:
    write("company.toml", "standard", "limits.processes = 50\n")
    team = write("teams/team.toml", "../company.toml", "limits.processes = 40\n")
    person = write("teams/person.toml", "team.toml")
    assert policy.load(team).limits.processes == 40
    assert policy.load(person).limits.processes == 40


def test_each_link_of_a_chain_is_held_to_the_one_before(write: Write) -> None:
    write("a.toml", "standard", "limits.processes = 50\n")
    assert "b.toml:4: limits.processes = 60 is looser than the 50" in load_refusal(
        write("b.toml", "./a.toml", "limits.processes = 60\n")
    )


def test_a_pin_holds_for_whoever_extends_it(write: Write) -> None:
    write("pinned.toml", "standard", f'box.image = "{PIN}"\n')
    assert policy.load(write("silent.toml", "pinned.toml")).box.image == PIN
    assert policy.load(write("same.toml", "pinned.toml", f'box.image = "{PIN}"\n')).box.image == PIN
    for body in ("any", OTHER_PIN):
        message = load_refusal(write("other.toml", "pinned.toml", f'box.image = "{body}"\n'))
        assert f'other.toml:4: box.image = "{body}" is looser than the "{PIN}"' in message
        assert f'write only "{PIN}", or leave it out' in message


def test_a_circle_is_refused_at_the_link_that_closes_it(write: Write) -> None:
    write("b.toml", "a.toml")
    assert re.search(r"/b\.toml:3: extends leads back to a\.toml; ", load_refusal(write("a.toml", "b.toml")))
    assert re.search(
        r"/self\.toml:3: extends leads back to self\.toml; ", load_refusal(write("self.toml", "self.toml"))
    )


def test_a_circle_of_links_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").symlink_to(tmp_path / "a.toml")
    assert "is not a file; " in load_refusal(str(tmp_path / "a.toml"))


def test_a_circle_through_a_link_is_seen(write: Write, tmp_path: Path) -> None:
    (tmp_path / "link.toml").symlink_to(tmp_path / "a.toml")
    assert "extends leads back to link.toml" in load_refusal(write("a.toml", "link.toml"))


def test_an_endless_chain_is_refused(write: Write) -> None:
    first, *_ = [write(f"p{n}.toml", f"p{n + 1}.toml") for n in range(12)]
    assert re.search(r"/p7\.toml:3: extends leads through more than 8 files; ", load_refusal(first))


def test_eight_files_are_a_chain(write: Write) -> None:
    first, *_ = [write(f"p{n}.toml", f"p{n + 1}.toml" if n < 6 else "standard") for n in range(7)]
    assert policy.load(first).name == "p0"


def test_an_error_in_the_base_is_reported_where_it_is(write: Write) -> None:
    write("a.toml", "standard", "limits.nope = 1\n")
    assert re.search(r"/a\.toml:4: \[limits\] has no key", load_refusal(write("b.toml", "a.toml")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("standart", "there is no preset 'standart'; write \"standard\""),
        ("zzz", "there is no preset 'zzz'; write one of dev, standard, strict, or a path that ends in .toml"),
        ("", "there is no preset ''; "),
        ("..", "there is no preset '..'; "),
        ("./nosuch.toml", "is not a file; "),
        ("/dev/zero", "is not a file; "),
        ("/tmp", "is not a file; "),
        ("x\0.toml", "is not a file; "),
    ],
)
def test_what_is_not_there_is_refused(name: str, message: str) -> None:
    assert message in load_refusal(name)


@pytest.mark.parametrize(("data", "message"), [(b"\xff\xfe", "readable UTF-8"), (b"#" * 300_000, "too large")])
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "p.toml").write_bytes(data)
    assert message in load_refusal(str(tmp_path / "p.toml"))


@pytest.mark.parametrize(
    "name",
    ["", "1st", "_hidden", "a__b", "a b", "x\\n", "x)", "if", "None", "printed", "builtins", "n\u00e9", "a" * 65],
)
def test_what_no_program_has_as_a_variable_is_no_partial_answer(name: str) -> None:
    message = refusal(f'{HEAD}models.partial = ["best", "{name}"]\n')
    assert "which no program can use as a variable" in message


# --- there and back


def value_of(kind: Kind[Any]) -> st.SearchStrategy[str]:
    """TOML literals that the kind accepts."""
    match kind:
        case kinds.Size():
            return st.integers(units.parse_size(kind.least), units.parse_size(kind.most)).map(kind.write)
        case kinds.Duration():
            least, most = (round(units.parse_duration(text) * 1000) for text in (kind.least, kind.most))
            return st.integers(least, most).map(lambda ms: kind.write(ms / 1000))
        case kinds.Count():
            return st.integers(kind.least, kind.most).map(kind.write)
        case kinds.Amount():
            return st.one_of(st.none(), st.integers(0, kind.most)).map(kind.write)
        case kinds.Volume():
            return st.just('"unlimited"') | st.integers(0, units.parse_size(kind.most)).map(kind.write)
        case kinds.Time():
            most = round(units.parse_duration(kind.most) * 1000)
            return st.one_of(st.none(), st.integers(0, most)).map(kind.write)
        case kinds.MemoryTime():
            return st.one_of(st.none(), st.integers(0, units.parse_memory_time(kind.most))).map(kind.write)
        case kinds.Cost():
            return st.one_of(st.none(), st.integers(0, units.parse_money(kind.most))).map(kind.write)
        case kinds.Subset():
            return st.lists(st.sampled_from(kind.known), unique=True, min_size=1).map(lambda v: kind.write(tuple(v)))
        case kinds.Contents():
            return st.lists(st.sampled_from(kind.known), unique=True).map(lambda v: kind.write(kind.read(v)))
        case kinds.Required():
            return st.lists(st.sampled_from(kind.known), unique=True).map(lambda v: kind.write(tuple(v)))
        case kinds.Patterns():
            pattern = st.from_regex(r"\A[A-Za-z0-9*][A-Za-z0-9*._:/@+-]{0,9}\Z")
            return st.lists(pattern, unique=True, max_size=5).map(lambda v: kind.write(tuple(v)))
        case kinds.PatternsByDepth():
            name = st.from_regex(r"\A[A-Za-z0-9*][A-Za-z0-9*._:/@+-]{0,9}\Z")
            one = st.lists(name, unique=True, max_size=3).map(sorted).map(tuple)
            return st.lists(one, max_size=5).map(lambda v: kind.write(tuple(v)))
        case kinds.Texts():
            text = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=8, max_size=12)
            return st.lists(text, unique=True, max_size=3).map(lambda v: kind.write(tuple(v)))
        case kinds.Expressions():
            pattern = st.text(min_size=1, max_size=9).filter(str.isprintable).map(re.escape)
            return st.lists(pattern, unique=True, max_size=5).map(lambda v: kind.write(tuple(v)))
        case kinds.Variables():
            name = st.from_regex(r"\A[A-Z](_?[a-z0-9]){0,9}\Z")
            return st.lists(name, unique=True, max_size=5).map(lambda v: kind.write(tuple(v)))
        case kinds.Choice():
            return st.sampled_from(kind.known).map(kind.write)
        case kinds.Pin():
            return st.one_of(st.none(), st.from_regex(r"\Asha256:[0-9a-f]{64}\Z")).map(kind.write)
        case kinds.Version():
            return st.just(kind.write(kind.known))
        case kinds.Label():
            return st.from_regex(r"\A[a-z][a-z0-9-]{0,63}\Z").map(kind.write)
        case kinds.Prose():
            text = st.text(min_size=1, max_size=80).filter(str.isprintable)
            return text.map(kind.write)
        case _:
            raise AssertionError(kind)


@st.composite
def policy_texts(draw: st.DrawFn) -> str:
    """A whole file of random values, in which what must fit into something does."""
    values: dict[tuple[str, ...], str] = {}

    def fill(table: type[msgspec.Struct], path: tuple[str, ...]) -> None:
        for key, (_, kind) in fields_of(table).items():
            if isinstance(kind, Kind):
                values[*path, key] = draw(value_of(kind))
            else:
                fill(kind, (*path, key))

    fill(Policy, ())
    for inner, outer in FITS:
        (_, small), (_, large) = kind_at(inner), kind_at(outer)
        inner_path, outer_path = tuple(inner.split(".")), tuple(outer.split("."))
        limit = large.read(tomllib.loads(f"x = {values[outer_path]}")["x"])
        if small.read(tomllib.loads(f"x = {values[inner_path]}")["x"]) > limit:
            values[inner_path] = small.write(limit)
    return "".join(f"{'.'.join(path)} = {value}\n" for path, value in values.items())


@pytest.mark.slow
@settings(max_examples=examples(50), deadline=None)
@given(policy_texts())
def test_what_is_written_reads_back_as_the_same(text: str) -> None:
    first = read(text)
    again = read(policy.dump(first))
    assert again == first
    assert policy.dump(again) == policy.dump(first)
    assert policy.digest(again) == policy.digest(first)


@pytest.mark.slow
@settings(max_examples=examples(50), deadline=None)
@given(policy_texts())
def test_every_policy_may_extend_itself_unchanged(text: str) -> None:
    first = read(text)
    extending = policy.dump(first).replace("schema = 1\n", 'schema = 1\nextends = "x"\n', 1)
    assert policy.parse(extending, source="p.toml", base=lambda _: first) == first


def total(text: str) -> None:
    """`parse` gives a policy or says no in one line, whatever the text is."""

    def base(name: str) -> Policy:
        if name != "standard":
            raise InvalidInput("there is none; write another")
        return policy.load(name)

    try:
        result = policy.parse(text, source="p.toml", base=base)
    except InvalidPolicy as error:
        assert re.fullmatch(r"p\.toml:\d+: [^\n]+; [^\n]+", str(error)), str(error)  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert read(policy.dump(result)) == result


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    total(text)
    total(HEAD + text)


@settings(deadline=None)
@given(st.sampled_from(PRESETS), st.data())
def test_any_damage_to_a_preset_is_a_policy_or_refused(name: str, data: st.DataObject) -> None:
    text = preset_text(name)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 60)))
    total(text[:start] + data.draw(st.text("\"'[]{}=.,#\\\n 0aé\ud800", max_size=5)) + text[end:])


TOML_KEY = st.one_of(st.from_regex(r"\A[A-Za-z0-9_-]{1,4}\Z"), st.sampled_from(['"a.b"', "'='", '"#"', '"\\""', '""']))
TOML_STRINGS = ['"a#b"', "'[x]'", '"\\""', '""', "''", '"""a\n[b]\nc = "" """', "'''\n'x' = 1'''", "a"]
TOML_QUOTES = ['""""a""""', '"""\\""""', '"""a\\\\"""']
TOML_LEAF = st.sampled_from(["1", "true", "-1.5", "1979-05-27 07:32:00", *TOML_STRINGS, *TOML_QUOTES])
GAP = st.sampled_from(["", " ", "\n", " # ]\n\t"])


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(GAP, items, GAP).map("".join), max_size=3).map(lambda parts: f"[{','.join(parts)}]")


def inline_tables(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(TOML_KEY, st.just(" = "), items).map("".join), max_size=3)
    return pairs.map(lambda parts: f"{{ {', '.join(parts)} }}")


TOML_VALUE = st.recursive(TOML_LEAF, lambda items: arrays(items) | inline_tables(items), max_leaves=6)
DOTTED = st.lists(TOML_KEY, min_size=1, max_size=3).map(" . ".join)
STATEMENT = st.one_of(
    st.tuples(DOTTED, TOML_VALUE).map(lambda pair: f"{pair[0]} = {pair[1]}"), DOTTED.map(lambda key: f"[ {key} ] # x")
)


def leaves(value: object, path: tuple[str | int, ...]) -> dict[tuple[str | int, ...], object]:
    below: dict[tuple[str | int, ...], object] = {path: value} if path else {}
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        below |= leaves(part, (*path, key))
    return below


@settings(deadline=None)
@given(st.lists(STATEMENT, max_size=5), st.sampled_from(["\n", "\n\n# c\n", "\r\n"]))
def test_every_key_and_item_of_a_toml_text_is_located(statements: list[str], between: str) -> None:
    text = between.join(statements)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = locate(text)
    assert set(lines) == set(leaves(tree, ()))
    for (*_, key), line in lines.items():
        if isinstance(key, str) and key.isalnum():
            assert key in text.split("\n")[line - 1]


def test_no_line_is_counted_twice() -> None:
    counted = []

    class Text(str):
        def count(self, sub: str, start: Any = 0, end: Any = None) -> int:
            counted.append(end - start)
            return super().count(sub, start, end)

    text = Text("".join(f"k{number} = [1,\n2]\n" for number in range(1000)))
    assert locate(text)["k999", 1] == 2000
    assert sum(counted) <= len(text)


def test_a_byte_order_mark_is_not_part_of_a_policy(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b'\xef\xbb\xbfschema = 1\nname = "mine"\nextends = "standard"\n')
    assert policy.load(file).name == "mine"


def test_both_ends_of_every_range_can_be_written() -> None:
    for table in ("limits", "wire", "context", "models"):
        for key in tomllib.loads(preset_text("standard"))[table]:
            _, kind = kind_at(f"{table}.{key}")
            if isinstance(kind, kinds.Size):
                most = units.parse_size(kind.most)
                assert kind.read(kind.most) == most
                assert kind.read(f"{most - 1} B") == most - 1
            elif isinstance(kind, kinds.Duration):
                assert kind.read(kind.write(kind.read(kind.most)).strip('"')) == kind.read(kind.most)


# --- digest and schema


def test_the_digest_is_of_the_rules_and_not_of_their_writing() -> None:
    loose = read(
        HEAD + 'limits.memory="256 MiB"\nbox.requires=' + str(list(reversed(policy.load("standard").box.requires)))
    )
    tidy = read(HEAD + '# A reason.\n[limits]\nmemory = "262144 KiB"\n')
    assert re.fullmatch("[0-9a-f]{64}", policy.digest(tidy))
    assert policy.digest(loose) == policy.digest(tidy)
    assert policy.digest(tidy) != policy.digest(policy.load("standard"))


def valid(value: Any, rule: dict[str, Any]) -> bool:
    """As much of JSON Schema as the format uses; a word it does not know is an error here."""
    checks: dict[str, Callable[[Any], bool]] = {
        "$schema": lambda _: True,
        "title": lambda _: True,
        "description": lambda _: True,
        "additionalProperties": lambda allowed: allowed is False and set(value) <= set(rule["properties"]),
        "anyOf": lambda rules: any(valid(value, one) for one in rules),
        "oneOf": lambda rules: [valid(value, one) for one in rules].count(True) == 1,
        "const": lambda const: type(value) is type(const) and value == const,
        "enum": lambda known: value in known,
        "items": lambda item: all(valid(one, item) for one in value),
        "maxItems": lambda most: len(value) <= most,
        "maxLength": lambda most: len(value) <= most,
        "maximum": lambda most: value <= most,
        "minItems": lambda least: len(value) >= least,
        "minLength": lambda least: len(value) >= least,
        "minimum": lambda least: value >= least,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "properties": lambda known: all(valid(value[key], known[key]) for key in value if key in known),
        "required": lambda keys: set(keys) <= set(value),
        "type": lambda name: type(value) is TYPES[name],
        "uniqueItems": lambda _: len(set(value)) == len(value),
    }
    if "type" in rule and not checks["type"](rule["type"]):
        return False
    return all(checks[word](argument) for word, argument in rule.items())


TYPES = {"array": list, "integer": int, "object": dict, "string": str}


@pytest.mark.parametrize("name", PRESETS)
def test_the_schema_accepts_each_preset(name: str) -> None:
    assert valid(tomllib.loads(preset_text(name)), policy.schema())
    assert valid(tomllib.loads(policy.dump(policy.load(name))), policy.schema())


@settings(max_examples=examples(25), deadline=None)
@given(policy_texts())
def test_the_schema_accepts_whatever_is_read(text: str) -> None:
    assert valid(tomllib.loads(text), policy.schema())


@pytest.mark.parametrize(
    "body",
    [
        "limits.memroy = 1",
        'limits.memory = "5 MB"',
        "limits.memory = 5",
        "limits.processes = true",
        'box.backends = ["podman"]',
        "box.backends = []",
        'box.image = "python:3.11"',
        "box.image = 1",
        'quota.run.period = "day"',
        "quota.run.calls = -1",
        'models.allow = ["a?"]',
        "wire.body = true",
        "limit = {}",
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(body: str) -> None:
    refusal(HEAD + body)
    assert not valid(tomllib.loads(HEAD + body), policy.schema())
    assert valid(tomllib.loads(HEAD), policy.schema())


def test_the_schema_wants_everything_of_a_root_policy() -> None:
    root = tomllib.loads(preset_text("standard"))
    for key in root.keys() - {"audit"}:  # silence means that nothing is kept
        assert not valid({name: value for name, value in root.items() if name != key}, policy.schema())
    del root["limits"]["memory"]
    assert not valid(root, policy.schema())


def test_every_field_is_frozen_and_every_kind_can_be_compared() -> None:
    standard = policy.load("standard")
    with pytest.raises(AttributeError):
        standard.limits.memory_bytes = 0  # type: ignore[misc]
    assert hash(standard) == hash(policy.load("standard"))


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(policy.__all__, key=str) == sorted(set(policy.__all__), key=str)
    assert all(hasattr(policy, name) for name in policy.__all__)


# ------------------------------------------------------------------------------------------ names and orders of presets


def saved(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("preset", policy.presets())
def test_a_preset_s_name_is_its_own(tmp_path: Path, preset: str) -> None:
    copied = policy.dump(policy.load("dev")).replace('name = "dev"', f'name = "{preset}"')
    extended = f'schema = 1\nname = "{preset}"\ndescription = "x"\nextends = "{preset}"\n'
    for text in (copied, extended):
        with pytest.raises(InvalidPolicy, match=rf'mine\.toml:\d: name is "{preset}".*give it another name') as refused:
            policy.load(saved(tmp_path, text))
        assert refused.value.code == "policy.reserved"
        base = saved(tmp_path, text)
        with pytest.raises(InvalidPolicy):  # nor by way of another file
            policy.load(saved(tmp_path / "..", f'schema = 1\nname = "mine"\ndescription = "x"\nextends = "{base}"\n'))
    assert policy.load(saved(tmp_path, extended.replace(f'name = "{preset}"', 'name = "mine"'))).name == "mine"
    assert policy.load(str(assets.policies_dir() / f"{preset}.toml")) == policy.load(preset)


def test_what_goes_by_a_preset_s_name_and_is_another_is_named_apart() -> None:
    standard = policy.load("standard")
    changed = msgspec.structs.replace(standard, limits=msgspec.structs.replace(standard.limits, cpu_s=1.0))
    assert policy.named_apart(standard) is standard
    assert policy.named_apart(changed) == msgspec.structs.replace(changed, name="standard-changed")
    mine = msgspec.structs.replace(changed, name="mine")
    assert policy.named_apart(mine) is mine


@pytest.mark.parametrize(
    ("base", "line", "languages", "backends"),
    [
        ("standard", 'languages = ["python", "restricted"]', ("restricted", "python"), ("jail", "docker", "gvisor")),
        ("standard", 'backends = ["gvisor", "jail"]', ("restricted", "python"), ("jail", "gvisor")),
        ("standard", 'languages = ["python"]', ("python",), ("jail", "docker", "gvisor")),
        ("dev", 'languages = ["restricted", "python"]', ("python", "restricted"), None),
    ],
)
def test_who_extends_keeps_the_order_and_so_the_default(
    tmp_path: Path, base: str, line: str, languages: tuple[str, ...], backends: tuple[str, ...] | None
) -> None:
    text = f'schema = 1\nname = "mine"\ndescription = "x"\nextends = "{base}"\n[box]\n{line}\n'
    box = policy.load(saved(tmp_path, text)).box
    assert box.languages == languages
    assert backends in (None, box.backends)


def test_answers_are_used_again_only_where_a_policy_says_so_and_any_policy_may() -> None:
    whole = policy.dump(policy.load("standard")).replace('name = "standard"', 'name = "mine"')
    silent = read(whole.replace('coalesce = "off"\n', "").replace('cache = "0 s"\n', "")).models
    assert (silent.coalesce, silent.cache_s) == ("off", 0)
    changed = read(f'{HEAD}models.coalesce = "on"\nmodels.cache = "10 min"').models
    assert (changed.coalesce, changed.cache_s) == ("on", 600)
    assert refusal(f'{HEAD}models.coalesce = "yes"').startswith('p.toml:4: models.coalesce is "yes"')
    assert "use 0 s to 24 h" in refusal(f'{HEAD}models.cache = "25 h"')


def test_calls_wait_for_no_period_unless_a_policy_says_so_and_any_policy_may() -> None:
    whole = policy.dump(policy.load("standard")).replace('name = "standard"', 'name = "mine"')
    assert 'wait = "0 s"' in whole
    assert read(whole.replace('wait = "0 s"\n', "")).quota.wait_s == 0
    assert read(f'{HEAD}quota.wait = "90 s"').quota.wait_s == 90
    assert policy.load("strict").quota.wait_s == 0
    assert (
        refusal(f'{HEAD}quota.wait = "25 h"')
        == 'p.toml:4: quota.wait is "25 h", which is out of range; use 0 s to 24 h'
    )


@pytest.mark.parametrize(
    ("line", "attribute", "value"),
    [
        ('cpu = "30 min"', "cpu_ms", 1_800_000),
        ('wall = "2 h"', "wall_ms", 7_200_000),
        ('memory_time = "2 GiBh"', "memory_mib_s", 2 * 1024 * 3600),
        ("boxes = 4", "boxes", 4),
        ("calls_in_flight = 8", "calls_in_flight", 8),
        ('boxes = "unlimited"', "boxes", None),
    ],
)
def test_what_boxes_of_a_tenant_may_use_is_written_with_its_unit(line: str, attribute: str, value: int | None) -> None:
    found = read(f"{HEAD}[quota.tenant]\n{line}\n")
    assert getattr(found.quota.tenant, attribute) == value
    assert f"\n{line}\n" in policy.dump(found)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("cpu = 30", 'is 30, which is not a valid time; add a unit, as in "2 h", or "unlimited"'),
        ("memory_time = 3", 'is 3, which is not memory times time; add a unit, as in "500 GiBh", or "unlimited"'),
        (
            'memory_time = "3 GiB"',
            '= "3 GiB" is not a valid memory_time; use a whole number, a space and one of MiBs, GiBs',
        ),
        ('wall = "1000001 h"', 'is "1000001 h", which is out of range; use 0 s to 1000000 h'),
        ("boxes = -1", "is -1, which is out of range; use 0 to 1000000"),
    ],
)
def test_what_is_no_such_quota_is_refused_with_what_to_write(line: str, complaint: str) -> None:
    key = line.partition(" ")[0]
    assert refusal(f"{HEAD}[quota.tenant]\n{line}\n").startswith(f"p.toml:5: quota.tenant.{key} {complaint}")
