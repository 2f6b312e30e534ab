"""The command line: thin. Data on stdout, progress and complaints on stderr, exit codes from the errors themselves."""

from __future__ import annotations

import sys

import click

from belljar import __version__
from belljar.cli import audit, context, demo, doctor, image, policy, run
from belljar.cli.output import complain
from belljar.errors import BelljarError

__all__ = ["cli", "main"]

EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="belljar")
def cli() -> None:
    """Run code that language models write: contained, brokered, metered, accountable."""


cli.add_command(run.run)
cli.add_command(run.exec_)
cli.add_command(demo.demo)
cli.add_command(doctor.doctor)
cli.add_command(policy.policy)
cli.add_command(context.context)
cli.add_command(audit.audit)
cli.add_command(image.image)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code that fits."""
    sys.exit(_main(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        code = cli.main(arguments, prog_name="belljar", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted", "the box is gone, what was spent is in the books, the log is closed", as_json=as_json)
        return EXIT_INTERRUPTED
    except BelljarError as error:
        complain(error, str(error), as_json=as_json)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again when it flushes at exit.
        sys.stdout = None
        return EXIT_INTERNAL
    return code if isinstance(code, int) else 0
