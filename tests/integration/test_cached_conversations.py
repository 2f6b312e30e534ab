"""A provider's cache, from the mark on a request to what the run cost: against a server of ours, which has a cache.

The mock from npm leaves out what concerns the cache. This one does as the provider says it does: what a marked request
holds is written, and read where a later request begins with it. A token is four bytes.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import belljar
from tests.integration.support import Jar

TURNS = ["```repl\nprint('one')\n```", "```repl\nprint('two')\n```", "```repl\nFINAL('three')\n```"]
OUTPUT_TOKENS = 9


class Cached(http.server.BaseHTTPRequestHandler):
    """Plays `TURNS` by the number of messages. `kept` holds every marked request as the list of its texts."""

    kept: list[list[str]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        texts = [body["system"], *(message["content"] for message in body["messages"])]
        known = max((old for old in self.kept if texts[: len(old)] == old), key=len, default=[])
        assert body["cache_control"] == {"type": "ephemeral"}
        self.kept.append(texts)
        read, written = tokens(known), tokens(texts) - tokens(known)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        split = {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0}
        usage = {"input_tokens": 3, "output_tokens": 1, "cache_read_input_tokens": read}
        usage |= {"cache_creation_input_tokens": written, "cache_creation": split}  # type: ignore[dict-item]
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
        self.say("message_start", message={**message, "usage": usage})
        self.say("content_block_start", index=0, content_block={"type": "text", "text": TURNS[len(self.kept) - 1]})
        self.say("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": OUTPUT_TOKENS})
        self.say("message_stop")

    def say(self, kind: str, **fields: object) -> None:
        self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())

    def log_message(self, *_: object) -> None:
        """Nothing on the test's stderr."""


def tokens(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts) // 4


@pytest.fixture
def provider() -> Iterator[tuple[dict[str, str], list[list[str]]]]:
    kept: list[list[str]] = []
    handler = type("Handler", (Cached,), {"kept": kept})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield {"ANTHROPIC_API_KEY": "sk-ant-loopback", "ANTHROPIC_BASE_URL": url}, kept
        server.shutdown()
        thread.join()


def test_what_a_turn_writes_the_next_one_reads_and_the_cost_says_so(
    jar: Jar, provider: tuple[dict[str, str], list[list[str]]]
) -> None:
    environ, kept = provider

    async def main() -> belljar.Result:
        async with belljar.Runtime(state=jar.at, environ=environ) as runtime:
            return await runtime.run("What?", context="hello world", model="claude-sonnet-5-5")

    result = asyncio.run(main())
    assert (result.answer, result.turns) == ("three", 3)
    usages: list[Any] = [turn.usage for turn in result.turns_log]
    sizes = [tokens(texts) for texts in kept]
    # Nothing random and nothing that grows stands before what was sent already.
    assert [usage.cache_read_tokens for usage in usages] == [0, sizes[0], sizes[1]]
    assert [usage.cache_write_tokens for usage in usages] == [sizes[0], sizes[1] - sizes[0], sizes[2] - sizes[1]]
    # claude-sonnet-5-5: 2 USD in, 10 out, 0.10 read, 2.50 written per million tokens
    read, written = sizes[0] + sizes[1], sizes[2]
    assert result.cost_nanousd == 9 * 2000 + 27 * 10_000 + read * 100 + written * 2500
    assert result.cost_nanousd < sum(sizes) * 2000  # less than the same without a cache
    assert result.usage.input_tokens == 9 + sum(sizes)
    logged = [record.data for record in jar.records("query.completed")]
    assert [data.get("cache_read_tokens", 0) for data in logged] == [usage.cache_read_tokens for usage in usages]
    assert [data.get("cache_write_tokens", 0) for data in logged] == [usage.cache_write_tokens for usage in usages]
