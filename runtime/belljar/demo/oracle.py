"""A sub-model without a model: it labels questions by their template, and sees nothing but its prompt.

It takes the place of a real model, so that a whole run (chunking, quotas, log) can be shown and tested without a key.
Because it knows the templates, its score says nothing about the skill of any model; `scripted` says so in every result.

How a prompt is read. Lines are instances if they carry the marker `Instance:`, with or without a number in front
(`17: Date: ... || Instance: Where is Glasgow ?`), or if they are a bare question of a known template. All other lines
are instructions. If those mention JSON, the answer is a JSON list with one label for each instance, in order. If not,
it is one `index: label` line for each, with the prompt's own numbers where there are any and 1, 2, 3, ... where not. A
marked line that fits no template is labelled `unknown`: the oracle does not guess.

The answer depends only on the prompt's text, so the same prompt gets the same answer in any order of calls. That holds
for the mistakes as well: a hash of the seed and the line decides whether a line is mislabelled.

Prompts come out of the box, so they may be hostile: the work is linear in their length, because no pattern is tried on
more than `_INSTANCE_CHARS_MAX` characters.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

from belljar.demo.oolong import LABELS, SLOT, TEMPLATES
from belljar.errors import InvalidInput
from belljar.models.base import ModelReply, ModelRequest, Usage

__all__ = ["OracleModel", "label_of", "label_prompt"]

_UNKNOWN: Final = "unknown"
_BYTES_PER_TOKEN: Final = 4  # the usual rule of thumb; all that matters here is that it is the same everywhere
_NO_INSTANCES: Final = "There is no instance line in this prompt, so there is nothing to label."

_INSTANCE_CHARS_MAX: Final = 300  # the longest that the templates make is about half of it

_NUMBER_IN_FRONT = re.compile(r"(?:[-*] )?\[?([0-9]{1,9}) ?[\]:.)|]")
_MARKER: Final = "Instance:"
_JSON = re.compile(r"\bjson\b", re.IGNORECASE)


class OracleModel:
    """Answers labelling prompts, each in one attempt and without waiting.

    Args:
        error_rate: the share of lines to mislabel, from 0.0 to 1.0.
        seed: which lines those are.
        name: what the replies call the model.

    Raises:
        InvalidInput: `error_rate` is outside 0.0 to 1.0.
    """

    def __init__(self, *, error_rate: float = 0.0, seed: int = 0, name: str = "oracle") -> None:
        if not 0.0 <= error_rate <= 1.0:
            raise InvalidInput(f"error rate {error_rate} is not within 0.0 to 1.0", code="demo.error_rate")
        self._error_rate = error_rate
        self._seed = seed
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def scripted(self) -> bool:
        return True

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Label the instances of the last message. Tokens are UTF-8 bytes / 4, rounded up, both ways."""
        prompt = request.messages[-1].text if request.messages else ""
        text, stop_reason = label_prompt(prompt, error_rate=self._error_rate, seed=self._seed), "end_turn"
        bytes_max = request.output_tokens_max * _BYTES_PER_TOKEN
        if len(text) > bytes_max:  # labels are ASCII: a character is a byte
            text, stop_reason = text[:bytes_max], "max_tokens"
        input_bytes = _bytes(request.system) + sum(_bytes(message.text) for message in request.messages)
        usage = Usage(input_tokens=_tokens(input_bytes), output_tokens=_tokens(len(text)))
        return ModelReply(text=text, usage=usage, model=self._name, stop_reason=stop_reason)

    async def aclose(self) -> None:
        """Nothing is held."""


def label_of(instance: str) -> str | None:
    """The label of a question, by its template; None if it fits none."""
    if len(instance) > _INSTANCE_CHARS_MAX:
        return None
    match = _TEMPLATES.fullmatch(instance)
    return None if match is None or match.lastgroup is None else _LABEL_OF_GROUP[match.lastgroup]


def label_prompt(prompt: str, *, error_rate: float = 0.0, seed: int = 0) -> str:
    """The oracle's answer to a prompt, as the head of this file describes it."""
    labelled: list[tuple[int, str]] = []
    wants_json = False
    for line in prompt.splitlines():
        if (found := _read_line(line)) is None:
            wants_json = wants_json or _JSON.search(line) is not None
            continue
        index, instance, label = found
        if error_rate:
            label = _maybe_wrong(instance, label, error_rate, seed)
        labelled.append((len(labelled) + 1 if index is None else index, label))
    if wants_json:
        return json.dumps([label for _, label in labelled])
    return "\n".join(f"{index}: {label}" for index, label in labelled) or _NO_INSTANCES


def _read_line(line: str) -> tuple[int | None, str, str] | None:
    """`(number in front or None, line without it, label)`, or None if the line is not an instance."""
    line = line.strip()
    number = _NUMBER_IN_FRONT.match(line)
    rest = line[number.end() :].lstrip() if number else line
    _, marker, marked = rest.partition(_MARKER)
    label = label_of(marked.strip() if marker else rest)
    if label is None and not marker:
        return None
    return int(number[1]) if number else None, rest, label or _UNKNOWN


def _maybe_wrong(line: str, label: str, error_rate: float, seed: int) -> str:
    """The label; for a share of all lines, one of the others."""
    digest = hashlib.sha256(f"{seed}\n{line}".encode(errors="surrogatepass")).digest()
    if int.from_bytes(digest[:8], "big") >= error_rate * 2**64:
        return label
    others = [other for other in LABELS if other != label]
    return others[digest[8] % len(others)]


def _template_pattern() -> tuple[re.Pattern[str], dict[str, str]]:
    """One pattern for all templates, one named group for each.

    A slot matches anything, so a general template ("What is ... ?") also fits what a special one ("What is the origin
    of ... ?") made. The one with more letters of its own is the right one: longest first.
    """
    rows = [(template, label) for label, templates in TEMPLATES.items() for template in templates]
    rows.sort(key=lambda row: -len(SLOT.sub("", row[0])))
    groups: dict[str, str] = {}
    alternatives: list[str] = []
    for number, (template, label) in enumerate(rows):
        groups[f"t{number}"] = label
        literals = [re.escape(part) for part in SLOT.split(template)[::2]]
        alternatives.append(f"(?P<t{number}>{'.+'.join(literals)})")
    return re.compile("|".join(alternatives)), groups


_TEMPLATES, _LABEL_OF_GROUP = _template_pattern()


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _tokens(count_bytes: int) -> int:
    return -(-count_bytes // _BYTES_PER_TOKEN)
