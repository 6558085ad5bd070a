"""Where the data of the tasks comes from: files, their format, and splits."""

from __future__ import annotations

from hybridopt.tasks.data.files import DataFile, locate
from hybridopt.tasks.data.idx import read_idx
from hybridopt.tasks.data.images import FASHION_MNIST, MNIST, Images, ImageSource, load_images
from hybridopt.tasks.data.split import generator, partition, standardize

__all__ = [
    "FASHION_MNIST",
    "MNIST",
    "DataFile",
    "ImageSource",
    "Images",
    "generator",
    "load_images",
    "locate",
    "partition",
    "read_idx",
    "standardize",
]
