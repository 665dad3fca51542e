"""The street of a synthetic scene: the camera, the ground, and what lines both sides."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float, float]
"""Metres: right of the camera, above the ground, ahead."""

# The label ids drawn here. Source: cityscapesScripts helpers/labels.py (id column).
Id = IntEnum(
    "Id",
    {
        "UNLABELED": 0, "EGO": 1, "BORDER": 3, "STATIC": 4, "DYNAMIC": 5, "GROUND": 6, "ROAD": 7, "SIDEWALK": 8,
        "PARKING": 9, "RAIL": 10, "BUILDING": 11, "WALL": 12, "FENCE": 13, "POLE": 17, "LIGHT": 19, "SIGN": 20,
        "VEGETATION": 21, "TERRAIN": 22, "SKY": 23, "PERSON": 24, "RIDER": 25, "CAR": 26, "TRUCK": 27, "BUS": 28,
        "TRAIN": 31, "MOTORCYCLE": 32, "BICYCLE": 33,
    },
)  # fmt: skip

PLASTER: tuple[Colour, ...] = ((182, 164, 136), (188, 180, 166), (132, 126, 120), (198, 172, 124), (160, 160, 160))
BRICK: tuple[Colour, ...] = ((142, 82, 64), (120, 72, 60), (156, 104, 84))
LAWN: tuple[Colour, ...] = ((138, 140, 66), (152, 138, 84))
GLASS: Colour = (44, 54, 64)
EYE_HEIGHT = 1.4


class Street:
    """A pinhole camera in the own lane, and the two canvases it draws on."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.h, self.w, self.rng = height, width, rng
        self.horizon = height * rng.uniform(0.36, 0.46)
        self.centre = width * rng.uniform(0.42, 0.58)
        self.focal = 0.8 * width
        self.picture = Image.new("RGB", (width, height))
        self.truth = Image.new("L", (width, height))
        # Mode RGBA on an RGB picture blends: shadows and glass take an alpha.
        self.pen = ImageDraw.Draw(self.picture, "RGBA")
        self.marker = ImageDraw.Draw(self.truth)
        self.kerb = {-1: -float(rng.uniform(4.8, 8.0)), 1: float(rng.uniform(2.6, 5.0))}
        self.front = {side: self.kerb[side] + side * float(rng.uniform(2.2, 5.0)) for side in (-1, 1)}
        self.sun = float(rng.uniform(-1, 1))

    # -- drawing in metres

    def at(self, point: Point) -> tuple[float, float]:
        x, y, z = point
        scale = self.focal / z
        return self.centre + x * scale, self.horizon + (EYE_HEIGHT - y) * scale

    def shape(self, points: Sequence[Point], colour: Colour | None, label: int | None, alpha: int = 255) -> None:
        """A filled polygon; without colour only the truth is drawn, without label only the picture."""
        flat = [self.at(point) for point in points]
        if colour is not None:
            self.pen.polygon(flat, fill=(*colour, alpha))
        if label is not None:
            self.marker.polygon(flat, fill=int(label))

    def panel(
        self, foot: Point, size: tuple[float, float], colour: Colour | None, label: int | None, taper: float = 0.0
    ) -> None:
        """An upright rectangle facing the camera, ``foot`` amid its lower edge; ``taper`` narrows the top."""
        (x, y, z), (wide, high) = foot, size
        a, b = wide / 2, wide / 2 * (1 - taper)
        self.shape([(x - a, y, z), (x + a, y, z), (x + b, y + high, z), (x - b, y + high, z)], colour, label)

    def disc(
        self, middle: Point, radii: tuple[float, float], colour: Colour | None, label: int | None, ring: float = 0.0
    ) -> None:
        """An ellipse; with ``ring`` (metres) only its outline is painted, and all of it labelled."""
        (x, y), scale = self.at(middle), self.focal / middle[2]
        box = (x - radii[0] * scale, y - radii[1] * scale, x + radii[0] * scale, y + radii[1] * scale)
        if colour is not None and ring:
            self.pen.ellipse(box, outline=colour, width=max(1, round(ring * scale)))
        elif colour is not None:
            self.pen.ellipse(box, fill=colour)
        if label is not None:
            self.marker.ellipse(box, fill=int(label))

    def strip(self, x0: float, x1: float, z0: float, z1: float, colour: Colour, label: int | None) -> None:
        """A rectangle on the ground."""
        self.shape([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], colour, label)

    def upright(
        self, x: float, zs: tuple[float, float], ys: tuple[float, float], colour: Colour | None, label: int | None
    ) -> None:
        """A rectangle that runs along the street."""
        self.shape([(x, ys[0], zs[0]), (x, ys[1], zs[0]), (x, ys[1], zs[1]), (x, ys[0], zs[1])], colour, label)

    def pick(self, colours: Sequence[Colour], spread: int = 8) -> Colour:
        return self.shade(colours[int(self.rng.integers(len(colours)))], 1.0, self.rng.normal(0, spread, 3))

    @staticmethod
    def shade(colour: Colour, factor: float, shift: Sequence[float] | NDArray[Any] = (0, 0, 0)) -> Colour:
        r, g, b = (int(min(max(c * factor + float(d), 4), 250)) for c, d in zip(colour, shift, strict=True))
        return r, g, b

    # -- what stands still

    def lay_ground(self) -> None:
        sky = self.pick([(178, 196, 216), (206, 208, 210), (150, 180, 222)], 5)
        rows = np.linspace(0.86, 1.06, self.h)[:, None, None] * np.array(sky)
        self.picture.paste(Image.fromarray(np.broadcast_to(rows, (self.h, self.w, 3)).clip(0, 255).astype(np.uint8)))
        self.marker.rectangle((0, 0, self.w, self.h), fill=int(Id.SKY))
        self._line_horizon()
        self._pave()
        self._mark_road()

    def _line_horizon(self) -> None:
        """Buildings and green at the far end."""
        rng, x = self.rng, -90.0
        while x < 90:
            wide, high = rng.uniform(6, 22), rng.uniform(5, 16)
            if rng.random() < 0.55:
                self.panel((x, 0, 110), (wide, high), self.pick(PLASTER), Id.BUILDING)
            else:
                self.leaves((x, high * 0.3, 105), (wide * 0.6, high * 0.5), 5)
            x += wide * 0.8

    def _pave(self) -> None:
        """Road, sidewalks and lawns."""
        rng = self.rng
        paving = self.pick([(170, 146, 134), (178, 152, 136)], 4)
        asphalt = self.pick([(84, 84, 88), (100, 98, 98), (72, 74, 80)], 4)
        self.strip(-220, 220, 1, 115, self.pick([(110, 104, 92)]), Id.GROUND)
        for side in (-1, 1):
            self.strip(self.kerb[side], self.front[side], 1, 115, paving, Id.SIDEWALK)
            for z in np.geomspace(2, 40, 26):
                self.strip(self.kerb[side], self.front[side], z, z * 1.012, self.shade(paving, 0.8), None)
        self.strip(self.kerb[-1], self.kerb[1], 1, 115, asphalt, Id.ROAD)
        for side in (-1, 1):
            self.strip(self.kerb[side], self.kerb[side] + side * 0.18, 1, 115, self.shade(paving, 1.25), Id.SIDEWALK)
            if rng.random() < 0.5:
                z = rng.uniform(5, 14)
                inner, outer = self.kerb[side] + side * 0.3, self.kerb[side] + side * rng.uniform(1.2, 1.9)
                self.strip(inner, outer, z, z + rng.uniform(12, 50), self.pick(LAWN, 8), Id.TERRAIN)

    def _mark_road(self) -> None:
        """Lane markings, a crossing, and shadows."""
        rng = self.rng
        for z in np.arange(3 + rng.uniform(0, 6), 90, 8):
            self.strip(-1.75, -1.6, z, z + 4, (214, 212, 204), None)
        if rng.random() < 0.4:
            z, ahead = rng.uniform(9, 20), rng.uniform(2.5, 4)
            for x in np.arange(self.kerb[-1] + 0.3, self.kerb[1] - 0.5, 1.1):
                self.strip(x, x + 0.55, z, z + ahead, (206, 204, 198), None)
        for _ in range(3):
            # Shadows of what is out of sight: darker ground, the same class.
            z, x = rng.uniform(4, 40), rng.uniform(self.kerb[-1], self.kerb[1])
            corners: list[Point] = [(x - 4, 0, z), (x + 4, 0, z), (x + 6, 0, z * 1.5), (x - 1, 0, z * 1.5)]
            self.shape(corners, (20, 22, 30), None, 70)

    def line_side(self, side: int) -> None:
        """Buildings, walls, fences and green along one side, from far to near."""
        rng, x, z1 = self.rng, self.front[side], 110.0
        while z1 > 2.5:
            z0 = max(z1 - max(6.0, z1 * rng.uniform(0.25, 0.5)), 2.0)
            kind = rng.choice(4, p=(0.42, 0.21, 0.21, 0.16))
            if kind == 0:
                self.building(side, x, z0, z1)
            else:
                if kind == 3 or rng.random() < 0.6:
                    lawn = self.pick(LAWN, 8)
                    self.strip(x, x + side * 30, z0, z1, lawn, Id.TERRAIN)
                if rng.random() < 0.4:
                    self.building(side, x + side * rng.uniform(4, 8), z0, z1)
                else:
                    for z in np.linspace(z1, z0 + 1, 4):
                        self.leaves(
                            (x + side * rng.uniform(4, 8), rng.uniform(2, 4), z), (3.4, rng.uniform(2, 3.6)), 12
                        )
                if kind == 1:
                    self.wall(side, x, z0, z1)
                elif kind == 2:
                    self.fence(x, z0, z1)
            z1 = z0

    def building(self, side: int, x: float, z0: float, z1: float) -> None:
        rng, colour, height = self.rng, self.pick(PLASTER), float(self.rng.uniform(7, 19))
        lit = self.shade(colour, 1 + 0.14 * side * self.sun)
        depth = x + side * 40
        self.shape(
            [(x, 0, z0), (depth, 0, z0), (depth, height, z0), (x, height, z0)], self.shade(colour, 0.86), Id.BUILDING
        )
        self.upright(x, (z0, z1), (0, height), lit, Id.BUILDING)
        self.upright(x, (z0, z1), (0, 0.7), self.shade(lit, 0.7), None)
        self.upright(x, (z0, z1), (height - 0.4, height), self.shade(lit, 0.6), None)
        glass, frame = self.pick([GLASS, (84, 98, 110), (60, 56, 52)]), self.shade(lit, 1.25)
        step, wide = rng.uniform(2.2, 3.6), rng.uniform(0.9, 1.5)
        for y in np.arange(1.1, height - 2, 3.0):
            for z in np.arange(z0 + 0.7, z1 - wide, step):
                self.upright(x, (z - 0.12, z + wide + 0.12), (y - 0.12, y + 1.72), frame, None)
                self.upright(x, (z, z + wide), (y, y + 1.6), glass, None)
            for offset in np.arange(1.2, 30, step):
                self.panel((x + side * offset, y, z0), (wide, 1.6), glass, None)

    def wall(self, side: int, x: float, z0: float, z1: float) -> None:
        colour, height = self.pick(BRICK, 8), float(self.rng.uniform(1.6, 3.2))
        self.upright(x, (z0, z1), (0, height), self.shade(colour, 0.92 + 0.1 * side * self.sun), Id.WALL)
        self.upright(x, (z0, z1), (height - 0.16, height), self.shade(colour, 0.65), None)
        for y in np.arange(0.3, height - 0.2, 0.3):
            self.upright(x, (z0, z1), (y, y + 0.035), self.shade(colour, 0.7), None)

    def fence(self, x: float, z0: float, z1: float) -> None:
        """Only rails and bars are painted, all of it is labelled: as in Cityscapes, one looks through a fence."""
        colour, height = (
            self.pick([(126, 84, 48), (140, 96, 58)], 6),
            self.rng.uniform(1.1, 2.0),
        )
        self.upright(x, (z0, z1), (0, height), None, Id.FENCE)
        for y in (0.12, height * 0.5, height - 0.1):
            self.upright(x, (z0, z1), (y, y + 0.1), colour, None)
        for z in np.arange(z0, z1, max(0.35, (z1 - z0) / 60)):
            self.upright(x, (z, z + 0.16), (0, height), colour, None)

    def leaves(self, middle: Point, radii: tuple[float, float], count: int) -> None:
        green = self.pick([(62, 84, 40), (84, 100, 48), (48, 70, 42), (78, 86, 40)])
        self.disc(middle, radii, self.shade(green, 0.8), Id.VEGETATION)
        for _ in range(count):
            dx, dy = self.rng.normal(0, 0.5, 2)
            spot = (middle[0] + dx * radii[0], middle[1] + dy * radii[1], middle[2])
            size = float(self.rng.uniform(0.3, 0.55))
            tone = self.shade(green, float(self.rng.uniform(0.65, 1.3)))
            self.disc(spot, (radii[0] * size, radii[1] * size), tone, Id.VEGETATION)

    def add_camera_car(self) -> None:
        """The own bonnet and the frame that rectification leaves: both are in every Cityscapes label, both ignored."""
        top = self.h * float(self.rng.uniform(0.9, 0.94))
        box = (self.w * 0.02, top, self.w * 0.98, self.h + (self.h - top) * 2)
        self.pen.ellipse(box, fill=self.pick([(40, 42, 46), (110, 114, 120)]))
        self.marker.ellipse(box, fill=int(Id.EGO))
        self.marker.rectangle((0, 0, self.w - 1, self.h - 1), outline=int(Id.BORDER), width=max(1, self.h // 200))
