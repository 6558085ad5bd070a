from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import pytest
import torch

from hybridopt.core import DataError
from hybridopt.tasks.data import FASHION_MNIST, MNIST, load_images
from tests.tasks.idx_files import SIDE, TEST, TRAIN, pixels_and_labels, write_source


def test_loads_all_four_files(tmp_path, monkeypatch):
    source = write_source(tmp_path)
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    images = load_images(source)
    assert images.train_images.shape == (TRAIN, SIDE, SIDE)
    assert images.test_images.shape == (TEST, SIDE, SIDE)
    pixels, labels = pixels_and_labels(TEST, 1)
    assert torch.equal(images.test_images, torch.from_numpy(pixels))
    assert images.test_labels.dtype == torch.int64
    assert images.test_labels.tolist() == labels.tolist()


def test_images_and_labels_must_match(tmp_path, monkeypatch):
    source = write_source(tmp_path)
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"120 images but t10k-labels.* has 20 labels"):
        load_images(replace(source, train_labels=source.test_labels))


@pytest.mark.parametrize("source", [MNIST, FASHION_MNIST])
def test_published_sources_are_well_formed(source):
    files = [getattr(source, field.name) for field in fields(source)]
    assert len({file.name for file in files}) == 4
    for file in files:
        assert len(file.sha256) == len(hashlib.sha256().hexdigest())
        assert len(file.mirrors) == 2
        assert all(url.startswith("http") and url.endswith("/") for url in file.mirrors)
