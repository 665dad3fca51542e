"""Print ``ffnet_deploy/zoo/costs.tsv``: parameters and multiply-accumulates of every model, counted on the networks.

Run: python scripts/make_costs.py > ffnet_deploy/zoo/costs.tsv
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from ffnet_deploy.zoo.network import FFNet, Smoothing
from ffnet_deploy.zoo.specs import SPECS, Cost, ModelSpec


def count(spec: ModelSpec) -> Cost:
    """Trace a model on the meta device at its contract's size, batch 1: no weight or map is computed."""
    macs = 0

    def add(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        weight = module.weight
        assert isinstance(weight, Tensor)
        macs += output.numel() * weight[0].numel()

    with torch.device("meta"):
        model = FFNet(spec).eval()
        parameters = sum(p.numel() for p in model.parameters())
        for module in list(model.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear | Smoothing):
                module.register_forward_hook(add)
            for name, child in module.named_children():
                # They change no shape, and take most of the time on this device.
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())
        model(torch.zeros(1, 3, *spec.input_hw))
    return Cost(parameters, macs)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("model\tparameters\tmacs")
    for name, spec in SPECS.items():
        cost = count(spec)
        print(f"{name}\t{cost.parameters}\t{cost.macs}")


if __name__ == "__main__":
    main()
