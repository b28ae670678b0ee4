# Everything runs in .venv with the archives whose hashes are in requirements*.txt; everything that runs write is below data/.

PYTHON ?= python3
PORT ?= 3000

BIN := .venv/bin
# As an absolute path; LANCE_PIPELINE_DATA moves all data elsewhere.
GIVEN := $(or $(LANCE_PIPELINE_DATA),data)
# Of an object store only Lance datasets can be kept there; all else stays here.
DATA := $(shell $(PYTHON) -c 'import os, sys; d = sys.argv[1]; print(os.path.abspath("data" if "://" in d else os.path.expanduser(d)))' '$(GIVEN)')
export LANCE_PIPELINE_DATA := $(if $(findstring ://,$(GIVEN)),$(GIVEN),$(DATA))
export DAGSTER_HOME := $(DATA)/dagster
export MLFLOW_DISABLE_TELEMETRY ?= true
# Libraries warn their authors: of commands that will be superseded, of features in beta. `PYTHONWARNINGS=default make …`
# shows it all.
export PYTHONWARNINGS ?= ignore

.DEFAULT_GOAL := help
.PHONY: help demo test coverage lint format ui lock sbom architecture docs screenshots setup clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=… picks the interpreter, LANCE_PIPELINE_DATA=… the data folder (now $(DATA))"

demo: setup ## Run the whole pipeline on the embedded sample (about 3 minutes after the installation)
	$(BIN)/dagster asset materialize -m lance_pipeline.definitions --select 'group:digits'
	@$(BIN)/python -m lance_pipeline summary digits

ui: setup ## Serve Dagster, MLflow and reports on one port of loopback until Ctrl-C
	@exec $(BIN)/python -m lance_pipeline ui --port $(PORT) $(if $(MLFLOW_PORT),--mlflow-port $(MLFLOW_PORT))

# File by file in the order of the collection, which begins with the slowest.
PARALLEL := --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
test: .venv/.installed-dev chromium ## Run all tests
	@# Trainings in several processes get in each other's way, unless each has one thread.
	PYTHONWARNINGS= OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL)

# Absolute, for processes in other folders. With TESTS=lance_pipeline_tests/storage only these run.
COVERAGE := COVERAGE_FILE=$(CURDIR)/.coverage/data $(BIN)/coverage
coverage: .venv/.installed-dev chromium ## Run the tests, and report which lines none of them ran (HTML in .coverage/html)
	@rm -rf .coverage && mkdir .coverage
	PYTHONWARNINGS= OMP_NUM_THREADS=1 $(COVERAGE) run -m pytest $(PARALLEL) \
	  $(TESTS); status=$$?; $(COVERAGE) combine --quiet && $(COVERAGE) html --quiet -d .coverage/html \
	  && $(COVERAGE) report && exit $$status

test-fast: .venv/.installed-dev ## Run the tests that need neither processes, nor a browser, nor seconds
	PYTHONWARNINGS= OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) \
	  -m "not (slow or process or browser or root or cuda)"

lint: .venv/.installed-dev ## Check format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/.installed-dev ## Format the code and fix what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

sbom: .venv/.installed-dev ## Write what is installed, with licences and hashes, to dist/sbom.cdx.json
	@$(BIN)/python -m supply.sbom dist/sbom.cdx.json

architecture: .venv/.installed-dev ## Draw docs/images/architecture.svg from the code
	@$(BIN)/python -m supply.architecture

docs: architecture ## Write what is generated in docs/: the picture of the architecture, and configuration.md
	@$(BIN)/python -m supply.configuration

screenshots: .venv/.installed-dev chromium ## Take the pictures of the documentation from the UI
	LANCE_PIPELINE_SCREENSHOTS=docs/images $(BIN)/pytest lance_pipeline_tests/browser/test_ui.py

clean: ## Remove the environment and all caches, but no data
	rm -rf .venv .env .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: .venv/.installed instance

# The shell's dagster, make and the UI find one instance by .env, which dagster reads in this folder.
.PHONY: instance
instance: ## Make the Dagster instance in the data folder
	@# Nobody else's, unless the data folder is shared by its group.
	@umask $$([ -g "$(DATA)" ] && echo 007 || echo 077) && mkdir -p "$(DAGSTER_HOME)"
	@ln -sf "$(CURDIR)/dagster.yaml" "$(DAGSTER_HOME)/dagster.yaml"
	@echo 'DAGSTER_HOME=$(if $(findstring ://,$(GIVEN)),$(DATA),$${LANCE_PIPELINE_DATA:-$(CURDIR)/data})/dagster' > .env
	@echo 'MLFLOW_DISABLE_TELEMETRY=true' >> .env

.venv/bin/python:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 15); \
	  sys.exit(None if ok else "Python 3.11 to 3.14 is needed, not " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	@# Debian keeps ensurepip in a package of its own; there the interpreter's pip installs into the environment.
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 || { rm -rf .venv && $(PYTHON) -m venv --without-pip .venv; }

# Wheels only: a source archive would run code and fetch build dependencies that nobody has pinned.
define install
	@echo "Installing into .venv; torch makes it about 6 GB, which takes some minutes."
	@pip="$(BIN)/python -m pip"; $$pip --version >/dev/null 2>&1 || pip="$(PYTHON) -m pip --python $(BIN)/python"; \
	  $$pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r $(1) \
	  && PIP_REQUIRE_HASHES=0 $$pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
endef

.venv/.installed: pyproject.toml requirements.txt | .venv/bin/python
	$(call install,requirements.txt)
	@touch $@

.venv/.installed-dev: pyproject.toml requirements.txt requirements-dev.txt | .venv/bin/python
	$(call install,requirements-dev.txt)
	@touch $@ .venv/.installed

# Versions stay, unless UPGRADE=--upgrade or UPGRADE=--upgrade-package=NAME. Extras stay in the pins for pip before 23.3,
# which Python 3.11 and 3.12 bring: it takes gql[requests] for a package other than gql, with no hashes.
COMPILE := $(BIN)/uv pip compile pyproject.toml --group install --universal --python-version 3.11 --only-binary :all: \
  --generate-hashes --no-annotate --no-strip-extras --no-config --quiet --custom-compile-command "make lock"
lock: .venv/.installed-dev ## Resolve the dependencies and write their versions and hashes
	$(COMPILE) $(UPGRADE) -o requirements.txt
	$(COMPILE) $(UPGRADE) --extra dev -c requirements.txt \
	  $$(sed -n 's/^\([^ =[]*\).*==.*/--no-emit-package=\1/p' requirements.txt) -o requirements-dev.txt
	@{ echo "-r requirements.txt"; grep -v '^-r ' requirements-dev.txt; } > .venv/requirements-dev.txt
	@mv .venv/requirements-dev.txt requirements-dev.txt

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Chromium for the browser tests."; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	  else \
	    echo "The browser tests need Chromium, and you may not install it: they will be skipped." \
	      "To run them: sudo apt-get install chromium"; \
	  fi; }
