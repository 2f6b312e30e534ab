"""Checkpoints leave the machine, and hold the log to what it was, whatever became of its host."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import logging
import os
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Self, TypeVar

import pytest

from belljar.audit import Checkpoints, Receipt, Report, verify, witness
from belljar.audit.checkpoint import Checkpoint, Note, Signer
from belljar.audit.signing import place_of
from belljar.audit.witness import Address, Told, Witness, read_witness, told_in
from belljar.config import read_config, settings
from belljar.errors import HostFault, InvalidInput
from belljar.identity import RunId
from belljar.keys import Keys
from belljar.state import State
from belljar.upkeep import examine
from tests.journals import OwnLog
from tests.unit.audit_events import made
from tests.waiting import in_time, until

_T = TypeVar("_T")
Work = Callable[[OwnLog, Checkpoints, Witness], Awaitable[_T]]


class Endpoint:
    """A witness at a URL: answers with `status` once it may, keeps what it was sent, and gives that back."""

    def __init__(self) -> None:
        self.status = 204
        self.got: list[str] = []
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.was_asked = threading.Event()
        self.gives: Callable[[], Iterator[bytes]] = lambda: iter(["".join(self.got).encode()])
        here = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                here.asked.append(f"POST {self.path}")
                note = self.rfile.read(int(self.headers["Content-Length"])).decode()
                here.was_asked.set()
                here.may_answer.wait()
                if here.status == 204:
                    here.got.append(note)
                self.send_response(here.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def do_GET(self) -> None:
                here.asked.append(f"GET {self.path}")
                self.send_response(200 if here.status == 204 else here.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                try:
                    for piece in here.gives():
                        self.wfile.write(piece)
                except OSError:
                    pass  # it had enough

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}/notes"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


class Bench:
    """A log that is witnessed, opened anew for each piece of work."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "audit.db"
        self.keys = Keys(folder / "keys")
        self.told = folder / "witness.json"

    def do(self, address: Address, work: Work[_T]) -> _T:
        async def main() -> _T:
            log = OwnLog(self.path)
            try:
                to = Witness(address, self.told)
                checkpoints = Checkpoints(log.journal, log, place=place_of(self.path), keys=self.keys, witness=to)
                done = await work(log, checkpoints, to)
                await checkpoints.aclose()
                return done
            finally:
                await log.aclose()

        return asyncio.run(main())

    def add(self, address: Address, *runs: str) -> list[Receipt]:
        async def work(log: OwnLog, checkpoints: Checkpoints, _: Witness) -> list[Receipt]:
            return [await added(log, checkpoints, run) for run in runs]

        return self.do(address, work)

    def verify(self, place: str) -> Report:
        return verify(self.path, keys=self.keys, witnessed=read(place))

    def forget(self) -> None:
        """What the keys folder remembers of the log is gone, as with whoever can write both."""
        for path in self.keys.folder.glob("*-*"):
            path.unlink()


async def added(log: OwnLog, checkpoints: Checkpoints, run: str) -> Receipt:
    """A run of three records, with its receipt."""
    await log.append(RunId(run), made("run.started", {}), made("box.started", {}))
    seq, head = await log.journal.submit(log.entry(RunId(run), made("run.finished", {"calls": 0})))
    return await checkpoints.receipt(run, seq, head)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def to_file(path: Path) -> Address:
    return Address("file", str(path))


def sizes(notes: list[str]) -> list[int]:
    return [Note.read(note).checkpoint.size for note in notes]


def read(place: Path | str) -> list[str]:
    return asyncio.run(read_witness(str(place))).notes


def unreadable(place: Path | str) -> int:
    return asyncio.run(read_witness(str(place))).unreadable


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.tampering}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# -- pushing -----------------------------------------------------------------------------------------------------------


def test_a_file_has_one_note_after_another(bench: Bench, notes: Path) -> None:
    receipt = [bench.add(to_file(notes), run)[0] for run in ("r1", "r2")][1]
    assert notes.stat().st_mode & 0o777 == 0o600
    assert notes.read_text().endswith(receipt.checkpoint or "nothing")
    assert sizes(read(notes)) == [3, 6]
    assert told_in(bench.told, to_file(notes)) == Told(f"file:{notes}", 6, None)
    assert bench.verify(str(notes)).problems == []


