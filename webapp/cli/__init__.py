"""The command line: ``warden``."""

from click import ClickException


class Refusal(ClickException):
    """The reason why a command cannot run; the exit code is 1."""


class NotRun(Refusal):
    """The reason why a self-test or an estimate could not run at all."""

    exit_code = 2
