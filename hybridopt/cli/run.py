"""``hybridopt run``: a Hydra application behind two flags of our own."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybridopt._paths import conf_dir
from hybridopt.cli import console
from hybridopt.cli.experiment_file import file_of_swept, located, quoted, taken_as_experiments, with_paths
from hybridopt.cli.explain import explain
from hybridopt.cli.progress import make_monitor, make_observer
from hybridopt.core import ConfigError, HybridoptError, UnknownNameError
from hybridopt.core.plugins import load_plugin
from hybridopt.experiment.cluster import check_launcher
from hybridopt.experiment.config import RunConfig, resolve
from hybridopt.experiment.job import run_directory, run_job
from hybridopt.experiment.layout import STATUS
from hybridopt.experiment.monitor import Outcome
from hybridopt.experiment.sweep import run_name, run_sweep, sweep_directory


class Session:
    """What Hydra calls: once for a single run, once with all jobs for a sweep.

    Errors are kept in `error` instead of being raised through Hydra, which would print about them itself.

    Args:
        plugins: Absolute paths or module names, loaded already; every job loads them too.

    Attributes:
        outcomes: How the runs ended.
        directories: Of the sweep, usually one; empty for single runs.
        error: What ended the session, or one of its runs without an outcome; None if all is told by the outcomes.
        swept: Files of experiments by the keys that they sweep.
        trace: The last error that an outcome tells of already; shown with --debug.
    """

    def __init__(self, plugins: Sequence[str]) -> None:
        self.plugins = list(plugins)
        self.outcomes: list[Outcome] = []
        self.statuses: list[dict[str, Any]] = []
        self.directories: list[Path] = []
        self.error: BaseException | None = None
        self.trace: BaseException | None = None
        self.swept: dict[str, str] = {}

    def __call__(self, cfg: Any) -> None:
        """Does one run in this process.

        Args:
            cfg: The composed config.
        """
        from hydra.core.hydra_config import HydraConfig

        from hybridopt.experiment.schema import chosen_experiment, to_values

        try:
            values = to_values(cfg, chosen_experiment(HydraConfig.get()))
            config = resolve({**values, "plugins": self.plugins})
            if config.launcher.name == "local":
                check_launcher(config.launcher)
                self._single(config)
            else:
                self.sweep([values])
        except BaseException as error:
            self.error = error

    def see(self, config: Any) -> None:
        """Remembers which files sweep which keys, for errors.

        Args:
            config: Of the whole sweep.
        """
        self.swept = file_of_swept(config)

    def explained(self, error: BaseException) -> BaseException:
        """Returns the error to show instead of one: what is wrong, in which file, and the fix.

        Args:
            error: What ended the composition or a run.
        """
        reason = explain(error)
        if isinstance(reason, ConfigError | UnknownNameError) and self.swept:
            return type(reason)(located(str(reason), f"{getattr(error, 'override', '')} {error}", self.swept))
        return reason

    def sweep(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Does many runs, each in a process of its own.

        Args:
            jobs: The composed configs as plain values.
        """
        if not jobs:
            self.error = ConfigError(
                "The sweep is empty: one of its lists has no values, as range(0). Give each swept key at least one."
            )
            return
        try:
            configs = [resolve({**values, "plugins": self.plugins}) for values in jobs]
            self.directories = list(dict.fromkeys(map(sweep_directory, configs)))
            self.outcomes += run_sweep(configs, make_monitor())
        except BaseException as error:
            self.error = error

    def _single(self, config: RunConfig) -> None:
        import torch

        from hybridopt.experiment.build import build
        from hybridopt.experiment.jsonio import read_json
        from hybridopt.experiment.startup import process_began

        directory, name = run_directory(config), run_name(config)
        known = read_json(directory / STATUS) or {}
        if known.get("status") in ("done", "diverged"):
            self.outcomes.append(Outcome(directory, name, known["status"], str(known.get("reason", "")), fresh=False))
            self.statuses.append(known)
            return
        torch.set_num_threads(config.threads or 1)
        built = build(config)  # before anything is written: a run that cannot start leaves no trace
        console.line(f"{name} -> {directory}")
        observer = make_observer()
        try:
            status = run_job(directory, config, built=built, observer=observer, began=process_began())
        except HybridoptError:
            raise
        except Exception as error:
            status = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
            self.trace = error
        finally:
            observer.close()
        self.outcomes.append(Outcome(directory, name, status["status"], status["reason"]))
        self.statuses.append(status)


