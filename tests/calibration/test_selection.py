"""Which images calibrate, in which order, and what they are hashed to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.calibrated import block, run
from support.fakes import SMALL, SMALL_SHAPE
from support.graphs import put_graph
from support.recorded import RANDOM, stamp_for

from ffnet_deploy.artifacts.records import GraphRecord
from ffnet_deploy.artifacts.replay import exported_name
from ffnet_deploy.artifacts.values import GraphOptions, Shape
from ffnet_deploy.artifacts.workspace import Workspace
from ffnet_deploy.calibration.selection import batches, find_images
from ffnet_deploy.data.imagenet import find_set, load
from ffnet_deploy.data.images import normalise
from ffnet_deploy.errors import DataError, UsageError
from ffnet_deploy.graph.current import Graph, current_graph
from ffnet_deploy.synthetic.scenes import draw_scene

CLASSIFIER = "classification_ffnet46NS_CBX_mobile"


@pytest.fixture
def space(workspace: Workspace) -> Workspace:
    put_graph(workspace, block())
    return workspace


def only_a_record(workspace: Workspace, model: str, shape: Shape) -> Graph:
    """The graph as the choice of images sees it: its record alone."""
    contract = (224, 224) if model == CLASSIFIER else (512, 1024)
    options = GraphOptions(shape=shape, opset=20, contract=contract)
    record = GraphRecord(model=model, precision="fp32", file=stamp_for(), options=options, weights=RANDOM)
    return Graph(workspace, workspace.path_of(exported_name(model, options)), record)


def classifier(workspace: Workspace, size: int) -> Graph:
    return only_a_record(workspace, CLASSIFIER, (1, 3, size, size))


def test_images_are_chosen_evenly(space: Workspace, calibration_streets: Path) -> None:
    graph = current_graph(space, None)
    every = find_images(graph, calibration_streets, None, allow_val=False).names
    assert find_images(graph, calibration_streets, 2, allow_val=False).names == (every[0], every[2])


def test_a_batch_is_filled_up_and_the_filling_not_counted(space: Workspace, calibration_streets: Path) -> None:
    images = find_images(current_graph(space, None), calibration_streets, 5, allow_val=False)
    found = list(batches(images, 2, 1))
    assert [names for names, _ in found] == [list(images.names[1:3]), list(images.names[3:5])]
    ((names, feed),) = batches(images, 2, 4)
    assert (len(names), feed.shape, str(feed.dtype)) == (1, (2, *SMALL_SHAPE[1:]), "float32")
    assert np.array_equal(feed[0], feed[1])


def test_val_is_never_looked_at_unasked(space: Workspace, calibration_streets: Path, tmp_path: Path) -> None:
    found = run(space, calibration_streets, allow_val=True)
    assert (found.file.images.title, len(found.file.images.names)) == ("Cityscapes val", 2)
    assert "calibrated on val" in found.file.marks
    only_val = tmp_path / "only"
    shutil.copytree(calibration_streets / "leftImg8bit" / "val", only_val / "leftImg8bit" / "val")
    with pytest.raises(DataError, match=r"has no train split .*--allow-val"):
        run(space, only_val)
    with pytest.raises(DataError, match=r"holds images of a val split, first .*--allow-val"):
        run(space, calibration_streets / "leftImg8bit" / "val")
    # By the names of Cityscapes' val cities too, wherever they lie.
    loose = tmp_path / "loose"
    loose.mkdir()
    for i in range(2):
        Image.fromarray(draw_scene(64, 64, i).image).save(loose / f"lindau_00000{i}_000019_leftImg8bit.png")
    with pytest.raises(DataError, match="val split"):
        run(space, loose)
    assert "calibrated on val" in run(space, loose, allow_val=True).file.marks


@pytest.mark.parametrize("place", ["val", "validation", "a/val/b"])
def test_a_folder_of_that_name_is_val(space: Workspace, photos: Path, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "any" / place
    shutil.copytree(photos, folder)
    for data in (folder, tmp_path / "any"):
        with pytest.raises(DataError, match="val split"):
            run(space, data)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(DataError, match="val split"):
        run(space, tmp_path / "link")
    # A link below the folder that is named leads there too.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "away").symlink_to(folder)
    with pytest.raises(DataError, match="val split"):
        run(space, tmp_path / "links")
    assert "calibrated on val" in run(space, folder, allow_val=True).file.marks


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's folders with four train and two val pictures of two classes."""
    root = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 2), ("val", 1)):
        for wnid in ("n01440764", "n01751748"):
            (root / split / wnid).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(draw_scene(70 + 10 * i, 90, i).image)
                picture.save(root / split / wnid / f"{wnid}_{i}.JPEG")
    return root


def test_imagenet_gives_its_train_split_as_evaluation_makes_it(
    workspace: Workspace, objects: Path, tmp_path: Path
) -> None:
    graph = classifier(workspace, 224)
    found = find_images(graph, objects, None, allow_val=False)
    assert (found.title, found.resized, found.val, len(found.names)) == ("ImageNet train", False, False, 4)
    wanted = [normalise(load(sample)) for sample in find_set(objects / "train").samples]
    assert all(np.array_equal(read(), image) for read, image in zip(found.readers, wanted, strict=True))
    val = find_images(graph, objects, None, allow_val=True)
    assert (val.title, val.val, len(val.names)) == ("ImageNet val", True, 2)
    # A folder of the same pictures gives the same, and val is val by any name.
    plain = find_images(graph, objects / "train", None, allow_val=False)
    assert (plain.title, plain.resized) == ("folder of images", False)
    assert all(np.array_equal(read(), image) for read, image in zip(plain.readers, wanted, strict=True))
    shutil.copytree(objects / "val", tmp_path / "only" / "val")
    for folder in (objects / "val", tmp_path / "only"):
        with pytest.raises(DataError, match="--allow-val"):
            find_images(graph, folder, None, allow_val=False)
    with pytest.raises(UsageError, match="takes 64x64, and ImageNet's images are cropped to 224x224"):
        find_images(classifier(workspace, 64), objects, None, allow_val=False)
    small = find_images(classifier(workspace, 64), objects / "train", None, allow_val=False)
    assert (small.resized, small.readers[0]().shape) == (True, (1, 3, 64, 64))


