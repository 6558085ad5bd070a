"""Optuna's sampler: begins as Sobol points, looks where it was good, goes on after a kill as if nothing had been."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from hybridopt.core import HybridoptError
from hybridopt.tuning import Choices, Chosen, Range, Score, Space, search
from tests.tuning.test_search import InProcess, pool, study  # noqa: F401 (the fixture)

SPACE = Space(
    {
        "optimizer.lr": Range(1e-6, 1.0),
        "optimizer.max_cg": Range(5, 250, integer=True),
        "optimizer.root": Choices((None, "x", True)),
        "optimizer.history": Choices((50, 5, 20, 10)),
    }
)


def learner(out: Path, **settings: Any) -> Any:
    given = {"sampler": "optuna", "trials": 6, "at_once": 2, "objective": "loss", "most_trials": 6}
    return study(out, only=["optimizer.lr"], settings=given | settings)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HybridoptError, match=r"pip install 'hybridopt\[tune\]'"):
        learner(tmp_path)


class TestPropose:
    @pytest.fixture(autouse=True)
    def _optuna(self) -> None:
        pytest.importorskip("optuna")

    def points(self, count: int) -> list[tuple[dict[str, Any], Score]]:
        from hybridopt.tuning.tpe import propose

        told = [(values, self.score(values)) for values in SPACE.sample(8)]
        for draw in range(count):
            values = propose(SPACE, told, draw)
            told.append((values, self.score(values)))
        return told

    @staticmethod
    def score(values: dict[str, Any]) -> Score:
        off = abs(math.log10(values["optimizer.lr"] / 1e-3)) + abs(math.log2(values["optimizer.history"] / 20))
        return Score(0, off) if values["optimizer.root"] != "x" else Score(2, math.inf)

    def test_it_looks_where_it_was_good(self) -> None:
        drawn = self.points(24)
        for values, _ in drawn:
            assert 1e-6 <= values["optimizer.lr"] <= 1.0
            assert isinstance(values["optimizer.max_cg"], int)
            assert values["optimizer.history"] in (5, 10, 20, 50)
        learned = drawn[-12:]
        blind = [(values, self.score(values)) for values in SPACE.sample(12, sampler="random", seed=1)]
        assert sum(score.rank == 2 for _, score in learned) < sum(score.rank == 2 for _, score in blind)
        assert min(score for _, score in drawn).value < 0.5
        offs = [sorted(abs(math.log10(v["optimizer.lr"] / 1e-3)) for v, _ in some)[6] for some in (learned, blind)]
        assert offs[0] < offs[1]

    def test_the_same_scores_give_the_same_answer_whatever_their_scale(self) -> None:
        from hybridopt.tuning.tpe import propose

        told = self.points(4)
        first = propose(SPACE, told, 5)
        assert propose(SPACE, told, 5) == first
        assert propose(SPACE, told, 6) != first
        assert propose(SPACE, [(values, Score(one.rank, one.value**3)) for values, one in told], 5) == first

    def test_points_without_a_score_and_values_outside_do_no_harm(self) -> None:
        from hybridopt.tuning.tpe import propose

        told = [({"optimizer.lr": 0.0, "optimizer.history": 7}, Score(0, 1.0)), ({"optimizer.lr": 0.1}, None)]
        assert set(propose(SPACE, told, 0)) == set(SPACE.dimensions)
        assert set(propose(SPACE, [], 0)) == set(SPACE.dimensions)


def test_a_search_begins_with_the_points_of_sobol_and_then_looks_at_results(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    one = learner(tmp_path)
    search([one])
    assert len(one.trials) == 6
    sobol = study(tmp_path, only=["optimizer.lr"], settings={"trials": 6})
    keys = [trial.key for trial in sobol.more(6)]
    assert [trial.key for trial in one.trials[:3]] == keys[:3]
    assert not {trial.key for trial in one.trials[3:]} & set(keys)
    facts = Chosen.of(one, one.spent(), tmp_path).facts
    assert facts["sampler"] == "optuna"
    assert facts["optuna"].startswith("4.")


@pytest.mark.parametrize("after", [2, 4, 5])
def test_stopping_and_starting_again_changes_nothing(tmp_path: Path, pool: type[InProcess], after: int) -> None:  # noqa: F811
    pytest.importorskip("optuna")
    whole = learner(tmp_path / "a")
    search([whole])
    pool.started.clear()
    pool.stop_after = after
    with pytest.raises(KeyboardInterrupt):
        search([learner(tmp_path / "b")])
    pool.stop_after = -1
    again = learner(tmp_path / "b")
    search([again])
    assert len(pool.started) == 6, "nothing is done twice"
    assert [trial.key for trial in again.trials] == [trial.key for trial in whole.trials]
    assert again.best()[1] == whole.best()[1]
