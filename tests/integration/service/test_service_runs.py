"""Runs over HTTP: ordered, awaited, followed, found again, ended; and a service that is stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from belljar import ModelReply, ModelRequest, Usage
from belljar.models import FREE
from benchmarks.provider import MODEL, Provider
from tests.integration.service.support import Client, Serving, connected, head, problem, serving
from tests.integration.support import BELLJAR, PATIENCE_S, Jar, no_process_left, until

WAIT = {"prefer": "wait=60"}
FOREVER = {"code": "while True: pass"}


class Oracle:
    """A root model that hands in one answer."""

    name, scripted, rates = "scripted:oracle", True, FREE

    async def complete(self, request: ModelRequest) -> ModelReply:
        return ModelReply("```repl\nFINAL(len(context))\n```", Usage(10, 5), self.name, "end_turn")

    async def aclose(self) -> None:
        pass


def told(lines: Iterator[str]) -> Iterator[tuple[int | None, str, Any]]:
    """Server-sent events, as a browser reads them: id, event, data."""
    number: int | None = None
    event, data = "message", ""
    for line in lines:
        if line == "":
            if data:
                yield number, event, json.loads(data)
            event, data = "message", ""
        elif line.startswith("id: "):
            number = int(line.removeprefix("id: "))
        elif line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data += line.removeprefix("data: ")


def test_a_program_runs_and_its_result_is_found_again(admin: Client) -> None:
    body = {"code": "FINAL(len(context))", "contexts": {"context": {"kind": "text", "text": "hello"}}}
    ordered = admin.post("/v1/runs", json=body, headers=WAIT)
    assert (ordered.status_code, ordered.json()["made"]) == (200, "new")
    run = ordered.json()["run"]
    assert ordered.headers["location"] == f"/v1/runs/{run}"
    shown = admin.get(ordered.headers["location"]).json()
    assert (shown["state"], shown["result"]["answer"], shown["tenant"]) == ("ok", 5, "default")
    assert [one["run"] for one in admin.get("/v1/runs").json()["runs"]] == [run]
    assert admin.get(f"/v1/runs/{run}/coverage").json()["chars"] == 5
    receipt = admin.get(f"/v1/runs/{run}/receipt").json()
    report = admin.post("/v1/audit/verify", json={"receipts": [receipt], "checkpoints": [receipt["checkpoint"]]}).json()
    assert (report["problems"], report["signed"]) == ([], report["signed"])
    begun = next(record for record in admin.get("/v1/audit/records", params={"run": run}).json()["records"])
    assert begun["data"]["by"].startswith("key:")


def test_a_question_is_answered_by_a_root_model(jar: Jar) -> None:
    with serving(jar, models=[Oracle()]) as service, service.client() as client:
        context = client.post("/v1/contexts", json={"kind": "text", "name": "log", "text": "four"}).json()["context"]
        body = {
            "question": "How long?",
            "model": "scripted:oracle",
            "contexts": {"context": {"kind": "registered", "ref": f"sha256:{context}"}},
            "answer_schema": {"type": "integer"},
        }
        answer = client.post("/v1/runs", json=body, headers=WAIT).json()
        assert answer["state"]["result"]["answer"] == 4


@pytest.mark.parametrize("form", ["jsonl", "atif", "rlm", "otel", "html"])
def test_a_run_is_exported_in_every_format(admin: Client, form: str) -> None:
    run = admin.post("/v1/runs", json={"code": "FINAL(1)"}, headers=WAIT).json()["run"]
    answer = admin.get(f"/v1/runs/{run}/trajectory", params={"format": form})
    assert answer.status_code == 200
    assert run in answer.text
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_client_says_in_any_case_and_in_any_of_several_headers_that_it_prefers_to_wait(admin: Client) -> None:
    headers = [("Prefer", "respond-async"), ("Prefer", "Wait=60")]
    assert admin.post("/v1/runs", json={"code": "FINAL(1)"}, headers=headers).json()["state"]["state"] == "ok"


def test_the_same_key_makes_one_run(admin: Client) -> None:
    keyed = {**WAIT, "idempotency-key": "mine"}
    first = admin.post("/v1/runs", json={"code": "FINAL(1)"}, headers=keyed).json()
    again = admin.post("/v1/runs", json={"code": "FINAL(1)"}, headers=keyed).json()
    assert (first["made"], again["made"]) == ("new", "known")
    assert again["run"] == first["run"]
    problem(admin.post("/v1/runs", json={"code": "FINAL(2)"}, headers=keyed), 409, "order.idem_conflict")


def test_events_are_told_and_taken_up_again_where_they_broke_off(admin: Client) -> None:
    run = admin.post("/v1/runs", json={"code": "print(1)\nFINAL(2)"}, headers=WAIT).json()["run"]
    whole = list(told(iter(admin.get(f"/v1/runs/{run}/events").text.splitlines())))
    numbers = [number for number, _, _ in whole if number is not None]
    assert numbers == sorted(set(numbers))
    assert whole[-1][1] == "result"
    assert whole[-1][2]["result"]["answer"] == 2
    for place, (number, _, _) in enumerate(whole):
        rest = admin.get(f"/v1/runs/{run}/events", headers={"last-event-id": str(number)})
        assert list(told(iter(rest.text.splitlines()))) == whole[place + 1 :] or place == len(whole) - 1
    (end,) = told(iter(rest.text.splitlines()))
    assert (end[1], end[2]["state"], end[2]["result"]) == ("end", "ok", None)
    assert admin.get(f"/v1/runs/{run}/events", headers={"last-event-id": str(end[0])}).status_code == 204
    problem(admin.get(f"/v1/runs/{run}/events", headers={"last-event-id": "x"}), 422, "request.invalid")


def test_whoever_follows_an_order_that_never_begins_is_told_that_it_ended(jar: Jar) -> None:
    """One that is connected, one that comes later, and one that comes again, as a browser does by itself."""
    with serving(jar, running=1, drain_s=0.1) as service, service.client() as client:
        first, second, third = (client.post("/v1/runs", json=FOREVER).json()["run"] for _ in range(3))
        with client.stream("GET", f"/v1/runs/{second}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 1000"
            client.delete(f"/v1/runs/{second}")
            ends = list(told(lines))
        assert len(ends) == 1
        ((number, event, state),) = ends
        assert (event, state["run"], state["state"]) == ("end", second, "cancelled")
        assert "cancelled by" in state["error"]["message"]
        late = client.get(f"/v1/runs/{second}/events")
        assert list(told(iter(late.text.splitlines()))) == [(number, event, state)]
        again = client.get(f"/v1/runs/{second}/events", headers={"last-event-id": str(number)})
        assert (again.status_code, again.content) == (204, b"")
        heard: dict[str, list[tuple[int | None, str, Any]]] = {}

        def listen(run: str) -> None:
            with service.client() as other, other.stream("GET", f"/v1/runs/{run}/events") as stream:
                lines = stream.iter_lines()
                next(lines)
                heard[run] = []
                for one in told(lines):
                    heard[run].append(one)

        listening = [threading.Thread(target=listen, args=[run]) for run in (first, third)]
        for one in listening:
            one.start()
        until(lambda: len(heard) == 2 and heard[first], what="one has begun, and both are heard")
        service.end()
        for one in listening:
            one.join(PATIENCE_S)
    assert (heard[first][-1][1], heard[first][-1][2]["result"]["status"]) == ("result", "killed")
    assert [(event, state["state"]) for _, event, state in heard[third]] == [("end", "interrupted")]
    with serving(jar) as again_there, again_there.client(service.key) as client:
        for run, ended in ((second, "cancelled"), (third, "interrupted")):
            ((_, event, state),) = told(iter(client.get(f"/v1/runs/{run}/events").text.splitlines()))
            assert (event, state["state"]) == ("end", ended)


def test_a_run_is_followed_while_it_lasts_and_ended(jar: Jar) -> None:
    with serving(jar, heartbeat_s=0.05) as service, service.client() as client:
        run = client.post("/v1/runs", json=FOREVER).json()["run"]
        with client.stream("GET", f"/v1/runs/{run}/events") as stream:
            lines = stream.iter_lines()
            assert any(line == "event: cell" for line in lines)
            assert any(line.startswith(":") for line in lines), "it says that it is still there"
            assert client.delete(f"/v1/runs/{run}").json()["state"] == "killed"
            *_, (_, event, data) = told(lines)
        assert (event, data["result"]["status"]) == ("result", "killed")


def test_whoever_goes_away_is_not_waited_for(service: Serving) -> None:
    """The record of a request is written when its answer is ready: as soon as nobody waits for it any more."""
    with closing(connected(service)) as caller:
        data = json.dumps(FOREVER).encode()
        told = ("content-type: application/json", "prefer: wait=300", f"content-length: {len(data)}")
        caller.sendall(head(service, "POST /v1/runs", *told) + data)
        until(service.host.live, what="the run is under way")

    def answered() -> list[Any]:
        return [one for one in service.jar.records("http.request") if one.data["route"] == "POST /v1/runs"]

    until(answered, what="it was answered")
    assert len(service.host.live()) == 1


def test_who_may_have_no_box_at_all_is_told_so_at_once(admin: Client) -> None:
    admin.patch("/v1/quotas", json={"tenant": "acme", "limits": {"total": {"boxes": 0}}})
    told_ = problem(admin.post("/v1/runs", json={"code": "FINAL(1)", "tenant": "acme"}), 429, "quota.tenant.boxes")
    assert (told_["level"], told_["limit"], told_["held"]) == ("acme", 0, 0)


def test_a_quota_that_is_met_says_which_and_until_when(admin: Client) -> None:
    admin.patch("/v1/quotas", json={"tenant": "acme", "limits": {"day": {"wall_ms": 0}}})
    answer = admin.post("/v1/runs", json={"code": "FINAL(1)", "tenant": "acme"}, headers=WAIT)
    told_ = problem(answer, 429, "quota.tenant.wall")
    assert (told_["level"], told_["limit"], told_["period"], told_["used"]) == ("acme", 0, "day", 0)
    assert int(answer.headers["retry-after"]) == told_["retry_after_s"] > 0
    assert told_["resets_at"].endswith("Z")


def test_a_session_takes_cells_and_is_closed(admin: Client) -> None:
    opened = admin.post("/v1/sessions", json={"tenant": "acme"})
    place = opened.headers["location"]
    assert admin.post(f"{place}/cells", json={"code": "x = 1"}).json()["status"] == "ok"
    assert admin.post(f"{place}/cells", json={"code": "print(x)"}).json()["stdout"] == "1\n"
    assert admin.post(f"{place}/cells", json={"code": "1/0"}).json()["error"]["type"] == "ZeroDivisionError"
    assert [one["session"] for one in admin.get("/v1/sessions").json()["sessions"]] == [opened.json()["session"]]
    assert admin.delete(place).json()["cells"] == 3
    problem(admin.get(place), 404, "session.unknown")


# -- ending ------------------------------------------------------------------------------------------------------------


class Command:
    """`belljar serve` as a process."""

    def __init__(self, jar: Jar, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [BELLJAR, "serve", "--port", "0", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=jar.environ(env),
            cwd=jar.work,
        )
        assert self.process.stdout is not None
        text = ""
        while not text.endswith("}\n") and (line := self.process.stdout.readline()):
            text += line
        assert text, self.process.communicate()[1]
        ready = json.loads(text)
        self.url, self.key = ready["url"], ready["key"]

    def client(self) -> Client:
        return Client(self.url, self.key)

    def wait(self) -> tuple[int, list[str]]:
        """The exit code, and what was said on stderr besides a line for each request."""
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        lines = [json.loads(line) for line in stderr.splitlines()]
        return self.process.returncode, [line["message"] for line in lines if line["level"] != "info"]


@pytest.mark.slow("a process, from its start to its end")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_well_with_a_run_under_way_and_somebody_listening(jar: Jar, number: signal.Signals) -> None:
    jar.file("belljar.toml", 'schema = 1\n[service]\ndrain = "200 ms"\n')
    command = Command(jar, "--config", "belljar.toml")
    heard: list[tuple[int | None, str, Any]] = []
    with command.client() as client:
        run = client.post("/v1/runs", json=FOREVER).json()["run"]

        def listen() -> None:
            with command.client() as other, other.stream("GET", f"/v1/runs/{run}/events") as stream:
                for one in told(stream.iter_lines()):
                    heard.append(one)  # noqa: PERF402 (one by one, as they come)

        listening = threading.Thread(target=listen)
        listening.start()
        until(lambda: heard, what="the run has begun, and is heard")
        command.process.send_signal(number)
        code, complaints = command.wait()
        listening.join(PATIENCE_S)
    assert (code, complaints) == (0, [])
    assert (heard[-1][1], heard[-1][2]["result"]["status"]) == ("result", "killed")
    assert [record.data["state"] for record in jar.records("service.changed")] == ["started", "draining", "stopped"]
    no_process_left()


@pytest.mark.slow("a process, from its start to its end")
def test_while_it_drains_nothing_is_admitted_and_what_runs_is_still_told(jar: Jar) -> None:
    async def go() -> None:
        async with Provider(0, busy=0) as provider:
            let_go = partial(asyncio.get_running_loop().call_soon_threadsafe, provider.let_go.set)
            await asyncio.to_thread(_drained, jar, provider, let_go)

    asyncio.run(go())


def _drained(jar: Jar, provider: Provider, let_go: Callable[[], object]) -> None:
    command = Command(jar, env={"ANTHROPIC_API_KEY": "sk-ant-test", "ANTHROPIC_BASE_URL": provider.url})
    with command.client() as client:
        body = {"code": "FINAL(len(llm_query('[[hold]]')) > 0)", "sub_model": MODEL}
        run = client.post("/v1/runs", json=body).json()["run"]
        until(lambda: provider.asked["hold"], what="the run asks")
        command.process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503, what="it is draining")
        assert client.get("/readyz").json()["status"] == "draining"
        answer = client.post("/v1/runs", json={"code": "FINAL(1)"})
        problem(answer, 503, "service.draining")
        assert int(answer.headers["retry-after"]) > 0
        assert client.get(f"/v1/runs/{run}").json()["state"] == "running"
        let_go()
        shown = client.get(f"/v1/runs/{run}", headers=WAIT).json()
        assert (shown["state"], shown["result"]["answer"]) == ("ok", True)
    assert command.wait() == (0, [])


@pytest.mark.slow("a process, from its start to its end")
def test_a_first_key_is_made_once(jar: Jar) -> None:
    first = Command(jar)
    assert first.key.startswith("bj_")
    first.process.send_signal(signal.SIGTERM)
    assert first.wait()[0] == 0
    again = Command(jar)
    assert again.key is None
    with Client(again.url, first.key) as client:
        assert client.get("/v1/keys").json()["keys"][0]["label"] == "the first key"
    again.process.send_signal(signal.SIGTERM)
    assert again.wait()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--host", "0.0.0.0"), "is not an address of this machine alone: set tls_cert"),
        (("--tls-cert", "none.pem"), "tls_cert and tls_key go together"),
        (("--host", "no.such.host.invalid"), "is not an address of this machine alone"),
    ],
)
def test_what_a_network_would_reach_in_the_clear_is_refused(
    jar: Jar, arguments: tuple[str, ...], complaint: str
) -> None:
    outcome = jar("serve", *arguments)
    assert outcome.code == 2
    assert complaint in outcome.complaint


def test_where_nobody_has_a_key_no_network_is_listened_to(jar: Jar) -> None:
    jar.file("belljar.toml", 'schema = 1\n[service]\nhost = "0.0.0.0"\nport = 0\ntrusted_proxies = ["10.0.0.0/8"]\n')
    outcome = jar("serve", "--config", "belljar.toml")
    assert outcome.code == 2
    assert "nobody has a key" in outcome.complaint


def test_a_port_that_is_taken_is_told(service: Serving) -> None:
    outcome = service.jar("serve", "--port", service.url.rpartition(":")[2])
    assert outcome.code == 2
    assert "cannot listen on 127.0.0.1" in outcome.complaint


def test_init_writes_a_file_that_is_valid_and_never_replaces_one(jar: Jar) -> None:
    written = jar("init")
    assert written.code == 0
    assert jar("config", "check").code == 0
    assert jar("init").code == 2
    text = (jar.at / "belljar.toml").read_text()
    # Certificates are looked at, and there are none here.
    lines = [line.removeprefix("# ") if " = " in line else line for line in text.splitlines()]
    everything = "\n".join(line for line in lines if not line.startswith("tls_"))
    jar.file("all.toml", everything.replace("# [", "[").replace('journal_env = "BELLJAR_DATABASE"', ""))
    assert jar("config", "check", "all.toml").stdout.strip().endswith("ok, limits of 1 tenant")
