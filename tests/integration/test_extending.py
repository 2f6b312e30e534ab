"""`docs/extending.md`, followed by somebody who has belljar installed and nothing else of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import belljar
from belljar.testing import FakeModel, register_toy, toy_policy
from tests.integration.support import named_files

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, source in named_files(_DOCUMENT).items():
        (tmp_path / name).write_text(source)
    return tmp_path


def test_its_files_are_complete_and_its_tests_pass_outside_of_our_tree(package: Path) -> None:
    assert sorted(path.name for path in package.iterdir()) == ["my_backend.py", "my_model.py", "test_mine.py"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    # `-c`: nothing of our configuration. The folder of the tests is on the path, as pytest does it by itself.
    (package / "empty.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-c", "empty.ini", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, cwd=package, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


class Plain:
    """A model that states no price, and keeps whether it was asked."""

    scripted = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0

    async def complete(self, request: belljar.ModelRequest) -> belljar.ModelReply:
        self.asked += 1
        return belljar.ModelReply("yes", belljar.Usage(1000, 1000), self.name, "end_turn")

    async def aclose(self) -> None:
        """Nothing to close."""


def asked(model: belljar.Model, folder: Path) -> belljar.Result:
    register_toy()
    return belljar.execute("print(llm_query('?'))", model=model, policy=toy_policy(), state=folder)


def test_a_model_without_rates_costs_what_the_public_list_says_of_its_name(tmp_path: Path) -> None:
    model = Plain("claude-sonnet-5-5")
    result = asked(model, tmp_path)
    assert (result.stdout, model.asked) == ("yes\n", 1)
    assert result.cost_nanousd == belljar.Prices().cost(model.name, belljar.Usage(1000, 1000)) > 0


def test_a_model_that_has_no_price_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    model = Plain("mine-1")
    with pytest.raises(belljar.PolicyDenied, match="`rates` to the model object") as denied:
        asked(model, tmp_path)
    assert (denied.value.code, model.asked) == ("model.unpriced", 0)


def test_a_model_that_does_not_say_whether_it_is_scripted_is_refused(tmp_path: Path) -> None:
    class Silent:
        name = "silent-1"
        rates = belljar.FREE
        complete = FakeModel().complete
        aclose = FakeModel().aclose

    with pytest.raises(belljar.InvalidInput, match="'silent-1' does not say whether it is scripted"):
        asked(Silent(), tmp_path)  # type: ignore[arg-type]
