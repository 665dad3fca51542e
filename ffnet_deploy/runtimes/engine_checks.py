"""Check what a builder says that it built against what was asked for."""

from __future__ import annotations

from dataclasses import replace

from ffnet_deploy.artifacts.records import GraphRecord
from ffnet_deploy.artifacts.values import EngineFindings, IntegerWork, Precision
from ffnet_deploy.errors import EngineError

_INT8_SHARE = 0.98
"""Of the multiply-accumulates that an INT8 engine must have in INT8, unless less was asked for."""
_ROUNDING = 1e-3
"""A plane of zeros in the first filter changes shares a little."""


def checked(source: GraphRecord, precision: Precision, runtime: str, found: EngineFindings) -> EngineFindings:
    """Check an engine against the graph that it was built from. TensorRT without RTX gives no layer list to check.

    Args:
        source: of the graph.
        precision: of the engine.
        runtime: that built it.
        found: what its builder says.

    Returns:
        The findings, with the shares that follow from them.

    Raises:
        EngineError: a convolution or Gemm computes in another precision.
    """
    if runtime == "onnxruntime":
        return _integers(source, found) if precision == "int8" else found
    if runtime == "tensorrt-rtx":
        _check_layers(source, precision, runtime, found)
    return found


def check_share(source: GraphRecord, share: float) -> None:
    """Check that nearly all work is INT8. It may be less only where the rules or the user keep that much out.

    Raises:
        EngineError: too little of the work is INT8.
    """
    needed = min(_INT8_SHARE, _work(source).possible - _ROUNDING)
    if share < needed and not source.options.keep_fp16:
        declined = source.found.declined
        name, reason = next(iter(declined.items()))
        raise EngineError(
            f"Only {100 * share:.1f} % of the multiply-accumulates are INT8 ({100 * needed:.1f} % were needed; "
            f"{len(declined)} nodes are not, first {name}: {reason}). No file was kept. "
            "Calibrate on more images, or name what stays FP16 with --keep-fp16 PATTERN."
        )


def _work(source: GraphRecord) -> IntegerWork:
    assert source.found.quantised is not None
    return source.found.quantised


def _integers(source: GraphRecord, found: EngineFindings) -> EngineFindings:
    """Check that ONNX Runtime kept the quantised convolutions INT8; returns their share of the work."""
    work = _work(source)
    # The last classifier is a product of matrices there: see graph/integers.py.
    have = sum(found.layers.get(kind, 0) for kind in ("QLinearConv", "QGemm"))
    if have != len(work.nodes):
        raise EngineError(
            f"ONNX Runtime computes {have} convolutions in integers ({len(work.nodes)} were quantised). "
            "No file was kept. Install a tested version: see constraints.txt"
        )
    return replace(found, share={"int8": work.share, "fp32": round(1 - work.share, 6)})


def _check_layers(source: GraphRecord, precision: Precision, runtime: str, found: EngineFindings) -> None:
    if not found.precision:
        raise EngineError(
            f"{runtime} did not tell what it built, so its precision is unknown. Install a tested version: see "
            "constraints.txt"
        )
    kept = source.found.kept_fp32
    fused = [node for node in kept if found.precision.get(node, "fp32") != "fp32"]
    if fused:
        what = f"{', '.join(fused[:3])} in {found.precision[fused[0]]}"
        raise EngineError(
            f"{runtime} computes {what}: it fuses the Casts around a node that stays FP32 alone. No file was kept. "
            "Keep its neighbours too, with more --keep-fp32 PATTERN."
        )
    quantised = source.found.quantised.nodes if source.found.quantised else ()
    other = "fp16" if precision == "int8" else precision
    wrong = [
        f"{node} {has}"
        for node, has in found.precision.items()
        if has != ("int8" if node in quantised else "fp32" if node in kept else other)
    ]
    if wrong or "unknown" in found.share:
        what = ", ".join(wrong[:3]) or f"{100 * found.share['unknown']:.1f} % of the work in layers that it hides"
        raise EngineError(
            f"{precision} was asked for and {runtime} built {what}. No file was kept. Report this with the graph."
        )
    if precision == "int8":
        check_share(source, found.share.get("int8", 0.0))
