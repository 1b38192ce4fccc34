# The words of this project. Any of them may come first: what it needs is installed once, into .venv, by pip alone.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Only files whose hashes stand in constraints.txt are installed, and nothing is fetched to build this project. Where a
# CPU build of torch is at hand (pip's find-links), pip takes that; else PyPI's, which needs constraints-cuda.txt too.
LOCKED := install --require-hashes --no-deps --only-binary :all:
DEMO := runs/demo
FEDERATION := runs/federation
CUT ?= 120
SEED ?= 7

.PHONY: help setup demo federation test nightly chaos runbook sbom lint bench clean
.DELETE_ON_ERROR:

help: ## say what each word does
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: .venv/installed ## install everything that demo, test and lint need

.venv/installed: pyproject.toml constraints.txt constraints-cuda.txt
	$(PYTHON) -m venv .venv
	sed -n '/^torch==/,/[^\\]$$/p' constraints.txt > .venv/torch.txt
	$(PIP) $(LOCKED) --no-index -r .venv/torch.txt || echo 'No CPU build of torch is at hand; the package index is asked.'
	$(PIP) $(LOCKED) -r constraints.txt
	$(PIP) check || $(PIP) $(LOCKED) -r constraints-cuda.txt
	$(PIP) install --no-deps --no-build-isolation --no-index -e .
	$(PIP) check
	touch $@

demo: .venv/installed ## run a study over four synthetic hospitals, afresh each time, and write its report
	rm -rf $(DEMO)
	$(BIN)/polyclinic simulate simulations/studies/quickstart.toml --out $(DEMO)
	@echo
	@echo 'The report: $(abspath $(DEMO))/report.html'
	@echo 'Open it in a browser: on Linux with xdg-open, on macOS with open, on Windows with start, and that path.'

federation: .venv/installed ## run the same study over four hospitals as real processes, with TLS and keys on loopback
	$(BIN)/polyclinic federation simulations/studies/quickstart.toml --out $(FEDERATION)

test: .venv/installed ## run all tests; each room needs 90 % of its branches covered
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15 \
		--cov=shared --cov=client --cov=server --cov-branch --cov-report= --cov-report=term
	$(BIN)/python -m coverage json --quiet -o .coverage.json
	$(BIN)/python tests/architecture/room_coverage.py .coverage.json

nightly: .venv/installed ## run what takes long: privacy audit, planted causes, coverages, the quickstart over a network
	$(BIN)/python -m pytest -m nightly --numprocesses 2 --dist worksteal --durations 15

chaos: .venv/installed ## disturb studies with 24 faults, as root: CUT=120 seconds a cut of the network, SEED=7
	CHAOS_CUT_SECONDS=$(CUT) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -m chaos

lint: .venv/installed ## check style, form and types; all three run, whichever fails
	@failed=; for check in 'ruff check' 'ruff format --check' 'mypy'; do \
		echo "$$check"; $(BIN)/$$check || failed="$$failed [$$check]"; \
	done; \
	test -z "$$failed" || { echo "lint failed:$$failed"; exit 1; }

runbook: .venv/installed ## run docs/runbook.md's commands as they stand: two sites and a coordinator, minutes
	POLYCLINIC_RUNBOOK=1 $(BIN)/python -m pytest -q tests/end_to_end/test_runbook.py

sbom: .venv/installed ## list every component of this environment, as CycloneDX, into sbom.json
	$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json

bench: .venv/installed ## measure speed and memory, into benchmarks/results.json
	$(BIN)/python -m benchmarks

clean: ## remove what these words made; runs of your own stay
	rm -rf .venv .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info build dist $(DEMO) $(FEDERATION)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
