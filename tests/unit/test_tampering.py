"""What can be done to a log, and its name: by `verify`, and by a second verifier that shares no code with it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from belljar.audit import Receipt, verify
from belljar.audit.checkpoint import Checkpoint, Signer, origin_of
from belljar.audit.merkle import Tree, leaf_hash
from tests import second_verifier
from tests.unit.test_signing import Bench

VERDICT: Any = second_verifier.verdict
STRANGER = Signer(bytes(32))
Evidence = list[Receipt | str]
Case = Callable[["Scene"], Evidence | None]


class Scene:
    """A signed log of five runs with three records each, open to whoever can write the file."""

    def __init__(self, bench: Bench, db: sqlite3.Connection, receipts: list[Receipt]) -> None:
        self.bench, self.db, self.receipts = bench, db, receipts

    def body(self, seq: int) -> bytes:
        found: bytes = self.db.execute("SELECT body FROM records WHERE seq = ?", (seq,)).fetchone()[0]
        return found

    def put(self, seq: int, body: bytes, kept: bytes | None = None) -> None:
        kept = hashlib.sha256(body).digest() if kept is None else kept
        run = f"r{(seq - 1) // 3}"
        self.db.execute("DELETE FROM records WHERE seq = ?", (seq,))
        self.db.execute("INSERT INTO records VALUES (?, ?, ?, ?)", (seq, run, body, kept))

    def flip(self, seq: int, at: int = 20) -> None:
        body = bytearray(self.body(seq))
        body[at] ^= 1
        self.db.execute("UPDATE records SET body = ? WHERE seq = ?", (bytes(body), seq))

    def shift(self, first: int, by: int) -> None:
        """Give all rows from `first` on another number; their bytes stay."""
        self.db.execute("UPDATE records SET seq = seq + 1000 WHERE seq >= ?", (first,))
        self.db.execute("UPDATE records SET seq = seq - 1000 + ? WHERE seq >= 1000", (by,))

    def swap(self, one: int, other: int) -> None:
        for before, after in ((one, 999), (other, one), (999, other)):
            self.db.execute("UPDATE records SET seq = ? WHERE seq = ?", (after, before))

    def rewrite(self, first: int, last: int = 15) -> None:
        """Other records from `first` on, each continuing the one before, as a host would have written them."""
        bodies = [self.body(seq) for seq in range(first, last + 1)]
        for seq, body in enumerate(bodies, first):
            record = json.loads(body)
            record["prev"] = hashlib.sha256(self.body(seq - 1)).hexdigest() if seq > 1 else "0" * 64
            record["time_ns"] += 1
            changed = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
            digest = hashlib.sha256(changed).digest()
            self.db.execute("UPDATE records SET body = ?, hash = ? WHERE seq = ?", (changed, digest, seq))

    def cut(self, after: int, *, checkpoints: bool = False) -> None:
        self.db.execute("DELETE FROM records WHERE seq > ?", (after,))
        if checkpoints:
            self.db.execute("DELETE FROM checkpoints WHERE size > ?", (after,))

    def sign(self, size: int, signer: Signer = STRANGER) -> str:
        leaves = [leaf_hash(self.body(seq)) for seq in range(1, size + 1)]
        tree = Tree()
        tree.extend(leaves)
        note = signer.note(Checkpoint(origin_of(leaves[0]), size, tree.root()))
        self.db.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (size, note.encode()))
        return note

    def note(self, size: int) -> str:
        found: bytes = self.db.execute("SELECT note FROM checkpoints WHERE size = ?", (size,)).fetchone()[0]
        return found.decode()

    def change_note(self, size: int, change: Callable[[str], str]) -> None:
        self.db.execute("UPDATE checkpoints SET note = ? WHERE size = ?", (change(self.note(size)).encode(), size))

    def forget(self) -> None:
        """The keys folder no longer knows what was signed."""
        for path in self.bench.keys.folder.iterdir():
            if path.name.startswith(("log-", "place-")):
                path.unlink()

    def another_log(self, *, signer: Signer | None) -> None:
        self.db.execute("DELETE FROM checkpoints")
        self.rewrite(1)
        if signer is not None:
            self.sign(15, signer)

    def own(self) -> Signer:
        return Signer(self.bench.keys.secret("signing"))


def _base64_flip(note: str) -> str:
    at = note.rindex("=") - 8
    return note[:at] + ("A" if note[at] != "A" else "B") + note[at + 1 :]


def _insert_forged(scene: Scene) -> None:
    scene.shift(6, 1)
    record = json.loads(scene.body(5)) | {"prev": hashlib.sha256(scene.body(5)).hexdigest(), "seq": 6}
    scene.put(6, json.dumps(record, sort_keys=True, separators=(",", ":")).encode())


def _changed(scene: Scene, seq: int) -> None:
    record = json.loads(scene.body(seq))
    record["time_ns"] += 1
    scene.put(seq, json.dumps(record, sort_keys=True, separators=(",", ":")).encode())


def _append_after_the_end(scene: Scene) -> None:
    record = json.loads(scene.body(14)) | {"prev": hashlib.sha256(scene.body(15)).hexdigest(), "seq": 16}
    scene.put(16, json.dumps(record, sort_keys=True, separators=(",", ":")).encode())
    scene.db.execute("UPDATE records SET run = 'r4' WHERE seq = 16")


def _old_copy(scene: Scene, *, grown: bool = False) -> None:
    scene.cut(9, checkpoints=True)
    if grown:
        bodies = [json.loads(scene.body(seq)) for seq in range(1, 10)]
        before = hashlib.sha256(scene.body(9)).hexdigest()
        for seq in range(10, 19):
            record = bodies[seq - 10] | {"prev": before, "seq": seq, "run": f"s{(seq - 1) // 3}"}
            body = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
            scene.db.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?)", (seq, record["run"], body, hashlib.sha256(body).digest())
            )
            before = hashlib.sha256(body).hexdigest()


def _evidence(scene: Scene, do: Callable[[Scene], object], *, of: int | None, note: int | None = None) -> Evidence:
    kept: Evidence = [] if note is None else [scene.note(note)]
    scene.forget()
    do(scene)
    return kept if of is None else [*kept, scene.receipts[of]]


def _forged(scene: Scene, **changes: Any) -> Evidence:
    return [msgspec.structs.replace(scene.receipts[4], **changes)]


def _moved_up(scene: Scene) -> None:
    scene.db.execute("DELETE FROM records WHERE seq = 5")
    scene.shift(6, -1)


def _twice(scene: Scene) -> None:
    scene.shift(6, 1)
    scene.put(6, scene.body(5))


def _rewritten(scene: Scene) -> None:
    scene.rewrite(10)
    scene.db.execute("DELETE FROM checkpoints")


def _rewritten_and_signed(scene: Scene) -> None:
    scene.rewrite(5)
    scene.sign(15)


def _cut_and_signed(scene: Scene) -> None:
    scene.cut(9, checkpoints=True)
    scene.sign(9)


CASES: dict[str, tuple[str, Callable[[Scene], Any]]] = {
    "a bit of a record": ("flipped byte", lambda s: s.flip(5)),
    "a bit of the first record": ("flipped byte", lambda s: s.flip(1)),
    "a bit of the last record": ("flipped byte", lambda s: s.flip(15)),
    "a bit of what a record says of the one before": ("flipped byte", lambda s: s.flip(7, -120)),
    "a bit of a kept hash": ("flipped byte", lambda s: s.put(5, s.body(5), bytes(32))),
    "a byte cut off": ("flipped byte", lambda s: s.put(5, s.body(5)[:-1], hashlib.sha256(s.body(5)).digest())),
    "an empty record": ("flipped byte", lambda s: s.put(5, b"", hashlib.sha256(s.body(5)).digest())),
    "the first record gone": ("dropped head", lambda s: s.db.execute("DELETE FROM records WHERE seq = 1")),
    "the first run gone": ("dropped head", lambda s: s.db.execute("DELETE FROM records WHERE seq <= 3")),
    "a record gone": ("removed record", lambda s: s.db.execute("DELETE FROM records WHERE seq = 5")),
    "a run gone": ("removed record", lambda s: s.db.execute("DELETE FROM records WHERE seq BETWEEN 7 AND 9")),
    "a record gone, the others moved up": (
        "removed record",
        _moved_up,
    ),
    "two neighbours swapped": ("swap", lambda s: s.swap(4, 5)),
    "two records far apart swapped": ("swap", lambda s: s.swap(2, 14)),
    "the first and the last swapped": ("swap", lambda s: s.swap(1, 15)),
    "a record in the place of another": ("duplicate", lambda s: s.put(6, s.body(5))),
    "a record twice, the others moved down": ("duplicate", _twice),
    "a forged record in between": ("inserted record", _insert_forged),
    "a record written anew": ("changed record", lambda s: _changed(s, 5)),
    "the first record written anew": ("changed record", lambda s: _changed(s, 1)),
    "a record after the end of its run": ("record after the end", _append_after_the_end),
    "the last record cut off": ("cut tail", lambda s: s.cut(14)),
    "the last run cut off": ("cut tail", lambda s: s.cut(12)),
    "all but the first run cut off": ("cut tail", lambda s: s.cut(3)),
    "all records cut off": ("cut tail", lambda s: s.cut(0)),
    "a tail cut off that only a checkpoint in the log knows": (
        "cut tail",
        lambda s: _evidence(s, lambda s: s.cut(12), of=None),
    ),
    "an old copy": ("restored old copy", _old_copy),
    "an old copy, found by a receipt": ("restored old copy", lambda s: _evidence(s, _old_copy, of=4)),
    "an old copy, found by a checkpoint": ("restored old copy", lambda s: _evidence(s, _old_copy, of=None, note=15)),
    "an old copy that has grown": ("fork", lambda s: _old_copy(s, grown=True)),
    "the last record written anew": ("fork", lambda s: s.rewrite(15)),
    "all written anew from the fourth run on": ("fork", lambda s: s.rewrite(10)),
    "all written anew, found by a receipt": (
        "fork",
        lambda s: _evidence(s, _rewritten, of=3),
    ),
    "another log": ("replaced file", lambda s: s.another_log(signer=s.own())),
    "another log without checkpoints": ("replaced file", lambda s: s.another_log(signer=None)),
    "another log, found by a receipt": (
        "replaced file",
        lambda s: _evidence(s, lambda s: s.another_log(signer=s.own()), of=0),
    ),
    "written anew and signed by a stranger": ("re-signed log", _rewritten_and_signed),
    "cut off and signed by a stranger": (
        "re-signed log",
        _cut_and_signed,
    ),
    "another log, signed by a stranger": ("re-signed log", lambda s: s.another_log(signer=STRANGER)),
    "the last checkpoint by a stranger": ("wrong key", lambda s: s.sign(15)),
    "an early checkpoint by a stranger": ("wrong key", lambda s: s.sign(6)),
    "one more checkpoint by a stranger": ("wrong key", lambda s: s.sign(8)),
    "a bit of a signature": ("forged checkpoint", lambda s: s.change_note(15, _base64_flip)),
    "a checkpoint of fewer records": (
        "forged checkpoint",
        lambda s: s.change_note(15, lambda n: n.replace("15", "14", 1)),
    ),
    "a text that is no checkpoint": ("forged checkpoint", lambda s: s.change_note(6, lambda _: "nothing")),
    "a checkpoint in another's place": (
        "forged checkpoint",
        lambda s: s.db.execute("INSERT INTO checkpoints SELECT 7, note FROM checkpoints WHERE size = 6"),
    ),
    "a proof of something else": ("forged receipt", lambda s: _forged(s, proof=("00" * 32, *s.receipts[4].proof[1:]))),
    "a receipt of other bytes": ("forged receipt", lambda s: _forged(s, head="00" * 32)),
    "a receipt with another leaf": ("forged receipt", lambda s: _forged(s, leaf="00" * 32)),
    "a trigger": (
        "planted object",
        lambda s: s.db.execute("CREATE TRIGGER quiet BEFORE INSERT ON records BEGIN SELECT RAISE(IGNORE); END"),
    ),
    "a table": ("planted object", lambda s: s.db.execute("CREATE TABLE more (a)")),
}
UNTOUCHED: dict[str, Callable[[Scene], Any]] = {
    "nothing": lambda _: None,
    "with its receipts": lambda s: list(s.receipts),
    "with its checkpoints": lambda s: [s.note(6), s.note(15)],
    "without what is remembered": lambda s: _evidence(s, lambda _: None, of=2),
}


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Receipt]]:
    """Where the scene is, a copy of it, and its receipts."""
    folder = tmp_path_factory.mktemp("tampering")
    bench = Bench(folder / "state")
    receipts = [bench.add(f"r{number}") for number in range(5)]
    shutil.copytree(folder / "state", folder / "copy")
    return folder / "state", folder / "copy", receipts


@pytest.fixture
def scene(signed: tuple[Path, Path, list[Receipt]]) -> Iterator[Scene]:
    state, copy, receipts = signed
    shutil.rmtree(state)
    shutil.copytree(copy, state)
    bench = Bench(state)
    with closing(sqlite3.connect(bench.path, isolation_level=None)) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        yield Scene(bench, db, receipts)


def _restore(scene: Scene, copy: Path) -> None:
    with closing(sqlite3.connect(copy / "audit.db")) as db:
        triggers = db.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (sql,) in triggers:
        scene.db.execute(sql)


def _both(scene: Scene, copy: Path, do: Callable[[Scene], Any]) -> tuple[str | None, str | None, list[str]]:
    done = do(scene)
    evidence: Evidence = done if isinstance(done, list) else []
    _restore(scene, copy)
    receipts = [one for one in evidence if isinstance(one, Receipt)]
    notes = [one for one in evidence if isinstance(one, str)]
    report = verify(scene.bench.path, keys=scene.bench.keys, receipts=receipts, notes=notes)
    texts = [*(msgspec.json.encode(one).decode() for one in receipts), *notes]
    second = VERDICT(scene.bench.path, scene.bench.keys.folder, texts)
    return (report.tampering[0].kind if report.tampering else None), second, report.problems


@pytest.mark.parametrize("case", CASES)
def test_both_verifiers_name_what_was_done(case: str, scene: Scene, signed: tuple[Path, Path, list[Receipt]]) -> None:
    kind, do = CASES[case]
    ours, theirs, problems = _both(scene, signed[1], do)
    assert (ours, theirs) == (kind, kind), problems
    assert problems


@pytest.mark.parametrize("case", UNTOUCHED)
def test_both_find_nothing_where_nothing_was_done(
    case: str, scene: Scene, signed: tuple[Path, Path, list[Receipt]]
) -> None:
    assert _both(scene, signed[1], UNTOUCHED[case]) == (None, None, [])


def test_the_second_verifier_is_short_and_shares_nothing() -> None:
    text = Path(second_verifier.__file__).read_text("utf-8")
    assert len([line for line in text.splitlines() if line.strip()]) <= 100
    imported = {line.split()[1].partition(".")[0] for line in text.splitlines() if line.startswith(("import", "from"))}
    assert imported - sys.stdlib_module_names == {"cryptography"}
