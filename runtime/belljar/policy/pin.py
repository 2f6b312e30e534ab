"""Whether the box image that is there is the one that a policy wants."""

from __future__ import annotations

from belljar.errors import PolicyDenied
from belljar.policy.model import Policy

__all__ = ["check_pin"]


def check_pin(policy: Policy, image: str) -> None:
    """Nothing, if boxes with the image of this digest may be built.

    Raises:
        PolicyDenied: `image.pinned`: the policy names another.
    """
    pinned = policy.box.image
    if pinned not in (None, image):
        raise PolicyDenied(
            f"the policy {policy.name} pins the box image {pinned}, and here it is {image}: use the Python and the "
            "belljar that the pinned one was made with, or pin this one (belljar image ls shows what is there)",
            code="image.pinned",
        )
