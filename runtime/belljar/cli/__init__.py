"""The command line, a thin layer: data on stdout, progress and errors on stderr, exit codes from the error types."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from belljar.cli.loop import Stopped, done, may_be_stopped
from belljar.cli.output import EXIT_OUTPUT, OutputFailed, complain, flush, open_streams
from belljar.errors import BelljarError, InvalidInput

__all__ = ["cli", "main"]

EXIT_INTERNAL = 1
EXIT_INTERRUPTED = 130

# Each is loaded only when needed: the Docker SDK alone takes longer than most commands.
_COMMANDS: Final = {
    "run": ("run", "Answer QUESTION about a text of any length, with a root model that writes code."),
    "exec": ("run", "Run PROGRAM.py in a box, without a root model."),
    "chat": ("chat", "Answer questions about a text of any length, one on each line of stdin, until it ends."),
    "demo": ("demo", "Run the main job without an API key: a million tokens, a real box, real quotas, a real log."),
    "bench": ("bench", "Measure a model through Belljar and alone, over generated tasks of any length."),
    "serve": ("serve", "Answer over HTTP until a signal comes: then let runs end, settle, and exit with 0."),
    "init": ("init", "Write a configuration file with every key explained: FILE, or belljar.toml in the state folder."),
    "doctor": ("doctor", "Test the wall on this host: which layers hold, and what a program inside can reach."),
    "policy": ("policy", "Read and check policies."),
    "context": ("context", "Register long texts, so that runs over them start at once."),
    "quota": ("quota", "Show, set and explain what tenants may use."),
    "key": ("key", "Make, list, replace and revoke the keys with which a service is asked."),
    "audit": ("audit", "Read and check the audit log."),
    "config": ("config", "Read and check the host's configuration file."),
    "state": ("state", "Check, migrate and back up what a host keeps."),
    "mcp": ("mcp", "Serve Belljar's tools to an MCP client, over stdin and stdout."),
    "image": ("image", "Make and list the boxes' root file system, built from this Python and nothing else."),
}


class _Commands(click.Group):
    """Knows its commands by name, and loads only the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"belljar.cli.{_COMMANDS[cmd_name][0]}")
        command = getattr(module, "exec_" if cmd_name == "exec" else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        may_be_stopped()
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="belljar", prog_name="belljar")
def cli() -> None:
    """Run code that language models write: contained, brokered, metered, accountable."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the right code."""
    open_streams()
    code = _main(sys.argv[1:] if arguments is None else arguments)
    done(code)
    sys.exit(code)


def _main(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        code = _run(arguments, as_json)
        flush()
    except OutputFailed as failure:
        # A reader that has seen enough (`| head`) need not be told.
        if not failure.reader_left:
            complain("output", f"{failure}: free some space, or redirect it elsewhere")
        return EXIT_OUTPUT
    return code


def _run(arguments: list[str], as_json: bool) -> int:
    try:
        code = cli.main(arguments, prog_name="belljar", standalone_mode=False)
    except click.ClickException as error:
        return _usage(error, as_json)
    except Stopped as stopped:
        complain("interrupted", str(stopped), as_json=as_json)
        return stopped.exit_code
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted", "nothing is left half done", as_json=as_json)
        return EXIT_INTERRUPTED
    except BelljarError as error:
        complain(error, str(error), as_json=as_json)
        return error.exit_code
    except OutputFailed:
        raise
    except Exception as error:
        # A bug of ours: a person needs all of it to report it, and a parser of our output needs a document.
        import traceback

        traceback.print_exc()
        complain(
            "our fault",
            f"an unexpected {type(error).__name__}: please report it, with the lines above",
            as_json=as_json,
        )
        return EXIT_INTERNAL
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException, as_json: bool) -> int:
    """An invalid command: as click reports it, or in one line with a document."""
    if not as_json:
        error.show()
        return error.exit_code
    message = "name a command" if isinstance(error, click.exceptions.NoArgsIsHelpError) else error.format_message()
    complain(InvalidInput(message, code="usage"), message, as_json=True)
    return error.exit_code
