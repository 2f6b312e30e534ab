"""The turns of a scripted root model: real programs, written beforehand.

Each turn is what a root model would send: a line or two of prose and one block of code. Only the rule of the task is
special to the demo: the programs probe the context, cut it into chunks, have each chunk labelled by a sub-query that
carries its text word for word, check the answers, ask again where one cannot be used, and aggregate. They run as plain
Python and in the restricted language (no names or attributes with a leading underscore, no `str.format`, no augmented
assignment to items). Variables stay from turn to turn, so a turn that failed halfway leaves the next one something to
repair.

The guest code below is plain text with one gap, for the rule of the task.
"""

from __future__ import annotations

from typing import assert_never

from belljar.demo.oolong import AllAfter, AllBefore, AnyOf, AtLeast, Clause, Exactly, pair_task

__all__ = ["LABELLING_TURNS", "root_turns"]

_PROBE = """\
I will first look at the context: how long it is, how it starts, and whether its lines have one shape.

```repl
lines = [line for line in context.splitlines() if line.startswith("Date: ")]
print(len(context), "characters,", context.count("\\n"), "lines,", len(lines), "of them data")
print(context[:500])
print("last:", lines[-1])
print("lines without the three fields:", sum(1 for line in lines if line.count(" || ") < 2))
```
"""

_DECOMPOSE = """\
The labels are not in the data, so every line has to be read by a sub-model. I cut the lines into chunks of 200, send
each chunk in one prompt, and keep the answers by chunk number.

```repl
import json

LABELS = [
    "abbreviation",
    "entity",
    "description and abstract concept",
    "human being",
    "location",
    "numeric value",
]
LINES_A_PROMPT = 200
PROMPTS_A_WAVE = 32


def make_prompt(chunk):
    return (
        "Each line below ends with a question. Label the question by the kind of answer that it asks for: "
        + ", ".join(LABELS)
        + f".\\nThere are {len(chunk)} lines. Answer with a JSON list of exactly {len(chunk)} strings, one label "
        + "for each line, in the order of the lines, and nothing else.\\n\\n"
        + "\\n".join(chunk)
    )


def parse_labels(answer, expected):
    # The labels of an answer, or None if it is not exactly one known label for each line.
    try:
        labels = json.loads(answer[answer.find("[") : answer.rfind("]") + 1])
    except (ValueError, RuntimeError):  # no JSON, or JSON nested beyond reason
        return None
    if not isinstance(labels, list) or len(labels) != expected:
        return None
    labels = [str(label).strip().lower() for label in labels]
    if any(label not in LABELS for label in labels):
        return None
    return labels


chunks = [lines[start : start + LINES_A_PROMPT] for start in range(0, len(lines), LINES_A_PROMPT)]
labels_of = {}
for start in range(0, len(chunks), PROMPTS_A_WAVE):
    wave = chunks[start : start + PROMPTS_A_WAVE]
    answers = llm_query_batched([make_prompt(chunk) for chunk in wave])
    for number, answer in enumerate(answers, start):
        labels = parse_labels(answer, len(chunks[number]))
        if labels is not None:
            labels_of[number] = labels
print(len(labels_of), "of", len(chunks), "chunks labelled")
```
"""

