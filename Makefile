# POSIX make and sh. The environment lives in .venv and is made anew only when it has to be.
.POSIX:

IN_VENV = PYTHON='$(PYTHON)' TORCH_INDEX='$(TORCH_INDEX)' sh scripts/setup_venv.sh
BIN = .venv/bin

help:
	@printf '%s\n' \
	'make demo     compare nine optimizers on two tasks (under 4 minutes on 2 cores); writes report.html' \
	'make test     lint, then the default tests (under 10 minutes on 2 cores)' \
	'make lint     ruff: rules, docstrings, format' \
	'make format   let ruff rewrite the files' \
	'make bench    cost of curvature products and of the interface, beside other packages' \
	'make venv     only set up .venv (every target above does so when needed)' \
	'make clean    remove .venv and caches; outputs/ stays' \
	'' \
	'Settings, as in `make demo PYTHON=python3.12`:' \
	'  PYTHON=...        interpreter to try first (3.11 to 3.13)' \
	'  TORCH_INDEX=URL   where torch comes from. On Linux the torch of PyPI is the CUDA build, several GB;' \
	'                    CPU only: TORCH_INDEX=https://download.pytorch.org/whl/cpu' \
	'  ARGS=...          added to the command, as in `make test ARGS="-k lbfgs"`, `make demo ARGS=seed=1`'

venv:
	@$(IN_VENV) core

demo:
	@$(IN_VENV) core
	@touch .venv/.demo-started
	$(BIN)/hybridopt run experiment=quickstart $(ARGS)
	@find outputs -name report.html -newer .venv/.demo-started | while read -r report; do \
	printf '%s\n' "The report: $$(pwd)/$$report (one file; open it in a browser)"; done

test:
	@$(IN_VENV) dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint:
	@$(IN_VENV) dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format:
	@$(IN_VENV) dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench:
	@$(IN_VENV) bench
	$(BIN)/python scripts/bench_curvature.py $(ARGS)
	$(BIN)/python scripts/bench_overhead.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help venv demo test lint format bench clean
