"""The signed log on the command line: checkpoints, receipts, a new key, and what was done to a log by its name."""

from __future__ import annotations

import json
import shutil

from belljar.keys import Keys
from tests.integration.support import Jar


def _keep(jar: Jar, name: str, text: str) -> str:
    path = jar.work / name
    path.write_text(text)
    return str(path)


def test_what_was_signed_verifies_with_the_receipt_the_checkpoint_and_a_new_key(jar: Jar) -> None:
    _, result = jar.exec_json("print(1)")
    kept = [_keep(jar, "result.json", json.dumps(result))]
    made = jar("audit", "checkpoint", "--json").document
    note = _keep(jar, "note.txt", made["checkpoint"])
    rotated = jar("audit", "rotate-key", "--json").document
    assert rotated["key"] != made["key"]
    late = jar("audit", "receipt", result["run"])
    kept.append(_keep(jar, "receipt.json", late.stdout))
    assert late.document["receipt"]["head"] == result["receipt"]["head"]
    for receipt in kept:
        verified = jar("audit", "verify", "--receipt", receipt, "--from", note)
        assert (verified.code, verified.stderr) == (0, "")
    elsewhere = {"BELLJAR_KEYS": str(jar.work / "nowhere")}
    for key in (made["key"], rotated["key"]):
        assert jar("audit", "verify", "--from", note, "--key", key, env=elsewhere).code == 0
    assert not (jar.work / "nowhere").exists()


def test_what_checkpoint_printed_is_a_checkpoint_to_verify_from(jar: Jar) -> None:
    jar.exec_json("print(1)")
    for options in ([], ["--json"]):
        printed = jar("audit", "checkpoint", *options).stdout
        verified = jar("audit", "verify", "--from", _keep(jar, "printed", printed))
        assert (verified.code, verified.stderr) == (0, "")
    assert jar("audit", "receipt", "last").document["receipt"]["run"]


def test_an_old_copy_that_was_put_back_is_named_not_signed_and_can_be_accepted(jar: Jar) -> None:
    log = jar.state.root / "audit.db"
    jar.exec_json("print(1)")
    shutil.copy(log, jar.work / "old.db")
    _, result = jar.exec_json("print(2)")
    for path in (log, *log.parent.glob("audit.db-*")):
        path.unlink()
    shutil.copy(jar.work / "old.db", log)
    refused = jar("audit", "verify")
    assert refused.code == 9
    assert refused.stdout.startswith("restored old copy: what was signed last is of ")
    unsigned = jar("audit", "checkpoint")
    assert unsigned.code == 9
    assert "were signed; run `belljar audit verify`" in unsigned.stderr
    _, third = jar.exec_json("print(3)")
    assert (third["status"], third["receipt"]["checkpoint"]) == ("ok", None)
    assert jar("audit", "checkpoint", "--accept-restored").code == 0
    assert jar("audit", "verify").code == 0
    (accepted,) = jar.records("log.accepted")
    assert accepted.data["signed"] == result["receipt"]["seq"]


def test_doctor_says_whether_the_log_can_be_signed_and_writes_nothing_to_it(jar: Jar) -> None:
    jar.exec_json("print(1)")
    keys = Keys.at(jar.environ()).folder

    def files() -> dict[str, bytes]:
        folders = (jar.state.root, keys)
        return {str(path): path.read_bytes() for folder in folders for path in folder.glob("*") if path.is_file()}

    before = files()
    well = jar("doctor", "--backend", "jail")
    assert "log: it can be signed\n" in well.stdout
    assert files() == before
    notes = jar.work / "notes"
    (jar.at / "belljar.toml").write_text(f"schema = 1\n[audit]\nwitness = 'file:{notes}'\n")
    (keys / "signing").unlink()
    document = jar("doctor", "--backend", "jail", "--json").document
    assert [(one["ok"], one["required"]) for one in document["log"]] == [(False, False), (True, False), (False, False)]
    key, _, witness = document["log"]
    assert key["exposes"].startswith("the log was signed, but its key is not in the keys folder ")
    assert "BELLJAR_KEYS" in key["remedy"]
    assert f"file:{notes} has the first 0 records" in witness["exposes"]
    assert document["starts"]
    said = jar("doctor", "--backend", "jail").stdout
    assert "NO            the key that signs the log\n" in said
    assert said.endswith("log: see what is wrong with it\n")


def test_what_is_no_receipt_is_a_usage_error(jar: Jar) -> None:
    jar.exec_json("print(1)")
    for option in ("--receipt", "--from"):
        assert jar("audit", "verify", option, _keep(jar, "nothing", "{}")).code == 2
    assert jar("audit", "verify", "--key", "nothing").code == 2
    assert jar("audit", "receipt", "nobody").code == 2
