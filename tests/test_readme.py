"""What README shows is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import hybridopt as ho

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_library_examples_run_and_say_what_the_text_says(capsys):
    names: dict[str, object] = {}
    exec(BLOCKS[0], names)
    assert names["values"].shape == (3,)
    exec(BLOCKS[1], {"ho": ho, "torch": torch})
    printed = capsys.readouterr().out
    assert "saddle_point" in printed, "README says that the first run ends at a saddle"
    assert re.search(r"tensor\(\[.*, -?1\.", printed), "README says that the escape ends at (0, +-1)"


def test_the_plugin_is_whole_and_under_25_lines():
    code = BLOCKS[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    names: dict[str, object] = {"__name__": __name__}
    exec(code, names)
    objective = ho.Objective.from_function(lambda x: x.square().sum(), torch.tensor([3.0, -2.0]))
    optimizer = ho.create("sign_descent", objective.model.parameters(), lr=0.5)
    losses = [float(optimizer.step(objective)) for _ in range(20)]
    assert losses[-1] < 1e-2 * losses[0], "the README's optimizer must descend"
    with pytest.raises(ho.HybridoptError, match="lr"):
        ho.create("sign_descent", objective.model.parameters(), lr=-1.0)


def test_every_name_in_the_table_exists():
    from hybridopt import escape, optimizers, tasks

    text = README.read_text()
    table = text[text.index("## What is there") : text.index("## What it costs")]
    rows = dict(re.findall(r"^\| ([\w -]+) \| (.*) \|$", table, flags=re.MULTILINE))
    known = {*optimizers.registry.names(), *escape.registry.names(), *tasks.registry.names()}
    groups = ("first-order", "quasi-Newton", "Newton", "structured", "hybrid", "escapes")
    for row in (*groups, "CNN tasks", "RNN tasks", "other tasks"):
        for words in re.findall(r"`([a-z_0-9 ]+)`", rows[row]):
            for name in words.split():
                assert name in known, f"README names {name!r}, which is not registered"
    for name in optimizers.registry._builtins:
        assert name in table, f"README's table lacks {name!r}"
