"""`belljar mcp`: Belljar's tools for a program that starts this one and speaks MCP on its stdin and stdout.

Stdout carries the protocol and nothing else. So before anything is opened the two descriptors are moved: what prints to
descriptor 1, here or in a process started from here, prints to stderr, and what reads descriptor 0 finds its end.

The runs are ordered at a desk of this process, with little room: the tools work as those of a service do. The end of
stdin is the end of the session; so is a signal, and a stdout that can no longer be written. In each case the runs under
way are ended first, as Ctrl-C ends them, and are in the log.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import click

from belljar.cli import options
from belljar.cli.lines import Lines
from belljar.cli.loop import run_async
from belljar.cli.output import OutputFailed
from belljar.errors import InvalidInput
from belljar.host import Host
from belljar.identity import BACKENDS, DEFAULT_TENANT, LANGUAGES, Tenant
from belljar.jobs import Desk, DeskLimits
from belljar.models import Prices
from belljar.policy import load

__all__ = ["mcp"]

# Of one message: the longest text that a tool takes, in JSON, and room for the rest.
_MESSAGE_BYTES_MAX: Final = 4 * 2**20
# Of one client, which has no more calls under way than there are places for, and never comes back for a result.
_LIMITS: Final = DeskLimits(queued=64, queued_per_tenant=64, queued_bytes=64 << 20, ended=64, ended_bytes=8 << 20)


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="A model that callers may use; repeat it for more, of which the first is the default. Without one they can "
    "run code and search, but ask no model.",
)
@options.prices
@click.option("--policy", default="standard", show_default=True, metavar="NAME|FILE", help="The policy of all runs.")
@click.option("--backend", type=click.Choice(BACKENDS), help="What boxes are made of. [default: the policy's first]")
@click.option(
    "--language",
    type=click.Choice(LANGUAGES),
    help="All of Python, or the restricted part. [default: the policy's first]",
)
@click.option(
    "--tenant",
    default=DEFAULT_TENANT,
    show_default=True,
    metavar="T",
    help="The tenant to charge; callers see it and those below it, and no other.",
)
@options.state
def mcp(models: tuple[str, ...], state: Any, tenant: str, **rest: Any) -> None:
    """Serve Belljar's tools to an MCP client, over stdin and stdout."""
    try:
        from belljar.service.mcp import McpService
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        raise InvalidInput("MCP needs its SDK: install belljar[mcp]", code="mcp.extra") from None
    from belljar.service.pages import DemoModel
    from belljar.service.tools import Offer

    caller = _User(options.user(), Tenant(tenant))
    policy = load(rest["policy"])
    offer = Offer(
        models={name: name for name in models}, policy=policy.name, backend=rest["backend"], language=rest["language"]
    )
    prices = Prices.load(rest["prices"]) if rest["prices"] else None

    async def serve() -> None:
        read, write = _streams()
        async with (
            Host(state=state, config=options.config_file(), prices=prices, models=[DemoModel()]) as host,
            Desk(host, _LIMITS, policies={policy.name: policy}, models=models) as desk,
        ):
            for name in models:  # a client would hear no more than that it is our fault
                terms = {"policy": policy, "backend": rest["backend"], "language": rest["language"]}
                await host.vet(by=caller.name, tenant=caller.tenant, models=(name, name), references=(), **terms)
            service = McpService(desk, offer)
            try:
                server = service.server(lambda _context: caller)
                await server.run(read, write, server.create_initialization_options())
            finally:
                await service.aclose()
        if write.failure is not None:
            raise OutputFailed(write.failure)

    run_async(serve(), closed="the runs under way were ended, and are in the log")


class _User:
    """The user of the system who started this: may do everything, for one tenant and those below it."""

    role = "runner"

    def __init__(self, name: str, tenant: Tenant) -> None:
        self.name = name
        self.tenant = tenant


def _streams() -> tuple[_Read, _Write]:
    """What comes on stdin and goes to stdout, which from here on nobody else has."""
    stdin, stdout = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    read = _Read(stdin)
    return read, _Write(stdout, read.end)


class _Stream:
    """The SDK opens and closes its streams; ours end with the process."""

    async def aclose(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        pass


class _Read(_Stream):
    """Messages, a line each. One that is none is given as the error, and the SDK answers it."""

    def __init__(self, fd: int) -> None:
        too_long = InvalidInput(
            f"a message of over {_MESSAGE_BYTES_MAX} bytes is too long: register the text with `belljar context add`",
            code="mcp.too_long",
        )
        self._lines = Lines(_MESSAGE_BYTES_MAX, too_long, fd=fd)

    def end(self) -> None:
        """The session is over."""
        self._lines.end()

    async def receive(self) -> Any:
        from mcp.shared.message import SessionMessage
        from mcp.types import jsonrpc_message_adapter

        line = await self._lines.next()
        if line is None:
            raise StopAsyncIteration
        try:
            return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
        except ValueError as error:
            return error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self.receive()


class _Write(_Stream):
    """Messages, a line each, until one cannot be written: the client has gone, which is the end of the session."""

    failure: OSError | None = None

    def __init__(self, fd: int, end: Callable[[], None]) -> None:
        self._fd = fd
        self._end = end
        self._turn = asyncio.Lock()

    async def send(self, item: Any, /) -> None:
        line = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        async with self._turn:
            if self.failure is not None:
                return
            try:
                await asyncio.to_thread(_write, self._fd, line)
            except OSError as error:
                self.failure = error
                self._end()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # whoever started us made it so
            select.select((), (fd,), ())
