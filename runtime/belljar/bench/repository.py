"""A question about a repository of code, with four choices: what a command does is decided three files away.

The repository is a dict from paths to Python sources. `app/registry.py` names a function for each command; that hands
its work to a function in a second file, that to one in a third, and only there is it decided who may run the command,
what becomes of a record that fails, how results are ordered and where they go. Each of these can be written in two
ways, and most names occur in many files, so neither one pattern nor one name finds the answer. The files have more
functions of the same kind, which the command never reaches. The answer, a letter, is right or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from belljar.bench.cases import BYTES_PER_TOKEN, Case, Oracle, names, normal, one_of, shuffle, turn

__all__ = ["cases", "letter"]

_FILES_MIN: Final = 9
_FILES_MAX: Final = 900
_CHARS_PER_FILE: Final = 2500
_LETTERS: Final = "ABCD"

_VERBS: Final = ("collect", "refresh", "merge", "publish", "rebuild", "export")
_NOUNS: Final = ("accounts", "invoices", "readings", "orders", "letters", "routes")

# Of each question the answers there are, and how code says each of them.
_ANSWERS: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "Who may run the command `{command}`?": {
        "Anybody.": (
            "    audit(request.user)",
            '    log.info("run by %s", request.user)',
        ),
        "Administrators alone.": (
            "    if not request.user.is_admin:\n        raise PermissionError(request.user)",
            '    require(request.user, role="admin")',
        ),
        "Members of the project.": (
            "    if request.user not in request.project.members:\n        raise PermissionError(request.user)",
            "    request.project.members.index(request.user)  # raises where there is none",
        ),
        "Whoever owns the records.": (
            "    if any(record.owner != request.user for record in request.records):\n"
            "        raise PermissionError(request.user)",
            "    request.records = request.records.filter(owner=request.user)",
        ),
    },
    "What happens to a record that cannot be converted, when the command `{command}` is run?": {
        "It is left out, and the others are converted.": (
            "    done = [convert(record) for record in request.records if record.is_sound]",
            "    done = []\n    for record in request.records:\n        with suppress(ValueError):\n"
            "            done.append(convert(record))",
        ),
        "The command stops with an error.": (
            "    done = [convert(record) for record in request.records]",
            "    done = []\n    for record in request.records:\n        if not record.is_sound:\n"
            "            raise RuntimeError(record.name)\n        done.append(convert(record))",
        ),
        "It is kept for a later run.": (
            "    done, later = [], []\n    for record in request.records:\n        (done if record.is_sound else later)"
            ".append(record)\n    request.queue.extend(later)",
            "    done = []\n    for record in request.records:\n        try:\n"
            "            done.append(convert(record))\n        except ValueError:\n"
            "            request.queue.append(record)",
        ),
        "It is tried again, three times at most.": (
            "    done = [retried(convert, record, times=3) for record in request.records]",
            "    done = []\n    for record in request.records:\n        for _ in range(4):\n            with suppress("
            "ValueError):\n                done.append(convert(record))\n                break",
        ),
    },
    "In which order does the command `{command}` put its results?": {
        "By name, from A to Z.": (
            "    done.sort(key=attrgetter('name'))",
            "    done = [item for _, item in sorted((item.name, item) for item in done)]",
        ),
        "The largest first.": (
            "    done.sort(key=attrgetter('size'), reverse=True)",
            "    done = sorted(done, key=lambda item: -item.size)",
        ),
        "The newest first.": (
            "    done.sort(key=attrgetter('created'), reverse=True)",
            "    done = sorted(done, key=attrgetter('created'))[::-1]",
        ),
        "As the records came.": (
            "    done = tuple(done)",
            "    done = [*done]",
        ),
    },
    "Where do the results of the command `{command}` go?": {
        "Into a file.": (
            "    Path(request.target).write_text(as_json(done))",
            "    with open(request.target, 'w') as stream:\n        dump(done, stream)",
        ),
        "Into a table of the database.": (
            "    request.database.executemany(INSERT, done)",
            "    Row.objects.bulk_create(done)",
        ),
        "To standard output.": (
            "    print(as_json(done))",
            "    sys.stdout.writelines(map(as_line, done))",
        ),
        "To another service, over HTTP.": (
            "    requests.post(request.target, json=done, timeout=30)",
            "    with session() as client:\n        client.put(request.target, content=as_json(done))",
        ),
    },
}
_HOPS: Final = (
    "from {module} import {target}\n\n\ndef {name}(request):\n    return {target}(request)\n",
    "import {module} as steps\n\n\ndef {name}(request):\n    request.begin()\n    return steps.{target}(request)\n",
    "from {module} import {target} as step\n\n\ndef {name}(request, then=step):\n    return then(request)\n",
)
_NEXT: Final = re.compile("Which function does `([a-z_]+)` hand its work to")
_CHOICE: Final = re.compile(r"([a-d])(?:[.):,].*)?")

_PROBE: Final = """
print(len(context), "files,", sum(len(text) for text in context.values()), "characters")
for path in list(context)[:8]:
    print(path, len(context[path]))
"""
_FIND: Final = """
command = {command!r}
for path, text in context.items():
    place = text.find('"' + command + '"')
    if place >= 0:
        entry = text[place : place + 200].splitlines()[0]
        print(path, entry)
"""
_FOLLOW: Final = """
def source(module):
    text = context[module.replace(".", "/") + ".py"]
    return text[: len(text)]


def next_of(place):
    module, function = place.split(":")
    asked = "Which function does `" + function + "` hand its work to? Answer as module:function, with that alone."
    return llm_query(asked + "\\n\\n" + source(module)).strip()


