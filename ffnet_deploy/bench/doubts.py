"""Warnings about a figure, for the table's foot and the JSON. They never change a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffnet_deploy.bench.result import Doubt

if TYPE_CHECKING:
    from ffnet_deploy.bench.turns import Latency
    from ffnet_deploy.machine.load import Load

_LAUNCH_BOUND = 0.8
"""Enqueue time over GPU time: trtexec's threshold."""
_UNSTABLE = {"cpu": 0.1, "cuda": 0.025}
"""Coefficient of variation: trtexec's threshold for a GPU; a CPU that also runs the system is never that steady."""
_BUSY = 0.1
"""Share of the processor, taken by others, above which a measurement is disturbed."""


def of_rung(item: Latency, mode: str, on_gpu: bool) -> list[Doubt]:
    """What is doubtful about one rung's figure."""
    found = []
    name, spread = item.rung.name, item.variation
    if spread > _UNSTABLE["cuda" if on_gpu else "cpu"] and mode != "throughput":
        advice = "lock the clocks" if on_gpu else "stop other work"
        found.append(Doubt("unstable", name, f"its runs vary by {100 * spread:.1f} % of their mean; {advice}"))
    if not item.warm_up.settled:
        spent = item.warm_up.seconds
        found.append(Doubt("not-settled", name, f"its median still moved after {spent:.0f} s of warm-up"))
    enqueue = item.resources.enqueue_ms
    if on_gpu and enqueue and enqueue > _LAUNCH_BOUND * item.median:
        found.append(
            Doubt("launch-bound", name, f"the CPU takes {enqueue:.2f} ms to enqueue a run: the GPU waits for it")
        )
    moved = max(item.resources.upload_ms or 0.0, item.resources.download_ms or 0.0)
    # Of a run from host to host the copies are a part: what remains is the computing.
    if on_gpu and mode == "end-to-end" and moved >= item.median - moved:
        found.append(Doubt("transfer-bound", name, f"a copy between host and GPU takes {moved:.2f} ms of a run"))
    return found


def of_machine(load: Load) -> list[Doubt]:
    """What is doubtful about all figures of a run."""
    found = []
    for share, when in ((load.other_work_before, "just before this"), (load.other_work, "while this was measured")):
        if share > _BUSY:
            text = f"other work took {100 * share:.0f} % of the processor {when}; do not quote these figures"
            found.append(Doubt("other-work", None, text))
    if load.throttled:
        found.append(Doubt("throttled", None, f"the GPU was slowed down by: {', '.join(load.throttled)}"))
    return found
