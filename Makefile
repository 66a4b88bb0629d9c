# A machine needs Python 3.11 or newer and make; the rest comes from PyPI.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Python may keep what it compiles of the tests: each of the processes that share them would do it again.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest \
          $(if $(CI),--reruns 1 --max-suite-reruns 2 --rerun-show-tracebacks --durations=20)

# Of `make test`, on two cores: three of them leave a quarter of the processor time idle.
PROCESSES ?= 4

.DEFAULT_GOAL := help

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

# The lock is for all extras: demo, tests and development share one environment. The second call runs the pip that the first
# one installed. What is compiled here, on all cores, each start would compile again if PYTHONDONTWRITEBYTECODE is set; some
# packages have files that no Python compiles.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bdlab needs Python 3.11 or newer; this is %s. Name another with: make PYTHON=python3.12 ..." % sys.version.split()[0])'
	@echo "installing into $(VENV) from PyPI; the first time takes a minute or two" >&2
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib src cli console || true
	@$(BIN)/bdlab fetch-kafka >&2 || echo "going on without Apache Kafka: what needs a broker runs on the one in memory" >&2
	@touch $@

demo: $(VENV)/.installed  ## install into .venv, then run the whole pipeline once and prove it
	$(BIN)/bdlab demo

dev: $(VENV)/.installed  ## set a checkout up: .venv with all that development needs, and the git hook that checks a commit
	@if [ -e .git ]; then $(BIN)/pre-commit install; fi

LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url

lock: $(VENV)/.installed  ## renew the lock files (the newest versions that pyproject.toml allows), with hashes
	$(LOCK) --all-extras --group build --output-file requirements.lock pyproject.toml
	$(LOCK) --group docs --constraint requirements.lock --output-file infra/docs/requirements.lock
	$(LOCK) --group release --output-file infra/release.lock
	$(BIN)/python infra/kafka/lock.py

vendor: $(VENV)/.installed  ## renew what the console vendors for the browser, from the npm registry
	$(BIN)/python infra/console/vendor.py --upgrade

check: $(VENV)/.installed  ## lint, types, import rules, spelling, workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/zizmor --offline --quiet .github

dist: $(VENV)/.installed  ## build the sdist and the wheel, and a CycloneDX list of what requirements.lock has, into dist
	rm -rf dist build/release
	$(BIN)/python -m hatchling build
	$(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement infra/release.lock
	build/release/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file dist/bdlab.cdx.json requirements.lock

# Not --quiet: it would count no warnings.
docs: $(VENV)/.docs  ## build the pages of docs/ into build/site; a broken link or anchor fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.docs: $(VENV)/.installed infra/docs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement infra/docs/requirements.lock
	@touch $@

test: $(VENV)/.installed  ## what each commit has to pass, on real servers; on Apache Kafka if it is there
	$(PYTEST) --numprocesses $(PROCESSES) --dist worksteal -m 'not storm and not long and not kafka and not compose and not browser'

# Not four: each of these has servers of its own, JVMs among them.
LONG = $(PYTEST) --numprocesses 3 --dist loadgroup --no-loadscope-reorder -m '(storm or long or kafka) and not compose and not browser'

FETCH = $(BIN)/bdlab fetch-kafka && $(BIN)/python -m tests.servers.zookeeper

# Each free process gets one test at a time, the longest first, so that no long one is left to the end.
test-all: $(VENV)/.installed  ## all that takes long: storms of faults, drills, and Kafka servers secured, restarted, killed
	@($(FETCH)) >&2 || echo "going on without Apache Kafka: what needs it is skipped" >&2
	@$(MAKE) --no-print-directory prometheus >&2 || echo "going on without Prometheus: what needs it is skipped" >&2
	$(LONG)

# Without the unit tests, which touch no server. Two processes on a cluster, not three: each of them has three JVMs.
REPEAT := $(PYTEST) tests/acceptance tests/contract tests/integration --dist worksteal --numprocesses

test-kafka: kafka  ## on three brokers and with ZooKeeper, the tests that may behave differently there
	BDLAB_TEST_BROKER=cluster $(REPEAT) 2 -m on_cluster
	BDLAB_TEST_BROKER=zookeeper $(REPEAT) 2 -m on_zookeeper

test-tls: $(VENV)/.installed  ## with TLS, the tests that may behave differently with it
	BDLAB_TEST_TLS=1 $(REPEAT) 2 -m with_tls

REPEATED := -m 'not storm and not kafka and not compose and not browser'

test-console: $(VENV)/.installed  ## the console as a person uses it, in Debian's Chromium
	@$(if $(CI),$(MAKE) --no-print-directory browser >&2,:)
	$(PYTEST) tests/browser -m browser

test-matrix: kafka  ## all that touches a server again on three brokers, with ZooKeeper, with TLS; test-all with more rounds
	BDLAB_TEST_BROKER=cluster $(REPEAT) 2 $(REPEATED)
	BDLAB_TEST_BROKER=zookeeper $(REPEAT) 2 $(REPEATED)
	BDLAB_TEST_TLS=1 $(REPEAT) 3 $(REPEATED)
	BDLAB_TEST_ROUNDS=all $(LONG)

STORM := --predictions 1000000 --faults 200 --broker kafka

chaos: kafka  ## a million predictions under 200 faults on Apache Kafka, with a report (STORM=... to change it)
	$(BIN)/python -m tests.chaos $(STORM)

kafka: $(VENV)/.installed  ## fetch Apache Kafka 4, and 3.9 with ZooKeeper, into the user's cache
	$(FETCH)

prometheus: $(VENV)/.installed  ## unpack Debian's prometheus and promtool into the user's cache, unless they are installed
	$(BIN)/python -m tests.servers.prometheus

APT_GET := apt-get -q -o Dpkg::Use-Pty=0

browser:  ## install Debian's Chromium, unless it is there
	@command -v chromium || { [ "$$(id -u)" = 0 ] && $(APT_GET) update && $(APT_GET) install -y --no-install-recommends chromium; } || \
	  { echo "There is no chromium. Install your system's package, on Debian as root: apt-get install chromium" >&2; exit 1; }

test-compose: kafka  ## the compose files, booted for real in a Docker engine of the tests' own (root, Debian)
	$(PYTEST) -m compose -s

screenshots: browser  ## draw the pictures of the console in the docs anew (needs chromium)
	$(BIN)/python -m infra.docs.screenshots

clean:  ## remove .venv and caches
	rm -rf $(VENV) build/site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.PHONY: help demo dev lock check docs test test-all test-kafka test-tls test-console test-matrix chaos kafka prometheus browser test-compose screenshots dist clean
