"""Boxes: the `Backend` and `Sandbox` protocols, backends by name, the image they share, and the jail.

Containers are in `docker`; import them from there, because the SDK takes long to load.
"""

from __future__ import annotations

from belljar.sandbox.base import Backend, BoxEnd, BoxSpec, Evidence, Sandbox, check_layers
from belljar.sandbox.image import Image, ensure_image
from belljar.sandbox.jail import Jail
from belljar.sandbox.registry import BackendSite, OpenBackend, open_backend, register_backend

__all__ = [
    "Backend",
    "BackendSite",
    "BoxEnd",
    "BoxSpec",
    "Evidence",
    "Image",
    "Jail",
    "OpenBackend",
    "Sandbox",
    "check_layers",
    "ensure_image",
    "open_backend",
    "register_backend",
]
