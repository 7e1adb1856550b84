# Needs Python and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# what the tests need; CI adds envpool, which is several hundred megabytes. To train needs none of them
EXTRAS ?= dev,mujoco,box2d,benchmark,video,report,onnx,wandb,mlflow,optuna,atari,ray,docs

.PHONY: train test test-slow soak lint docs bench package matrix format clean

train: .venv/.core
	$(BIN)/rlpipe train ppo

test: .venv/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

# Ray, a browser, fuzzing, and agents that learn for longer
test-slow: .venv/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

# docs/resume.md says what came of it
# the fuzz tests with twenty times as many cases, which are others each time; kills; ten million frames
soak: .venv/.installed
	RLPIPE_SOAK=1 $(BIN)/python -m pytest tests/fuzz
	$(BIN)/python tests/soak/kills.py
	$(BIN)/python tests/soak/long_run.py
	$(BIN)/python tests/soak/checkpoint_pause.py

# mypy and import-linter want the package in one folder, as a wheel has it
lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/lint .
	cd build/lint && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../setup.cfg -p rlpipe
	cd build/lint && ../../$(BIN)/lint-imports --config ../../setup.cfg

# the site, in build/site; fails at a link or an anchor that leads nowhere. Material's makers warn of MkDocs 2 in each build
docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

bench: .venv/.installed
	for what in collect update solve scale; do $(BIN)/rlpipe benchmark $$what --quick || exit 1; done

# the last two lines are what a user does: an empty environment, and a folder that is not this one
package: .venv/.installed
	rm -rf build/dist build/empty build/elsewhere
	$(BIN)/python -m build --outdir build/dist .
	$(BIN)/twine check --strict build/dist/*
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build/dist/*.whl
	mkdir build/elsewhere
	cd build/elsewhere && ../empty/bin/rlpipe train ppo --total-frames 2000 --quiet

# newest, pinned and lowest versions, each in an environment of its own; several gigabytes. docs/installing.md says what came of it
matrix:
	$(PYTHON) tests/matrix.py $(KINDS)

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache *.egg-info

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.venv/.core: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/.installed: .venv/.core
	$(PIP) -e ".[$(EXTRAS)]"
	touch $@
