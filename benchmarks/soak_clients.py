"""Clients of a service that is killed under them: each keeps asking until what it ordered has ended, and keeps book.

A client has one order after another, each with an idempotency key of its own. It does what the documents tell clients
to do, and no more: after a broken connection it asks again, of whichever service comes next, and an order that was
interrupted it orders again with the same key. What it does is chosen by its seed: what it orders, whether it listens,
cancels, does not wait for the answer, or tries to use a key for something else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from benchmarks.measure import BenchmarkError
from benchmarks.provider import MODEL, program
from benchmarks.served import Served

__all__ = ["POOR", "REFUSED", "Client", "Ordered"]

# How a key ends for which there is no run, as its tenant's quota has nothing left.
REFUSED: Final = "refused by quota"
# A tenant that may call a model only so often: whatever it orders may end by that.
POOR: Final = "poor"
# How a run that was cancelled may have ended.
_ENDED: Final = ("killed", "cancelled", "interrupted")
_PAUSE_S: Final = 0.05
_WAIT_S: Final = 5
# After a refusal by quota.
_REFUSED_S: Final = 2.0
_OPEN: Final = ("queued", "running", "cancelling")
_PIECES: Final = 4
_TUS: Final = {"tus-resumable": "1.0.0"}
_OCTETS: Final = {"content-type": "application/offset+octet-stream"}
# A batch and two more queries; a tree asks through two runs below it.
_CODE: Final = """
parts = llm_query_batched([f'[[{key} part {{n}}]] {{context[n * 10:n * 10 + 10]}}' for n in range({parts})])
more = [llm_query(f'[[{key} more {{n}}]] what of it?') for n in range({more})]
FINAL(['{key}', len(parts) + len(more)])
"""
_TREE: Final = """
below = rlm_query_batched([{questions}], [context[0:40], context[40:80]])
FINAL(['{key}', len(below)])
"""


@dataclass
class Ordered:
    """What a client knows of one key in the end.

    Attributes:
        runs: the ids that it was told, the last one last.
        made: how each answer to an order said that it was made.
        end: the last one's state; `REFUSED` where a quota has nothing left for it.
        heard: ids of events, as they came.
        results: how often a listener heard a result.
    """

    tenant: str
    key: str
    kind: str
    cancelled: bool = False
    runs: list[str] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)
    end: str = ""
    answer: Any = None
    heard: list[int] = field(default_factory=list)
    results: int = 0


class Client:
    """One of many.

    Args:
        services: asked in turn, whenever one does not answer.
        key: the API key of its tenant.
    """

    def __init__(self, number: int, tenant: str, key: str, services: Sequence[Served], seed: int) -> None:
        self.ordered: list[Ordered] = []
        self.counts: Counter[str] = Counter()
        self._number = number
        self._tenant = tenant
        self._services = services
        self._at = number % len(services)
        self._chance = random.Random(f"{seed} client {number}")
        self._http = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {key}"}, timeout=_WAIT_S + 30, trust_env=False
        )

    async def work(self, enough: asyncio.Event) -> None:
        """Order one thing after the other until that is enough; returns when the last has ended.

        Raises:
            BenchmarkError: the service did not keep what it promises.
        """
        async with self._http:
            while not enough.is_set():
                await self._one()

    # -- one order -----------------------------------------------------------------------------------------------------

    async def _one(self) -> None:
        chance = self._chance
        kind = chance.choices(("code", "question", "tree", "upload"), (4, 4, 2, 2))[0]
        ordered = Ordered(self._tenant, f"c{self._number}-{len(self.ordered)}", kind)
        self.ordered.append(ordered)
        listens, cancels, leaves, changes = (chance.random() < share for share in (0.3, 0.12, 0.1, 0.1))
        cancel_s = chance.uniform(0.0, 0.6)
        body = await self._body(ordered)
        if leaves:
            await self._leave(body, ordered)
        if not await self._order(body, ordered):
            await asyncio.sleep(_REFUSED_S)
            return
        if changes:
            await self._change(body, ordered)
        async with asyncio.TaskGroup() as group:
            if listens:
                group.create_task(self._listen(ordered))
            if cancels:
                group.create_task(self._cancel(ordered, cancel_s))
            await self._end(body, ordered)

    async def _body(self, ordered: Ordered) -> dict[str, Any]:
        key, parts, more = ordered.key, self._chance.randint(1, 5), self._chance.randint(0, 2)
        ordered.answer = [key, parts + more]
        text = "".join(f"{key}: line {number} of the text\n" for number in range(self._chance.randint(10, 200)))
        context: dict[str, Any] = {"kind": "text", "text": text}
        code = _CODE.format(key=key, parts=parts, more=more)
        match ordered.kind:
            case "upload":
                context = {"kind": "registered", "ref": f"sha256:{await self._upload(key, text.encode() * 20)}"}
            case "tree":
                below = [program(f"{key} below {n}", _CODE.format(key=f"{key}/{n}", parts=2, more=0)) for n in (1, 2)]
                code = _TREE.format(key=key, questions=", ".join(map(repr, below)))
                ordered.answer = [key, 2]
            case _:
                pass
        contexts = {"context": context}
        if ordered.kind == "code":
            return {"code": code, "sub_model": MODEL, "contexts": contexts}
        return {"question": program(f"{key} root", code), "model": MODEL, "contexts": contexts}

    async def _order(self, body: dict[str, Any], ordered: Ordered) -> bool:
        """Whether there is a run; a quota may have nothing left for it."""
        answer = await self._ask("POST", "/v1/runs", {200, 202, 429}, json=body, idem=ordered.key)
        if answer.status_code == 429:
            ordered.end = REFUSED
            return False
        told = answer.json()
        ordered.made[told["made"]] += 1
        if told["run"] not in ordered.runs:
            ordered.runs.append(told["run"])
        return True

    async def _leave(self, body: dict[str, Any], ordered: Ordered) -> None:
        """Order, and go away before there is an answer."""
        headers = {"idempotency-key": ordered.key}
        with contextlib.suppress(TimeoutError, httpx2.HTTPError):
            async with asyncio.timeout(self._chance.uniform(0.0, 0.03)):
                await self._http.post(f"{self._url}/v1/runs", json=body, headers=headers)
        self.counts["left"] += 1

    async def _change(self, body: dict[str, Any], ordered: Ordered) -> None:
        other = {**body, "policy": "strict"}
        await self._ask("POST", "/v1/runs", {409}, json=other, idem=ordered.key)
        self.counts["conflicts"] += 1

    async def _end(self, body: dict[str, Any], ordered: Ordered) -> None:
        """Wait for its end; where it was interrupted, order it again."""
        while True:
            path = f"/v1/runs/{ordered.runs[-1]}"
            state = (await self._ask("GET", path, {200}, wait=True)).json()
            if state["state"] in _OPEN:
                continue
            ordered.end = state["state"]
            if ordered.end != "interrupted" or ordered.cancelled:
                break
            self.counts["interrupted"] += 1
            if not await self._order(body, ordered):
                return
        is_right = (state["result"] or {}).get("answer") == ordered.answer
        is_ended = ordered.end in _ENDED and ordered.cancelled
        if not (is_right if ordered.end == "ok" else is_ended or ordered.tenant == POOR):
            raise BenchmarkError(f"{ordered.key} has ended as {state}")

    async def _cancel(self, ordered: Ordered, after_s: float) -> None:
        await asyncio.sleep(after_s)
        ordered.cancelled = True
        await self._ask("DELETE", f"/v1/runs/{ordered.runs[-1]}", {200})

    async def _listen(self, ordered: Ordered) -> None:
        """Hear the events of its first run to their end, coming again as often as it takes."""
        run, last = ordered.runs[0], ""
        while True:
            headers = {"last-event-id": last} if last else {}
            with contextlib.suppress(httpx2.HTTPError):
                async with self._http.stream("GET", f"{self._url}/v1/runs/{run}/events", headers=headers) as stream:
                    ended = stream.status_code == 200
                    async for line in stream.aiter_lines():
                        ended = ended and line != "event: bye"
                        if line.startswith("id: "):
                            last = line.removeprefix("id: ")
                            ordered.heard.append(int(last))
                        elif line == "event: result":
                            ordered.results += 1
                    if ended:
                        return
            self.counts["reconnected"] += 1
            await self._next()

    # -- uploads -------------------------------------------------------------------------------------------------------

    async def _upload(self, name: str, data: bytes) -> str:
        """Send a context in pieces, going on where it got to. Returns its digest."""
        sha256 = hashlib.sha256(data).hexdigest()
        told = {"name": name, "sha256": sha256}
        metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in told.items())
        headers = {**_TUS, "upload-length": str(len(data)), "upload-metadata": metadata}
        place = (await self._ask("POST", "/v1/uploads", {201}, headers=headers)).headers["location"]
        piece = len(data) // _PIECES + 1
        while True:
            found = await self._ask("HEAD", place, {200}, headers=_TUS)
            if "belljar-context" in found.headers:
                break
            offset = int(found.headers["upload-offset"])
            headers = {**_TUS, **_OCTETS, "upload-offset": str(offset)}
            with contextlib.suppress(httpx2.HTTPError):
                await self._http.patch(f"{self._url}{place}", content=data[offset : offset + piece], headers=headers)
        if found.headers["belljar-context"] != sha256:
            raise BenchmarkError(f"the upload of {name} became another context")
        self.counts["uploads"] += 1
        return sha256

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def _url(self) -> str:
        return self._services[self._at].url

    async def _next(self) -> None:
        self._at = (self._at + 1) % len(self._services)
        await asyncio.sleep(_PAUSE_S)

    async def _ask(
        self,
        method: str,
        path: str,
        wanted: set[int],
        *,
        json: Any = None,
        headers: dict[str, str] | None = None,
        idem: str = "",
        wait: bool = False,
    ) -> httpx2.Response:
        """The answer with one of the statuses that are wanted, however often it takes to ask."""
        sent = {**(headers or {}), **({"idempotency-key": idem} if idem else {})}
        if wait:
            sent["prefer"] = f"wait={_WAIT_S}"
        while True:
            try:
                answer = await self._http.request(method, f"{self._url}{path}", json=json, headers=sent)
            except httpx2.HTTPError:
                self.counts["broken"] += 1
                await self._next()
                continue
            if answer.status_code in wanted:
                return answer
            if answer.status_code != 503:
                raise BenchmarkError(f"{method} {path} was answered with {answer.status_code}: {answer.text[:300]}")
            self.counts["busy"] += 1
            await self._next()
