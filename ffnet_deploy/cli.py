"""The command line: every command from ``commands/``, and one handler for errors."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from typing import Annotated

import typer

from ffnet_deploy import __version__
from ffnet_deploy.commands.bench import bench
from ffnet_deploy.commands.build import build
from ffnet_deploy.commands.calibrate import calibrate
from ffnet_deploy.commands.compare import compare
from ffnet_deploy.commands.demo import demo
from ffnet_deploy.commands.doctor import doctor
from ffnet_deploy.commands.evaluate import eval_app
from ffnet_deploy.commands.expected import expected
from ffnet_deploy.commands.export import export
from ffnet_deploy.commands.grouped import GroupedCommand
from ffnet_deploy.commands.inspect import inspect
from ffnet_deploy.commands.interrupts import CtrlC
from ffnet_deploy.commands.models import models
from ffnet_deploy.commands.output import flush, prepare_streams, say, tell
from ffnet_deploy.commands.verify import verify
from ffnet_deploy.commands.weights import weights_app
from ffnet_deploy.errors import FFNetDeployError
from ffnet_deploy.machine.threads import wait_asleep

app = typer.Typer(
    help="From an FFNet's name to a verified ONNX graph, engines, and latency and mIoU next to the PyTorch reference.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _command in (models, export, calibrate, build, bench, compare, verify, inspect, doctor, demo):
    app.command(cls=GroupedCommand)(_command)
app.add_typer(weights_app, name="weights")
app.add_typer(eval_app, name="eval")


def _print_version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: one line on stderr and the error's exit code for every expected failure; 130 on Ctrl-C."""
    wait_asleep()
    try:
        with CtrlC():
            _run()
    except FFNetDeployError as error:
        tell(f"error: {error}")
        sys.exit(error.exit_code)


def _run() -> None:
    """Run the command. What the system refuses is an expected failure, wherever it happens.

    Raises:
        FFNetDeployError: any expected failure.
    """
    # Libraries warn of what nobody here can change, with paths of theirs. What matters is raised as an error.
    warnings.simplefilter("ignore")
    prepare_streams()
    with expected():
        try:
            app()
        except SystemExit as end:
            if not end.code:
                flush()
            raise
        finally:
            # After an error it is told, and not that there was no room for the output either.
            with suppress(OSError):
                flush()


if __name__ == "__main__":
    main()
