"""What the policy says of who is asked (`models.by_depth`) and of what is in a prompt (`models.deny_prompts`).

Each prompt of a program is gone through before it is sent: those to a sub-model, and the questions to child runs. A
text that a child is given to read is none. One search looks for all patterns at once; only where it finds something
does it matter which. The work is done off the event loop above a size (`heavy`), and RE2 leaves the interpreter to
other threads meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from belljar.errors import PolicyDenied
from belljar.heavy import off_loop
from belljar.policy import Models, Policy, any_of

__all__ = ["Screening", "permit_depth"]


def permit_depth(policy: Policy, model: str, depth: int) -> None:
    """Check that the policy lets this model be asked so deep. Raises PolicyDenied."""
    if not policy.models.permits_at(model, depth):
        raise PolicyDenied(
            f"the policy {policy.name} does not let {model} be asked at depth {depth}: use another model, or ask from "
            "another depth",
            code="models.by_depth",
        )


class Screening:
    """What one run's policy says of the contents of prompts."""

    def __init__(self, models: Models) -> None:
        self._patterns = models.deny_prompts
        self._denied = any_of(models.deny_prompts) if models.deny_prompts else None

    async def permit(self, prompts: Sequence[memoryview]) -> None:
        """Check a whole batch before any of it is sent. Raises PolicyDenied."""
        if self._denied is not None:
            await off_loop(sum(map(len, prompts)), self._permit, prompts)

    def _permit(self, prompts: Sequence[memoryview]) -> None:
        assert self._denied is not None
        for place, prompt in enumerate(prompts):
            if self._denied.search(prompt):
                which = f"prompts[{place}]" if len(prompts) > 1 else "the prompt"
                number = next(n for n, one in enumerate(self._patterns, start=1) if any_of([one]).search(prompt))
                raise PolicyDenied(
                    f"{which} has text in it that the policy does not let out (models.deny_prompts, number {number}), "
                    "so nothing was sent: leave that text out",
                    code="models.deny_prompts",
                )
