"""The word that marks a placeholder: what `repr` shows for a paged text, list or dict in place of its content.

A program that writes `f"Docs: {[context]}"` gets a placeholder where it meant the text. A person who reads that sees
at once what happened; a model to which it is sent does not, and an answer that holds it has lost the text. So a prompt
or an answer from a program is checked for a placeholder first.

The word is random and made in the box: a document can hold text that looks like a placeholder, and must not be able to
make prompts about it fail. It is made with the first placeholder; before that there is nothing to look for.
"""

from __future__ import annotations

import os

__all__ = ["holds_placeholder", "mark"]

_WORD_BYTES = 4
_made: dict[str, str] = {}


def mark() -> str:
    """The word of this box."""
    # The same for all threads, whichever comes first.
    return _made.get("word") or _made.setdefault("word", f"#{os.urandom(_WORD_BYTES).hex()}")


def holds_placeholder(text: str) -> bool:
    return bool(_made) and mark() in text
