"""The containers on a daemon, as somebody sees it who is not belljar."""

from __future__ import annotations

from typing import Any

import docker
import docker.errors

__all__ = ["containers"]


def containers(client: docker.APIClient, label: str) -> list[dict[str, Any]]:
    """Those with this label, in any state.

    dockerd lists from a copy of its books. What writes to them while a container is being removed can bring back its
    line in the copy: for ever, in the state of that moment, without a name. Such a one is asked for by its id.
    """
    found: list[dict[str, Any]] = client.containers(all=True, filters={"label": label})
    return [one for one in found if one["Names"] or _is_there(client, one["Id"])]


def _is_there(client: docker.APIClient, container: str) -> bool:
    try:
        client.inspect_container(container)
    except docker.errors.NotFound:
        return False
    return True
