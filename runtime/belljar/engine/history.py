"""The conversation that a root model is sent with each turn, in bounded size.

It is the opening (the question, and what the contexts are) and one exchange for each turn: what the model wrote, and
what it was shown. Every request carries all of it, so without a bound a run of many turns would pay mostly for
repetition. What one turn may add is bounded; and if the whole outgrows its bound, the oldest goes first: outputs leave
a note in their place, then replies become a summary of their code and what came of it, then whole turns go, and the
first message says so. The opening and the last exchange stay. Nothing is lost by it: variables live on in the box, and
the transcript has every turn.

In a session other questions follow the first. Each stands at the end of the exchange before it, and the last of them
stays, too: once its exchange goes, it stands in the first message.

It is shortened to well below the bound, so that it then stays unchanged for some turns: the provider need not read
again what has not changed since the last request.
"""

from __future__ import annotations

from typing import Final as Const

from belljar.errors import PolicyDenied
from belljar.models import Message

__all__ = ["History", "cut", "shown_chars_max"]

# About 65,000 tokens of English. Printing an old output again costs less than sending it with each turn.
_BYTES_MAX: Const = 256 * 1024
# Below this there is no room to work in.
_BYTES_MIN: Const = 8 * 1024
# What one turn may add. A character has up to four bytes, so the last exchange is under three quarters of the bound.
_SHOWN_CHARS_MAX: Const = 20_000
_REPLY_CHARS_MAX: Const = 64 * 1024
_SHOWN_SHARE: Const = 16
_REPLY_SHARE: Const = 8
_SUMMARY_CHARS_MAX: Const = 500
_GONE: Const = "[The first {turns} turns were left out to save room. What they defined is still there: SHOW_VARS().]"
_GONE_BYTES: Const = 200
# Of what there is room for, a later question may take one part in this many.
_QUESTION_SHARE: Const = 8
# Providers refuse an empty message, or one of white space.
_NOTHING: Const = "(nothing was written)"


class _Exchange:
    def __init__(self, turn: int, reply: str, shown: str, summary: str) -> None:
        self.turn = turn
        self.summary = summary
        self.reply = reply
        self.shown = shown
        # The question that follows it, if another does.
        self.question = ""
        self.count()

    def count(self) -> None:
        self.bytes = _bytes(self.reply) + _bytes(self.shown) + _bytes(self.question)

    def leave_out_output(self) -> None:
        words = f"[What turn {self.turn} showed was left out to save room: {len(self.shown)} characters.]"
        self.shown = min(self.shown, words, key=len)
        self.count()

    def leave_out_reply(self) -> None:
        words = f"[Turn {self.turn} in short, to save room: {self.summary}]"
        self.reply = min(self.reply, words, key=len)
        self.count()


class History:
    """The messages of a root model's next request, of at most `bytes_max` together with the `system` prompt.

    Raises:
        PolicyDenied: `models.prompt`: the opening leaves no room to work in.
    """

    def __init__(self, system: str, opening: str, bytes_max: int) -> None:
        self._opening = opening
        left = bytes_max - _bytes(system) - _bytes(opening)
        if left < _BYTES_MIN:
            needed = bytes_max - left + _BYTES_MIN
            raise PolicyDenied(
                f"the question needs requests of {needed} bytes, but the policy allows prompts of {bytes_max}: ask a "
                "shorter question, or put the long part into a context",
                code="models.prompt",
                limit=bytes_max,
                observed=needed,
            )
        self._bytes_max = min(left - _GONE_BYTES, _BYTES_MAX)
        self._exchanges: list[_Exchange] = []
        self._gone = 0
        # The last question of those whose exchanges are gone.
        self._kept = ""

    @property
    def shown_chars_max(self) -> int:
        """How much of what was printed and raised one turn may show."""
        return shown_chars_max(self._bytes_max)

    def add(self, turn: int, reply: str, shown: str, summary: str = "nothing was run") -> None:
        """Add an exchange. `shown` should keep within `shown_chars_max`, but for a few lines.

        `summary` is a line or two that stand for the reply once there is no room for it.
        """
        reply = cut(reply, min(_REPLY_CHARS_MAX, self._bytes_max // _REPLY_SHARE)) if reply.strip() else _NOTHING
        self._exchanges.append(_Exchange(turn, reply, shown, cut(summary, _SUMMARY_CHARS_MAX)))
        self._fit()

    def ask(self, question: str) -> None:
        """Add another question, after what was shown last; it never begins the conversation.

        Raises:
            PolicyDenied: `models.prompt`: it leaves no room to work in.
        """
        size, limit = _bytes(question), self._bytes_max // _QUESTION_SHARE
        if size > limit:
            raise PolicyDenied(
                f"a question of {size} bytes is too long for this conversation, which has room for {limit}: ask a "
                "shorter one, or open a session with the long part as a context",
                code="models.prompt",
                limit=limit,
                observed=size,
            )
        if not self._exchanges:
            self._kept = question
            return
        last = self._exchanges[-1]
        last.question = f"\n\n{question}"
        last.count()
        self._fit()

    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, each side in turn."""
        gone = f"\n\n{_GONE.format(turns=self._gone)}" if self._gone else ""
        kept = f"\n\n{self._kept.strip()}" if self._kept else ""
        found = [Message("user", self._opening + gone + kept)]
        for exchange in self._exchanges:
            found += [Message("assistant", exchange.reply), Message("user", exchange.shown + exchange.question)]
        return tuple(found)

    def halve(self) -> bool:
        """From now on keep to half the present size: the model has no room for more. False if that cannot be done."""
        before = self._bytes()
        self._bytes_max = max(before // 2, 1)
        self._shorten(self._bytes_max)
        return self._bytes() < before

    def _bytes(self) -> int:
        return sum(exchange.bytes for exchange in self._exchanges) + _bytes(self._kept)

    def _fit(self) -> None:
        if self._bytes() > self._bytes_max:
            self._shorten(self._bytes_max * 3 // 4)

    def _shorten(self, bytes_max: int) -> None:
        for step in (_Exchange.leave_out_output, _Exchange.leave_out_reply):
            for exchange in self._exchanges[:-1]:
                if self._bytes() <= bytes_max:
                    return
                step(exchange)
        while len(self._exchanges) > 1 and self._bytes() > bytes_max:
            self._kept = self._exchanges.pop(0).question or self._kept
            self._gone += 1


def shown_chars_max(bytes_max: int) -> int:
    """How much one turn may show of what was printed, in a conversation of at most so many bytes."""
    return min(_SHOWN_CHARS_MAX, bytes_max // _SHOWN_SHARE)


def cut(text: str, chars_max: int) -> str:
    """The beginning and end of a long text, with a note between them of how much is missing."""
    if len(text) <= chars_max:
        return text
    half = chars_max // 2
    missing = f"[... {len(text) - 2 * half:,} of {len(text):,} characters not shown ...]"
    return f"{text[:half]}\n{missing}\n{text[len(text) - half :]}"


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