def test_folders_that_cannot_be(space: Workspace, photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"holds no images \(\.png, .* are read\)\. Name another folder"):
        run(space, empty)
    shutil.copy(photos / "a.png", empty)
    with pytest.raises(DataError, match=r"holds 1 images \(2 or more are needed\)"):
        run(space, empty)
    with pytest.raises(DataError, match=r"absent does not exist \(a folder of images was needed\)"):
        run(space, tmp_path / "absent")
    mixed = tmp_path / "mixed"
    shutil.copytree(photos, mixed)
    (mixed / "notes.txt").write_text("not a picture")
    assert find_images(current_graph(space, None), mixed, None, allow_val=False).names == (
        "a.png",
        "b.jpg",
        "more/c.webp",
    )
    (mixed / "notes.txt").rename(mixed / "notes.heic")
    with pytest.raises(DataError, match=r"notes\.heic is a picture of a kind that is not read .*Convert such files"):
        run(space, mixed)
    (mixed / "notes.heic").rename(mixed / "notes.png")
    with pytest.raises(DataError, match=r"notes\.png cannot be decoded \(no picture that is known\)"):
        run(space, mixed)


def test_a_picture_of_one_colour_says_nothing_of_ranges(space: Workspace, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    Image.new("RGB", (90, 100), (7, 80, 200)).save(folder / "plain.png")
    with pytest.raises(DataError, match=r"^plain\.png is one colour throughout \(a picture was needed"):
        run(space, folder)
    assert not list(space.root.glob("calibration/*.json"))
    Image.fromarray(np.arange(9000, dtype=np.uint16).reshape(90, 100)).save(folder / "plain.png")
    with pytest.raises(DataError, match=r"plain\.png is a PNG image of kind I;16 \(8 bits a channel were needed\)"):
        run(space, folder)


# --- hashes ---------------------------------------------------------------------------------------------------------


def ppm(path: Path, height: int, width: int, seed: int) -> None:
    """A picture that is the same bytes whatever writes pictures here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(height * width * 3) * (seed + 3) % 251
    path.write_bytes(b"P6 %d %d 255\n" % (width, height) + values.astype(np.uint8).tobytes())


HASHES = (
    (SMALL, SMALL_SHAPE, "c744759f40c059f2343b52daf9555642b6981cb77b32f00fbbd40fe5606415f1"),
    (CLASSIFIER, (1, 3, 224, 224), "da94b2c18310a8620d9006dd085e6bd4b50f6d3965e2969535677003724bd7fd"),
    (CLASSIFIER, (1, 3, 64, 64), "f24b53cffc9256b649337d3f6acc6c68f9816fa6cf1dc4417a68f7956a00994c"),
)


@pytest.mark.parametrize(("model", "shape", "wanted"), HASHES, ids=["segmentation", "cropped", "resized"])
def test_the_hash_of_a_folder_is_that_of_the_first_release(
    workspace: Workspace, model: str, shape: Shape, wanted: str
) -> None:
    """Another hash would make every calibration of the same images be made again."""
    root = workspace.root / "pictures"
    ppm(root / "a.ppm", 40, 60, 0)
    ppm(root / "b.ppm", 64, 128, 1)
    ppm(root / "more" / "c.ppm", 70, 90, 2)
    graph = only_a_record(workspace, model, shape)
    found = find_images(graph, root, None, allow_val=False).sha256
    assert found == wanted
    # What is in a picture counts, not when or where it was written.
    moved = shutil.copytree(root, workspace.root / "moved")
    assert find_images(graph, moved, None, allow_val=False).sha256 == wanted
    ppm(moved / "b.ppm", 64, 128, 2)
    assert find_images(graph, moved, None, allow_val=False).sha256 != wanted


def test_the_hash_of_a_data_set_is_that_of_the_first_release(workspace: Workspace) -> None:
    imagenet = workspace.root / "imagenet"
    for i, wnid in enumerate(("n01440764", "n01751748")):
        ppm(imagenet / "train" / wnid / f"{wnid}_{i}.JPEG", 70, 90, i)
    found = find_images(classifier(workspace, 224), imagenet, None, allow_val=False)
    assert found.sha256 == "518affec68b319044d07728bf7f6673f70f762a2adbffca987b7da8ea0f9b34d"
    root = workspace.root / "cityscapes"
    for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        folder = root / kind / "train" / "ahornstadt"
        folder.mkdir(parents=True)
        for i in range(2):
            (folder / f"ahornstadt_00000{i}_000019_{ending}.png").write_bytes(b"%s %d" % (kind.encode(), i))
    found = find_images(only_a_record(workspace, SMALL, SMALL_SHAPE), root, None, allow_val=False)
    assert found.sha256 == "a5b31da43c91fb416ea337e3861a1dd44663faa9f2a57133d3de049a53879465"
