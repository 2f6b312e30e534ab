"""The names a guest program finds: `llm_query` and its variants, `budget`, `coverage`, the endings, and the exceptions
they raise.

They are what RLM prompts already use, so that models trained on them just work. Each is a few lines that turn a call
into a message on the wire; all decisions are made on the host.
"""

from __future__ import annotations

import ast
import builtins
import copy
import hashlib
import json
import math
import re
import struct
import types
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from guest.agent.answers import encoded
from guest.agent.wire import Channel
from guest.context.collection import reference_to
from guest.context.paged import PagedText, plain
from guest.context.placeholder import holds_placeholder
from guest.exact import exact, exact_text

__all__ = [
    "Budget",
    "Coverage",
    "CutAnswer",
    "Ended",
    "Endings",
    "ModelError",
    "PatternDenied",
    "PolicyDenied",
    "Queries",
    "QuotaExceeded",
    "as_exception",
    "called",
    "raise_failure",
]

# The longest name that a message of the protocol may hold.
_NAME_CHARS = 256
_SHOWN_CHARS = 80
_EXPRESSION_CHARS_MAX = 200
_KNOWN_MAX = 40
# Of what is left.
_NOUNS = {
    "cost_nanousd": "money",
    "read_bytes": "bytes to read",
    "cpu_ms": "CPU time",
    "wall_ms": "time",
    "memory_mib_s": "MiB-seconds of memory",
}
_PAIR = struct.Struct("<QQ")
_MILLION = 10**6
_Method = TypeVar("_Method", bound=Callable[..., Any])


def called(name: str) -> Callable[[_Method], _Method]:
    """Give a method the name that the program uses, so that Python's own messages use it too."""

    def rename(method: _Method) -> _Method:
        method.__name__ = method.__qualname__ = name
        return method

    return rename


class PolicyDenied(Exception):
    """The policy does not allow it. `limit` and `observed` say how far off it was, where that makes sense.

    `code` names the reason in a word. From a batch, `answers` has each prompt's answer, or why there is none.
    """

    def __init__(self, message: str, limit: int | None = None, observed: int | None = None, code: str = "") -> None:
        super().__init__(message)
        self.limit = limit
        self.observed = observed
        self.code = code
        self.answers: list[Any] = []


class PatternDenied(PolicyDenied, re.error):
    """The search on the host does not accept this pattern: a refusal that `except re.error` catches as well."""


# A caller, and the host when it compares an error with its refusals, recognises a refusal by its type's name.
PatternDenied.__name__ = PatternDenied.__qualname__ = "PolicyDenied"


class QuotaExceeded(PolicyDenied):
    """It would spend more than is left."""