first = entry.split('"')[3]
second = next_of(first)
third = next_of(second)
print(first, "->", second, "->", third)
"""
_ANSWER: Final = """
question = {question!r}
module, function = third.split(":")
text = source(module)
start = text.index("def " + function + "(")
stop = text.find("\\n\\n\\n", start)
code = text[start : stop if stop >= 0 else len(text)]
reply = llm_query(question + "\\n\\nThe work is done here:\\n\\n" + code).strip()
print(code)
print(reply)
FINAL(reply)
"""


def cases(tokens: int, seed: int) -> list[Case]:
    """One question of each kind, each about a repository of its own, of about `tokens`."""
    return [_case(number, tokens, seed) for number in range(1, len(_ANSWERS) + 1)]


def _case(number: int, tokens: int, seed: int) -> Case:
    rng = Random(f"code {seed} {number}")  # noqa: S311 - a reproducible text is wanted, not a secret
    chars = tokens * BYTES_PER_TOKEN
    chains = max(_FILES_MIN, min(_FILES_MAX, chars // _CHARS_PER_FILE)) // 3
    found = list(_ANSWERS.items())[number - 1]
    commands = [name.lower() for name in names(rng, chains)]
    command = commands[0]
    files, gold = _repository(rng, commands, found, chars)
    choices = list(found[1])
    shuffle(rng, choices)
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=True))
    question = f"{found[0].format(command=command)}\n{lines}\nAnswer with the letter alone."
    return Case(
        name=f"question-{number}",
        question=question,
        context=files,
        score=letter(_LETTERS[choices.index(gold)]),
        turns=(
            turn("I look at what there is.", _PROBE),
            turn("Where is the command named?", _FIND.format(command=command)),
            turn("That function hands its work on. I follow it.", _FOLLOW),
            turn("Here it is decided. I read it, with the choices.", _ANSWER.format(question=question)),
        ),
        oracle=Oracle(_read),
    )


def _repository(
    rng: Random, commands: list[str], asked: tuple[str, Mapping[str, tuple[str, str]]], chars: int
) -> tuple[dict[str, str], str]:
    """All files by path, and which answer is right for the first command."""
    count = len(commands)
    modules = names(rng, 3 * count)
    layers = [
        [f"app.{layer}.{name.lower()}" for name in modules[at * count : (at + 1) * count]]
        for at, layer in enumerate(("commands", "services", "stores"))
    ]
    files: dict[str, str] = {}
    entries = []
    gold = ""
    for at, command in enumerate(commands):
        entry, service, store = (one_of(rng, _VERBS) + "_" + one_of(rng, _NOUNS) for _ in range(3))
        worker, answers = _worker(rng, store)
        gold = gold or answers[asked[0]]
        first, second, third = (layer[at] for layer in layers)
        entries.append(f'    "{command}": "{first}:{entry}",\n')
        for module, text in (
            (first, one_of(rng, _HOPS).format(module=second, target=service, name=entry)),
            (second, one_of(rng, _HOPS).format(module=third, target=store, name=service)),
            (third, worker),
        ):
            files[f"{module.replace('.', '/')}.py"] = _filled(rng, text, chars // (3 * count))
    shuffle(rng, entries)
    files["app/registry.py"] = f"COMMANDS = {{\n{''.join(entries)}}}\n"
    paths = list(files)
    shuffle(rng, paths)
    return {path: files[path] for path in paths}, gold


def _worker(rng: Random, name: str) -> tuple[str, dict[str, str]]:
    """A function that does work, and its answer to each of the questions."""
    answers = {question: one_of(rng, list(ways)) for question, ways in _ANSWERS.items()}
    body = [one_of(rng, _ANSWERS[question][answer]) for question, answer in answers.items()]
    return "\n".join([f"def {name}(request):", *body, "    return len(done)\n"]), answers


def _filled(rng: Random, text: str, chars: int) -> str:
    """A file that begins with this and goes on with functions of other names, as long as there is room."""
    others = [f"{verb}_{noun}_{rest}" for verb in _VERBS for noun in _NOUNS for rest in ("daily", "weekly")]
    shuffle(rng, others)
    parts, size = [text], len(text)
    for other in others:
        more = _worker(rng, other)[0]
        if size + len(more) > chars:
            break
        parts.append(more)
        size += len(more) + 2
    return "\n\n".join(parts)


def letter(gold: str) -> Callable[[str], float]:
    """1.0 for this letter, alone or before what it stands for."""

    def score(answer: str) -> float:
        found = _CHOICE.fullmatch(normal(answer))
        return float(found is not None and found[1] == gold.lower())

    return score


def _read(prompt: str) -> str:
    """Where the code in the prompt hands its work to, or which of the choices it means."""
    if asked := _NEXT.search(prompt):
        return _next(asked[1], prompt)
    code = prompt.partition("\ndef ")[2]
    for question, ways in _ANSWERS.items():
        if question.partition("`")[0] not in prompt:
            continue
        for answer, wordings in ways.items():
            choice = re.search(rf"^([A-D])\. {re.escape(answer)}$", prompt, re.MULTILINE)
            if choice and any(f"{wording}\n" in code for wording in wordings):
                return choice[1]
    return "NOT FOUND"


def _next(name: str, prompt: str) -> str:
    for hop in _HOPS:
        before, *rest = (re.escape(part) for part in re.split(r"\{target\}", hop))
        pattern = f"{before}(?P<target>[a-z_]+)" + "(?P=target)".join(rest)
        pattern = pattern.replace(r"\{module\}", r"(?P<module>[a-z_.]+)").replace(r"\{name\}", name)
        if found := re.search(pattern, prompt):
            return f"{found['module']}:{found['target']}"
    return "NOT FOUND"
