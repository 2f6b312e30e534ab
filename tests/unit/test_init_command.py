"""`belljar init`: the file that it writes says every key, and each line of it can be taken as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from belljar.cli.init import TEMPLATE
from belljar.config import _KEYS_OF, CONFIG_FILE, read_config

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