class ModelError(Exception):
    """The model gave no answer. `code` and `answers` as in `PolicyDenied`."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.answers: list[Any] = []


for _raised in (PolicyDenied, PatternDenied, QuotaExceeded, ModelError):
    _raised.__module__ = "__main__"  # where a program finds it: so a traceback says its name, and not where we have it


class CutAnswer(str):
    """An answer that was cut off in the middle, at the output limit."""

    __slots__ = ()


class Ended(BaseException):
    """The final answer is sent: the program stops here."""


def as_exception(failure: dict[str, Any]) -> Exception:
    if failure["kind"] == "ModelError":
        return ModelError(failure["message"], failure["code"])
    kind = QuotaExceeded if failure["kind"] == "QuotaExceeded" else PolicyDenied
    if failure["code"] == "search.pattern":
        kind = PatternDenied
    return kind(failure["message"], failure["limit"], failure["observed"], failure["code"])


def raise_failure(header: dict[str, Any]) -> None:
    """Raise what a `Refused` reply says; do nothing for any other reply."""
    if header["op"] == "refused":
        raise as_exception(header["failure"])


def _text(value: object, what: str) -> bytes:
    # Slices of the context are real strings; the paged context itself is taken whole when it fits.
    text = plain(value)
    if type(text) is not str:
        kind = type(text).__name__
        raise TypeError(
            f"{what} must be a str, not {kind}: write one with an f-string, str(value) or json.dumps(value)"
        )
    _check_placeholder(what, text)
    return text.encode("utf-8", "replace")


def _check_placeholder(what: str, text: str) -> None:
    if holds_placeholder(text):
        raise TypeError(
            f"{what} has a placeholder of the context in it, not its text: write str(context) or context[a:b] for a "
            "text, and json.dumps(value) for a list or dict that holds it"
        )


def _check_prompts(texts: list[bytes], bytes_max: int) -> None:
    """Check as the host does for a whole request: for a batch of several requests, before the first is sent."""
    for place, text in enumerate(texts):
        _check_size(f"prompts[{place}]", len(text), bytes_max)
        if not text[:256].decode("utf-8", "ignore").strip() and not text.decode("utf-8").strip():
            raise PolicyDenied(
                f"prompts[{place}] has nothing but white space, so nothing was sent: leave it out", code="query.blank"
            )


def _with_answers(answers: list[Any], refusal: Exception | None = None) -> Exception:
    """The exception of a batch, with the answers there are: why the rest was refused, or the first failure."""
    answered = sum(answer is not None and not isinstance(answer, Exception) for answer in answers)
    if refusal is None:
        place = next(place for place, answer in enumerate(answers) if isinstance(answer, Exception))
        first: Any = answers[place]
        words = f"{first} (prompts[{place}] failed first; {answered} of {len(answers)} were answered"
    else:
        first = refusal
        words = f"{first} ({answered} of {len(answers)} were answered before"
    if len(answers) == 1 or (refusal is not None and not answered):
        error: Any = first
    else:
        words += ": read them in this exception's `answers`, or ask the same again, which pays only for the others)"
        numbers = () if isinstance(first, ModelError) else (first.limit, first.observed)
        error = type(first)(words, *numbers, code=first.code)
    error.answers = [None if answer is error else answer for answer in answers]
    return error  # type: ignore[no-any-return]


def _wish(model: object) -> str | None:
    # The host decides about the name; but a name that it cannot read would end the box.
    model = exact_text(model)
    if issubclass(type(model), PagedText) or (type(model) is str and model.split(maxsplit=1)[1:]):
        raise TypeError(
            "the second argument is the name of a model, not a text: put all of it into one prompt, as in "
            'llm_query(f"{question}\\n\\n{text}")'
        )
    if model is not None and type(model) is not str:
        raise TypeError(f"model must be a str or None, not {type(model).__name__}")
    return model and model[:_NAME_CHARS]


def _check_size(what: str, size: int, limit: int) -> None:
    """Refuse here what no frame can carry; the host would have to end the box for it."""
    if size > limit:
        raise PolicyDenied(f"{what} of {size} bytes is over the limit of {limit}: send less at once", limit, size)


def _given(context: Any, bytes_max: int) -> tuple[dict[str, Any], bytes]:
    """What a message says of the context of a child run, and the text that travels with it."""
    said = reference_to(context)
    if said is not None:
        return said, b""
    if issubclass(type(context), (list, tuple, dict)):
        text = _json_of(context, bytes_max)
        return {"length": len(text), "json": True}, text
    if type(plain(context)) is not str:
        kind = type(context).__name__
        raise TypeError(f"a context must be a text, a list or a dict, not {kind}: write str(value) or list(value)")
    text = _text(context, "a context")
    return ({"length": len(text)} if text else {}), text


def _key(wish: str | None, text: bytes, said: object = None, given: bytes = b"") -> bytes:
    """What was asked, in short: the model, the prompt and, for a child run, its context."""
    digests = (hashlib.sha256(part).hexdigest() for part in (text, given))
    return hashlib.sha256(repr((wish, said, *digests)).encode("utf-8", "replace")).digest()


def _json_of(context: Any, bytes_max: int) -> bytes:
    """A list or dict that the program made, as a context."""
    try:
        _, text = encoded(context, afford=lambda size: _check_size("a context", size, bytes_max), chars_max=bytes_max)
    except TypeError as error:
        raise TypeError(f"a list or dict that is a context has to be one that could be an answer: {error}") from None
    return text.encode("utf-8", "replace")


class Budget(dict[str, "int | None"]):
    """What is left: `budget()["calls"]` is None if that is unlimited; `budget().calls` is infinite then, to compare."""

    def __getattr__(self, name: str) -> float:
        if name not in self:
            raise AttributeError(
                f"a budget has no {name[:_SHOWN_CHARS]!a}; it has {', '.join(self)}", name=name, obj=self
            )
        value = self[name]
        return math.inf if value is None else value

    def __repr__(self) -> str:
        return f"<budget: {', '.join(_left(name, value) for name, value in self.items())}>"


def _left(name: str, value: int | None) -> str:
    """One quantity of a budget, in the unit that people use."""
    noun = _NOUNS.get(name) or name.replace("_", " ")
    if value is None:
        return f"unlimited {noun}"
    if name == "cost_nanousd":
        return f"{value / 10**9:.4f} USD"
    return f"{value / 1000:.1f} s of {noun}" if name in ("cpu_ms", "wall_ms") else f"{value} {noun}"


class Coverage(dict[str, Any]):
    """What was read and shown so far, of all contexts or of one: `coverage()["read"]`, or `coverage().read`."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(
                f"this coverage has no {name[:_SHOWN_CHARS]!a}; it has {', '.join(self)}", name=name, obj=self
            )
        return self[name]

    def __repr__(self) -> str:
        parts = [f"{self.get(name)} of {self.get('chars')} characters {what}" for name, what in _DONE]
        more = "" if self.get("complete", True) else "; more than that may have been"
        return f"<coverage: {', '.join(parts)}{more}>"


