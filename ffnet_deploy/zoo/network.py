"""The whole network on one page: blur, backbone, head.

Attribute names are the published state dicts' keys, so that ``.pth`` files load as they are.
Source: Qualcomm-AI-research/FFNet @2291ae7, ``models/ffnet_blocks.py``, ``models/resnet/*.py``.
Letters in shapes: N batch, C channels, H and W of the image.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffnet_deploy.zoo.specs import BLUR_TAPS, ModelSpec, Upsampling

# Blocks per stage.
_PLAIN = {
    "18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "56": (4, 8, 12, 3), "86": (8, 12, 16, 6),
    "101": (3, 4, 23, 3), "134": (8, 18, 28, 12), "150": (16, 18, 28, 12),
}  # fmt: skip
_SLIM = {
    "40S": (4, 5, 6, 4), "54S": (5, 8, 8, 5), "78S": (6, 12, 12, 8), "86S": (8, 12, 16, 6), "150S": (16, 18, 28, 12),
}  # fmt: skip
_NARROW = {"46": (6, 8, 8), "74": (8, 12, 16), "122": (16, 24, 20)}
_BOTTLENECK_DEPTHS = ("50", "101")

# Widths for the maps at 1/4, 1/8, 1/16 and 1/32.
_BASE = {"A": (64, 128, 256, 512), "B": (64, 128, 128, 256), "C": (128, 128, 128, 128)}
_SMOOTH = {"A": (128, 128, 128, 128), "B": (96, 96, 64, 32), "C": (128, 16, 16, 16)}
_CLASSIFIER = {"A": (512, 1), "B": (256, 3), "C": (128, 1)}  # middle width, kernel of the last convolution
_DROPOUT = 0.2  # before the N and NS classifiers, in training only


def conv_bn(channels: int, out: int, kernel: int, stride: int = 1, *, bias: bool = False) -> list[nn.Module]:
    """A "same"-padded convolution and its batch norm."""
    return [nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=bias), nn.BatchNorm2d(out)]


def resize_to(x: Tensor, like: Tensor, mode: Upsampling) -> Tensor:
    """Upsample to the exact (H, W) of ``like``: odd sizes occur, so a factor of 2 would be wrong."""
    if mode == "nearest":
        return F.interpolate(x, size=like.shape[-2:], mode="nearest")
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


class Smoothing(nn.Module):
    """Gaussian blur with stride 2: (N, 3, H, W) -> (N, 3, H/2 - 1, W/2 - 2) for even H and W.

    Only the rows are padded (one on each side, reflected), so the samples sit at y = 2i+1 and x = 2j+2.
    """

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(BLUR_TAPS, dtype=torch.float64)
        self.register_buffer("weight", torch.outer(taps, taps).float().expand(3, 1, 5, 5).clone())
        self.weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 0, 1, 1), mode="reflect"), self.weight, stride=2, groups=3)


class Residual(nn.Module):
    """Basic block (two 3x3) or bottleneck (1x1, 3x3, 1x1 times 4), with its shortcut."""

    def __init__(self, channels: int, planes: int, stride: int = 1, *, bottleneck: bool = False) -> None:
        super().__init__()
        out = planes * 4 if bottleneck else planes
        if bottleneck:
            self.conv1, self.bn1 = conv_bn(channels, planes, 1)
            self.conv2, self.bn2 = conv_bn(planes, planes, 3, stride)
            self.conv3, self.bn3 = conv_bn(planes, out, 1)
        else:
            self.conv1, self.bn1 = conv_bn(channels, planes, 3, stride)
            self.conv2, self.bn2 = conv_bn(planes, planes, 3)
        self.relu = nn.ReLU(inplace=True)
        self.bottleneck = bottleneck
        projected = stride != 1 or channels != out
        self.downsample = nn.Sequential(*conv_bn(channels, out, 1, stride)) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.bn3(self.conv3(self.relu(x)))
        return self.relu(x + shortcut)


def _layout(depth: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Blocks and width of each stage, and the widths of the stem's convolutions."""
    if "N" in depth:
        return _NARROW[depth.rstrip("NS")], (64, 128, 256) if "S" in depth else (96, 160, 320), (64, 64, 64)
    if "S" in depth:
        return _SLIM[depth], (64, 128, 192, 320), (32, 64)
    return _PLAIN[depth], (64, 128, 256, 512), (64,)


class Backbone(nn.Module):
    """(N, 3, H, W) -> the maps at 1/4, 1/8, 1/16, 1/32 (half that size each when the first stage is strided)."""

    def __init__(self, depth: str, *, strided: bool) -> None:
        super().__init__()
        narrow = "N" in depth
        bottleneck = depth in _BOTTLENECK_DEPTHS
        blocks, widths, stem = _layout(depth)
        self.stem_convs = len(stem)
        self.maxpool = nn.MaxPool2d(3, 2, 1)  # of the one-convolution stem alone
        if len(stem) == 1:
            self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        else:
            for i, (channels, out) in enumerate(zip((3, *stem), stem, strict=False)):
                conv, bn = conv_bn(channels, out, 3, stride=1 if i == 2 else 2)
                self.add_module(f"conv{i}", conv)
                self.add_module(f"bn{i}", bn)
        self.relu = nn.ReLU(inplace=True)
        channels = stem[-1]
        self.widths = [channels] if narrow else []
        self.stages = len(blocks)
        for i, (count, planes) in enumerate(zip(blocks, widths, strict=True)):
            stride = 2 if i or strided or narrow else 1
            layers = [Residual(channels, planes, stride, bottleneck=bottleneck)]
            channels = planes * 4 if bottleneck else planes
            layers += [Residual(channels, planes, bottleneck=bottleneck) for _ in range(count - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))
            self.widths.append(channels)

    def _stem(self, x: Tensor, i: int) -> Tensor:
        return self.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x)))

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.stem_convs == 1:
            x = self.maxpool(self._stem(x, 1))
        else:
            for i in range(self.stem_convs):
                x = self._stem(x, i)
        maps = [x] if self.stem_convs == 3 else []
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
            maps.append(x)
        return maps


