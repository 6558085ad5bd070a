from __future__ import annotations

import functools
import http.server
import socket
import threading
from dataclasses import replace

import pooch
import pytest

from hybridopt.core import DataError
from hybridopt.tasks.data import locate
from tests.tasks.idx_files import write_source


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requested.append(self.path)
        super().do_GET()


@pytest.fixture
def no_given_data(monkeypatch):
    monkeypatch.delenv("HYBRIDOPT_DATA", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mirror(tmp_path, no_given_data):
    """A mirror on this machine: the server, its base URL, and a file that it has."""
    root = tmp_path / "served"
    file = write_source(root).train_labels
    handler = functools.partial(_Handler, directory=str(root / "mnist"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requested = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        yield server, url, replace(file, mirrors=(url,))
        server.shutdown()
        thread.join()


def test_finds_a_given_file_without_pooch(tmp_path, monkeypatch):
    file = write_source(tmp_path).train_images
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    assert locate(file) == tmp_path / "mnist" / "train-images-idx3-ubyte.gz"


def test_given_folder_without_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    file = write_source(tmp_path / "elsewhere").train_images
    with pytest.raises(DataError, match=r"does not exist.*sub-folder mnist, or unset HYBRIDOPT_DATA"):
        locate(file)


def test_given_file_with_another_checksum(tmp_path, monkeypatch):
    file = write_source(tmp_path).train_labels
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    (tmp_path / "mnist" / file.name).write_bytes(b"something else")
    with pytest.raises(DataError, match=rf"damaged or another version.*not {file.sha256}"):
        locate(file)


def test_fetches_once_into_the_cache(tmp_path, mirror, caplog, capfd):
    server, _, file = mirror
    logger = pooch.get_logger()
    level = logger.level
    cache = tmp_path / "cache"
    path = locate(file, cache=cache)
    assert path == cache / "mnist" / file.name
    assert path.read_bytes() == (tmp_path / "served" / "mnist" / file.name).read_bytes()
    assert locate(file, cache=cache) == path
    assert server.requested == [f"/{file.name}"], "the cached file must not be fetched again"
    assert logger.level == level
    assert capfd.readouterr() == ("", ""), "fetching is silent"
    assert not caplog.records


def test_empty_variable_means_unset(tmp_path, mirror, monkeypatch):
    _, _, file = mirror
    monkeypatch.setenv("HYBRIDOPT_DATA", "")
    assert locate(file, cache=tmp_path / "cache").is_file()


def test_a_damaged_cached_file_is_fetched_again(tmp_path, mirror):
    server, _, file = mirror
    path = locate(file, cache=tmp_path / "cache")
    good = path.read_bytes()
    path.write_bytes(b"torn")
    assert locate(file, cache=tmp_path / "cache").read_bytes() == good
    assert len(server.requested) == 2


def test_falls_back_to_the_next_mirror(tmp_path, mirror):
    server, url, file = mirror
    two = replace(file, mirrors=(url + "no/such/folder/", url))
    assert locate(two, cache=tmp_path / "cache").is_file()
    assert server.requested == [f"/no/such/folder/{file.name}", f"/{file.name}"]


def test_wrong_checksum_of_a_mirror_is_not_kept(tmp_path, mirror):
    _, _, file = mirror
    with pytest.raises(DataError, match=r"wrong checksum, not kept.*HYBRIDOPT_DATA=DIR"):
        locate(replace(file, sha256="0" * 64), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.gz"))


def test_http_error_is_named(tmp_path, mirror):
    _, _, file = mirror
    with pytest.raises(DataError, match="HTTP status 404"):
        locate(replace(file, name="absent.gz"), cache=tmp_path / "cache")


def test_no_network_names_the_way_out(tmp_path, no_given_data):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        file = replace(write_source(tmp_path).train_labels, mirrors=(url,))
        with pytest.raises(DataError, match=r"no connection.*DIR/mnist/.*HYBRIDOPT_DATA=DIR"):
            locate(file, cache=tmp_path / "cache")


def test_unusable_cache_folder(tmp_path, mirror):
    _, _, file = mirror
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"cannot be written.*HYBRIDOPT_DATA=DIR"):
        locate(file, cache=tmp_path / "cache")
