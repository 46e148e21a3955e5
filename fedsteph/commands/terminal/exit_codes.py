"""Turns errors into exit codes, and prints the cause as the last line on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import click

from fedsteph.common.errors import EXIT_BUG, EXIT_DONE, EXIT_INPUT, EXIT_STOPPED, FedstephError
from fedsteph.common.host import console
from fedsteph.common.host.disk import cannot_write, is_of_the_disk


def run(command: Callable[[], object]) -> int:
    """Run a command and give its exit code; the cause of a failure is the last line on stderr."""
    try:
        code = command()
        sys.stdout.flush()  # what a full disk did not take is an error, and not lost
        if code == EXIT_STOPPED:
            return _stopped()
        return code if isinstance(code, int) else EXIT_DONE
    except FedstephError as error:
        return _told(error)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        # Typer takes a damaged file of Python's own, such as half-written bytecode, for a user who leaves.
        return _bug(stop.__cause__) if isinstance(stop.__cause__, EOFError) else _stopped()
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        if context is not None:
            console.tell(context.get_usage())
        console.tell(f"error: {error.format_message()}", style="red")
        return EXIT_INPUT
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_DONE
    except OSError as error:
        return _of_the_system(error)
    except Exception as error:  # noqa: BLE001 (whatever else comes here is a bug of ours)
        return _bug(error)


def _stopped() -> int:
    console.tell("stopped; the same command goes on from here")
    return EXIT_STOPPED


def _told(error: FedstephError) -> int:
    if error.details is not None:
        console.tell(error.details)
    console.tell(f"error: {error.sentence}", style="red")
    return error.exit_code


def _of_the_system(error: OSError) -> int:
    place = error.filename2 or error.filename
    if place is None and is_of_the_disk(error):
        with contextlib.suppress(OSError):
            sys.stdout.close()  # or Python tries to write the rest again, and ends with a code of its own
        return _told(cannot_write(None, error))
    if place is None:
        return _bug(error)
    if is_of_the_disk(error):
        return _told(cannot_write(Path(os.fsdecode(place)), error))
    remedy = "Check the path, its permissions and the free space"
    return _told(FedstephError(str(error.strerror), where=os.fsdecode(place), remedy=remedy))


def _bug(error: Exception) -> int:
    traceback.print_exception(error)
    text = f"bug: {type(error).__name__}: {error}. Not your fault; please report it with the lines above"
    console.tell(text, style="red")
    return EXIT_BUG
