"""Turns errors into exit codes, and prints the cause as the last line on stderr."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import click

from fedsteph.common.errors import EXIT_BUG, EXIT_DONE, EXIT_INPUT, EXIT_STOPPED, FedstephError
from fedsteph.common.host.console import err


def run(command: Callable[[], object]) -> int:
    """Run a command and give its exit code; the cause of a failure is the last line on stderr."""
    try:
        code = command()
        if code == EXIT_STOPPED:
            return _stopped()
        return code if isinstance(code, int) else EXIT_DONE
    except FedstephError as error:
        if error.details is not None:
            err.print(error.details, markup=False, highlight=False)
        err.print(f"error: {error.sentence}", style="red", markup=False, highlight=False)
        return error.exit_code
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _stopped()
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        if context is not None:
            err.print(context.get_usage(), markup=False, highlight=False)
        err.print(f"error: {error.format_message()}", style="red", markup=False, highlight=False)
        return EXIT_INPUT
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_DONE
    except OSError as error:
        place = error.filename2 or error.filename
        if place is None:
            return _bug(error)
        remedy = "Check the path, its permissions and the free space"
        err.print(f"error: {place}: {error.strerror}. {remedy}", style="red", markup=False, highlight=False)
        return EXIT_INPUT
    except Exception as error:  # noqa: BLE001 (whatever else comes here is a bug of ours)
        return _bug(error)


def _stopped() -> int:
    err.print("stopped; the same command goes on from here", markup=False)
    return EXIT_STOPPED


def _bug(error: Exception) -> int:
    traceback.print_exception(error)
    err.print(
        f"bug: {type(error).__name__}: {error}. Not your fault; please report it with the lines above",
        style="red",
        markup=False,
        highlight=False,
    )
    return EXIT_BUG
