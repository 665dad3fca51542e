"""Errors of weight files, as a user would read them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ffnet_deploy.errors import WeightsError


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(WeightsError) as caught:
        call()
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert "\n" not in message
    return message
