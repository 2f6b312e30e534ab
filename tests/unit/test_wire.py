"""The wire: any bytes give messages and then perhaps one violation, nothing else, in bounded memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from belljar import protocol
from belljar.errors import HostFault, ProtocolViolation
from belljar.protocol import (
    Answer,
    Answers,
    Budget,
    CellError,
    Clock,
    ContextInfo,
    Coverage,
    Covered,
    Data,
    DocumentInfo,
    Done,
    Execute,
    Extent,
    Failure,
    Final,
    Found,
    Given,
    GuestMessage,
    HostMessage,
    Left,
    Output,
    Query,
    Read,
    Ready,
    Recurse,
    Refused,
    Search,
    Start,
    carries_body,
)
from belljar.wire import Decoder, Frame, encode, guest_decoder, host_decoder
from tests.examples import examples

HEADER_MAX = 4096
BODY_MAX = 1000
HELD_MAX = 8 + HEADER_MAX + BODY_MAX

Message = GuestMessage | HostMessage
# What a stream of bytes came to: the messages, and the violation at its end if there was one.
Outcome = tuple[list[Frame[Any]], str | None]

# ------------------------------------------------------------------------------------------------------- strategies

ids = st.integers(1, 2**32 - 1)
offsets = st.integers(0, 2**53 - 1)
names = st.text(max_size=12)
counts = st.none() | st.integers(0, 2**62)
lengths = st.lists(offsets, min_size=1, max_size=5)
lines = st.integers(0, 2**31 - 1)
modes = st.sampled_from(["find", "count", "lines"])
places = st.integers(0, 1023)
cell_errors = st.builds(CellError, names, st.text(max_size=40), st.none() | st.integers(0, 2**31 - 1))
failures = st.builds(
    Failure, st.sampled_from(["PolicyDenied", "QuotaExceeded", "ModelError"]), names, names, counts, counts
)

givens = st.builds(Given, offsets, json=st.booleans()) | st.builds(
    Given, st.just(0), st.integers(0, 1023), offsets, offsets, st.booleans()
)
from_guest: st.SearchStrategy[GuestMessage] = st.one_of(
    st.builds(Ready, st.integers(0, 65535), names),
    st.builds(Read, ids, st.integers(0, 1023), offsets, offsets, lines),
    st.builds(Search, ids, st.integers(0, 1023), modes, offsets, offsets, st.integers(1, 100_000), lines),
    st.builds(Query, ids, st.none() | names, lengths),
    st.builds(Recurse, ids, st.none() | names, lengths, st.lists(givens, max_size=3)),
    st.builds(Budget, ids),
    st.builds(Coverage, ids),
    st.builds(Output, ids, st.sampled_from(["stdout", "stderr"])),
    st.builds(Clock, ids),
    st.builds(Final, ids, st.sampled_from(["text", "json"])),
    st.builds(Done, ids, st.sampled_from(["ok", "error", "rejected", "interrupted"]), st.none() | cell_errors),
)
from_host: st.SearchStrategy[HostMessage] = st.one_of(
    st.builds(
        Start,
        offsets,
        st.sampled_from(["python", "restricted"]),
        st.lists(st.builds(DocumentInfo, names, offsets, offsets), max_size=2),
        st.lists(
            st.builds(
                ContextInfo,
                names,
                st.sampled_from(["text", "list", "dict"]),
                places,
                st.none() | places,
                offsets,
                offsets,
            ),
            max_size=2,
        ),
        *[offsets] * 7,
    ),
    st.builds(Execute, ids, st.booleans()),
    st.builds(Data, ids),
    st.builds(Found, ids, offsets, st.none() | offsets),
    st.builds(
        Answers,
        ids,
        st.lists(st.builds(Answer, offsets, st.none() | offsets, st.booleans()), max_size=3),
        st.lists(failures, max_size=3),
    ),
    st.builds(Left, ids, counts, counts, counts, counts, offsets, offsets, offsets, counts),
    st.builds(
        Covered,
        ids,
        offsets,
        st.booleans(),
        st.lists(st.builds(Extent, offsets, offsets, offsets, counts, counts), max_size=3),
    ),
    st.builds(Refused, ids, failures),
)
bodies = st.binary(max_size=60)


@st.composite
def frames(draw: st.DrawFn, messages: st.SearchStrategy[Message]) -> Frame[Any]:
    message = draw(messages)
    return Frame(message, draw(bodies) if carries_body(message) else b"")


# ---------------------------------------------------------------------------------------------------------- helpers


def new(direction: str, header_max: int = HEADER_MAX, body_max: int = BODY_MAX) -> Decoder[Any]:
    make = guest_decoder if direction == "guest" else host_decoder
    return make(header_bytes_max=header_max, body_bytes_max=body_max)


def written(frame: Frame[Any]) -> bytes:
    head, body = encode(frame.message, frame.body, header_bytes_max=HEADER_MAX, body_bytes_max=BODY_MAX)
    return head + bytes(body)


def raw(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("!II", len(header), len(body)) + header + body


def fed(decoder: Decoder[Any], chunks: Iterator[bytes]) -> Outcome:
    """Feed all, taking what there is after each chunk. Whatever is raised but a violation fails the test."""
    heard: list[Frame[Any]] = []
    broken: str | None = None
    for chunk in chunks:
        decoder.receive(chunk)
        verdict = None
        try:
            while (frame := decoder.next()) is not None:
                heard.append(frame)
        except ProtocolViolation as violation:
            verdict = str(violation)
        assert broken in (None, verdict), "it did not stay broken in the same way"
        broken = verdict
        assert decoder.buffered <= HELD_MAX
        assert broken is None or decoder.buffered == 0
    return heard, broken


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


def refused(header: bytes, body: bytes = b"", direction: str = "guest") -> str:
    heard, broken = fed(new(direction), iter([raw(header, body)]))
    assert heard == []
    assert broken is not None, f"{header!r} was taken"
    return broken


# ---------------------------------------------------------------------------------------------------- the invariant


def same_however_fed(data: bytes, sizes: list[int], direction: str) -> Outcome:
    whole = fed(new(direction), iter([data]))
    assert fed(new(direction), pieces(data, sizes)) == whole
    assert fed(new(direction), (data[at : at + 1] for at in range(len(data)))) == whole
    return whole


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, 40)), st.sampled_from(["guest", "host"]))
@example(bytes(8), [], "guest")
@example(b"\xff" * 8, [], "guest")
def test_any_bytes_give_the_same_however_they_are_fed(data: bytes, sizes: list[int], direction: str) -> None:
    same_however_fed(data, sizes, direction)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(frames(from_guest), max_size=6), st.binary(max_size=20), st.lists(st.integers(1, 90)))
def test_sentences_before_broken_bytes_are_heard_and_none_after(
    good: list[Frame[Any]], junk: bytes, sizes: list[int]
) -> None:
    data = b"".join(map(written, good))
    tail = b"\xff\xff\xff\xff" + junk + raw(b'{"op":"budget","id":1}')
    heard, broken = same_however_fed(data + bytes(8) + tail, sizes, "guest")
    assert heard == good
    assert broken is not None


@settings(max_examples=examples(500), deadline=None)
@given(frames(from_guest), st.data(), st.lists(st.integers(1, 40)))
def test_a_mutated_frame_is_another_sentence_or_a_violation(
    frame: Frame[Any], data: st.DataObject, sizes: list[int]
) -> None:
    good = bytearray(written(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                good[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del good[at : at + data.draw(st.integers(1, 4))]
            case _:
                good[at:at] = data.draw(st.binary(max_size=4))
        if not good:
            return
    heard, _ = same_however_fed(bytes(good), sizes, "guest")
    for one in heard:  # whatever was taken is well-formed: it is its own canonical spelling
        assert fed(new("guest"), iter([written(one)])) == ([one], None)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(frames(from_guest), max_size=5), st.lists(st.integers(1, 90)))
def test_every_guest_sentence_makes_the_round_trip(sent: list[Frame[Any]], sizes: list[int]) -> None:
    assert same_however_fed(b"".join(map(written, sent)), sizes, "guest") == (sent, None)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(frames(from_host), max_size=5), st.lists(st.integers(1, 90)))
def test_every_host_sentence_makes_the_round_trip(sent: list[Frame[Any]], sizes: list[int]) -> None:
    assert same_however_fed(b"".join(map(written, sent)), sizes, "host") == (sent, None)


@given(frames(from_guest), frames(from_host))
def test_neither_direction_takes_the_sentences_of_the_other(guest: Frame[Any], host: Frame[Any]) -> None:
    assert fed(new("host"), iter([written(guest)]))[0] == []
    assert fed(new("guest"), iter([written(host)]))[0] == []


def test_the_strategies_leave_out_no_message() -> None:
    known = {getattr(protocol, name) for name in protocol.__all__}
    messages = {kind for kind in known if isinstance(kind, type) and issubclass(kind, protocol._Message)}
    assert messages == {*get_args(GuestMessage), *get_args(HostMessage)}
    for union, strategy in ((GuestMessage, from_guest), (HostMessage, from_host)):
        assert len(strategy.branches) == len(get_args(union))


# ------------------------------------------------------------------------------------------------- bounds on memory


@pytest.mark.parametrize(
    ("header", "body"), [(0, 0), (HEADER_MAX + 1, 0), (2**32 - 1, 0), (1, BODY_MAX + 1), (1, 2**32 - 1)]
)
@pytest.mark.parametrize("direction", ["guest", "host"])
def test_lengths_over_a_limit_are_refused_after_eight_bytes(header: int, body: int, direction: str) -> None:
    decoder = new(direction)
    prefix = struct.pack("!II", header, body)
    decoder.receive(prefix[:7])
    assert decoder.next() is None
    decoder.receive(prefix[7:])
    with pytest.raises(ProtocolViolation):
        decoder.next()
    assert decoder.buffered == 0


def test_a_body_where_none_belongs_is_refused_before_it_arrives() -> None:
    for message in (Budget(1), Read(1, 0, 0, 1, 0), Ready(1, "3")):
        header = msgspec.json.encode(message)
        decoder = new("guest")
        decoder.receive(struct.pack("!II", len(header), 1) + header)
        with pytest.raises(ProtocolViolation, match="with a body"):
            decoder.next()


def test_a_header_is_judged_before_its_body_arrives() -> None:
    decoder = new("guest")
    decoder.receive(struct.pack("!II", 2, BODY_MAX) + b"{}")
    with pytest.raises(ProtocolViolation, match="not a message"):
        decoder.next()


def test_the_largest_frame_passes_and_is_held_once() -> None:
    body = bytes(BODY_MAX)
    message = Ready(1, "")
    header = msgspec.json.encode(message)
    assert fed(new("guest", header_max=len(header)), iter([raw(header)])) == ([Frame(message, b"")], None)
    assert fed(new("guest", header_max=len(header) - 1), iter([raw(header)]))[1] is not None
    sent = raw(msgspec.json.encode(Output(1, "stdout")), body)
    assert fed(new("guest"), iter([sent]))[0] == [Frame(Output(1, "stdout"), body)]


def test_a_frame_is_pending_until_its_last_byte() -> None:
    data = written(Frame(Output(1, "stdout"), b"abc"))
    decoder = new("guest")
    assert decoder.buffered == 0
    for at in range(len(data)):
        assert decoder.next() is None
        decoder.receive(memoryview(data)[at : at + 1])
        assert decoder.buffered > 0
    assert decoder.next() == Frame(Output(1, "stdout"), b"abc")
    assert decoder.buffered == 0


def test_after_a_violation_nothing_is_heard_or_kept() -> None:
    decoder = new("guest")
    decoder.receive(raw(b'{"op":"budget","id":0}'))
    messages = set()
    for _ in range(3):
        with pytest.raises(ProtocolViolation) as caught:
            decoder.next()
        messages.add(str(caught.value))
        decoder.receive(written(Frame(Budget(1), b"")) * 1000)
        assert decoder.buffered == 0
    assert len(messages) == 1


# ------------------------------------------------------------------------------------------------------ one spelling

READ = b'{"op":"read","id":1,"doc":0,"start":0,"stop":1,"line":0}'


def test_the_example_itself_is_taken() -> None:
    assert fed(new("guest"), iter([raw(READ)])) == ([Frame(Read(1, 0, 0, 1, 0), b"")], None)


@pytest.mark.parametrize(
    ("what", "header"),
    [
        ("duplicate key", b'{"op":"read","id":1,"id":1,"doc":0,"start":0,"stop":1,"line":0}'),
        ("duplicate tag", b'{"op":"read","op":"read","id":1,"doc":0,"start":0,"stop":1,"line":0}'),
        ("unknown field", b'{"op":"read","id":1,"doc":0,"start":0,"stop":1,"line":0,"tenant":"acme"}'),
        ("missing field", b'{"op":"read","id":1,"doc":0,"start":0}'),
        ("unknown op", b'{"op":"open","id":1}'),
        ("op of the host", b'{"op":"execute","cell":1}'),
        ("wrong case", b'{"op":"Read","id":1,"doc":0,"start":0,"stop":1}'),
        ("no op", b'{"id":1,"doc":0,"start":0,"stop":1}'),
        ("op is a number", b'{"op":1,"id":1}'),
        ("bool for int", b'{"op":"read","id":true,"doc":0,"start":0,"stop":1,"line":0}'),
        ("int for text", b'{"op":"ready","protocol":1,"python":3}'),
        ("text for int", b'{"op":"read","id":"1","doc":0,"start":0,"stop":1,"line":0}'),
        ("null for int", b'{"op":"read","id":null,"doc":0,"start":0,"stop":1,"line":0}'),
        ("float", b'{"op":"read","id":1.0,"doc":0,"start":0,"stop":1,"line":0}'),
        ("half", b'{"op":"read","id":1,"doc":0,"start":0.5,"stop":1,"line":0}'),
        ("exponent", b'{"op":"read","id":1e0,"doc":0,"start":0,"stop":1,"line":0}'),
        ("NaN", b'{"op":"read","id":NaN,"doc":0,"start":0,"stop":1,"line":0}'),
        ("infinity", b'{"op":"read","id":Infinity,"doc":0,"start":0,"stop":1,"line":0}'),
        ("minus zero", b'{"op":"read","id":1,"doc":-0,"start":0,"stop":1,"line":0}'),
        ("negative", b'{"op":"read","id":1,"doc":0,"start":-1,"stop":1,"line":0}'),
        ("leading zero", b'{"op":"read","id":01,"doc":0,"start":0,"stop":1,"line":0}'),
        ("plus", b'{"op":"read","id":+1,"doc":0,"start":0,"stop":1,"line":0}'),
        ("zero id", b'{"op":"budget","id":0}'),
        ("id over 32 bits", b'{"op":"budget","id":4294967296}'),
        ("offset over 53 bits", b'{"op":"read","id":1,"doc":0,"start":0,"stop":9007199254740992,"line":0}'),
        ("64 bits", b'{"op":"read","id":1,"doc":0,"start":0,"stop":18446744073709551615,"line":0}'),
        ("big int", b'{"op":"read","id":1,"doc":0,"start":0,"stop":' + b"9" * 3000 + b',"line":0}'),
        ("document over the table", b'{"op":"read","id":1,"doc":1024,"start":0,"stop":1,"line":0}'),
        ("no prompts", b'{"op":"query","id":1,"model":null,"lengths":[]}'),
        ("nested for flat", b'{"op":"query","id":1,"model":null,"lengths":[[1]]}'),
        ("too long a name", b'{"op":"ready","protocol":1,"python":"' + b"x" * 257 + b'"}'),
        ("unknown stream", b'{"op":"output","stream":"stdlog"}'),
        ("field in a part", b'{"op":"done","status":"ok","error":{"type":"","message":"","line":null,"x":1}}'),
        ("space", b'{"op": "budget","id":1}'),
        ("newline at the end", b'{"op":"budget","id":1}\n'),
        ("space before", b' {"op":"budget","id":1}'),
        ("key order", b'{"id":1,"op":"budget"}'),
        ("field order", b'{"op":"read","doc":0,"id":1,"start":0,"stop":1,"line":0}'),
        ("escaped letter", b'{"op":"ready","protocol":1,"python":"\\u0041"}'),
        ("escaped key", b'{"\\u006fp":"budget","id":1}'),
        ("escaped slash", b'{"op":"ready","protocol":1,"python":"\\/"}'),
        ("escape in upper case", b'{"op":"ready","protocol":1,"python":"\\u001F"}'),
        ("long escape of a newline", b'{"op":"ready","protocol":1,"python":"\\u000a"}'),
        ("escaped pair", b'{"op":"ready","protocol":1,"python":"\\ud83d\\ude00"}'),
        ("lone surrogate escape", b'{"op":"ready","protocol":1,"python":"\\ud800"}'),
        ("lone surrogate bytes", b'{"op":"ready","protocol":1,"python":"\xed\xa0\x80"}'),
        ("overlong UTF-8", b'{"op":"ready","protocol":1,"python":"\xc0\x80"}'),
        ("no UTF-8", b'{"op":"ready","protocol":1,"python":"\xff"}'),
        ("raw control character", b'{"op":"ready","protocol":1,"python":"\x00"}'),
        ("byte order mark", b'\xef\xbb\xbf{"op":"budget","id":1}'),
        ("UTF-16", '{"op":"budget","id":1}'.encode("utf-16")),
        ("two values", b'{"op":"budget","id":1}{"op":"budget","id":1}'),
        ("trailing comma", b'{"op":"budget","id":1,}'),
        ("comment", b'{"op":"budget",/**/"id":1}'),
        ("single quotes", b"{'op':'budget','id':1}"),
        ("list", b'["budget",1]'),
        ("null", b"null"),
        ("text", b'"budget"'),
        ("deep lists", b"[" * 2000 + b"]" * 2000),
        ("deep objects", b'{"op":' * 600 + b"1" + b"}" * 600),
        ("deep unknown field", b'{"op":"budget","id":1,"x":' + b"[" * 1900 + b"]" * 1900 + b"}"),
        ("nothing but a brace", b"{"),
        ("zero byte", b"\x00"),
    ],
)  # fmt: skip
def test_a_header_in_any_other_spelling_is_refused(what: str, header: bytes) -> None:
    refused(header)


@pytest.mark.parametrize(
    "header",
    [
        b'{"op":"execute","cell":1.0}',
        b'{"op":"execute","cell":true}',
        b'{"op":"execute", "cell":1}',
        b'{"op":"execute","cell":1,"cell":1}',
        b'{"op":"execute","cell":1,"shell":1}',
        b'{"op":"budget","id":1}',
        b'{"cell":1,"op":"execute"}',
        b'{"op":"data"}',
    ],
)
def test_the_guests_side_is_as_strict(header: bytes) -> None:
    refused(header, direction="host")


def test_a_violation_never_repeats_what_the_guest_sent() -> None:
    secret = b"sk-ant-0123456789"
    for header in (
        secret,
        b'{"op":"' + secret + b'"}',
        b'{"op":"ready","protocol":1,"' + secret + b'":1}',
        b'{"op":"ready","protocol":1, "python":"' + secret + b'"}',
        b'{"op":"ready","protocol":"' + secret + b'","python":""}',
    ):
        decoder = new("guest")
        decoder.receive(raw(header))
        with pytest.raises(ProtocolViolation) as caught:
            decoder.next()
        error: BaseException | None = caught.value
        while error is not None:
            assert secret.decode() not in repr(error)
            error = error.__cause__ or error.__context__


# ------------------------------------------------------------------------------------------------------------ encode


def test_what_is_over_a_limit_is_our_own_fault_and_is_not_written() -> None:
    with pytest.raises(HostFault, match="Data"):
        encode(Data(1), bytes(BODY_MAX + 1), header_bytes_max=HEADER_MAX, body_bytes_max=BODY_MAX)
    with pytest.raises(HostFault, match="Ready"):
        encode(Ready(1, "x" * 100), header_bytes_max=100, body_bytes_max=BODY_MAX)
    with pytest.raises(HostFault, match="no body"):
        encode(Budget(1), b"x", header_bytes_max=HEADER_MAX, body_bytes_max=BODY_MAX)


def test_a_body_is_handed_on_without_a_copy() -> None:
    view = memoryview(b"x" * 100)
    assert encode(Data(1), view, header_bytes_max=HEADER_MAX, body_bytes_max=BODY_MAX)[1] is view


def test_a_frame_shows_the_size_of_its_body_only() -> None:
    assert repr(Frame(Final(1, "text"), b"secret")) == "Frame(Final(cell=1, form='text'), body=6 bytes)"
    assert Frame(Budget(1), b"") != Budget(1)


# All that a guest can say anything with. Who it is, for whom, how deep and where is not among it: whoever adds a field
# decides here that it is neither.
FIELDS = {
    *("id", "line", "doc", "first", "start", "stop", "mode", "limit"),
    *("model", "lengths", "prompts", "contexts"),
    *("protocol", "python", "stream", "form", "status", "error", "cell", "variables", "unlisted"),
}


def test_no_message_has_a_field_for_who_is_asking_or_for_a_place() -> None:
    messages = get_args(GuestMessage)
    assert len(messages) == 11
    assert {field for message in messages for field in message.__struct_fields__} <= FIELDS
    assert all(message.__struct_config__.forbid_unknown_fields for message in messages)
