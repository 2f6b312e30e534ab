"""The `jail` backend: our own throwaway container, no daemon. See `launcher` for the steps."""

from __future__ import annotations

from belljar.sandbox.jail.backend import Jail

__all__ = ["Jail"]
