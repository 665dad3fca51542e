"""What stands or moves on a synthetic street; sizes in metres, so that perspective does the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ffnet_deploy.synthetic.street import GLASS, Colour, Id, Point, Street

# A kind has paints of its own, so that minutes of training suffice; glass, tyres, lamps and shadows are shared.
CAR_PAINT: tuple[Colour, ...] = ((34, 36, 42), (170, 174, 182), (110, 122, 140), (66, 76, 96))
TRUCK_PAINT: tuple[Colour, ...] = ((58, 132, 178), (70, 148, 170), (50, 110, 170))
BUS_PAINT: tuple[Colour, ...] = ((230, 176, 44), (232, 190, 70), (218, 150, 40))
TRAIN_PAINT: tuple[Colour, ...] = ((150, 30, 42), (132, 26, 44), (164, 40, 46))
CYCLE_PAINT: tuple[Colour, ...] = ((214, 76, 30), (224, 104, 34), (200, 60, 40))
CLOTHES: tuple[Colour, ...] = ((110, 50, 120), (140, 60, 110), (84, 50, 110), (60, 44, 84))
VESTS: tuple[Colour, ...] = ((190, 230, 50), (206, 236, 80), (170, 214, 60))
FRAMES: tuple[Colour, ...] = ((30, 176, 120), (40, 186, 160))
METAL: tuple[Colour, ...] = ((44, 76, 66), (54, 88, 78))
TYRE: Colour = (22, 22, 24)

Draw = Callable[[Street, float, float], None]


def vehicle(street: Street, x: float, z: float, size: Point, colour: Colour, label: int) -> tuple[float, float]:
    """Shadow, side and rear of a (width, height, length) box; gives the x of its visible side and its far z."""
    wide, high, long = size
    edge, end = x - np.sign(x or 1) * wide / 2, z + long
    street.strip(x - wide * 0.58, x + wide * 0.58, z - 0.15, end, (16, 16, 20), None)
    street.upright(edge, (z, end), (0.28, high), street.shade(colour, 0.74), label)
    street.panel((x, 0.25, z), (wide, high - 0.25), colour, label)
    for wheel in (x - wide * 0.4, x + wide * 0.4):
        street.panel((wheel, 0, z), (0.24, 0.4), TYRE, label)
    for start in (z + long * 0.14, z + long * 0.76):
        street.upright(edge, (start, start + 0.66), (0, 0.62), TYRE, label)
    for lamp in (x - wide * 0.4, x + wide * 0.4):
        street.panel((lamp, 0.62, z), (0.26, 0.16), street.pick([(170, 30, 26), (214, 60, 40)]), None)
    street.panel((x, 0.45, z), (0.5, 0.13), (220, 216, 190), None)
    return float(edge), end


def car(street: Street, x: float, z: float) -> None:
    colour, wide, high = (
        street.pick(CAR_PAINT, 8),
        float(street.rng.uniform(1.7, 1.9)),
        float(street.rng.uniform(1.35, 1.7)),
    )
    # The cabin first: the boxy lower half covers its foot.
    edge = x - np.sign(x or 1) * wide * 0.42
    cabin: list[Point] = [(edge, 0.8, z + 0.3), (edge, high, z + 0.8), (edge, high, z + 2.4), (edge, 0.8, z + 3.3)]
    street.shape(cabin, GLASS, Id.CAR)
    street.panel((x, 0.8, z + 0.2), (wide * 0.92, high - 0.8), street.shade(colour, 0.9), Id.CAR, 0.26)
    vehicle(street, x, z, (wide, 0.92, 4.2), colour, Id.CAR)
    street.panel((x, 0.95, z + 0.15), (wide * 0.76, high - 1.06), GLASS, None, 0.2)


def truck(street: Street, x: float, z: float) -> None:
    colour, high = street.pick(TRUCK_PAINT, 8), float(street.rng.uniform(2.9, 3.7))
    edge, end = vehicle(street, x, z, (2.4, high, 7.5), colour, Id.TRUCK)
    street.upright(edge, (end - 1.5, end - 0.4), (1.4, 2.2), GLASS, None)
    street.panel((x, 0.3, z), (2.4, 0.45), street.shade(colour, 0.45), None)
    for line in (-1.1, -0.66, -0.22, 0.22, 0.66, 1.1):
        street.panel((x + line, 0.75, z), (0.07, high - 0.85), street.shade(colour, 0.62), None)


def bus(street: Street, x: float, z: float) -> None:
    colour = street.pick(BUS_PAINT, 8)
    edge, end = vehicle(street, x, z, (2.5, 3.1, 11), colour, Id.BUS)
    for start in np.arange(z + 0.4, end - 1, 1.5):
        street.upright(edge, (start, start + 1.3), (1.35, 2.5), GLASS, None)
    street.panel((x, 1.4, z), (2.1, 1.1), GLASS, None)
    street.panel((x, 2.65, z), (1.3, 0.28), (230, 170, 50), None)


def train(street: Street, x: float, z: float) -> None:
    colour, band = street.pick(TRAIN_PAINT, 8), street.pick([(230, 214, 150), (226, 226, 222)])
    for rail in (-0.72, 0.72):
        street.strip(x + rail, x + rail + 0.08, 2, z, (146, 142, 140), None)
    edge, end = vehicle(street, x, z, (2.5, 3.4, 34), colour, Id.TRAIN)
    street.upright(edge, (z, end), (0.15, 0.6), street.shade(colour, 0.5), Id.TRAIN)
    street.upright(edge, (z, end), (0.95, 1.3), band, None)
    for start in np.arange(z + 0.8, end - 2, 2.4):
        street.upright(edge, (start, start + 2.0), (1.55, 2.6), GLASS, None)
    street.panel((x, 1.5, z), (2.1, 1.3), GLASS, None, 0.14)
    street.panel((x, 0.95, z), (2.5, 0.35), band, None)
    street.panel((x, 3.4, z + 6), (1.0, 0.5), (70, 70, 72), Id.TRAIN)


def body(street: Street, foot: Point, high: float, label: int, *, rides: bool = False) -> None:
    """Legs, trunk, arms and head upwards from ``foot``."""
    x, y, z = foot
    trousers, top = street.pick(CLOTHES, 8), street.pick(VESTS if rides else CLOTHES, 8)
    crown = street.pick([(226, 226, 222), (170, 30, 30)] if rides else [(40, 30, 24), (120, 92, 56)], 8)
    stride = float(street.rng.uniform(0.02, 0.22))
    for leg in (-stride, stride):
        hip, shoe = x + leg * 0.3, x + leg
        limb: list[Point] = [
            (shoe - 0.09, y, z), (shoe + 0.09, y, z), (hip + 0.12, y + high * 0.5, z), (hip - 0.12, y + high * 0.5, z),
        ]  # fmt: skip
        street.shape(limb, trousers, label)
    street.panel((x, y + high * 0.45, z), (0.46, high * 0.4), top, label, -0.1)
    for arm in (-0.29, 0.29):
        street.panel((x + arm, y + high * 0.48, z), (0.12, high * 0.35), street.shade(top, 0.85), label)
    street.disc((x, y + high * 0.925, z), (0.12, high * 0.078), street.pick([(196, 154, 128), (120, 84, 62)]), label)
    street.disc((x, y + high * 0.96, z), (0.125, high * 0.05), crown, label)


def person(street: Street, x: float, z: float) -> None:
    street.strip(x - 0.3, x + 0.5, z, z + 0.5, (28, 28, 32), None)
    body(street, (x, 0, z), float(street.rng.uniform(1.5, 1.95)), Id.PERSON)


def bicycle(street: Street, x: float, z: float) -> None:
    colour = street.pick(FRAMES, 8)
    spread = float(street.rng.uniform(0.35, 0.55))
    hull: list[Point] = [(x - spread, 0.34, z), (x + spread, 0.34, z), (x + 0.4, 0.95, z), (x - 0.25, 0.9, z)]
    street.shape(hull, None, Id.BICYCLE)
    for wheel in (x - spread, x + spread):
        # Spokes are too thin to draw; from afar they are a haze.
        street.disc((wheel, 0.34, z), (0.34, 0.34), (150, 164, 160), Id.BICYCLE)
        street.disc((wheel, 0.34, z), (0.34, 0.34), TYRE, Id.BICYCLE, 0.08)
    frame = (
        (-spread, 0.34, -0.2, 0.88), (-0.2, 0.6, 0.38, 0.8), (spread, 0.34, 0.36, 1.0), (0, 0.3, 0.38, 0.8),
        (0, 0.3, -0.2, 0.88),
    )  # fmt: skip
    for x0, y0, x1, y1 in frame:
        bar: list[Point] = [(x + x0, y0, z), (x + x0 + 0.07, y0, z), (x + x1 + 0.07, y1, z), (x + x1, y1, z)]
        street.shape(bar, colour, Id.BICYCLE)
    street.panel((x - 0.22, 0.9, z), (0.28, 0.08), TYRE, Id.BICYCLE)


def motorcycle(street: Street, x: float, z: float) -> None:
    colour = street.pick(CYCLE_PAINT, 8)
    for wheel in (x - 0.62, x + 0.62):
        street.disc((wheel, 0.32, z), (0.32, 0.32), TYRE, Id.MOTORCYCLE)
        street.disc((wheel, 0.32, z), (0.16, 0.16), (120, 120, 122), None)
    tank: list[Point] = [
        (x - 0.85, 0.72, z), (x - 0.3, 0.25, z), (x + 0.35, 0.25, z), (x + 0.75, 0.95, z), (x - 0.1, 0.9, z),
    ]  # fmt: skip
    street.shape(tank, colour, Id.MOTORCYCLE)
    street.panel((x, 0.25, z), (0.6, 0.28), (90, 90, 94), Id.MOTORCYCLE)
    street.panel((x - 0.35, 0.78, z), (0.7, 0.12), TYRE, Id.MOTORCYCLE)
    street.disc((x + 0.72, 0.92, z), (0.12, 0.12), (236, 230, 200), Id.MOTORCYCLE)


def cyclist(street: Street, x: float, z: float) -> None:
    bicycle(street, x, z)
    body(street, (x, 0.32, z), 1.5, Id.RIDER, rides=True)


def motorcyclist(street: Street, x: float, z: float) -> None:
    body(street, (x, 0.3, z), 1.45, Id.RIDER, rides=True)
    motorcycle(street, x, z)


def lamp(street: Street, x: float, z: float) -> None:
    grey, high = street.pick(METAL, 5), float(street.rng.uniform(5, 8))
    street.panel((x, 0, z), (0.3, high), grey, Id.POLE, 0.3)
    reach = -np.sign(x) * 1.6
    street.panel((x + reach / 2, high - 0.1, z), (1.6, 0.14), grey, Id.POLE)
    street.panel((x + reach, high - 0.2, z), (0.7, 0.16), street.shade(grey, 1.4), Id.POLE)


def traffic_light(street: Street, x: float, z: float) -> None:
    high = float(street.rng.uniform(2.6, 3.4))
    street.panel((x, 0, z), (0.26, high), street.pick(METAL, 5), Id.POLE)
    street.panel((x, high - 0.4, z), (0.46, 1.15), (28, 30, 30), Id.LIGHT)
    on = int(street.rng.integers(3))
    for i, lit in enumerate(((80, 220, 120), (250, 190, 60), (240, 60, 50))):
        street.disc((x, high - 0.2 + 0.36 * i, z), (0.14, 0.14), lit if i == on else street.shade(lit, 0.25), None)


def sign(street: Street, x: float, z: float) -> None:
    high, kind = float(street.rng.uniform(2.0, 2.9)), int(street.rng.integers(4))
    street.panel((x, 0, z), (0.2, high), street.pick(METAL, 5), Id.POLE)
    if kind == 0:
        street.disc((x, high, z), (0.42, 0.42), (196, 34, 36), Id.SIGN)
        street.disc((x, high, z), (0.3, 0.3), (232, 230, 226), None)
    elif kind == 1:
        street.shape([(x - 0.5, high - 0.4, z), (x + 0.5, high - 0.4, z), (x, high + 0.45, z)], (196, 34, 36), Id.SIGN)
        street.shape([(x - 0.3, high - 0.3, z), (x + 0.3, high - 0.3, z), (x, high + 0.22, z)], (236, 234, 228), None)
    else:
        street.panel((x, high - 0.4, z), (0.8, 0.8), (34, 80, 170) if kind == 2 else (226, 196, 60), Id.SIGN)
        street.panel((x, high - 0.15, z), (0.3, 0.3), (232, 232, 228), None)


def tree(street: Street, x: float, z: float) -> None:
    street.panel((x, 0, z), (0.34, 3), street.pick([(78, 62, 50), (96, 84, 72)]), Id.VEGETATION, 0.3)
    street.leaves((x, float(street.rng.uniform(3.4, 4.6)), z), (1.6, 1.5), 16)


def clutter(street: Street, x: float, z: float) -> None:
    """Bins, bags and boxes: ids that a score ignores."""
    label = int(street.rng.choice((Id.STATIC, Id.DYNAMIC, Id.UNLABELED)))
    street.panel((x, 0, z), (0.6, float(street.rng.uniform(0.5, 1.2))), street.pick(CLOTHES), label, -0.1)


# What, how many times at most, how often each, where, nearest and farthest metre. Classes that are rare in
# Cityscapes are frequent here: a score over a few scenes needs all 19.
_CAST: tuple[tuple[Draw, int, float, str, float, float], ...] = (
    (car, 9, 0.5, "kerb", 8, 50), (car, 3, 0.5, "lane", 12, 50),
    (truck, 1, 0.65, "lane", 13, 36), (bus, 1, 0.65, "lane", 13, 36), (train, 1, 0.65, "rails", 11, 30),
    (person, 12, 0.65, "walk", 7, 30), (person, 2, 0.5, "road", 10, 30),
    (cyclist, 2, 0.75, "road", 8, 24), (motorcyclist, 2, 0.75, "road", 8, 24),
    (bicycle, 2, 0.6, "walk", 6, 20), (motorcycle, 1, 0.6, "walk", 6, 20),
    (lamp, 2, 0.75, "verge", 6, 26), (traffic_light, 4, 0.75, "verge", 6, 26), (sign, 4, 0.75, "verge", 6, 26),
    (tree, 2, 0.75, "verge", 6, 26), (clutter, 3, 0.7, "walk", 6, 25),
)  # fmt: skip


def _place(street: Street, where: str) -> float:
    """A lateral position, in metres right of the camera."""
    rng, side = street.rng, int(street.rng.choice((-1, 1)))
    kerb, front = street.kerb[side], street.front[side]
    spans = {
        "kerb": (kerb - side * 1.2, kerb - side * 0.95),
        "verge": (kerb + side * 0.4, kerb + side * 0.8),
        "walk": (kerb + side * 0.5, front - side * 0.4),
        "lane": (-3.5, -3.1) if side < 0 else (-0.2, 0.3),
        "rails": (street.kerb[-1] - 0.6, street.kerb[-1] + 1.2),
        "road": (-4.4, 2.4),
    }
    return float(rng.uniform(min(spans[where]), max(spans[where])))


def cast(street: Street) -> list[tuple[Draw, float, float]]:
    """Choose the scene's objects at random: what, metres to the right, metres ahead. The farthest comes first."""
    rng, found = street.rng, []
    for draw, copies, share, where, near, far in _CAST:
        for _ in range(copies):
            if rng.random() < share:
                # Even in the logarithm: as many near and large as far and small.
                z = float(np.exp(rng.uniform(np.log(near), np.log(far))))
                found.append((draw, _place(street, where), z))
    return sorted(found, key=lambda item: -item[2])
