"""Contexts that arrive piece by piece: broken off, gone on with, compared with their digest, swept."""

from __future__ import annotations

import base64
import hashlib
import socket
from contextlib import closing

import httpx2
import pytest

from belljar.audit.events import HttpRequest
from tests.integration.service.support import Client, Serving, connected, head, problem, serving
from tests.integration.support import PATIENCE_S, Jar, until

TUS = {"tus-resumable": "1.0.0"}
TEXT = b"a line of some length\n" * 20_000


def begun(client: Client, data: bytes = TEXT, *, length: int | None = None, **metadata: str) -> str:
    """The place of a new upload."""
    told = {"name": "log.txt", "sha256": hashlib.sha256(data).hexdigest(), **metadata}
    encoded = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in told.items())
    length = len(data) if length is None else length
    answer = client.post("/v1/uploads", headers={**TUS, "upload-length": str(length), "upload-metadata": encoded})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def sent(client: Client, place: str, offset: int, data: bytes) -> httpx2.Response:
    headers = {**TUS, "upload-offset": str(offset), "content-type": "application/offset+octet-stream"}
    return client.patch(place, content=data, headers=headers)


def announced(service: Serving, place: str, size: int, *, key: str | None = None) -> bytes:
    """The head of a request that will send an upload from its beginning, with this key, or the first one."""
    lines = [
        f"PATCH {place} HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {service.key if key is None else key}",
        "tus-resumable: 1.0.0",
        "upload-offset: 0",
        "content-type: application/offset+octet-stream",
        f"content-length: {size}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def offset_of(client: Client, place: str) -> int:
    answer = client.head(place, headers=TUS)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    return int(answer.headers["upload-offset"])


def test_a_context_arrives_in_pieces(admin: Client) -> None:
    place = begun(admin, tenant="acme")
    for offset in range(0, len(TEXT), 100_000):
        assert offset_of(admin, place) == offset
        answer = sent(admin, place, offset, TEXT[offset : offset + 100_000])
    sha256 = answer.headers["belljar-context"]
    assert sha256 == hashlib.sha256(TEXT).hexdigest()
    assert (
        admin.get("/v1/contexts", params={"name": "log.txt", "tenant": "acme"}).json()["contexts"][0]["lines"] == 20_000
    )
    page = admin.get(f"/v1/contexts/{sha256}/text", params={"tenant": "acme", "line": 19_999}).json()
    assert page["text"] == "a line of some length\n"
    # Whoever did not hear the last answer asks, and hears it.
    assert admin.head(place).headers["belljar-context"] == sha256


def test_what_came_before_a_connection_broke_is_kept_and_gone_on_with(service: Serving) -> None:
    with service.client() as client:
        place = begun(client)
        port = int(service.url.rpartition(":")[2])
        with closing(socket.create_connection(("127.0.0.1", port))) as opened:
            opened.sendall(announced(service, place, len(TEXT)) + TEXT[:150_000])
            until(lambda: opened.send(b"") == 0, what="it is sent")
        until(lambda: offset_of(client, place) > 0, what="something has arrived")
        until(lambda: _is_free(client, place), what="the one that broke has let go of it")
        offset = offset_of(client, place)
        answer = sent(client, place, offset, TEXT[offset:])
        assert answer.headers["belljar-context"] == hashlib.sha256(TEXT).hexdigest()


def _is_free(client: Client, place: str) -> bool:
    before = offset_of(client, place)
    answer = sent(client, place, before, b"")
    return answer.status_code == 204


def test_a_wrong_digest_is_refused_and_nothing_stays(admin: Client) -> None:
    place = begun(admin, sha256="0" * 64)
    problem(sent(admin, place, 0, TEXT), 422, "upload.digest")
    problem(admin.get(place), 404, "upload.unknown")
    assert admin.get("/v1/contexts").json()["contexts"] == []


def test_what_is_no_text_is_refused_without_a_path(admin: Client) -> None:
    data = b"\xff\x00binary"
    place = begun(admin, data)
    told = problem(sent(admin, place, 0, data), 422, "context.binary")
    assert "uploads" not in told["detail"]


@pytest.mark.parametrize(("offset", "data"), [(1, b"x"), (0, TEXT + b"x")])
def test_bytes_that_do_not_belong_there_are_refused(admin: Client, offset: int, data: bytes) -> None:
    place = begun(admin)
    answer = sent(admin, place, offset, data)
    assert answer.status_code in (409, 413)


def test_a_list_arrives_as_json_lines(admin: Client) -> None:
    data = b'{"a": 1}\n"two"\n'
    place = begun(admin, data, json_lines="true")
    sha256 = sent(admin, place, 0, data).headers["belljar-context"]
    assert admin.get(f"/v1/contexts/{sha256}").json()["items"] == 2


def test_the_protocol_is_told_and_demanded(admin: Client) -> None:
    told = admin.options("/v1/uploads").headers
    assert (told["tus-version"], told["tus-extension"]) == ("1.0.0", "creation,termination")
    answer = admin.post("/v1/uploads", headers={"upload-length": "5"})
    problem(answer, 412, "route.tus")
    assert answer.headers["tus-version"] == "1.0.0"
    place = begun(admin)
    wrong = admin.patch(place, content=b"x", headers={**TUS, "upload-offset": "0", "content-type": "text/plain"})
    problem(wrong, 415, "route.media")
    assert admin.delete(place, headers=TUS).status_code == 204
    problem(admin.get(place), 404, "upload.unknown")


def test_uploads_of_a_tenant_are_bounded_together(jar: Jar) -> None:
    with serving(jar, upload_bytes=1000) as service, service.client() as client:
        problem(client.post("/v1/uploads", headers={**TUS, "upload-length": "1001"}), 413, "context.too_long")
        begun(client, length=600)
        answer = client.post("/v1/uploads", headers={**TUS, "upload-length": "600"})
        assert problem(answer, 429, "upload.tenant")["observed"] == 1200


def test_an_upload_that_rests_too_long_is_swept(jar: Jar) -> None:
    with serving(jar, uploads_s=0.0) as service, service.client() as client:
        place = begun(client)
        begun(client)  # whoever begins one sweeps
        problem(client.get(place), 404, "upload.unknown")


def test_whoever_still_sends_when_the_service_ends_is_told_to_come_again_and_goes_on_from_there(jar: Jar) -> None:
    written = 2**20  # is written at once
    with serving(jar, body_s=2 * PATIENCE_S) as service, closing(connected(service)) as order:
        order.sendall(head(service, "POST /v1/runs", "content-type: application/json", "content-length: 9") + b"{")
        key = service.key_of("runner", "default")
        with closing(connected(service)) as upload:
            with service.client() as admin:
                place = begun(admin, length=2 * written)
                upload.sendall(announced(service, place, 2 * written) + b"x" * written)
                until(lambda: offset_of(admin, place) == written, what="what came is written")
            service.end()
            for opened in (upload, order):
                told = b""
                while piece := opened.recv(65536):
                    told += piece
                assert b" 503 " in told
                assert b'"code":"service.draining"' in told
    records = [one.typed for one in jar.records() if isinstance(one.typed, HttpRequest)]
    assert [one.code for one in records].count("service.draining") == 2
    with serving(jar) as service, service.client(key) as runner:
        assert offset_of(runner, place) == written
