"""`/v1/uploads`: contexts of any size, by the tus protocol 1.0.0 (core, creation, termination).

A client announces how long the upload is (`POST`), sends bytes from some offset on (`PATCH`), and after a broken
connection asks how far it got (`HEAD`). What arrived before the break is kept. The answer to the last `PATCH` names the
context that the upload became; `HEAD` does, too, for who did not hear it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect

from belljar.context import Upload
from belljar.errors import InvalidInput
from belljar.identity import Tenant
from belljar.service.problems import Unfit
from belljar.service.routes import Answer, Asking, Nothing, Refused, Route, no_such
from belljar.service.scopes import proof_of

__all__ = ["ROUTES", "UploadInfo"]

VERSION: Final = "1.0.0"
_MEDIA: Final = "application/offset+octet-stream"
_METADATA_CHARS_MAX: Final = 4096
_WRITE_BYTES: Final = 1 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_TUS: Final = {"tus-resumable": VERSION}
_ASKED: Final = {"Tus-Resumable": f"The version of the protocol: {VERSION}."}


class UploadInfo(msgspec.Struct, frozen=True):
    """How far an upload got: `offset` bytes of `length`. `context` is the SHA-256 of what it became, in the end."""

    upload: str
    tenant: str
    name: str
    length: int
    offset: int
    context: str | None


async def _named(asking: Asking[Any, Any]) -> Tenant | None:
    return asking.named(_metadata(asking).get("tenant"))


async def _of_upload(asking: Asking[Any, Any]) -> Tenant | None:
    upload = asking.params["upload"]
    asking.about = upload
    found = await _get(asking)
    error = InvalidInput(f"there is no upload {upload[:40]!a}: begin a new one", code="upload.unknown")
    return no_such(asking, Tenant(found.tenant), error)


def _get(asking: Asking[Any, Any]) -> Any:
    return asyncio.to_thread(asking.service.uploads.get, asking.params["upload"])


def _check_version(asking: Asking[Any, Any]) -> None:
    if asking.request.headers.get("tus-resumable") != VERSION:
        raise Refused(f"send `Tus-Resumable: {VERSION}`", code="route.tus", headers={"tus-version": VERSION, **_TUS})


def _metadata(asking: Asking[Any, Any]) -> Mapping[str, str]:
    """What the client says of the upload: `name`, `sha256`, `tenant`, `json_lines`, each in base64."""
    text, found = asking.request.headers.get("upload-metadata", ""), {}
    if len(text) > _METADATA_CHARS_MAX:
        raise _unfit("Upload-Metadata is too long", "Upload-Metadata")
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = part.partition(" ")
        try:
            found[key] = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _unfit(f"{key[:40]!a} is not UTF-8 in base64", "Upload-Metadata") from None
    return found


def _unfit(what: str, header: str) -> Unfit:
    return Unfit(f"{what}; correct it", at=header)


def _number(asking: Asking[Any, Any], header: str) -> int:
    text = asking.request.headers.get(header, "")
    if _NUMBER.fullmatch(text) is None:
        raise _unfit(f"send {header} as a number of bytes", header)
    return int(text)


def _info(found: Upload) -> UploadInfo:
    return UploadInfo(found.id, found.tenant, found.name, found.length, found.offset, found.context)


def _headers(found: Upload) -> dict[str, str]:
    headers = {**_TUS, "upload-offset": str(found.offset), "upload-length": str(found.length)}
    return headers if found.context is None else {**headers, "belljar-context": found.context}


async def _create(asking: Asking[Nothing, None]) -> Answer:
    _check_version(asking)
    told, length = _metadata(asking), _number(asking, "Upload-Length")
    sha256 = told.get("sha256", "").lower() or None
    if sha256 is not None and _SHA256.fullmatch(sha256) is None:
        raise _unfit("sha256 is not a digest in 64 hex digits", "Upload-Metadata")
    name = told.get("name") or told.get("filename") or "upload"
    made = await asyncio.to_thread(
        asking.service.uploads.create,
        asking.named(told.get("tenant")),
        length,
        name=name[:200],
        sha256=sha256,
        json_lines=told.get("json_lines") == "true",
    )
    asking.about = made.id
    return Answer(_info(made), 201, {**_TUS, "location": f"/v1/uploads/{made.id}", "upload-offset": "0"})


async def _show(asking: Asking[Nothing, None]) -> Answer:
    found = await _get(asking)
    return Answer(_info(found), 200, _headers(found))


async def _append(asking: Asking[Nothing, Any]) -> Answer:
    _check_version(asking)
    request, uploads, upload = asking.request, asking.service.uploads, asking.params["upload"]
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _MEDIA:
        raise Refused(f"send the body as {_MEDIA}", code="route.media", headers={"accept": _MEDIA, **_TUS})
    await _take(asking, _number(asking, "Upload-Offset"))
    found = await _get(asking)
    if found.offset == found.length:
        assert asking.tenant is not None, "an upload has a tenant"
        async with asking.service.finishing.place(asking.tenant):
            await asyncio.to_thread(uploads.finish, upload, asking.host.context_store(asking.tenant))
        found = await _get(asking)
    return Answer(None, 204, _headers(found))


async def _take(asking: Asking[Nothing, Any], offset: int) -> None:
    """Write what comes, up to a megabyte at a time. What came before a client went away is written, too.

    A client may send for hours. So it is asked for again meanwhile: one whose key was revoked may send no more.
    """
    service, stream, proof = asking.service, asking.request.stream(), proof_of(asking)
    writing = service.uploads.writing(asking.params["upload"], offset)
    write = await asyncio.to_thread(writing.__enter__)
    waiting = bytearray()
    try:
        try:
            while True:
                async with service.patience(service.settings.body_s):
                    part = await anext(stream, None)
                if part is None:
                    break
                waiting += part
                await proof.renew()
                if len(waiting) >= _WRITE_BYTES:
                    data, waiting = bytes(waiting), bytearray()
                    await asyncio.to_thread(write, data)
        except TimeoutError:
            raise Refused("nothing came for too long; go on from where it got to", code="request.slow") from None
        except ClientDisconnect:
            pass  # what came is kept, and nobody hears the answer
        finally:
            if waiting:
                await asyncio.to_thread(write, bytes(waiting))
    finally:
        await asyncio.to_thread(writing.__exit__, None, None, None)


async def _remove(asking: Asking[Nothing, None]) -> Answer:
    _check_version(asking)
    await asyncio.to_thread(asking.service.uploads.remove, asking.params["upload"])
    return Answer(None, 204, _TUS)


_OPTIONS: Final = {**_TUS, "tus-version": VERSION, "tus-extension": "creation,termination"}
_TOLD: Final = {"Tus-Resumable": "The version of the protocol.", "Upload-Offset": "How many bytes have arrived."}

ROUTES = (
    Route(
        method="POST",
        path="/v1/uploads",
        summary="Begin to upload a context",
        action="context.write",
        owner=_named,
        handler=_create,
        answer=UploadInfo,
        status=201,
        refuses=(412, 413),
        headers={
            **_ASKED,
            "Upload-Length": "How many bytes there will be.",
            "Upload-Metadata": "name, sha256, tenant, json_lines: a comma between two, a value in base64.",
        },
        answer_headers={**_TOLD, "Location": "Where to send the bytes."},
        options=_OPTIONS,
    ),
    Route(
        method="GET",
        path="/v1/uploads/{upload}",
        summary="Show how far an upload got",
        action="context.write",
        owner=_of_upload,
        handler=_show,
        answer=UploadInfo,
        answer_headers=_TOLD,
    ),
    Route(
        method="PATCH",
        path="/v1/uploads/{upload}",
        summary="Send bytes of an upload",
        action="context.write",
        owner=_of_upload,
        handler=_append,
        body=bytes,
        media=_MEDIA,
        status=204,
        refuses=(409, 412, 423),
        headers={**_ASKED, "Upload-Offset": "Where the bytes begin."},
        answer_headers={**_TOLD, "Belljar-Context": "The context that it became, once it is whole."},
        options=_OPTIONS,
    ),
    Route(
        method="DELETE",
        path="/v1/uploads/{upload}",
        summary="Give an upload up",
        action="context.write",
        owner=_of_upload,
        handler=_remove,
        status=204,
        refuses=(412, 423),
        headers=_ASKED,
        options=_OPTIONS,
    ),
)
