"""CIFAR-10's archive format, on a tiny archive that is served from localhost."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import hybridopt as ho
import hybridopt.tasks as tasks
from hybridopt.core import DataError
from hybridopt.tasks.cifar10 import CIFAR3c3d
from hybridopt.tasks.data.cifar import CIFAR10, load_cifar
from hybridopt.tasks.data.files import locate


def batch(count, seed):
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(count) % 10
    return records


def archive(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo("cifar-10-batches-bin/" + name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


TRAIN = [batch(40, seed) for seed in range(5)]
TEST = batch(20, 9)
MEMBERS = {f"data_batch_{k + 1}.bin": part.tobytes() for k, part in enumerate(TRAIN)}
MEMBERS |= {"test_batch.bin": TEST.tobytes(), "readme.html": b"text"}


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    (tmp_path / "cifar-10").mkdir()

    def write(content):
        (tmp_path / "cifar-10" / CIFAR10.name).write_bytes(content)
        return replace(CIFAR10, sha256=hashlib.sha256(content).hexdigest())

    return write


def test_pixels_are_channel_by_channel_and_batches_in_order(given):
    images = load_cifar(given(archive(MEMBERS)))
    assert images.train_images.shape == (200, 3, 32, 32)
    records = np.concatenate(TRAIN)
    assert torch.equal(images.train_labels, torch.from_numpy(records[:, 0]).long())
    assert int(images.train_images[7, 1, 2, 3]) == records[7, 1 + 1024 + 2 * 32 + 3]
    assert int(images.test_images[3, 2, 31, 31]) == TEST[3, -1]


def test_fetched_from_a_mirror_and_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("HYBRIDOPT_DATA", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "www").mkdir()
    content = archive(MEMBERS)
    (tmp_path / "www" / CIFAR10.name).write_bytes(content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "www"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        mirror = f"http://127.0.0.1:{server.server_port}/"
        file = replace(CIFAR10, sha256=hashlib.sha256(content).hexdigest(), mirrors=(mirror,))
        path = locate(file, cache=tmp_path / "cache")
    finally:
        server.shutdown()
        server.server_close()
    assert path.read_bytes() == content
    assert locate(file, cache=tmp_path / "cache") == path, "the second time without a network"


def test_splits_and_networks(given):
    source = given(archive(MEMBERS))
    task = type("Tiny", (CIFAR3c3d,), {"source": source})(batch_size=10)
    splits = task.splits(0)
    assert [len(part) for part in splits] == [180, 20, 20]
    torch.testing.assert_close(splits.train.inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(splits.train.inputs.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    model = task.model(0)
    assert sum(p.numel() for p in model.parameters()) == 895_210, "as DeepOBS has it"
    for net in (model, *(tasks.create("cifar10_resnet", norm=norm).model(0) for norm in ("batch", "group"))):
        objective = ho.Objective(net, task.loss, splits.test.inputs, splits.test.targets)
        vector = torch.ones(objective.space.n)
        assert torch.isfinite(objective.at().gauss_newton() @ vector).all()


def test_resnet_20_has_its_published_size():
    model = tasks.create("cifar10_resnet", blocks=3).model(0)
    assert sum(p.numel() for p in model.parameters()) == 269_722


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an archive", "no readable gzipped tar"),
        (archive({"readme.html": b"x"}), "binary version"),
        (archive(MEMBERS | {"test_batch.bin": b"123"}), "no whole number of records"),
        (archive(MEMBERS)[:2000], "no readable gzipped tar"),
    ],
)
def test_damaged_archives(given, content, message):
    with pytest.raises(DataError, match=message):
        load_cifar(given(content))
