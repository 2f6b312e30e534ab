"""What takes long to load is loaded beside the event loop: other runs go on meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import asyncio, sys, threading
import belljar

seen = {}

class Witness:
    def find_spec(self, name, path=None, target=None):
        if name in ("anthropic", "genai_prices"):
            seen[name] = threading.current_thread() is threading.main_thread()
        return None

async def main():
    environ = {"ANTHROPIC_API_KEY": "canary", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
    async with belljar.Runtime(state=sys.argv[1], environ=environ) as runtime:
        result = await runtime.execute("print(6 * 7)", model="claude-sonnet-5-5")
    assert result.stdout == "42\\n", result

sys.meta_path.insert(0, Witness())
asyncio.run(main())
print(sorted(seen.items()))
"""


def test_the_provider_s_client_and_the_price_list_are_loaded_off_the_event_loop(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[('anthropic', False), ('genai_prices', False)]\n", "")
