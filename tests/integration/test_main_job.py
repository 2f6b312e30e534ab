"""The main job as a user runs it: the demo with no key, and a real client against a provider on loopback."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.support import Jar

CODE = 'The document is short.\n```repl\nword = llm_query("Say it: " + context[:5])\nFINAL(word + "!")\n```'


def test_the_demo_does_the_whole_job_and_says_what_is_scripted(jar: Jar) -> None:
    outcome = jar("demo", "--tokens", "32768", "--json")
    assert outcome.code == 0, outcome.stderr
    report = outcome.document
    assert report["f1"] == 1.0
    assert report["pairs_found"] == report["pairs_gold"] > 0
    assert report["share_read"] == report["read_share"] == 1.0
    assert report["log_verifies"] is True
    assert report["scripted"] is True
    assert "script" in report["how"]
    assert "oracle" in report["how"]
    assert report["result"]["status"] == "ok"
    assert report["result"]["queries"] > 1
    assert report["result"]["cost_nanousd"] > 0
    assert "turn" in outcome.stderr


def test_the_demo_in_words_tells_how_to_verify(jar: Jar) -> None:
    outcome = jar("demo", "--tokens", "32768", "--quiet")
    assert outcome.code == 0, outcome.stderr
    lines = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines() if line)
    assert lines["answer"].endswith("F1 1.0000")
    assert lines["models"].startswith("scripted")
    assert "100.0% of the context was read" in lines["reads"]
    assert "belljar audit verify" in outcome.stdout


def test_a_text_with_nothing_to_find_has_no_score_and_says_so(jar: Jar) -> None:
    outcome = jar("demo", "--tokens", "2048", "--language", "python", "--tenant", "acme/demo", "--json")
    report = outcome.document
    assert (outcome.code, report["pairs_gold"], report["f1"]) == (0, 0, None)
    assert report["result"]["tenant"] == "acme/demo"
    (started,) = jar.records("run.started")
    assert started.data["language"] == "python"
    assert "no F1" in jar("demo", "--tokens", "2048", "--quiet").stdout


class Provider(http.server.BaseHTTPRequestHandler):
    """Answers the Messages API as a stream: code to the root model's request, a word to any other."""

    journal: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.journal.append({"path": self.path, "key": self.headers["authorization"], "body": body})
        text = CODE if "```repl" in body["system"] else "bell"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        usage = {"input_tokens": 4000, "output_tokens": 1}  # so few that the prompt was cut are not believed
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
        self.say("message_start", message={**message, "usage": usage})
        self.say("content_block_start", index=0, content_block={"type": "text", "text": ""})
        self.say("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        self.say("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9})
        self.say("message_stop")

    def say(self, kind: str, **fields: object) -> None:
        self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())

    def log_message(self, *_: object) -> None:
        """Nothing on the test's stderr."""


@pytest.fixture
def provider() -> Iterator[tuple[dict[str, str], list[dict[str, Any]]]]:
    journal: list[dict[str, Any]] = []
    handler = type("Handler", (Provider,), {"journal": journal})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield {"ANTHROPIC_API_KEY": "sk-ant-loopback", "ANTHROPIC_BASE_URL": url}, journal
        server.shutdown()
        thread.join()


def test_a_real_client_asks_root_and_sub_model(jar: Jar, provider: tuple[dict[str, str], list[dict[str, Any]]]) -> None:
    environ, journal = provider
    (jar.work / "text.txt").write_text("hello world")
    outcome = jar(
        *("run", "What?", "--context", jar.work / "text.txt", "--model", "claude-haiku-5-5", "--json"), env=environ
    )
    result = outcome.result
    assert (outcome.code, result["status"], result["answer"]) == (0, "ok", "bell!")
    assert result["scripted"] is False
    assert result["usage"] == {"calls": 2, "input_tokens": 8000, "output_tokens": 18}
    assert result["cost"] > 0
    assert all("sk-ant-loopback" in entry["key"] for entry in journal)
    assert journal[0]["body"]["messages"][0]["content"].endswith("Question: What?")
    assert "hello world" not in json.dumps(journal[0]["body"])
    assert journal[1]["body"]["messages"][0]["content"] == "Say it: hello"
    assert "sk-ant-loopback" not in outcome.stdout + outcome.stderr
