"""A sweep's jobs are composed quickly, and to what Hydra composes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf, open_dict

from hybridopt.cli import run
from hybridopt.core import HybridoptError
from hybridopt.experiment import schema
from hybridopt.experiment.composition import Composer


class Probe:
    """Takes the jobs of a sweep instead of the launcher."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
        self.pairs: list[tuple[Any, Any]] = []
        self.composed: list[list[str]] = []
        original = ConfigLoaderImpl.load_sweep_config

        def counted(own: Any, master_config: Any, sweep_overrides: list[str]) -> Any:
            self.composed.append(sweep_overrides)
            return original(own, master_config, sweep_overrides)

        def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
            loader, master = launcher._loader, launcher._config
            composer, job_overrides = Composer(loader, master), [[*overrides, *more] for overrides in job_overrides]
            found = [composer.compose(overrides, number) for number, overrides in enumerate(job_overrides)]
            monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", original)
            for number, (config, overrides) in enumerate(zip(found, job_overrides, strict=True)):
                expected = loader.load_sweep_config(master, list(overrides))
                with open_dict(expected):
                    expected.hydra.job.id = expected.hydra.job.num = number
                self.pairs.append((self.plain(config), self.plain(expected)))
            return []

        monkeypatch.setattr(schema.LocalLauncher, "launch", launch)
        monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", counted)

    @staticmethod
    def plain(config: Any) -> tuple[Any, Any, Any]:
        """All of a config as it stands, its own part resolved, and whether it refuses keys that it does not know."""
        values = schema.to_values(config, schema.chosen_experiment(config.hydra))
        flags = [OmegaConf.is_struct(node) for node in (config, config.task, config.optimizer, config.launcher)]
        return OmegaConf.to_container(config, resolve=False), values, flags


SWEEPS = {
    "groups, nested options and lists": [
        "task=digits_cnn",
        "optimizer=adam,newton_cg",
        "optimizer.lr=0.1,0.2",
        "escape=perturbation",
        "tracker.tags=[a,b],[]",
        "tracker=wandb",
        "launcher.options={a: {b: 1}}",
    ],
    "choices after values, quoted texts, nothing, interpolations": [
        "seed=0,1",
        "out='a b',null,o/${task.name}/${seed}",
        "optimizer=adam",
        "optimizer.betas=[0.9,0.99]",
        "task=adding_rnn",
    ],
    "keys added twice": ["seed=3", "++seed=4", "optimizer=adam", "optimizer.lr=0.1,0.2"],
    "mappings after and before the values that they hold": [
        "optimizer=adam",
        "optimizer.lr=0.1,0.2",
        "optimizer={lr: 0.3}",
        "budget={epochs: 3}",
        "budget.epochs=4",
    ],
}


@pytest.mark.parametrize("name", SWEEPS)
def test_jobs_are_what_hydra_composes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(monkeypatch)
    run.main(["-m", *SWEEPS[name]], debug=False)
    for found, expected in probe.pairs:
        assert found == expected
    assert len(probe.pairs) > 1
    chosen = {
        tuple(text for text in overrides if text.split("=")[0] in ("optimizer", "escape", "task", "tracker"))
        for overrides in probe.composed
    }
    if name != "keys added twice":
        assert len(probe.composed) == len(chosen), "what jobs share is composed once"


def test_options_of_hydra_among_a_sweeps_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(monkeypatch, "hydra.job.name=mine", "seed=3")
    run.main(["-m", "optimizer=adam", "optimizer.lr=0.1,0.2"], debug=False)
    for found, expected in probe.pairs:
        assert found == expected
    assert probe.pairs[0][0][0]["hydra"]["overrides"]["task"] == ["optimizer=adam", "optimizer.lr=0.1", "seed=3"]


def test_what_hydra_refuses_it_refuses_in_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for override, words in (
        ("optimizer.lrr=1,2", "no option 'lrr'. Did you mean 'lr'?"),
        ("optimizer.lr=a,b", "lr"),
        ("seed=0,x", "seed"),
    ):
        with pytest.raises(HybridoptError) as refused:
            run.main(["-m", "optimizer=adam", override], debug=False)
        assert words in str(refused.value)
    assert list(tmp_path.iterdir()) == []
