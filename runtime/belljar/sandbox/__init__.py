"""Boxes: the `Backend` and `Sandbox` protocols, the image they share, and the backends."""

from __future__ import annotations

from belljar.sandbox.base import Backend, BoxEnd, BoxSpec, Evidence, Sandbox
from belljar.sandbox.docker import Daemon, Docker
from belljar.sandbox.image import Image, ensure_image
from belljar.sandbox.jail import Jail

__all__ = ["Backend", "BoxEnd", "BoxSpec", "Daemon", "Docker", "Evidence", "Image", "Jail", "Sandbox", "ensure_image"]