def test_an_endpoint_gets_each_note_and_gives_them_back(bench: Bench, endpoint: Endpoint) -> None:
    (receipt,) = bench.add(Address("http", endpoint.url), "r1")
    assert endpoint.got == [receipt.checkpoint]
    assert bench.verify(endpoint.url).problems == []
    assert endpoint.asked == ["POST /notes", "GET /notes"]


def test_while_the_authorities_of_this_machine_are_read_the_loop_goes_on(
    bench: Bench, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, whole = [], ssl.create_default_context

    def noted() -> ssl.SSLContext:
        made.append(threading.current_thread())
        return whole()

    monkeypatch.setattr(ssl, "create_default_context", noted)
    bench.add(Address("http", endpoint.url), "r1")
    assert endpoint.asked == ["POST /notes"]
    assert made
    assert threading.main_thread() not in made


@pytest.mark.parametrize("is_local", [True, False], ids=["unix", "udp"])
def test_a_syslog_gets_one_line_which_can_be_read_back(
    bench: Bench, tmp_path: Path, is_local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX if is_local else socket.AF_INET, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log") if is_local else ("127.0.0.1", 0))
        target = str(tmp_path / "log") if is_local else f"127.0.0.1:{log.getsockname()[1]}"
        (receipt,) = bench.add(Address("syslog", target), "r1")
        line = log.recv(2**16).decode("ascii")
    assert re.fullmatch(r'<85>belljar: checkpoint "[ -~]+"', line)
    assert json.loads(line.partition(" checkpoint ")[2]) == receipt.checkpoint
    Path("auth.log").write_text(
        f"Nov 29 07:00:00 host {line[4:]}\nNov 29 07:00:01 host sshd: belljar/log/ is no note\n"
    )
    assert (read("auth.log"), unreadable("auth.log")) == ([receipt.checkpoint], 1)
    whole = Path("auth.log").read_text()
    Path("auth.log").write_text(whole + whole.replace("\\n", "\\x").replace("sshd: belljar/log/", "sshd:"))
    assert (read("auth.log"), unreadable("auth.log")) == ([receipt.checkpoint], 2)
    with pytest.raises(InvalidInput, match="a syslog cannot be asked"):
        read(f"syslog:{target}")


def test_a_run_ends_while_its_witness_hangs_and_then_only_the_newest_note_is_pushed(
    bench: Bench, endpoint: Endpoint
) -> None:
    endpoint.may_answer.clear()

    async def work(log: OwnLog, checkpoints: Checkpoints, _: Witness) -> list[Receipt]:
        receipts = [await added(log, checkpoints, "r1")]
        assert await asyncio.to_thread(endpoint.was_asked.wait, 60)
        receipts += [await added(log, checkpoints, run) for run in ("r2", "r3", "r4")]
        assert endpoint.got == []
        endpoint.may_answer.set()
        return receipts

    receipts = bench.do(Address("http", endpoint.url), work)
    assert all(receipt.checkpoint for receipt in receipts)
    assert sizes(endpoint.got) == [3, 12]


def test_what_does_not_grow_is_pushed_once(bench: Bench, notes: Path) -> None:
    async def work(log: OwnLog, checkpoints: Checkpoints, _: Witness) -> None:
        await added(log, checkpoints, "r1")
        await checkpoints.aclose()
        await checkpoints.make()

    bench.do(to_file(notes), work)
    assert sizes(read(notes)) == [3]


# -- a witness that takes nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "words"), [(500, "it answered 500"), (307, "it answered 307"), (404, "404")])
def test_a_refusal_is_told_once_and_the_next_note_is_pushed(
    bench: Bench, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, status: int, words: str
) -> None:
    address = Address("http", f"{endpoint.url}?token=secret")
    endpoint.status = status

    async def work(log: OwnLog, checkpoints: Checkpoints, to: Witness) -> None:
        for run in ("r1", "r2"):
            await added(log, checkpoints, run)
            await to.aclose()
        assert words in (to.trouble or "")
        told = told_in(bench.told, address)
        assert (told.witness, told.size, words in (told.error or "")) == (endpoint.url, None, True)
        endpoint.status = 204
        await added(log, checkpoints, "r3")
        await to.aclose()
        assert to.trouble is None

    bench.do(address, work)
    assert sizes(endpoint.got) == [9]
    assert endpoint.asked == ["POST /notes?token=secret"] * 3
    (warning,) = warnings(caplog)
    assert words in warning
    assert "secret" not in warning
    assert told_in(bench.told, address) == Told(endpoint.url, 9, None)


def test_a_witness_that_hangs_is_given_up_at_the_deadline(
    bench: Bench, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "PUSH_S", 0.2)
    endpoint.may_answer.clear()
    (receipt,) = bench.add(Address("http", endpoint.url), "r1")
    assert receipt.checkpoint is not None
    assert len(warnings(caplog)) == 1
    assert told_in(bench.told, Address("http", endpoint.url)).error is not None


def test_closing_gives_up_what_is_under_way_and_what_waits(
    bench: Bench, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the push itself does not end at its deadline."""
    endpoint.may_answer.clear()
    begun = []

    async def never(_: Address, note: str) -> None:
        begun.append(note)
        await asyncio.Event().wait()

    monkeypatch.setattr(witness, "_sent", never)
    monkeypatch.setattr(witness, "PUSH_S", 0.2)

    async def work(log: OwnLog, checkpoints: Checkpoints, _: Witness) -> None:
        for run in ("r1", "r2"):
            await added(log, checkpoints, run)
        async with in_time(60, "it is closed"):
            await checkpoints.aclose()

    bench.do(Address("http", endpoint.url), work)
    assert sizes(begun) == [3]
    assert told_in(bench.told, Address("http", endpoint.url)).error == "the host closed before it was taken"


def test_a_full_socket_that_nobody_reads_is_given_up_at_the_deadline(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "PUSH_S", 0.2)
    address = Address("syslog", str(tmp_path / "log"))
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to,
    ):
        log.bind(address.target)
        to.connect(address.target)
        to.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while to.send(b"x"):
                pass

        async def work(log: OwnLog, checkpoints: Checkpoints, to: Witness) -> None:
            await added(log, checkpoints, "r1")
            await asyncio.to_thread(until, lambda: to.trouble is not None, what="it is given up")

        bench.do(address, work)
    assert "longer than" in (told_in(bench.told, address).error or "")


def test_a_witness_that_is_not_there_or_no_file_is_told(bench: Bench, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        (tmp_path / "real").write_text("kept\n")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        os.mkfifo(tmp_path / "pipe")
        addresses = [
            Address("http", nobody),
            *(to_file(tmp_path / name) for name in ("none/notes", "link", "pipe", ".")),
            Address("syslog", str(tmp_path / "nobody")),
        ]
        for number, address in enumerate(addresses):
            (receipt,) = bench.add(address, f"r{number}")
            told = told_in(bench.told, address)
            assert receipt.checkpoint is not None
            assert (told.size, bool(told.error)) == (None, True), address
        with pytest.raises(HostFault, match="gives no checkpoints"):
            read(nobody)
    assert (tmp_path / "real").read_text() == "kept\n"


# -- reading back ------------------------------------------------------------------------------------------------------


def test_a_cut_tail_an_old_copy_and_a_fork_are_named_though_log_and_keys_know_nothing(
    bench: Bench, notes: Path, tmp_path: Path
) -> None:
    bench.add(to_file(notes), "r1")
    old = tmp_path / "old.db"
    shutil.copy(bench.path, old)
    bench.add(to_file(notes), "r2")
    shutil.copy(old, bench.path)
    bench.forget()
    assert verify(bench.path, keys=bench.keys).problems == []
    report = bench.verify(str(notes))
    assert kinds(report) == {"restored old copy"}
    assert report.problems == ["a checkpoint that the witness has is of 6 records; there are 3"]
    # The log goes on from there, signed anew: as many records, and other ones.
    bench.add(to_file(tmp_path / "other"), "r3")
    assert verify(bench.path, keys=bench.keys).problems == []
    report = bench.verify(str(notes))
    assert kinds(report) == {"fork"}
    assert report.problems == ["a checkpoint that the witness has is of other records than the first 6 here"]


def test_a_witness_of_several_logs_is_asked_for_this_one_and_another_log_in_its_place_is_found(
    bench: Bench, notes: Path, tmp_path: Path
) -> None:
    other = Bench(tmp_path / "other")
    other.add(to_file(notes), "s1", "s2")
    assert kinds(bench_after(bench, to_file(tmp_path / "mine"), "r1").verify(str(notes))) == {"re-signed log"}
    bench.add(to_file(notes), "r2")
    assert bench.verify(str(notes)).problems == []
    assert other.verify(str(notes)).problems == []


def bench_after(bench: Bench, address: Address, *runs: str) -> Bench:
    bench.add(address, *runs)
    return bench


def test_a_note_that_nobody_signed_is_named(bench: Bench, notes: Path) -> None:
    bench.add(to_file(notes), "r1")
    origin = Note.read(read(notes)[0]).checkpoint.origin
    with notes.open("a") as opened:
        opened.write(Signer(bytes(32)).note(Checkpoint(origin, 9, bytes(32))))
    assert kinds(bench.verify(str(notes))) == {"re-signed log"}


def test_what_a_full_disk_cut_off_counts_nothing_and_hides_nothing(bench: Bench, notes: Path) -> None:
    bench.add(to_file(notes), "r1")
    whole = notes.read_text()
    with notes.open("a") as opened:
        opened.write(whole[:60])
    bench.add(to_file(notes), "r2")
    assert (sizes(read(notes)), unreadable(notes)) == ([3, 6], 3)


@pytest.mark.parametrize("line", range(5))
def test_a_line_that_somebody_garbled_is_told_and_not_passed_over(bench: Bench, notes: Path, line: int) -> None:
    for run in ("r1", "r2"):
        bench.add(to_file(notes), run)
    assert unreadable(notes) == 0
    lines = notes.read_text().splitlines(keepends=True)
    lines[5 + line] = "#garbled\n"
    notes.write_text("".join(lines))
    assert sizes(read(notes)) == [3]
    assert unreadable(notes) == (5 if line == 3 else 4)  # an empty line is none


@pytest.mark.parametrize("more", ["— \n", "— x y\n", "x", "— a " + "A" * 92 + "\n", "— b AAAA\n" * 20, "belljar/log/"])
def test_who_can_only_add_to_a_witness_makes_no_note_unreadable(bench: Bench, notes: Path, more: str) -> None:
    bench.add(to_file(notes), "r1")
    with notes.open("a") as opened:
        opened.write(more)
    bench.add(to_file(notes), "r2")
    assert sizes(read(notes)) == [3, 6]
    assert bench.verify(str(notes)).problems == []


def test_a_note_that_was_given_the_name_of_another_log_is_named(bench: Bench, notes: Path) -> None:
    for run in ("r1", "r2"):
        bench.add(to_file(notes), run)
    first, last = read(notes)
    origin = Note.read(last).checkpoint.origin
    notes.write_text(first + last.replace(origin, "belljar/log/0123"))
    assert kinds(bench.verify(str(notes))) == {"forged checkpoint"}


def test_of_a_file_the_end_is_read_and_of_an_endpoint_all_or_nothing(
    bench: Bench, notes: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add(to_file(notes), "r1")
    bench.add(to_file(notes), "r2")
    second = len(notes.read_bytes()) - notes.read_bytes().rindex(b"belljar/log/")
    monkeypatch.setattr(witness, "READ_BYTES_MAX", second + 5)
    assert (sizes(read(notes)), unreadable(notes)) == ([6], 0)

    def forever() -> Iterator[bytes]:
        while True:
            yield b"x" * 2**16

    endpoint.gives = forever
    with pytest.raises(HostFault, match=f"gives more than {second + 5} bytes"):
        read(endpoint.url)


def test_an_endpoint_that_drips_or_redirects_gives_nothing(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "READ_S", 1.5)
    left = threading.Event()

    def drip() -> Iterator[bytes]:
        while not left.wait(0.05):
            yield b"x"

    endpoint.gives = drip
    with pytest.raises(HostFault, match="it took longer than"):
        read(endpoint.url)
    left.set()
    monkeypatch.setattr(witness, "READ_S", 60)
    endpoint.status = 302
    with pytest.raises(HostFault, match="it answered 302"):
        read(endpoint.url)
    assert endpoint.asked == ["GET /notes"] * 2


def test_a_witness_without_checkpoints_does_not_pass_for_one(notes: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    notes.write_text("belljar/log/x\n")
    for place in (str(notes), endpoint.url):
        with pytest.raises(InvalidInput, match="has no checkpoint") as refused:
            read(place)
        assert refused.value.code == "audit.witness"
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidInput, match="cannot be read"):
            read(path)


# -- the configuration -------------------------------------------------------------------------------------------------


def written(file: Path, address: str) -> Path:
    file.write_text(f"schema = 1\n[audit]\nwitness = {json.dumps(address)}\n")
    return file


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("file:/srv/notes", "file", "/srv/notes"),
        ("file:notes", "file", "{}/notes"),
        ("http://127.0.0.1:8080/a?b=c", "http", "http://127.0.0.1:8080/a?b=c"),
        ("https://[::1]/", "http", "https://[::1]/"),
        ("syslog:/dev/log", "syslog", "/dev/log"),
        ("syslog:127.0.0.1:514", "syslog", "127.0.0.1:514"),
        ("syslog:[::1]:514", "syslog", "[::1]:514"),
    ],
)
def test_the_file_names_a_witness(tmp_path: Path, text: str, kind: str, target: str) -> None:
    found = read_config(written(tmp_path / "belljar.toml", text)).witness
    assert found == Address(kind, target.format(tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *("", "notes", "file:", "ftp://127.0.0.1/", "https:", "https://", "http://user:word@127.0.0.1/", "http://a b/"),
        *("http://127.0.0.1:x/", "http://127.0.0.1/#a", "syslog:", "syslog:host", "syslog:host:0", "syslog:host:70000"),
        *("file:/a\nb", "file:~nobody-of-this-name/notes"),
    ],
)
def test_what_is_no_witness_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = written(tmp_path / "belljar.toml", text)
    with pytest.raises(InvalidInput) as refused:
        read_config(file)
    assert str(refused.value).startswith(f"{file}:3: audit.witness: this is no")
    assert "word" not in str(refused.value).partition(": audit")[2].partition(";")[0]
    assert "\n" not in str(refused.value)


def test_a_named_folder_has_its_own_witness(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    named = written(tmp_path / "host.toml", "file:notes")
    environ = {"HOME": str(tmp_path), "BELLJAR_CONFIG": str(named)}
    assert settings(None, None, environ).witness == Address("file", str(tmp_path / "notes"))
    assert settings(folder, None, environ).witness is None
    assert settings(folder, named, environ).witness == Address("file", str(tmp_path / "notes"))
    written(folder / "belljar.toml", "syslog:/dev/log")
    found = settings(folder, None, environ)
    assert (found.witness, found.origins["witness"]) == (
        Address("syslog", "/dev/log"),
        f"{folder / 'belljar.toml'}, audit.witness",
    )


def test_a_state_is_told_of_the_witness_that_is_configured_and_of_no_other(bench: Bench, notes: Path) -> None:
    state = State(bench.path.parent)
    assert examine(state).witness is None
    assert examine(state, to_file(notes)).witness == Told(f"file:{notes}")
    bench.add(to_file(notes), "r1")
    assert examine(state, to_file(notes)).witness == Told(f"file:{notes}", 3)
    assert examine(state, Address("syslog", "/dev/log")).witness == Told("syslog:/dev/log")
    notes.unlink()
    notes.mkdir()
    bench.add(to_file(notes), "r2")
    told = examine(state, to_file(notes)).witness
    assert told is not None
    assert (told.size, bool(told.error)) == (3, True)
    state.witness.write_bytes(b"{")
    assert examine(state, to_file(notes)).witness == Told(f"file:{notes}")
