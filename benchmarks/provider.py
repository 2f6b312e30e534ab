"""A provider on this machine that speaks the Messages API, and remembers everything that it was asked and answered.

What it answers follows from the prompt alone, but for a number that tells its answers apart. A root model hands in the
program that stands in its question (`PROGRAM` and JSON, on a line); to anything else the answer is a word. Each prompt
carries a *mark* of its own, `[[like this]]`: by it we know what the log knows by a digest. A mark with `hold` in it has
no answer until `let_go` is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, Self

__all__ = ["MODEL", "Answer", "Provider", "program"]

# A name that has a price.
MODEL: Final = "claude-haiku-5-5"
_MARK: Final = re.compile(r"\[\[([^\[\]]{1,80})\]\]")
_PROGRAM: Final = "PROGRAM "
_BYTES_PER_TOKEN: Final = 4
_BUSY: Final = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'


@dataclass(frozen=True)
class Answer:
    """One that was sent whole: to which mark, as its how-manyeth request, and what it told of its usage."""

    mark: str
    nth: int
    input_tokens: int
    output_tokens: int


def program(mark: str, code: str) -> str:
    """A question that a root model answers with this program."""
    return f"[[{mark}]] Do it.\n{_PROGRAM}{json.dumps(code)}"


class Provider:
    """Listens on loopback while the block lasts.

    Attributes:
        asked: how often each mark came.
        marks: by the digest of a prompt, as the log has it.
        sent: how often each digest came.
        answers: by the SHA-256 of the reply, as the log has it.
        refused: how many requests it was too busy for.
    """

    def __init__(self, seed: int, *, call_s: tuple[float, float] = (0.02, 0.12), busy: float = 0.02) -> None:
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.marks: dict[str, str] = {}
        self.answers: dict[str, Answer] = {}
        self.refused = 0
        self.let_go = asyncio.Event()
        self._seed = seed
        self._call_s = call_s
        self._busy = busy
        self._number = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 22, backlog=512)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
                await self._answer(json.loads(await reader.readexactly(length)), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # who asked has closed the connection, or was killed
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, body: Any, writer: asyncio.StreamWriter) -> None:
        texts = [_text(body.get("system", "")), *(_text(one["content"]) for one in body["messages"])]
        prompt = "\0".join(texts).encode()
        digest = hashlib.sha256(prompt).hexdigest()
        code = next((line for line in texts[1].splitlines() if line.startswith(_PROGRAM)), None)
        found = _MARK.search(texts[1] if code is not None else texts[-1])
        assert found is not None, f"a prompt of somebody else's: {texts[-1][:200]}"
        mark = found[1] if code is None else f"{found[1]} turn {len(texts) // 2}"
        self.asked[mark] += 1
        self.sent[digest] += 1
        self.marks[digest] = mark
        nth = self.asked[mark]
        chance = random.Random(f"{self._seed} {mark} {nth}")
        if chance.random() < self._busy:
            self.refused += 1
            head = b"HTTP/1.1 529 Overloaded\r\ncontent-type: application/json\r\nretry-after-ms: 50\r\n"
            writer.write(head + b"content-length: %d\r\n\r\n" % len(_BUSY) + _BUSY)
            await writer.drain()
            return
        await asyncio.sleep(chance.uniform(*self._call_s))
        if "hold" in mark:
            await self.let_go.wait()
        self._number += 1
        number = f"answer {self._number}"
        text = number if code is None else f"{number}\n```repl\n{json.loads(code.removeprefix(_PROGRAM))}\n```"
        told = Answer(mark, nth, len(prompt) // _BYTES_PER_TOKEN + 1, len(text) // _BYTES_PER_TOKEN + 1)
        self.answers[hashlib.sha256(text.encode()).hexdigest()] = told
        writer.write(_stream(text, told))
        await writer.drain()


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def _stream(text: str, told: Answer) -> bytes:
    usage = {"input_tokens": told.input_tokens, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": told.output_tokens},
        },
        {"type": "message_stop"},
    ]
    data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(data)
    return head + data
