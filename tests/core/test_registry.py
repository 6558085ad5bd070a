"""Registries: lazy imports, names of users and of installed packages, and no silent replacement."""

from __future__ import annotations

import importlib.metadata
import sys
import types

import pytest

from hybridopt.core import ConfigError, Registry, UnknownNameError


class Entry:
    """Stands in for an entry point of an installed package."""

    def __init__(self, name: str, part: type) -> None:
        self.name, self.part, self.loads = name, part, 0

    def load(self) -> type:
        self.loads += 1
        return self.part


@pytest.fixture
def offered(monkeypatch):
    """Installs entry points for the group "hybridopt.parts"."""
    entries: list[Entry] = []

    def entry_points(*, group):
        return entries if group == "hybridopt.parts" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return entries


@pytest.fixture
def lazy(monkeypatch):
    """A module that notices when it is imported."""
    finder_calls = []

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name != "lazy_parts":
                return None
            finder_calls.append(name)
            return importlib.util.spec_from_loader(name, Loader())

    class Loader:
        @staticmethod
        def create_module(spec):
            return types.ModuleType(spec.name)

        @staticmethod
        def exec_module(module):
            module.Part = type("Part", (), {})

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "lazy_parts", raising=False)
    yield finder_calls
    sys.modules.pop("lazy_parts", None)


def test_builtins_are_imported_when_asked_for(lazy):
    registry = Registry("part", {"mine": "lazy_parts:Part", "other": "lazy_parts:Missing"})
    assert "mine" in registry
    assert registry.names() == list(registry) == ["mine", "other"]
    assert not lazy, "looking at names must import nothing"
    part = registry.get("mine")
    assert part.__name__ == "Part"
    assert registry.get("mine") is part
    assert len(lazy) == 1


def test_registered_classes():
    registry = Registry("part", {})

    @registry.register("mine")
    class Mine:
        pass

    assert Mine.__name__ == "Mine", "the decorator must return the class"
    assert registry.get("mine") is Mine
    assert registry.names() == ["mine"]


def test_registering_again_replaces_the_same_class_only():
    registry = Registry("part", {})

    def define():
        @registry.register("mine")
        class Mine:
            pass

        return Mine

    define()
    again = define()
    assert registry.get("mine") is again, "a module that is imported twice registers its class twice"
    with pytest.raises(ConfigError, match=r"'mine' is taken by .*Mine already"):
        registry.register("mine")(dict)
    assert registry.get("mine") is again


def test_builtin_names_are_not_for_others():
    registry = Registry("part", {"ordered": "collections:OrderedDict"})
    with pytest.raises(ConfigError, match="'ordered' is built in; register yours under another"):
        registry.register("ordered")(dict)
    assert registry.get("ordered").__name__ == "OrderedDict"


@pytest.mark.parametrize("name", ["", None, dict, 3])
def test_registering_needs_a_name(name):
    with pytest.raises(ConfigError, match=r"@register\('my_part'\)"):
        Registry("part", {}).register(name)


def test_unknown_names():
    registry = Registry("optimizer", {"newton_cg": "collections:OrderedDict", "sgd": "collections:deque"})
    with pytest.raises(UnknownNameError) as caught:
        registry.get("newton-cg")
    assert str(caught.value) == ("There is no optimizer 'newton-cg'. Did you mean 'newton_cg'? Known: newton_cg, sgd.")
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, ConfigError)
    with pytest.raises(UnknownNameError):
        registry.get(None)
    assert "newton-cg" not in registry
    assert None not in registry


def test_installed_packages_offer_parts(offered):
    class Theirs:
        pass

    entry = Entry("theirs", Theirs)
    offered.append(entry)
    registry = Registry("part", {"ours": "collections:OrderedDict"}, entry_points="hybridopt.parts")
    assert registry.names() == ["ours", "theirs"]
    assert "theirs" in registry
    assert entry.loads == 0, "an installed package is imported only when its part is asked for"
    assert registry.get("theirs") is Theirs
    with pytest.raises(UnknownNameError, match="Did you mean 'theirs'"):
        registry.get("their")


def test_installed_packages_replace_nothing(offered):
    offered.append(Entry("ordered", dict))
    offered.append(Entry("mine", dict))
    registry = Registry("part", {"ordered": "collections:OrderedDict"}, entry_points="hybridopt.parts")

    @registry.register("mine")
    class Mine:
        pass

    assert registry.get("ordered").__name__ == "OrderedDict"
    assert registry.get("mine") is Mine
    assert registry.names() == ["ordered", "mine"]


def test_groups_are_separate(offered):
    offered.append(Entry("theirs", dict))
    assert "theirs" not in Registry("part", {})
    assert "theirs" not in Registry("part", {}, entry_points="hybridopt.others")


def test_order_is_builtins_then_sorted(offered):
    offered.append(Entry("beta", dict))
    registry = Registry("part", {"zeta": "a:b", "alpha": "a:b"}, entry_points="hybridopt.parts")
    registry.register("gamma")(dict)
    registry.register("a")(list)
    assert registry.names() == ["zeta", "alpha", "a", "beta", "gamma"]


def test_builtins_are_copied():
    builtins = {"ordered": "collections:OrderedDict"}
    registry = Registry("part", builtins)
    builtins["other"] = "collections:deque"
    assert registry.names() == ["ordered"]
