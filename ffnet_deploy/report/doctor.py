"""What this machine can do, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ffnet_deploy.pipeline.doctor import Diagnosis, Finding

_WIDTH = 80


def diagnosis(result: Diagnosis) -> str:
    """What this machine has, and what each command can do here; 80 characters wide."""
    return f"{_list(result.findings, 'to install: ')}\n\n{_list(result.abilities, '')}"


def _list(findings: Sequence[Finding], before: str) -> str:
    """Two columns; what is to be done stands on lines of its own."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines += _wrapped(f"{finding.what.ljust(width)}  ", finding.found)
        if finding.remedy:
            lines += _wrapped(" " * (width + 2), before + finding.remedy)
    return "\n".join(lines)


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False)
