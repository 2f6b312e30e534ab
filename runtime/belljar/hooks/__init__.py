"""Webhooks: a service tells others what happens to a tenant.

`hooks` has whom to tell and what, `delivering` tells them, `sending` is one request, `quotas` sees what quotas come to.
"""

from belljar.hooks.delivering import Deliveries
from belljar.hooks.hooks import TOLD, HookInfo, Hooks, Told
from belljar.hooks.quotas import watch_quotas

__all__ = ["TOLD", "Deliveries", "HookInfo", "Hooks", "Told", "watch_quotas"]
