# mypy: allow-untyped-defs, allow-untyped-calls
"""A second verifier of the log, which shares no code with Belljar: what was done to it, in the same words."""

import base64
import contextlib
import hashlib
import json
import re
import sqlite3
import zlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def sha(data):
    return hashlib.sha256(data).digest()


def root(leaves):
    half = 1 << max(0, (len(leaves) - 1).bit_length() - 1)
    return sha(b"\1" + root(leaves[:half]) + root(leaves[half:])) if len(leaves) > 1 else (leaves or [sha(b"")])[0]


def proved(receipt, size, top):
    at, last, node = receipt["seq"] - 1, size - 1, bytes.fromhex(receipt["leaf"])
    for other in map(bytes.fromhex, receipt["proof"]):
        is_right = at & 1 or at == last
        node = sha(b"\1" + other + node) if is_right else sha(b"\1" + node + other)
        while is_right and not at & 1 and at:
            at, last = at >> 1, last >> 1
        at, last = at >> 1, last >> 1
    return last == 0 and node == top


def keys_of(folder):  # name and id -> public key, of the seed that signs and of those that have signed before
    public = Ed25519PrivateKey.from_private_bytes((folder / "signing").read_bytes()).public_key().public_bytes_raw()
    old = (folder / "signing.old").read_text().split() if (folder / "signing.old").exists() else []
    name = f"belljar/key/{sha(bytes([1]) + public).hex()[:16]}"
    keys = {(name, sha(name.encode() + b"\n\1" + public)[:4]): Ed25519PublicKey.from_public_bytes(public)}
    for name, identity, encoded in (vkey.split("+", 2) for vkey in old):
        keys[name, bytes.fromhex(identity)] = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded)[1:])
    return keys


def read_note(note, keys):  # its log, size and root, and whether a known key signed it
    text, signature = note.split("\n\n")
    (origin, size, encoded), (_, name, signed) = text.split("\n"), signature.rstrip("\n").split(" ")
    key = keys.get((name, base64.b64decode(signed)[:4]))
    if key is not None:
        key.verify(base64.b64decode(signed)[4:], f"{text}\n".encode())
    return origin, int(size), base64.b64decode(encoded, validate=True), key is not None


def unpacked(block, size, body):
    lines = [b""] * 257
    with contextlib.suppress(zlib.error):
        lines = (zlib.decompress(body).split(b"\n") + lines)[:257]
    is_whole = len(b"\n".join(lines)) == size
    return [(256 * block + at, line, sha(line) if is_whole else None) for at, line in enumerate(lines[:-1], 1)]


def rows_wrong(rows):
    bodies = {seq: body for seq, body, _ in rows}
    said = {seq: re.search(rb'"seq":(\d+),"time_ns"', body) for seq, body in bodies.items()}
    says = {seq: int(match[1]) for seq, match in said.items() if match and int(match[1]) != seq}
    for expected, (seq, _, _) in enumerate(rows, 1):
        if seq != expected:
            return "inserted record" if seq < expected else "dropped head" if expected == 1 else "removed record"
    for seq, other in says.items():
        moved = "removed record" if other > seq else "inserted record"
        return "swap" if says.get(other) == seq else "duplicate" if bodies.get(other) == bodies[seq] else moved
    if any(sha(body) != kept for _, body, kept in rows):
        return "flipped byte"
    before, ended, late = bytes(32), set(), None
    for record, body in ((json.loads(body), body) for body in bodies.values()):
        if record["prev"] != before.hex():
            return "changed record"
        late = "record after the end" if record["run"] in ended else late
        ended |= {record["run"]} if record["event"] in ("run.finished", "run.abandoned") else set()
        before = sha(body)
    return late


def verdict(log, folder, evidence=()):
    """The name of what was done, None if nothing was. `evidence`: texts of receipts and checkpoints."""
    with contextlib.closing(sqlite3.connect(f"{log.absolute().as_uri()}?mode=ro", uri=True)) as db:
        rows = [row for pack in db.execute("SELECT * FROM packs ORDER BY block") for row in unpacked(*pack)]
        rows += db.execute("SELECT seq, body, hash FROM records ORDER BY seq").fetchall()
        notes = db.execute("SELECT size, note FROM checkpoints ORDER BY size DESC").fetchall()
        kinds = [kind for (kind,) in db.execute("SELECT type FROM sqlite_master WHERE type <> 'index' ORDER BY type")]
    keys, leaves, says, found = keys_of(folder), [sha(b"\0" + body) for _, body, _ in rows], [], rows_wrong(rows)
    if found or kinds != ["table"] * 17 + ["trigger"] * 4:
        return found or "planted object"
    origin = f"belljar/log/{leaves[0].hex()[:32]}" if leaves else None
    if (place := folder / f"place-{sha(str(log.absolute()).encode()).hex()[:32]}").exists():
        last = json.loads((folder / f"log-{place.read_text()[12:]}").read_text())
        says = [(last["origin"], last["size"], base64.b64decode(last["root"]), True)]
    receipts = [json.loads(text) for text in evidence if text.startswith("{")]
    try:
        proofs = [read_note(receipt["checkpoint"], keys) for receipt in receipts]
        says += proofs + [read_note(text, keys) for text in evidence if not text.startswith("{")]
        own = [read_note(note.decode(), keys) for _, note in notes]
    except (ValueError, InvalidSignature):
        return "forged checkpoint"
    if [size for size, _ in notes] != [note[1] for note in own]:
        return "forged checkpoint"
    shorter = "cut tail" if any(one[1] > len(leaves) and one[3] for one in own) else "restored old copy"

    def differs(of, size, top, _):
        other = "fork" if root(leaves[:size]) != top else None
        return "replaced file" if origin not in (None, of) else shorter if size > len(leaves) else other

    wrong = [word for one in says + own if (word := differs(*one))]
    if not all(one[3] for one in says + own):
        return "re-signed log" if wrong else "wrong key"
    for receipt, (_, size, top, _) in zip(receipts, proofs, strict=True):
        if not wrong and not (proved(receipt, size, top) and receipt["head"] == sha(rows[receipt["seq"] - 1][1]).hex()):
            return "forged receipt"
    return wrong[0] if wrong else None