class ConvBnRelu(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*conv_bn(channels, out, kernel), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Adapter(nn.Module):
    """Brings the backbone's maps to the up-branch's base widths."""

    def __init__(self, channels: list[int], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.adapter_conv = nn.ModuleList(ConvBnRelu(c, w, 1) for c, w in zip(channels, widths, strict=True))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [conv(x) for conv, x in zip(self.adapter_conv, maps, strict=True)]


class UpBranch(nn.Module):
    """Coarse to fine: each map is smoothed for the output, and upsampled and added to the next finer one."""

    def __init__(self, letter: str, upsampling: Upsampling) -> None:
        super().__init__()
        (b4, b8, b16, b32), (s4, s8, s16, s32) = _BASE[letter], _SMOOTH[letter]
        self.fam_32_sm, self.fam_32_up = ConvBnRelu(b32, s32, 3), ConvBnRelu(b32, b16, 1)
        self.fam_16_sm, self.fam_16_up = ConvBnRelu(b16, s16, 3), ConvBnRelu(b16, b8, 1)
        self.fam_8_sm, self.fam_8_up = ConvBnRelu(b8, s8, 3), ConvBnRelu(b8, b4, 1)
        self.fam_4 = ConvBnRelu(b4, s4, 3)
        self.upsampling: Upsampling = upsampling

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x4, x8, x16, x32 = maps
        smooth32 = self.fam_32_sm(x32)
        x16 = x16 + resize_to(self.fam_32_up(x32), x16, self.upsampling)
        smooth16 = self.fam_16_sm(x16)
        x8 = x8 + resize_to(self.fam_16_up(x16), x8, self.upsampling)
        smooth8 = self.fam_8_sm(x8)
        x4 = x4 + resize_to(self.fam_8_up(x8), x4, self.upsampling)
        return [self.fam_4(x4), smooth8, smooth16, smooth32]


class UpsampleConcat(nn.Module):
    def __init__(self, upsampling: Upsampling) -> None:
        super().__init__()
        self.upsampling: Upsampling = upsampling

    def forward(self, maps: list[Tensor]) -> Tensor:
        finest = maps[0]
        return torch.cat([finest, *(resize_to(x, finest, self.upsampling) for x in maps[1:])], dim=1)


class SegmentationHead(nn.Module):
    """(N, C, H/4, W/4) -> logits (N, 19, H/4, W/4); no soft-max."""

    def __init__(self, channels: int, letter: str, classes: int) -> None:
        super().__init__()
        middle, kernel = _CLASSIFIER[letter]
        self.last_layer = nn.Sequential(
            *conv_bn(channels, middle, 3, bias=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, classes, kernel, padding=kernel // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(x)


class ClassificationHead(nn.Module):
    """Four smooth maps -> logits (N, 1000); keeps the batch axis at batch 1, which the published head drops."""

    def __init__(self, channels: tuple[int, ...], classes: int, dropout: float) -> None:
        super().__init__()
        planes = (32, 64, 128, 256)
        wide = [p * 4 for p in planes]
        self.expansion_layers = nn.ModuleList(
            Residual(c, p, bottleneck=True) for c, p in zip(channels, planes, strict=True)
        )
        self.downsampling_layers = nn.ModuleList(
            nn.Sequential(*conv_bn(a, b, 3, 2, bias=True), nn.ReLU(inplace=True)) for a, b in itertools.pairwise(wide)
        )
        self.final_layer = nn.Sequential(*conv_bn(wide[-1], 2048, 1, bias=True), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2048, classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        y = self.expansion_layers[0](maps[0])
        for downsample, expand, x in zip(self.downsampling_layers, self.expansion_layers[1:], maps[1:], strict=True):
            y = downsample(y) + expand(x)
        pooled = self.final_layer(y).mean(dim=(2, 3))
        return self.classifier(self.dropout(pooled))


class Head(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.layers(maps)


class FFNet(nn.Module):
    """A published FFNet.

    Takes float32 (N, 3, H, W), RGB/255 normalised with ImageNet's mean and std. Returns float32 logits:
    (N, 19, H/4, W/4) for segmentation (1/8 for ``d…`` and ``_pre_down``), (N, 1000) for classification.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone_model = Backbone(spec.backbone, strided=spec.strided)
        layers: list[nn.Module] = [
            Adapter(self.backbone_model.widths, _BASE[spec.up_head]),
            UpBranch(spec.up_head, spec.upsampling),
        ]
        smooth = _SMOOTH[spec.up_head]
        if spec.segmentation_head:
            layers.append(UpsampleConcat(spec.upsampling))
            layers.append(SegmentationHead(sum(smooth), spec.segmentation_head, spec.classes))
        else:
            dropout = _DROPOUT if spec.stem == "C" else 0.0
            layers.append(ClassificationHead(smooth, spec.classes, dropout))
        self.head = Head(layers)
        self.smoothing = Smoothing() if spec.pre_down else None

    def forward(self, image: Tensor) -> Tensor:
        if self.smoothing is not None:
            image = self.smoothing(image)
        return self.head(self.backbone_model(image))