_DONE = (("read", "read"), ("shown", "shown to sub-models"))


def _covered(extent: dict[str, Any], read: list[Any], shown: list[Any]) -> Coverage:
    """What happened to one context, of which these are the first ranges."""
    chars = extent["chars"]
    one = _with_shares(chars, extent["read"], extent["shown"])
    if extent["read_spans"] is not None:
        one |= {"read_spans": read, "unread": _gaps(read, extent["read_spans"], chars)}
        one |= {"shown_spans": shown, "unshown": _gaps(shown, extent["shown_spans"], chars)}
        one |= {"read_spans_count": extent["read_spans"], "shown_spans_count": extent["shown_spans"]}
    return one


def _with_shares(chars: int, read: int, shown: int) -> Coverage:
    """Shares are from 0 to 1, rounded down, so that 1.0 is all of it."""
    shares = (part * _MILLION // chars / _MILLION if chars else 0.0 for part in (read, shown))
    names = ("chars", "read", "shown", "read_share", "shown_share")
    return Coverage(zip(names, (chars, read, shown, *shares), strict=True))


def _gaps(spans: list[Any], count: int, chars: int) -> list[tuple[int, int]]:
    """What lies between the ranges; behind the last one only if there are no more of them."""
    starts = [0, *(stop for _, stop in spans)]
    stops = [*(start for start, _ in spans), chars if count == len(spans) else 0]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


class Queries:
    """`llm_query`, `llm_query_batched`, `rlm_query`, `rlm_query_batched`, `budget`, `coverage`."""

    def __init__(
        self,
        channel: Channel,
        *,
        batch_max: int,
        body_bytes_max: int,
        flush: Callable[[], None],
        prompt_bytes_max: int | None = None,
        warn: Callable[[str], object] = lambda _: None,
        left: Callable[[str, int | None], int | None] = lambda _, now: now,
        contexts: Sequence[str] = (),
    ) -> None:
        self._warn = warn
        self._left = left
        self._contexts = contexts
        self._channel = channel
        self._batch_max = batch_max
        self._prompt_bytes_max = body_bytes_max if prompt_bytes_max is None else prompt_bytes_max
        # Answers of the last failed batch, by what was asked: asking the same again does not pay for them twice.
        self._paid: dict[bytes, list[Any]] = {}
        self._body_bytes_max = body_bytes_max
        self._flush = flush

    @called("llm_query")
    def llm_query(self, prompt: str, model: str | None = None) -> str:
        """Ask a fresh sub-model. Raises PolicyDenied, QuotaExceeded or ModelError."""
        answer: str = self._ask([prompt], model, return_exceptions=False)[0]
        return answer

    @called("llm_query_batched")
    def llm_query_batched(
        self, prompts: Sequence[str], model: str | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """Ask once for each prompt, side by side; answers come in the same order.

        With `return_exceptions` a failed prompt's place holds its exception; without, the first failure is raised, and
        its `answers` are what this would have returned.
        """
        if isinstance(prompts, str):
            raise TypeError("llm_query_batched takes a list of prompts; llm_query takes one")
        return self._ask(list(prompts), model, return_exceptions=bool(return_exceptions))

    @called("rlm_query")
    def rlm_query(self, prompt: str, context: Any = None, model: str | None = None) -> Any:
        """Have a child run, with a root model and a box of its own, answer `prompt` about `context`.

        `context` is a text, a list or dict of JSON values, or `context` itself or a part of it, which is not copied.
        With None, the prompt is the child's context. Returns what the child gave: a str, or the value of its JSON.
        Raises as `llm_query`, and ModelError where the child failed.
        """
        return self._recurse([prompt], [] if context is None else [context], model, False)[0]

    @called("rlm_query_batched")
    def rlm_query_batched(
        self,
        prompts: Sequence[str],
        contexts: Sequence[Any] | None = None,
        model: str | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """A child run for each prompt, side by side, each with its context; answers come in the same order.

        `return_exceptions` is that of `llm_query_batched`.
        """
        if isinstance(prompts, str):
            raise TypeError("rlm_query_batched takes a list of prompts; rlm_query takes one")
        if isinstance(contexts, (str, dict)):
            raise TypeError(
                "rlm_query_batched takes a list of contexts: [context] * len(prompts) gives all prompts the same"
            )
        return self._recurse(list(prompts), list(contexts or []), model, bool(return_exceptions))

    @called("budget")
    def budget(self) -> Budget:
        """What is left of calls, tokens, money, bytes to read, time and memory."""
        header, _ = self._channel.request("budget", {})
        raise_failure(header)
        return Budget((name, self._left(name, header[name])) for name in header if name not in ("op", "id"))

    @called("coverage")
    def coverage(self) -> Coverage:
        """How much of the contexts was read so far, and shown to sub-models: of all together, and of each by name."""
        header, body = self._channel.request("coverage", {})
        raise_failure(header)
        pairs, found = _PAIR.iter_unpack(body), {}
        for name, extent in zip(self._contexts, header["contexts"], strict=True):
            counts = (min(header["spans_max"], extent[kind] or 0) for kind in ("read_spans", "shown_spans"))
            read, shown = ([*islice(pairs, count)] for count in counts)
            found[name] = _covered(extent, read, shown)
        sums = (sum(one[name] for one in found.values()) for name in ("chars", "read", "shown"))
        return Coverage(_with_shares(*sums) | {"complete": header["complete"], "contexts": found})

    def tool(self, info: dict[str, Any], read: Callable[[], Callable[[Any, str], Any]]) -> Callable[..., Any]:
        """A function that calls one of the host's. `read` gives what reads a field of the program's own objects."""
        name, arguments = info["name"], info["arguments"]

        def call(_: Queries, /, *values: Any, **fields: Any) -> Any:
            self._flush()
            if len(values) > len(arguments):
                raise TypeError(f"{name} takes {len(arguments)} arguments, not {len(values)}")
            given = dict(zip(arguments, values, strict=False))
            wrong = [field for field in fields if field in given or field not in arguments]
            if wrong:
                raise TypeError(f"{name} got {wrong[0][:_SHOWN_CHARS]!r} twice, or has no such argument")
            limits: dict[str, Any] = {"afford": self._afford, "chars_max": self._prompt_bytes_max}
            text = encoded(given | fields, read=read(), **limits)[1]
            _check_placeholder("an argument", text)
            body = text.encode("utf-8", "replace")
            _check_size("a call", len(body), self._body_bytes_max)
            header, body = self._channel.request("query", {"model": f"tool:{name}", "lengths": [len(body)]}, body)
            raise_failure(header)
            result = self._answers(header, body)[0]
            if isinstance(result, Exception):
                raise result
            return result

        call.__name__ = call.__qualname__ = name
        call.__doc__ = info["doc"]
        return types.MethodType(call, self)  # as the other names are: guards know no other kind

    def _afford(self, chars: int) -> None:
        _check_size("a call", chars, self._prompt_bytes_max)

    def _ask(self, prompts: list[str], model: str | None, *, return_exceptions: bool) -> list[Any]:
        self._flush()
        wish = _wish(model)
        texts = [_text(prompt, "a prompt") for prompt in prompts]
        _check_size("a prompt", max(map(len, texts), default=0), self._body_bytes_max)
        keys = [_key(wish, text) for text in texts] if len(texts) > 1 else []
        answers = self._paid_before(keys, len(texts))
        return self._filled(keys, answers, return_exceptions, lambda: self._ask_others(wish, texts, answers))

    def _filled(
        self, keys: list[bytes], answers: list[Any], return_exceptions: bool, ask: Callable[[], Exception | None]
    ) -> list[Any]:
        """The answers of a batch, when `ask` has filled in those that were not paid for before."""
        try:
            refusal = ask()
        except BaseException:
            self._keep_paid(keys, answers)
            raise
        cut = sum(isinstance(answer, CutAnswer) for answer in answers)
        if cut:
            self._warn(f"{cut} of {len(answers)} answers were cut off at the output limit (CutAnswer)\n")
        failed = any(isinstance(answer, Exception) for answer in answers)
        if refusal is None and (return_exceptions or not failed):
            return answers
        self._keep_paid(keys, answers)
        raise _with_answers(answers, refusal)

    def _paid_before(self, keys: list[bytes], count: int) -> list[Any]:
        """The answers of a batch that are there already, and None in place of the others."""
        return [self._take_paid(key) for key in keys] or [None] * count

    def _take_paid(self, key: bytes) -> Any:
        kept = self._paid.get(key)
        return kept.pop() if kept else None

    def _keep_paid(self, keys: list[bytes], answers: list[Any]) -> None:
        self._paid.clear()
        for key, answer in zip(keys, answers, strict=False):
            if answer is not None and not isinstance(answer, Exception):
                # The program gets the answer as well, and may change what a child gave.
                self._paid.setdefault(key, []).append(copy.deepcopy(answer))

    def _ask_others(self, wish: str | None, texts: list[bytes], answers: list[Any]) -> Exception | None:
        """Fill in the missing answers or exceptions. Returns why a request was refused; then no further one is made.

        Each reply is stored before the next request, so whatever happens, the answers so far are kept.
        """
        places = [place for place, answer in enumerate(answers) if answer is None]
        groups = self._groups([texts[place] for place in places])
        if len(groups) > 1:
            _check_prompts(texts, self._prompt_bytes_max)
        at = iter(places)
        for group in groups:
            fields = {"model": wish, "lengths": [len(one) for one in group]}
            header, body = self._channel.request("query", fields, b"".join(group))
            if header["op"] == "refused":
                return as_exception(header["failure"])
            for answer in self._answers(header, body):
                answers[next(at)] = answer
        return None

    def _recurse(
        self, prompts: list[str], contexts: list[Any], model: str | None, return_exceptions: bool
    ) -> list[Any]:
        self._flush()
        wish = _wish(model)
        if len(prompts) > self._batch_max:
            raise PolicyDenied(f"a batch has at most {self._batch_max} prompts", self._batch_max, len(prompts))
        if contexts and len(contexts) != len(prompts):
            raise TypeError(
                f"a batch of child runs takes a context for each prompt, not {len(contexts)} for {len(prompts)}: "
                "[context] * len(prompts) gives all of them the same"
            )
        texts = [_text(prompt, "a prompt") for prompt in prompts]
        given = [_given(context, self._body_bytes_max) for context in contexts]
        _check_size("a request", sum(map(len, texts)) + sum(len(text) for _, text in given), self._body_bytes_max)
        keys: list[bytes] = []
        if len(texts) > 1:
            about = given or [({}, b"")] * len(texts)
            keys = [_key(wish, text, *one) for text, one in zip(texts, about, strict=True)]
        answers = self._paid_before(keys, len(texts))
        return self._filled(keys, answers, return_exceptions, lambda: self._start_others(wish, texts, given, answers))

    def _start_others(
        self, wish: str | None, texts: list[bytes], given: list[tuple[dict[str, Any], bytes]], answers: list[Any]
    ) -> Exception | None:
        """As `_ask_others`, of child runs: all of them in one request."""
        places = [place for place, answer in enumerate(answers) if answer is None]
        if not places:
            return None
        texts, given = [texts[place] for place in places], [given[place] for place in places if given]
        fields = {"model": wish, "prompts": [len(one) for one in texts], "contexts": [said for said, _ in given]}
        header, body = self._channel.request("recurse", fields, b"".join([*texts, *(text for _, text in given)]))
        if header["op"] == "refused":
            return as_exception(header["failure"])
        for place, answer in zip(places, self._answers(header, body), strict=True):
            answers[place] = answer
        return None

    def _groups(self, texts: list[bytes]) -> list[list[bytes]]:
        """Split a batch so that each part fits in one frame."""
        groups: list[list[bytes]] = []
        room = 0
        for text in texts:
            if not groups or len(groups[-1]) >= self._batch_max or len(text) > room:
                groups.append([])
                room = self._body_bytes_max
            groups[-1].append(text)
            room -= len(text)
        return groups

    @staticmethod
    def _answers(header: dict[str, Any], body: bytes) -> list[Any]:
        answers: list[Any] = []
        at = 0
        for item in header["items"]:
            if "failure" in item:
                answers.append(as_exception(header["failures"][item["failure"]]))
                continue
            text = body[at : at + item["length"]].decode("utf-8")
            answers.append(json.loads(text) if "json" in item else CutAnswer(text) if "cut" in item else text)
            at += item["length"]
        return answers


class Endings:
    """`FINAL`, `FINAL_VAR`, `SUBMIT`, and the `answer` dictionary.

    `answer` is a name like any other: if it is a dict with "content" and a true "ready" when a cell ends, that is the
    answer. What a cell set there before it failed does not count.
    """

    def __init__(
        self,
        channel: Channel,
        variables: Callable[[], dict[str, object]],
        flush: Callable[[], None],
        *,
        body_bytes_max: int,
    ) -> None:
        self._channel = channel
        self._variables = variables
        self._flush = flush
        self._body_bytes_max = body_bytes_max
        self.answer: dict[str, Any] = {"content": "", "ready": False}
        # The agent sets both: all the program's names, and a function that reads a field of its objects.
        self.namespace: dict[str, Any] = {"answer": self.answer}
        self.read: Callable[[Any, str], Any] = getattr

    @called("FINAL")
    def final(self, *values: object, **fields: object) -> None:
        """Give the final answer and stop. A str is given as it is, anything else as JSON; what has no form there is a
        TypeError."""
        if len(values) != 1 or fields:
            raise TypeError("FINAL takes one value: FINAL(value), FINAL([a, b]), or SUBMIT(name=value)")
        self._finish(values[0])

    @called("FINAL_VAR")
    def final_var(self, *names: object) -> None:
        """Give the variable of that name as the final answer and stop. Any other value is itself the answer."""
        if len(names) != 1:
            raise TypeError('FINAL_VAR takes the name of one variable: FINAL_VAR("name")')
        given = exact_text(names[0])
        if type(given) is not str:
            self._finish(given)
        key = given.strip().strip("'\"")
        if key in self.namespace and _is_name(key):
            self._finish(self.namespace[key])
        variables = self._variables()
        if any(value is names[0] for value in variables.values()):
            self._finish(given)
        if _reads_only(key, self.namespace):
            raise NameError(
                f"FINAL_VAR takes the name of one variable, and {key!r} is an expression: FINAL({key}) gives its value"
            )
        if not key.isidentifier():
            self._finish(given)
        known = ", ".join(sorted(variables)[:_KNOWN_MAX]) or "none yet"
        raise NameError(
            f"FINAL_VAR: there is no variable {key[:_SHOWN_CHARS]!r}; there are: {known}; FINAL(value) gives a value"
        )

    @called("SUBMIT")
    def submit(self, *values: object, **fields: object) -> None:
        """Give the named fields as the final answer and stop."""
        if values or not fields:
            raise TypeError("SUBMIT takes fields by name: SUBMIT(answer=value); FINAL(value) gives one value")
        self._finish(fields)

    def after_a_failure(self) -> None:
        """The cell before failed, so an answer that it marked as ready no longer is."""
        if _is_true(self._entries().get("ready")):
            dict.__setitem__(self.namespace["answer"], "ready", False)

    def after_cell(self) -> None:
        entries = self._entries()
        if "content" not in entries or not _is_true(entries.get("ready")):
            return
        content = exact(entries["content"])
        if type(content) is str and not content:  # as it was in the beginning
            raise ValueError('answer["ready"] is true, but answer["content"] is empty: set it, or call FINAL(value)')
        self._finish(entries["content"])

    def _entries(self) -> dict[str, Any]:
        """The contents of `answer`, if that is a dict."""
        answer = self.namespace.get("answer")
        if not issubclass(type(answer), dict):
            return {}
        # A look-up would call `__eq__` of keys of the program's own classes.
        return {key: value for key, value in exact(answer).items() if type(key) is str}

    def _finish(self, value: object) -> None:
        if value is None:
            raise TypeError(
                "the answer is None: give the value itself (print() and list.sort(), for example, return None)"
            )
        form, text = encoded(value, afford=self._check_chars, chars_max=self._body_bytes_max, read=self.read)
        _check_placeholder("the answer", text)
        body = text.encode("utf-8", "replace")
        _check_size("an answer", len(body), self._body_bytes_max)
        self._flush()
        self._channel.send({"op": "final", "cell": self._channel.cell, "form": form}, body)
        raise Ended

    def _check_chars(self, chars: int) -> None:
        _check_size("an answer", chars, self._body_bytes_max)


def _is_name(text: str) -> bool:
    return text.isidentifier() and not (text.startswith("__") and text.endswith("__"))


def _reads_only(text: str, names: Mapping[str, object]) -> bool:
    """Whether a short text is an expression, more than one name, that reads some of these variables and no others."""
    if len(text) > _EXPRESSION_CHARS_MAX or text.isidentifier():
        return False
    try:
        nodes = [*ast.walk(ast.parse(text, mode="eval"))]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    read = {node.id for node in nodes if isinstance(node, ast.Name)}
    return not read.isdisjoint(names) and all(name in names or hasattr(builtins, name) for name in read)


def _is_true(value: object) -> bool:
    """Whether a value of a built-in type is true; a program's own class is not asked."""
    value = exact(value)
    return type(value) in (bool, int, float, str) and bool(value)
