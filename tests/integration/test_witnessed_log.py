"""A host whose configuration names a witness, from the command line to the verdict."""

from __future__ import annotations

import shutil

from tests.integration.support import Jar


def test_after_a_restored_log_was_accepted_its_old_witness_says_so_for_ever_and_a_new_one_holds(jar: Jar) -> None:
    notes = jar.work / "notes"
    (jar.at / "belljar.toml").write_text(f"schema = 1\n[audit]\nwitness = 'file:{notes}'\n")
    log, old = jar.state.root / "audit.db", jar.work / "old.db"
    assert jar.exec("print(1)").code == 0
    shutil.copy(log, old)
    for number in (2, 3):
        assert jar.exec(f"print({number})").code == 0
    for path in log.parent.glob("audit.db*"):
        path.unlink()
    shutil.copy(old, log)
    before = notes.rename(jar.work / "notes.before")
    accepted = jar("audit", "checkpoint", "--accept-restored")
    assert accepted.code == 0
    assert (
        f"if the witness file:{notes} has checkpoints of the log as it was, it will say so for ever" in accepted.stderr
    )
    assert jar("audit", "verify").code == 0
    # The copy had the first checkpoint: what the old notes say beyond it is not in this log.
    found = jar("audit", "verify", "--witness", before)
    assert (found.code, found.stdout.partition(":")[0]) == (9, "restored old copy")
    assert jar("audit", "verify", "--witness", notes).code == 0
    for number in (4, 5, 6):
        assert jar.exec(f"print({number})").code == 0
    found = jar("audit", "verify", "--witness", before)
    assert (found.code, found.stdout.partition(":")[0]) == (9, "fork")
    assert "a checkpoint that the witness has is of other records than the first " in found.stdout
    assert jar("audit", "verify", "--witness", notes).code == 0


def test_a_log_that_was_put_back_with_its_keys_is_found_by_its_witness(jar: Jar) -> None:
    notes, keys = jar.work / "notes", jar.work / "keys"
    (jar.at / "belljar.toml").write_text(f"schema = 1\n[audit]\nwitness = 'file:{notes}'\n")
    env = {"BELLJAR_KEYS": str(keys)}
    assert f"witness   file:{notes}  ({jar.at / 'belljar.toml'}, audit.witness)" in jar("config", "show").stdout
    assert f"witness   file:{notes}  (has nothing yet)" in jar("state", "check").stdout
    log, old = jar.state.root / "audit.db", jar.work / "old"
    assert jar.exec("print(1)", env=env).code == 0
    shutil.copytree(keys, old / "keys")
    shutil.copy(log, old / "audit.db")
    assert jar.exec("print(2)", env=env).code == 0
    assert "the log verifies" in (whole := jar("state", "check", env=env)).stdout
    assert f"witness   file:{notes}  (has the first " in whole.stdout
    whole = jar("audit", "verify", "--witness", notes, env=env)
    assert (whole.code, whole.stderr) == (0, "")
    garbled = jar.work / "garbled"
    kept = notes.read_text()
    cut = [f"# {line}" if line.strip().isdigit() else line for line in kept.splitlines(keepends=True)]
    garbled.write_text("".join(cut) + kept)
    told = jar("audit", "verify", "--witness", garbled, "--json", env=env)
    assert (told.code, told.document["witness_lines_unreadable"]) == (0, 4 * garbled.read_text().count("\n# "))
    assert f"lines of the witness file:{garbled} cannot be read" in told.complaint
    # Whoever can write the log and the keys puts both back.
    for path in log.parent.glob("audit.db*"):
        path.unlink()
    shutil.copy(old / "audit.db", log)
    shutil.rmtree(keys)
    shutil.copytree(old / "keys", keys)
    assert jar("audit", "verify", env=env).code == 0
    found = jar("audit", "verify", "--witness", notes, env=env)
    assert found.code == 9
    assert found.stdout.startswith("restored old copy: a checkpoint that the witness has is of ")
    # What signs by hand pushes, too; where the witness takes nothing, the log is signed nevertheless.
    size = notes.stat().st_size
    assert jar("audit", "rotate-key", env=env).code == 0
    assert notes.stat().st_size > size
    notes.unlink()
    notes.mkdir()
    signed = jar("audit", "checkpoint", env=env)
    assert (signed.code, "did not take a checkpoint (Is a directory)" in signed.stderr) == (0, True)
    assert "did not take the last checkpoint: Is a directory" in jar("state", "check", env=env).stdout
    assert jar("audit", "verify", "--witness", notes, env=env).code == 2
