"""MNIST and Fashion-MNIST: four IDX files each, 60,000 and 10,000 images of 28 x 28 in ten classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hybridopt.core import DataError
from hybridopt.tasks.data.files import DataFile, locate
from hybridopt.tasks.data.idx import read_idx
from hybridopt.tasks.data.split import partition


@dataclass(frozen=True)
class ImageSource:
    """The four files of an image set in MNIST's format.

    Args:
        train_images: IDX file of shape (n, height, width).
        train_labels: IDX file of shape (n,).
        test_images: IDX file of shape (m, height, width).
        test_labels: IDX file of shape (m,).
    """

    train_images: DataFile
    train_labels: DataFile
    test_images: DataFile
    test_labels: DataFile


@dataclass(frozen=True)
class Images:
    """Pixels and class labels as published.

    Args:
        train_images: uint8, shape (n, height, width).
        train_labels: int64, shape (n,).
        test_images: uint8, shape (m, height, width).
        test_labels: int64, shape (m,).
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def held_out(
        self, shares: Sequence[float], seed: int, most: int | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Returns pixels, and labels, of three parts: training, validation (held out, class by class) and test.

        Args:
            shares: Of the published training set, for training and validation.
            seed: Decides which images are held out.
            most: Training images to be used, stratified; None: all that are left.

        Raises:
            DataError: If a part would be empty.
        """
        labels = self.train_labels
        kept, validation = partition(len(labels), shares, seed, labels=labels)
        if most is not None and most < len(kept):
            share = most / len(kept)
            kept = kept[partition(len(kept), (share, 1 - share), seed, labels=labels[kept])[0]]
        pixels = [*(self.train_images[part] for part in (kept, validation)), self.test_images]
        return pixels, [*(labels[part] for part in (kept, validation)), self.test_labels]


def load_images(source: ImageSource) -> Images:
    """Reads an image set, fetching what is not at hand.

    Args:
        source: Its files.

    Raises:
        DataError: If a file is missing, damaged or cannot be fetched, or images and labels differ in number.
    """
    train_images, train_labels = _pair(source.train_images, source.train_labels)
    test_images, test_labels = _pair(source.test_images, source.test_labels)
    return Images(train_images, train_labels, test_images, test_labels)


def _pair(image_file: DataFile, label_file: DataFile) -> tuple[Tensor, Tensor]:
    images = read_idx(locate(image_file), ndim=3)
    labels = read_idx(locate(label_file), ndim=1).long()
    if len(images) != len(labels):
        raise DataError(
            f"{image_file.folder}/{image_file.name} has {len(images)} images but {label_file.name} has {len(labels)} "
            "labels: the files do not belong together."
        )
    return images, labels


def _source(folder: str, mirrors: tuple[str, ...], *checksums: str) -> ImageSource:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    pairs = zip(names, checksums, strict=True)
    return ImageSource(*(DataFile(folder, f"{name}-ubyte.gz", checksum, mirrors) for name, checksum in pairs))


MNIST = _source(
    "mnist",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://raw.githubusercontent.com/fgnt/mnist/master/",
    ),
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
"""Handwritten digits: LeCun, Cortes and Burges, "The MNIST database of handwritten digits"."""

FASHION_MNIST = _source(
    "fashion-mnist",
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
"""Articles of clothing: Xiao, Rasul and Vollgraf, arXiv:1708.07747."""
