# Needs Python and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# packages of the tests; CI adds envpool, which is several hundred megabytes. Training needs none of them
EXTRAS ?= dev,mujoco,box2d,benchmark,video,report,onnx,wandb,mlflow,optuna,atari,ray,docs

.PHONY: train test test-slow soak lint docs bench package matrix format clean

train: .venv/.core
	$(BIN)/rlpipe train ppo

test: .venv/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

# Ray, a browser, fuzzing, and agents that learn for longer
test-slow: .venv/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

# docs/resume.md has the results
# the fuzz tests with twenty times as many cases, new ones each time; kills; ten million frames
soak: .venv/.installed
	RLPIPE_SOAK=1 $(BIN)/python -m pytest tests/fuzz
	$(BIN)/python tests/soak/kills.py
	$(BIN)/python tests/soak/long_run.py
	$(BIN)/python tests/soak/checkpoint_pause.py

# mypy and import-linter need the package in one folder, as in a wheel
lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/lint .
	cd build/lint && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../setup.cfg -p rlpipe
	cd build/lint && ../../$(BIN)/lint-imports --config ../../setup.cfg

# the site, in build/site; fails at a broken link or anchor. The variable hides a warning of Material about MkDocs 2
docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

bench: .venv/.installed
	for what in collect update solve scale; do $(BIN)/rlpipe benchmark $$what --quick || exit 1; done

# the last two lines are what a user does: an empty environment, and another folder
package: .venv/.installed
	rm -rf build/dist build/empty build/elsewhere
	$(BIN)/python -m build --outdir build/dist .
	$(BIN)/twine check --strict build/dist/*
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build/dist/*.whl
	mkdir build/elsewhere
	cd build/elsewhere && ../empty/bin/rlpipe train ppo --total-frames 2000 --quiet

# newest, pinned and lowest versions, each in a new environment; several gigabytes. docs/installing.md has the results
matrix:
	$(PYTHON) tests/matrix.py $(KINDS)

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache *.egg-info

PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.venv/.core: setup.cfg pyproject.toml constraints.txt
	@echo "Installing PyTorch, TorchRL and what they need into .venv, once: some minutes, and a download of"
	@echo "300 MB, or of 3 GB where PyTorch comes with CUDA. Only errors are shown."
	@$(PYTHON) -m venv .venv
	@$(PIP) -e .
	@touch $@
	@echo "Installed. The command is $(BIN)/rlpipe; try $(BIN)/rlpipe --help."

.venv/.installed: .venv/.core
	@echo "Installing what the tests need into .venv, once (MuJoCo, Ray, Stable-Baselines3 and others): some"
	@echo "minutes, and a download of about 1 GB. Then the tests: ten minutes on two cores."
	@$(PIP) -e ".[$(EXTRAS)]"
	@touch $@
