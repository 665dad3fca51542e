"""Where the pictures lie: class folders, plain files, the tar, parquet shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ffnet_deploy.data.folders import listed, pictures_of
from ffnet_deploy.data.imagenet.packed import PackedPicture, shards_in, tar_pictures
from ffnet_deploy.data.imagenet.truth import class_of, stem_of, truth_beside, wnid_in
from ffnet_deploy.data.stored import File
from ffnet_deploy.errors import DataError
from ffnet_deploy.foreign import shown

_FOLDERS = ("val", "validation", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "CLS-LOC/val")
_TRAIN = ("train", "ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "CLS-LOC/train")
_TAR = "ILSVRC2012_img_val.tar"
_LAYOUTS = (
    "val/WNID/*, plain files or ILSVRC2012_img_val.tar with val.txt, LOC_val_solution.csv or the devkit beside them, "
    "or parquet shards were needed"
)


def class_folders(root: Path, split: Literal["train", "val"]) -> Path | None:
    """Where below ``root`` the class folders of a split are; None if there are none."""
    places = (root / name for name in (_TRAIN if split == "train" else _FOLDERS))
    return next((place for place in places if place.is_dir() and _has_class(place)), None)


def _has_class(folder: Path) -> bool:
    return any(class_of(path.name) is not None for path in folder.iterdir() if path.is_dir())


class Found(NamedTuple):
    """A picture and its label, 0..999."""

    picture: PackedPicture
    label: int


class Layout(NamedTuple):
    """What was found, and how results name it."""

    name: str
    found: list[Found]


def found_in(root: Path) -> Layout:
    """Every picture below ``root`` with its label.

    Raises:
        DataError: as of :func:`ffnet_deploy.data.imagenet.find_set`.
    """
    if root.is_file():
        return _one_file(root)
    if not root.is_dir():
        raise DataError(f"{root} does not exist ({_LAYOUTS}). Name the folder of the data set with --root.")
    empty: list[Path] = []
    for folder in (*(root / name for name in _FOLDERS), root):
        if folder.is_dir():
            layout = _folder(root, folder)
            if layout:
                return layout
            empty.append(folder)
    if (root / _TAR).is_file():
        return _tar(root / _TAR, (root, root.parent))
    shards = shards_in(root)
    if shards:
        return _parquet(shards)
    held = " and ".join(str(folder) for folder in empty)
    raise DataError(f"{held} holds no pictures of ImageNet ({_LAYOUTS}). Copy the data set there, or name another.")


def _one_file(path: Path) -> Layout:
    if path.suffix == ".parquet":
        return _parquet([path])
    return _tar(path, (path.parent,))


def _parquet(shards: Sequence[Path]) -> Layout:
    # Only those who have shards need PyArrow.
    from ffnet_deploy.data.imagenet.parquet import rows_of

    found = [Found(picture, label) for shard in shards for picture, label in rows_of(shard)]
    if not found:
        raise DataError(f"{shards[0]} and its like hold no rows (pictures were needed). Download the shards again.")
    return Layout("parquet shards", found)


def _tar(path: Path, folders: Sequence[Path]) -> Layout:
    return _with_truth("tar", path, tar_pictures(path), folders)


def _folder(root: Path, folder: Path) -> Layout | None:
    """Class folders, or plain files with their truth elsewhere; None if there are neither."""
    there = listed(folder)
    folders = [entry.path for entry in there if entry.is_folder]
    pictures = pictures_of(there)
    if folder == root and not any(class_of(path.name) is not None for path in folders):
        folders = []
    if folders and pictures:
        raise DataError(
            f"{folder} holds class folders and, beside them, {len(pictures)} pictures, first {pictures[0].name} "
            "(one or the other was needed). Move those files away."
        )
    if folders:
        return _class_folders(folder, folders)
    if not pictures:
        return None
    flat = [PackedPicture(shown(path.name), shown(path.name), File(path)) for path in pictures]
    # Labels may lie in any folder from the pictures' own up to root, and beside a root that is the pictures' own.
    above = [path for path in (folder, *folder.parents) if path.is_relative_to(root)]
    return _with_truth("plain files", folder, flat, above if folder != root else (root, root.parent))


def _class_folders(folder: Path, folders: Sequence[Path]) -> Layout:
    unknown = [path.name for path in folders if class_of(path.name) is None]
    if unknown:
        raise DataError(
            f"{folder} has {len(unknown)} of {len(folders)} folders whose names are no class, first {unknown[0]} "
            "(wnids of the 1000 classes such as n01440764, or indices 0 to 999, were needed). Rename or move them."
        )
    labels = {path: class_of(path.name) for path in folders}
    twice = [label for label, count in Counter(labels.values()).items() if count > 1]
    if twice:
        names = " and ".join(path.name for path, label in labels.items() if label == twice[0])
        raise DataError(f"{folder} has class {twice[0]} twice, as {names} (once was needed). Keep one of the folders.")
    found = [
        Found(PackedPicture(shown(f"{path.name}/{file.name}"), shown(file.name), File(file)), label)
        for path, label in labels.items()
        if label is not None
        for file in _pictures_of(path)
    ]
    numbers = [path for path in folders if path.name.isdecimal()]
    if numbers and 0 not in [labels[path] for path in numbers]:
        raise DataError(
            f"{folder} has folders named by numbers, first {numbers[0].name}, and none of class 0. They may be the "
            "devkit's ids, which count from 1 in another order (wnids such as n01440764 were needed). Rename them."
        )
    kinds = {"index" if path in numbers else "wnid" for path in folders}
    return Layout(f"class folders by {' and '.join(sorted(kinds))}", found)


def _pictures_of(folder: Path) -> list[Path]:
    there = listed(folder)
    deeper = next((entry.path for entry in there if entry.is_folder), None)
    if deeper:
        raise DataError(f"{deeper} is a folder (pictures alone were needed in a class folder). Move it away.")
    files = pictures_of(there)
    if not files:
        raise DataError(f"{folder} holds no picture (some of its class were needed). Copy them, or remove the folder.")
    return files


def _with_truth(what: str, where: Path, pictures: list[PackedPicture], folders: Sequence[Path]) -> Layout:
    """Give each picture the label that its own name or a file beside it has for it. No picture may be left over."""
    stems = Counter(stem_of(picture.file) for picture in pictures)
    twice = sorted(stem for stem, count in stems.items() if count > 1)
    if twice:
        raise DataError(f"{where} holds {twice[0]} twice (each picture once was needed). Remove one of the two.")
    own = [class_of(wnid_in(picture.file) or "") for picture in pictures]
    if all(label is not None for label in own):
        found = [Found(picture, label) for picture, label in zip(pictures, own, strict=True) if label is not None]
        return Layout(f"{what}, labels from their names", found)
    named = truth_beside(folders)
    if named is None:
        raise DataError(
            f"{where} holds {len(pictures)} pictures without their truth (class folders, or val.txt, "
            "LOC_val_solution.csv or ILSVRC2012_devkit_t12.tar.gz beside them, were needed). Put one of those there."
        )
    path, labels = named
    missing, extra = sorted(labels.keys() - stems.keys()), sorted(stems.keys() - labels.keys())
    if missing:
        raise DataError(
            f"{path} names {len(labels)} pictures, and {where} has {len(labels) - len(missing)} of them, without "
            f"{missing[0]} (all were needed). Copy the rest, or put a val.txt of the pictures that count beside them."
        )
    if extra:
        raise DataError(
            f"{path} has no label for {len(extra)} of {len(pictures)} pictures of {where}, first {extra[0]} (all were "
            "needed). Complete it, or move those pictures away."
        )
    return Layout(f"{what}, labels from {path.name}", [Found(p, labels[stem_of(p.file)]) for p in pictures])
