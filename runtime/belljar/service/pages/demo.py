"""The playground's model that needs no key: its turns are written here, and work with any context."""

from __future__ import annotations

from typing import Final

from belljar.models import FREE, ModelReply, ModelRequest, Rates
from belljar.models.scripted import scripted_reply
from belljar.service.settings import DEMO

__all__ = ["DemoModel"]

_LOOK: Final = """I look at the context first, if there is one.

```repl
try:
    text = context
except NameError:
    text = ""
print("length:", len(text))
print("begins:", str(text[0:200]))
```
"""
_ASK: Final = """Now I cut it into four pieces and ask about each of them.

```repl
size = max(1, -(-len(text) // 4))
pieces = [text[at : min(at + size, at + 4000)] for at in range(0, len(text), size)]
answers = llm_query_batched(["What is in this?\\n\\n" + str(piece) for piece in pieces])
for number, answer in enumerate(answers):
    print(number + 1, answer)
```
"""
_END: Final = """That is enough.

```repl
FINAL("This is the demo: the answer was written before. The code, the reads and the calls above are real.")
```
"""
_TURNS: Final = (_LOOK, _ASK, _END)
_REPLY: Final = "This is a piece of text; the demo's sub-model says the same of each."


class DemoModel:
    """A root model that looks at its context, asks about pieces of it, and answers; and the sub-model it asks.

    It has no state: which turn it is follows from what was said. So all runs share it.
    """

    scripted: Final = True
    name: Final = DEMO
    rates: Final[Rates] = FREE

    async def complete(self, request: ModelRequest) -> ModelReply:
        if request.purpose != "root":
            return scripted_reply(_REPLY, request, self.name)
        said = sum(message.role == "assistant" for message in request.messages)
        return scripted_reply(_TURNS[min(said, len(_TURNS) - 1)], request, self.name)

    async def aclose(self) -> None:
        """Nothing to close."""