def main(arguments: Sequence[str], *, debug: bool) -> int:
    """Runs Hydra with the rest of the command line, then tells how it went.

    Args:
        arguments: All after ``run``.
        debug: Whether to show traces.

    Returns:
        The exit code.

    Raises:
        HybridoptError: If what was asked for is wrong.
    """
    own, rest = _own_flags(arguments)
    session = Session([load_plugin(name) for name in own])
    code = _through_hydra(session, rest)
    if session.error is not None and not isinstance(session.error, Exception):
        raise session.error
    if session.directories and session.outcomes:
        from hybridopt.cli.closing import close_sweep

        code = 0
        for directory in session.directories:  # more than one where `out` depends on what is swept
            root = directory.resolve()
            code = max(code, close_sweep(directory, [run for run in session.outcomes if root in run.directory.parents]))
    elif session.outcomes:
        from hybridopt.cli.closing import close_run

        code = max(close_run(*pair) for pair in zip(session.outcomes, session.statuses, strict=True))
    if session.error is not None:
        raise session.explained(session.error) from session.error
    if session.trace is not None and debug:
        raise session.trace
    return code


def _through_hydra(session: Session, arguments: Sequence[str]) -> int:
    import hydra

    from hybridopt.experiment.schema import register

    conf = conf_dir()
    if not (conf / "config.yaml").is_file():
        raise ConfigError(
            f"The configuration directory {conf} is missing. Install hybridopt again, or check it out whole."
        )
    register(conf)
    application = hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(session)
    before_argv, before_flag = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    root = logging.getLogger()
    before_log = root.level, list(root.handlers)
    # Hydra then raises its errors instead of printing them and leaving.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Hydra makes a directory for every run and writes a file for every sweep; ours are made by the run itself.
    with tempfile.TemporaryDirectory(prefix="hybridopt-") as scratch:
        try:
            flags, overrides = _sorted_arguments(arguments)
            overrides = taken_as_experiments(overrides, Path(scratch))
            _refuse_foreign_launchers(overrides)
            overrides += [f"hydra.run.dir={quoted(scratch)}", f"hydra.sweep.dir={quoted(scratch)}"]
            sys.argv = ["hybridopt run", *flags, *overrides]
            application()
        except SystemExit as stop:  # --help and the like, or a flag that Hydra's parser refused
            return stop.code if isinstance(stop.code, int) else 2
        except (HybridoptError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise with_paths(session.explained(error), Path(scratch)) from error
        finally:
            sys.argv = before_argv
            root.level, root.handlers[:] = before_log  # --info and hydra.verbose turn everything on
            if before_flag is None:
                os.environ.pop("HYDRA_FULL_ERROR", None)
            else:
                os.environ["HYDRA_FULL_ERROR"] = before_flag
    return 0


def _refuse_foreign_launchers(overrides: Sequence[str]) -> None:
    """Refuses Hydra's own cluster launchers, which would start jobs that nothing here queues, limits or cancels."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "hydra/launcher" and value not in ("local", "basic"):  # basic: in this process, to debug
            raise ConfigError(
                f"Write launcher={value or 'local'} instead of {override}: there are launcher=local, submitit_slurm, "
                "submitit_local and ray; options of the last three stand under launcher.options."
            )


_WITH_VALUE = (
    *(
        "--cfg",
        "-c",
        "--package",
        "-p",
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--config-dir",
        "-cd",
    ),
    "--experimental-rerun",
)
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def _sorted_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts Hydra's flags from overrides: its parser wants all overrides in one row, people do not write so."""
    flags: list[str] = []
    overrides: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        following = pending[0] if pending else ""
        if not argument.startswith("-"):
            overrides.append(argument)
        elif argument in ("--info", "-i"):
            # Its value is optional, and the first override behind it would be taken for one.
            flags.append(f"--info={pending.pop(0) if following in _INFO else 'all'}")
        elif argument in _WITH_VALUE and following:
            flags += [argument, pending.pop(0)]
        else:
            flags.append(argument)
    return flags, overrides


def _own_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes ``--plugin NAME`` and ``--plugin=NAME`` out, wherever they stand."""
    plugins, rest = [], []
    pending = iter(arguments)
    for argument in pending:
        if argument == "--plugin":
            name = next(pending, None)
            if name is None:
                raise ConfigError("--plugin needs a Python file or a module name after it: --plugin my_method.py.")
            plugins.append(name)
        elif argument.startswith("--plugin="):
            plugins.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    return plugins, rest
