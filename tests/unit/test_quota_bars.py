"""`quota show` draws what is used, held and left."""

from __future__ import annotations

import pytest

from belljar.cli.quota import _bar


@pytest.mark.parametrize(
    ("used", "held", "limit", "bar"),
    [
        (0, 0, 10, "[....................]"),
        (5, 0, 10, "[##########..........]"),
        (5, 2, 10, "[##########~~~~......]"),
        (10, 0, 10, "[####################]"),
        # What there is of anything is to be seen, and what is beyond the limit keeps its share.
        (1, 0, 10**9, "[#...................]"),
        (0, 1, 10**9, "[~...................]"),
        (15, 5, 10, "[###############~~~~~]"),
        (0, 0, 0, "[####################]"),
    ],
)
def test_a_bar_shows_what_is_used_held_and_left(used: int, held: int, limit: int, bar: str) -> None:
    assert _bar(used, held, limit) == bar
