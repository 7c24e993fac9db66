"""The user's own pictures, one folder for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from protoat.data.base import ImageData
from protoat.data.cache import file_digests
from protoat.data.listing import Picture, children, in_order, pictures
from protoat.data.own_images import OwnImages, Pictures, halves_of
from protoat.errors import UserError
from protoat.spelling import argument, setting

_TEST = ("test", "val", "valid", "validation")
_LIKE_HALVES = ("train", "training", *_TEST, "testing", "eval")


class ImageFolder(OwnImages):
    """Images from ``class/*.png``, or from ``class/mode/*.png``, where the inner folder names the mode.

    Classes and modes are sorted by name, numbers by value (1, 2, 10) and before other names; a mode is called
    ``class/mode``, so inner folders of two classes may share a name. Images beside the mode folders of a class have the
    mode ``class/(unknown)``, which is none in training (`KnownModes`).

    Pixels are those that a viewer shows: transparent ones are laid over `background`, of 16 bits a channel the upper
    eight are kept, embedded colour profiles, PNG's gamma and the camera's orientation are applied. What has no such
    form is refused by name: animations and files of several pages, floats, 32-bit integers, Lab, HDR. Where every file
    is grey the images have one channel, else three. Formats are AVIF, BMP, DDS, GIF, ICO, JPEG, JPEG 2000, PCX, PNG,
    PPM and its like, QOI, SGI, Sun, TGA, TIFF and WebP, as far as the installed Pillow reads them, in any mix.

    Pre-training takes a folder of pictures alone, too, since it needs no classes.

    Files of other suffixes, hidden files, symbolic links inside the folder (copies and hard links are read), pipes and
    deeper folders are left out; `inventory` counts them.

    Where `path` has a ``train`` and a ``test`` folder, these are the splits, and a ``val``, ``valid`` or ``validation``
    beside them holds the images by which the best checkpoint is chosen; where there is no ``test``, that folder is the
    test split. Otherwise the test split is a fifth of each mode, chosen by content and not by chance: the files with
    the smallest SHA-256. Copies of a file within a mode are always on the same side; a mode with two different files
    has at least one on each.

    Args:
        path: the folder: as it stands, or inside `root`. Default ``images``.
        image_size: scale and centre-crop every image to this many pixels a side; default: all must have one size.
        background: colour under transparent pixels, such as black or #808080; default: white, as on a page.
        classes: names of all classes in the order of their labels; default: sorted.
        root: folder that holds data sets; default ``PROTOAT_DATA``, else ``~/.cache/protoat/data``.
        download: not used, your own images cannot be downloaded.

    Raises:
        ValueError: on loading: fewer than two classes, an empty class or mode folder, splits with different classes, a
            second half that goes by another name, `classes` that are not those of the folder, images of mixed size, a
            file that cannot be read.
        DataNotFoundError: on loading: no such folder.

    The default augmentation suits photographs; switch it off where a mirror image means something else, as with digits.

    >>> ImageFolder(path="pictures", root="/data").location().as_posix()
    '/data/pictures'
    """

    downloadable = False
    split_is = "folder"

    def __init__(
        self,
        *,
        path: Path | str = "images",
        image_size: int | None = None,
        background: str | None = None,
        classes: Sequence[str] | None = None,
        root: Path | str | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(image_size=image_size, background=background, root=root, download=download)
        self.path = Path(path).expanduser()
        if isinstance(classes, str):
            raise UserError(f"{setting(classes=classes)} is one name; write a list of all, such as [b, a]")
        self.classes = None if classes is None else [str(name) for name in classes]

    def location(self) -> Path:
        return self.path if self.path.is_dir() else self.root / self.path

    def available(self) -> bool:
        return self.location().is_dir()

    def not_found(self) -> str:
        places = " nor ".join(dict.fromkeys([str(self.path), str(self.root / self.path)]))
        return f"there is no folder {places}; name one of your own images by {argument('path')}"

    def halves(self, left_out: Counter[str]) -> dict[str, Path]:
        """The folder of each split; one folder alone is to be split by content."""
        folder = self.location()
        inside = {path.name: path for path in children(folder, left_out)[0]}
        halves = halves_of(inside)
        if not halves:
            _check_no_half(folder)
            left_out.clear()  # it is counted again when the classes are looked through
            return {"train": folder}
        for name in inside:
            if name not in halves.values():
                left_out[f"folder {name} beside the splits"] += 1
        return {split: inside[name] for split, name in halves.items()}

    def everything(self, left_out: Counter[str]) -> tuple[ImageData, Sequence[str], Mapping[str, str]]:
        halves = self.halves(left_out)
        found = {name: list(pictures(half, left_out)) for name, half in halves.items()}
        class_names = self._class_names(halves, found)
        every = [picture for half in found.values() for picture in half]
        own = Pictures(
            [picture.path for picture in every],
            file_digests([picture.path for picture in every]),
            [picture.class_name for picture in every],
            [picture.mode_name for picture in every],
            [name for name, half in found.items() for _ in half],
        )
        return self.put_together(own, class_names, {name: half.name for name, half in halves.items()})

    def _class_names(self, halves: dict[str, Path], found: dict[str, list[Picture]]) -> list[str]:
        """In the order of their labels."""
        names = {split: {picture.class_name for picture in half} for split, half in found.items()}
        for split, own in names.items():
            without_classes = any(picture.path.parent == halves[split] for picture in found[split])
            if split != "train" and names["train"] and (without_classes or not own):
                raise UserError(
                    f"{halves[split]} has no class folders; if its images have no labels, move it elsewhere"
                )
            # A class may be too rare to be in the images that choose a checkpoint.
            odd = own - names["train"] if split == "validation" else own ^ names["train"]
            if odd:
                raise UserError(f"class {min(odd)!r} is in only one of {halves['train']} and {halves[split]}")
        if len(names["train"]) < (2 if self.labelled else 1):
            raise UserError(
                f"{halves['train']} has {len(names['train'])} class folders, expected at least two with images"
            )
        if self.classes is None:
            return sorted(names["train"], key=in_order)
        if sorted(self.classes) != sorted(names["train"]):
            odd = names["train"].symmetric_difference(self.classes) or {max(self.classes, key=self.classes.count)}
            raise UserError(
                f"{setting(classes=self.classes)} must name each class of {halves['train']} once; "
                f"{min(odd)!r} is not in both, or named twice"
            )
        return self.classes


def _check_no_half(folder: Path) -> None:
    """Refuses halves under other names, which would be classes: a ``training`` beside a ``test``, classes beside it."""

    def folders(outer: Path) -> list[Path]:
        return children(outer, Counter())[0]

    inside = {child.name: [inner.name for inner in folders(child)] for child in folders(folder)}
    for name, classes in inside.items():
        if not classes or name.lower() not in _LIKE_HALVES:
            continue
        twin = next((other for other in inside if other != name and inside[other] == classes), None)
        if twin is not None:
            raise UserError(
                f"{folder / name} has the same folders as {folder / twin}; if these are splits, call one train and the "
                f"other {' or '.join(_TEST)}; if they are classes, not {name}"
            )
        if set(classes) <= inside.keys() - {name}:
            raise UserError(
                f"the folders of {folder / name} also stand beside it; if it is a split, move those into a folder "
                "train; if it is a class, call it otherwise"
            )
