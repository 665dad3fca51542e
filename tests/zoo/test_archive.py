"""Hostile and damaged archives: refused with one line, and nothing of them is kept."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from support.mirror import ARCHIVE, CONTENTS, FAST, GOOD, NAMES, Site, complete, untouched, zip_of

from ffnet_deploy.errors import WeightsError
from ffnet_deploy.zoo.fetch import fetch


def linked() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        info = zipfile.ZipInfo(f"{ARCHIVE}/{NAMES[0]}")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/passwd")
    return out.getvalue()


def patched(data: bytes, local: int, central: int, layout: str, value: int) -> bytes:
    """The zip with one field of its first member's local and central header replaced."""
    out = bytearray(data)
    struct.pack_into(layout, out, data.index(b"PK\3\4") + local, value)
    # The first member may be a zip itself.
    struct.pack_into(layout, out, data.rindex(b"PK\1\2") + central, value)
    return bytes(out)


def packed(data: bytes) -> bytes:
    """A state dict whose members are compressed: small, and as large as it likes in the memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as plain:
        return zip_of({name: plain.read(name) for name in plain.namelist()}, zipfile.ZIP_DEFLATED)


def bomb(declared: int) -> bytes:
    data = zip_of({f"{ARCHIVE}/{NAMES[0]}": bytes(5_000_000)}, zipfile.ZIP_DEFLATED)
    return patched(data, 22, 24, "<I", declared)


def many_members(count: int) -> bytes:
    """A zip of nothing but a list, from which Python would make an object of half a kilobyte for every 47 bytes."""
    member = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0x21, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    return member * count + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFE, 0xFFFE, len(member) * count, 0, 0)


PLAIN = zip_of({f"{ARCHIVE}/{NAMES[0]}": CONTENTS[NAMES[0]]})
HOSTILE = {
    "parent": (zip_of({f"../{NAMES[0]}": b"x"}), r"'\.\./ffnet18_.*out of the folder"),
    "deeper parent": (zip_of({f"{ARCHIVE}/../../{NAMES[0]}": b"x"}), "out of the folder"),
    "parent of another file": (zip_of({f"{ARCHIVE}/{NAMES[0]}": b"x", "../evil.sh": b"x"}), r"'\.\./evil\.sh'"),
    "absolute": (zip_of({f"/tmp/{NAMES[0]}": b"x"}), "'/tmp/ffnet18_.*out of the folder"),
    "backslash": (zip_of({f"..\\{NAMES[0]}": b"x"}), "out of the folder"),
    "drive": (zip_of({f"C:{NAMES[0]}": b"x"}), "out of the folder"),
    "line break": (zip_of({f"{ARCHIVE}/ffnet18_\n_state_dict_quarts.pth": b"x"}), "out of the folder"),
    "symlink": (linked(), "a link or a device"),
    "encrypted": (patched(PLAIN, 6, 8, "<H", 1), r": encrypted \(needed"),
    "packed otherwise": (zip_of({f"{ARCHIVE}/{NAMES[0]}": b"x"}, zipfile.ZIP_LZMA), "packed by method 14"),
    "bomb that declares less": (bomb(1000), "CRC"),
    "declares more": (bomb(6_000_000), "does not unpack to the 6000000 bytes"),
    "declares too much": (bomb(3_000_000_000), "3000000000 bytes where 200906048 is the limit"),
    "a list without end": (many_members(100_000), "its list of members has 4700000 bytes where 4194304 is the limit"),
    "no state dict": (zip_of({f"{ARCHIVE}/readme.txt": b"x", f"{ARCHIVE}/other.pth": b"x"}), "no member is named"),
    "another's state dicts": (zip_of({"ffnet34/ffnet34_AAX_imagenet_state_dict_quarts.pth": b"x"}), "no member"),
    "twice": (zip_of({f"a/{NAMES[0]}": b"x", f"b/{NAMES[0]}": b"y"}), "is in it twice"),
    "compressed inside": (
        zip_of({f"{ARCHIVE}/{NAMES[0]}": packed(CONTENTS[NAMES[0]])}),
        "has compressed members .* nothing of it was installed",
    ),
    "a page instead": (zip_of({f"{ARCHIVE}/{NAMES[0]}": b"<html>404"}), "is damaged .* nothing of it was installed"),
    "of another model": (
        zip_of({f"{ARCHIVE}/{NAMES[0]}": CONTENTS[NAMES[1]]}),
        "does not fit classification_ffnet18_AAX: .* nothing of it was installed",
    ),
    "not a zip": (b"<html>Please log in</html>", "cannot be unpacked: File is not a zip file"),
    "empty": (b"", "cannot be unpacked"),
    "truncated": (GOOD[:-1000], "cannot be unpacked"),
    "damaged inside": (GOOD[:500] + b"XXXX" + GOOD[504:], "CRC"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bad_archive_is_refused_and_removed(site: Site, tmp_path: Path, case: str) -> None:
    site.data, message = HOSTILE[case]
    folder = tmp_path / "a" / "weights"
    with pytest.raises(WeightsError, match=message) as caught:
        fetch([ARCHIVE], folder, source=site.url, pauses_s=FAST)
    assert "--from" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert untouched(tmp_path)
    site.data, site.version = GOOD, '"mended"'
    fetch([ARCHIVE], folder, source=site.url)
    assert complete(folder)
    assert site.asked == [(None, None), (None, None)]


def test_one_bad_member_keeps_the_good_ones_out(site: Site, tmp_path: Path) -> None:
    broken = bytearray(GOOD)
    broken[GOOD.index(CONTENTS[NAMES[-1]])] ^= 1
    site.data = bytes(broken)
    with pytest.raises(WeightsError, match=f"{NAMES[-1]}.*CRC"):
        fetch([ARCHIVE], tmp_path, source=site.url)
    assert untouched(tmp_path)


def test_no_damage_ends_in_a_traceback(tmp_path: Path) -> None:
    good = zip_of({f"{ARCHIVE}/{NAMES[0]}": packed(CONTENTS[NAMES[0]])}, zipfile.ZIP_DEFLATED)
    source = tmp_path / f"{ARCHIVE}.zip"
    for seed in range(150):
        source.write_bytes(damaged(good, random.Random(seed)))
        with pytest.raises(WeightsError) as caught:
            fetch([ARCHIVE], tmp_path / "weights", source=tmp_path)
        assert "\n" not in str(caught.value), seed
    assert untouched(tmp_path / "weights")


def damaged(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return data[: rng.randrange(1, len(data))]
    changed = bytearray(data)
    # Most of what a zip says of itself is at its ends.
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.choice((rng.randrange(60), rng.randrange(len(data) - 150, len(data)), rng.randrange(len(data))))
        changed[at] = rng.randrange(256)
    return bytes(changed)
