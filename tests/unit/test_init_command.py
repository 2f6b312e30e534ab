"""`belljar init`: the file that it writes says every key, and each line of it can be taken as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from belljar.cli.init import TEMPLATE, init
from belljar.config import _KEYS_OF, CONFIG_FILE, read_config
from belljar.errors import InvalidInput

KEYS = [(path, key) for path, table in _KEYS_OF.items() if path for key in table.__struct_fields__]


@pytest.mark.parametrize(("path", "key"), KEYS, ids=lambda value: value if isinstance(value, str) else ".".join(value))
def test_it_names_every_key(path: tuple[str, ...], key: str) -> None:
    if path == ("tenants",):  # any limit of a tenant; two are shown
        return
    assert re.search(rf"(?m)^# {key} = ", TEMPLATE) or re.search(
        rf"\[{re.escape('.'.join((*path, key)))}[.\]]", TEMPLATE
    )


def test_what_it_suggests_can_be_taken(tmp_path: Path) -> None:
    file = tmp_path / CONFIG_FILE
    taken = re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", TEMPLATE).replace('journal_env = "BELLJAR_DATABASE"\n', "")
    file.write_text(taken)
    found = read_config(file)
    assert found.service.models == ["claude-sonnet-5-5"]
    assert found.service.profiles["careful"].tenants == ["acme"]
    assert found.access is not None
    assert found.access.oidc is not None
    assert [str(tenant) for tenant in found.tenants] == ["acme"]


@pytest.mark.parametrize("given", [("FILE",), ("--config", "FILE")])
def test_it_writes_the_file_that_is_named_whichever_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    monkeypatch.setenv("BELLJAR_HOME", str(tmp_path / "state"))
    file = tmp_path / "host.toml"
    done = CliRunner().invoke(init, [str(file) if word == "FILE" else word for word in given])
    assert (done.exit_code, done.output) == (0, f"{file}\n")
    assert file.read_text() == TEMPLATE
    assert not (tmp_path / "state").exists()


def test_a_file_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(init, [str(tmp_path / "a.toml"), "--config", str(tmp_path / "b.toml")])
    assert isinstance(done.exception, InvalidInput)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "key"), KEYS, ids=lambda value: value if isinstance(value, str) else ".".join(value))
def test_the_document_has_every_key_that_the_file_says_it_has(path: tuple[str, ...], key: str) -> None:
    """In a table: with the names before it, or behind another key of the same table."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()
    before = re.escape(".".join((*path, "NAME") if path in (("tenants",), ("service", "profiles")) else path))
    row = rf"(?m)^\| `{before}\.[^|]*"
    rows = re.findall(row, text)
    assert any(re.search(rf"`(?:{before}\.)?{key}(?:`|\.)", one) for one in rows), (path, key)
