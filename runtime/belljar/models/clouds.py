"""Claude as Amazon Bedrock, Google's Vertex AI and Microsoft Foundry offer it: the Messages API under another roof.

What differs from `anthropic` is the SDK's client, where it is and what it wants for a key; all else is the same, and
the answer, its cost and its failures are read there. Keys and addresses are arguments, and nothing is looked up: no
profile, no metadata server, no cached login. A model's name begins with its cloud, so that policy and price know it.

These hosts may not know the mark on a whole request that keeps a conversation in the cache, so its last message bears
one instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Literal, TypedDict, Unpack

import anthropic
import httpx2

from belljar.errors import InvalidInput
from belljar.models.anthropic import AnthropicModel

__all__ = ["BedrockModel", "FoundryModel", "VertexModel"]

_VERTEX_MULTIREGIONS: Final = ("us", "eu")

Ttl = Literal["5m", "1h"]


class _Options(TypedDict, total=False):
    """What each of them takes as `AnthropicModel` does."""

    http_client: httpx2.AsyncClient | None
    cache_ttl: Ttl
    tracer_provider: Any


class _CloudModel(AnthropicModel):
    """Raises `InvalidInput`, as each of them does, where a name, a key or an address is not valid."""

    _marks_request = False
    _is_provider = True
    _prefix = ""
    _key_variable = _url_variable = ""

    def __init__(
        self,
        name: str,
        *,
        key: str,
        base_url: str,
        connect: Callable[..., Any],
        **options: Unpack[_Options],
    ) -> None:
        self._connect = connect
        super().__init__(name, api_key=key, base_url=base_url, **options)


class BedrockModel(_CloudModel):
    """`bedrock:NAME`, with a Bedrock API key; the name there is like `anthropic.claude-sonnet-5-5`.

    Args:
        name: `bedrock:` and the name.
        api_key: a Bedrock API key.
        region: such as `us-east-1`.
        base_url: another address than that of the region.
        options: `http_client`, `cache_ttl` and `tracer_provider`, as for `AnthropicModel`.
    """

    _prefix = "bedrock:"
    _key_variable, _url_variable = "AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_BEDROCK_MANTLE_BASE_URL"

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        region: str,
        base_url: str = "",
        **options: Unpack[_Options],
    ) -> None:
        region = _part("region", region, "AWS_REGION")

        def connect(**common: Any) -> anthropic.AsyncAnthropicBedrockMantle:
            return anthropic.AsyncAnthropicBedrockMantle(aws_region=region, **common)

        url = base_url or f"https://bedrock-mantle.{region}.api.aws/anthropic"
        super().__init__(name, key=api_key, base_url=url, connect=connect, **options)


class VertexModel(_CloudModel):
    """`vertex:NAME`, with an access token of Google Cloud, which is valid for an hour.

    Args:
        name: `vertex:` and the name, such as `claude-sonnet-5-5`.
        access_token: as `gcloud auth print-access-token` prints it.
        project: the id of the project.
        region: such as `global`, `eu` or `us-east5`.
        base_url: another address than that of the region.
        options: `http_client`, `cache_ttl` and `tracer_provider`, as for `AnthropicModel`.
    """

    _prefix = "vertex:"
    _key_variable, _url_variable = "CLOUDSDK_AUTH_ACCESS_TOKEN", "ANTHROPIC_VERTEX_BASE_URL"

    def __init__(
        self,
        name: str,
        *,
        access_token: str,
        project: str,
        region: str,
        base_url: str = "",
        **options: Unpack[_Options],
    ) -> None:
        region = _part("region", region, "CLOUD_ML_REGION")
        project = _part("project", project, "ANTHROPIC_VERTEX_PROJECT_ID")

        def connect(*, api_key: str, **common: Any) -> anthropic.AsyncAnthropicVertex:
            return anthropic.AsyncAnthropicVertex(access_token=api_key, project_id=project, region=region, **common)

        url = base_url or f"https://{_vertex_host(region)}/v1"
        super().__init__(name, key=access_token, base_url=url, connect=connect, **options)


class FoundryModel(_CloudModel):
    """`foundry:NAME`, with a key of Microsoft Foundry; the name is that of the deployment.

    Args:
        name: `foundry:` and the name.
        api_key: the resource's key.
        resource: the name of the resource, unless `base_url` is given.
        base_url: another address than that of the resource.
        options: `http_client`, `cache_ttl` and `tracer_provider`, as for `AnthropicModel`.
    """

    _prefix = "foundry:"
    _key_variable, _url_variable = "ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_BASE_URL"

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        resource: str = "",
        base_url: str = "",
        **options: Unpack[_Options],
    ) -> None:
        if not base_url:
            resource = _part("resource", resource, "ANTHROPIC_FOUNDRY_RESOURCE")
        url = base_url or f"https://{resource}.services.ai.azure.com/anthropic/"
        connect = anthropic.AsyncAnthropicFoundry
        super().__init__(name, key=api_key, base_url=url, connect=connect, **options)


def _vertex_host(region: str) -> str:
    if region == "global":
        return "aiplatform.googleapis.com"
    if region in _VERTEX_MULTIREGIONS:
        return f"aiplatform.{region}.rep.googleapis.com"
    return f"{region}-aiplatform.googleapis.com"


def _part(what: str, value: str, variable: str) -> str:
    """A part of a host name or a path: it must not lead to another one."""
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9-]{0,99}", value.strip()):
        raise InvalidInput(f"the model's {what} is missing or not valid: set {variable}", code="model.url")
    return value.strip()
