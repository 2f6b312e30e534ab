"""Boxes in containers of a Docker daemon, with runc or with gVisor."""

from __future__ import annotations

from belljar.sandbox.docker.backend import Docker
from belljar.sandbox.docker.daemon import Daemon

__all__ = ["Daemon", "Docker"]