_VERIFY = """\
Before I count anything: repair the chunks without a usable answer, compare the row count with the header, and put a few
lines from all over the context to a second, independent prompt.

```repl
import re
from collections import Counter

retries = {"left": 400}


def label_again(chunk):
    # Ask again; if the answer is still unusable (cut off, miscounted), halve the chunk.
    retries["left"] = retries["left"] - 1
    labels = parse_labels(llm_query(make_prompt(chunk)), len(chunk))
    if labels is not None:
        return labels
    if len(chunk) == 1 or retries["left"] <= 0:
        return ["unknown"] * len(chunk)
    middle = len(chunk) // 2
    return label_again(chunk[:middle]) + label_again(chunk[middle:])


missing = [number for number in range(len(chunks)) if number not in labels_of]
for number in missing:
    labels_of[number] = label_again(chunks[number])
print("chunks asked again:", missing)

MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
line_pattern = re.compile("Date: ([A-Z][a-z][a-z]) ([0-9]+), ([0-9]+) [|][|] User: ([0-9]+) [|][|] Instance: ")
rows = []
unread = []
for number, chunk in enumerate(chunks):
    for line, label in zip(chunk, labels_of[number]):
        match = line_pattern.match(line)
        if match is None:
            unread.append(line)
            continue
        month, day, year, user = match.groups()
        rows.append((int(user), f"{year}-{MONTHS.index(month) + 1:02d}-{int(day):02d}", label))

announced = re.search("contain ([0-9]+) ", context[:500])
print("rows:", len(rows), "lines:", len(lines), "announced:", announced.group(1) if announced else "nothing")
print("lines that could not be read:", unread[:3])
print("labels:", Counter(label for user, day, label in rows).most_common())

step = max(1, len(lines) // 20)
sample = list(range(0, len(lines), step))[:20]
second = llm_query(
    "Label the question at the end of each numbered line with one of: "
    + ", ".join(LABELS)
    + ".\\nAnswer with one line for each, as `number: label`.\\n\\n"
    + "\\n".join(f"{index}: {lines[index]}" for index in sample)
)
second_labels = {int(index): label.strip() for index, label in re.findall("([0-9]+): ([a-z ]+)", second)}
agreed = sum(1 for i in sample if second_labels.get(i) == labels_of[i // LINES_A_PROMPT][i % LINES_A_PROMPT])
print("second opinion agrees on", agreed, "of", len(sample))
```
"""

_AGGREGATE_HEAD = """\
The rows are complete. Now code does the rest: tally per user, find the users that meet each side of the condition, and
pair only those, not all users with all.

```repl
from collections import defaultdict

days = defaultdict(list)
for user, day, label in rows:
    days[(user, label)].append(day)
users = sorted({user for user, day, label in rows})


def dates(user, label):
    return days.get((user, label), [])


"""

_USERS = "users = sorted({user for user, day, label in rows})\n"

_AGGREGATE_TAIL = """\


group_a = [user for user in users if side_a(user)]
group_b = [user for user in users if side_b(user)]
pairs = set()
for a in group_a:
    for b in group_b:
        if a != b:
            pairs.add((a, b) if a < b else (b, a))
print(len(users), "users;", len(group_a), "meet side a,", len(group_b), "meet side b;", len(pairs), "pairs")
FINAL("\\n".join(f"({a}, {b})" for a, b in sorted(pairs)))
```
"""


# Up to here the programs are the same for all questions: then each line of the text is one of `rows`.
LABELLING_TURNS = (_PROBE, _DECOMPOSE, _VERIFY)


def root_turns(task: int, *, below: int | None = None) -> list[str]:
    """The scripted root model's messages for a pair task, in order; the last one ends the run with `FINAL`.

    With `below`, only users with a lower ID count (as in `question`).

    Raises:
        InvalidInput: there is no such task.
    """
    wanted = pair_task(task)
    rule_a = _side("side_a", wanted.side_a)
    # Where both users must meet the same condition, the second side is the first one.
    rule_b = "side_b = side_a\n" if wanted.side_b is None else "\n\n" + _side("side_b", wanted.side_b)
    only = "" if below is None else f"users = [user for user in users if user < {below}]\n"
    head = _AGGREGATE_HEAD.replace(_USERS, _USERS + only)
    return [*LABELLING_TURNS, head + rule_a + rule_b + _AGGREGATE_TAIL]


def _side(name: str, clauses: tuple[Clause, ...]) -> str:
    tests = " and ".join(_test(clause) for clause in clauses)
    return f"def {name}(user):\n    return {tests}\n"


def _test(clause: Clause) -> str:
    """The clause as a Python expression over `user`. Dates compare as ISO text."""
    match clause:
        case AnyOf(labels):
            return "(" + " or ".join(f"len(dates(user, {label!r})) > 0" for label in labels) + ")"
        case AtLeast(label, count):
            return f"len(dates(user, {label!r})) >= {count}"
        case Exactly(label, count):
            return f"len(dates(user, {label!r})) == {count}"
        case AllAfter(label, day):
            return f"all(day > {day.isoformat()!r} for day in dates(user, {label!r}))"
        case AllBefore(label, day):
            return f"all(day < {day.isoformat()!r} for day in dates(user, {label!r}))"
        case _:
            assert_never(clause)
