"""What of a conversation is the question, and what the long text that it is about.

Of a provider's request there are only messages. A person who asks about a long text puts both into them, and the text
is nearly always by far the longest piece. So

    the question      is the last text of the user: the last piece, or of a long one its last paragraph
    the context       is the longest text of the user's, without the question
    what comes before is the context `conversation`: the other messages, with their roles

What the caller says to the system goes before the question: it is an instruction to whoever answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from belljar.errors import InvalidInput
from belljar.jobs import Asked, Context, TextContext
from belljar.service.front.offered import ordered
from belljar.service.settings import Profile

__all__ = ["Said", "asked", "said"]

# A text up to this length is a question as a whole.
_QUESTION_CHARS_MAX: Final = 4000
# What stands beside the text of an answer: whoever goes on with a conversation sends it back.
_BESIDE: Final = frozenset({"thinking", "redacted_thinking"})


class _Piece(Protocol):
    """A piece of a message's content, as an API has it."""

    @property
    def type(self) -> str: ...
    @property
    def text(self) -> str: ...


class Said(NamedTuple):
    """One piece of text of a message."""

    role: str
    text: str


def said(role: str, content: str | Sequence[_Piece], pieces: str) -> list[Said]:
    """What a message says. The thinking of an answer, which is the progress of its run, says nothing.

    Args:
        pieces: what the API calls the pieces of its content.

    Raises:
        InvalidInput: `front.content`: some of it is no text.
    """
    if isinstance(content, str):
        return [Said(role, content)]
    if role == "assistant":
        content = [piece for piece in content if piece.type not in _BESIDE]
    if any(piece.type != "text" for piece in content):
        raise InvalidInput(f"only text can be asked about: send {pieces} of the type text", code="front.content")
    return [Said(role, piece.text) for piece in content]


def asked(profile: Profile, system: str, conversation: Sequence[Said]) -> Asked:
    """The order that a conversation is.

    Raises:
        InvalidInput: `front.question`: the user does not ask anything.
    """
    pieces = [one for one in conversation if one.text.strip()]
    if not pieces or pieces[-1].role != "user":
        raise InvalidInput("the last message has to be the user's, and to ask something", code="front.question")
    *before, last = pieces
    rest, question = _split(last.text)
    texts = [one.text for one in before if one.role == "user"] + ([rest] if rest else [])
    longest = max(texts, key=len, default="")
    contexts: dict[str, Context] = {}
    if len(longest) > _QUESTION_CHARS_MAX or rest:
        contexts["context"] = TextContext(longest)
        before = [one for one in before if one.text is not longest]
    if rest and rest is not longest:
        before = [*before, Said("user", rest)]
    if before:
        contexts["conversation"] = TextContext("\n\n".join(f"{one.role}: {one.text}" for one in before))
    return ordered(profile, contexts, question=f"{system.strip()}\n\n{question}".strip())


def _split(text: str) -> tuple[str, str]:
    """What comes before the question, and the question."""
    text = text.strip()
    if len(text) <= _QUESTION_CHARS_MAX:
        return "", text
    head, _, tail = text.rpartition("\n\n")
    if not head or len(tail) > _QUESTION_CHARS_MAX:
        head, _, tail = text.rpartition("\n")
    if not head or len(tail) > _QUESTION_CHARS_MAX:
        raise InvalidInput(
            f"there is a long text and no question: put one, of at most {_QUESTION_CHARS_MAX} characters, in a "
            "paragraph of its own at the end",
            code="front.question",
        )
    return head.strip(), tail.strip()
