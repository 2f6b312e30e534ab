"""Whether this host's box image is the one that a policy pins."""

from __future__ import annotations

from belljar.errors import PolicyDenied
from belljar.policy.model import Policy

__all__ = ["check_pin"]


def check_pin(policy: Policy, image: str) -> None:
    """Check that boxes may be built with the image of this digest.

    Raises:
        PolicyDenied: `image.pinned`: the policy pins another.
    """
    pinned = policy.box.image
    if pinned not in (None, image):
        raise PolicyDenied(
            f"the policy {policy.name} pins the box image {pinned}, but this host makes {image}: use the Python "
            "and the Belljar that made the pinned one, or pin this one (`belljar image ls` lists the images here)",
            code="image.pinned",
        )
