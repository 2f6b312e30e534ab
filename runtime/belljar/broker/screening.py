"""What the policy says of who is asked (`models.by_depth`) and of what is in a prompt (`models.deny_prompts` and
`models.prompt_share`).

Each prompt of a program is gone through before it is sent: those to a sub-model, and the questions to child runs. A
text that a child is given to read is none. One search looks for all patterns at once; only where it finds something
does it matter which. The work is done off the event loop above a size (`heavy`), and RE2 leaves the interpreter to
other threads meanwhile.

How much of the contexts a prompt carries is found out as for the account of what was shown, by the search process, but
before it is sent. A prompt that is no longer than the share allows cannot carry more, so it is not looked at. One that
cannot be looked through in time is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from belljar.broker.shown import Shown
from belljar.errors import PolicyDenied
from belljar.heavy import off_loop
from belljar.policy import Models, Policy, any_of

__all__ = ["Screening", "permit_depth"]

_WHOLE_PERCENT: Final = 100


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

    def __init__(self, models: Models, shown: Shown) -> None:
        self._patterns = models.deny_prompts
        self._denied = any_of(models.deny_prompts) if models.deny_prompts else None
        self._percent = models.prompt_share_percent
        self._shown = shown
        # A run that asks for much at once waits for itself.
        self._comparing = asyncio.Lock()

    async def permit(self, prompts: Sequence[memoryview]) -> None:
        """Check a whole batch before any of it is sent. Raises PolicyDenied."""
        if self._denied is not None:
            await off_loop(sum(map(len, prompts)), self._permit, prompts)
        if self._percent < _WHOLE_PERCENT:
            for place, prompt in enumerate(prompts):
                await self._permit_share(f"prompts[{place}]" if len(prompts) > 1 else "the prompt", prompt)

    async def _permit_share(self, which: str, prompt: memoryview) -> None:
        chars = self._shown.chars
        most = chars * self._percent // _WHOLE_PERCENT
        if len(prompt) <= most:  # it has at most as many characters as bytes
            return
        async with self._comparing:
            carried, certain = await self._shown.carried(prompt)
        if certain and carried <= most:
            return
        what = "carries too much of the contexts" if certain else "could not be compared with the contexts in time"
        raise PolicyDenied(
            f"{which} {what} (models.prompt_share), so nothing was sent: send a shorter part of them; a prompt of "
            f"{most} bytes may carry anything",
            code="models.prompt_share",
            limit=self._percent,
            observed=-(-carried * _WHOLE_PERCENT // chars) if certain else None,
        )

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
