# make train          set up and train (arguments: make train ARGS="data=mnist seed=2")
# make test           set up and test; without the slow tests (with them: make test SLOW=1), and
#                     with the real data where NOISY_KD_DATA=DIR says where they are
# make faults         the injected faults: killed processes, failing disks, power failures, flipped bits
# make coverage       the tests, and which lines they do not reach, in other processes too
# make results        replaces tables in results/: make results TABLE="table1 readings" SEEDS=0,1,2,3,4
# make cifar10        the paper's tables on CIFAR-10, likewise (days on two cores)
# make lint           style and types
# make docs           builds the documentation into site/; a broken link is an error
# make lower-bounds   a training and its export with the oldest packages that pyproject.toml allows
# make audit          compares constraints.txt with the known security advisories
# make clean          removes .venv, the site, and the store of teachers and logits

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
SEEDS ?= 0,1,2
SLOW ?=
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(if $(SLOW),,-m "not slow")

.PHONY: train test faults coverage results cifar10 lint docs lower-bounds audit clean

train: .venv/.train
	@$(BIN)/python train.py $(ARGS)

test: .venv/.test
	$(PYTEST) $(ARGS)

faults: .venv/.test
	$(BIN)/python tests/faults/harness.py $(ARGS)

coverage: .venv/.test
	$(PYTEST) --cov --cov-report=term $(ARGS)

results:
	@test -n "$(TABLE)" || { echo "make results TABLE=table1: name a sweep"; exit 2; }
	@$(MAKE) --no-print-directory .venv/.train
	@for table in $(TABLE); do \
		$(BIN)/python train.py -cn $$table seed=$(SEEDS) $(ARGS) && \
		$(BIN)/noisy-kd report $$table $(ARGS) --keep $$table --replace || exit $$?; \
	done

cifar10:
	@$(MAKE) --no-print-directory results \
		TABLE="table3 table4 table5 table6 figure2 random_sigma two_teachers"

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lower-bounds:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python \
		--resolution lowest-direct '.[export]'
	bash tests/smoke.sh .venv-lowest/bin

audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip

clean:
	rm -rf .venv .venv-lowest .venv-audit .cache site

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "noisy-kd needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.train: .venv/.made pyproject.toml
	@echo "Installing into .venv: some minutes, 6 GB."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/.test: .venv/.made pyproject.toml
	@echo "Installing into .venv: some minutes, 6 GB."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/.train

.venv/.docs: .venv/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@ .venv/.train
