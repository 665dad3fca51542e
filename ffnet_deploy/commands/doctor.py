"""``doctor``: what this machine can do."""

from __future__ import annotations

from ffnet_deploy.commands.output import say


def doctor() -> None:
    """Show what this machine can do.

    It lists packages, driver and GPUs, which commands work here, and how to install what is missing.
    """
    from ffnet_deploy.pipeline import doctor as story
    from ffnet_deploy.report.doctor import diagnosis

    say(diagnosis(story.doctor()))
