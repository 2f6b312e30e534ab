"""Boxes: the `Backend` and `Sandbox` protocols, the image they share, and the jail.

Containers are in `docker`, to be imported from there: not everybody has time for the SDK.
"""

from __future__ import annotations

from belljar.sandbox.base import Backend, BoxEnd, BoxSpec, Evidence, Sandbox
from belljar.sandbox.image import Image, ensure_image
from belljar.sandbox.jail import Jail

__all__ = ["Backend", "BoxEnd", "BoxSpec", "Evidence", "Image", "Jail", "Sandbox", "ensure_image"]
