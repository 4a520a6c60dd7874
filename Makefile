# Everything is set up by the target that needs it: only Python 3.11+ and make have to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes with a Spark of their own: small queries keep one core busy at most.
TWO_AT_ONCE := --numprocesses 2 --dist loadfile
SHORT := -m 'not slow and not connect and not cluster and not airflow'
# Spark's settings for one machine; no Java is needed beforehand (see README).
export SPARK_CONF_DIR := $(CURDIR)/conf/local
export SPARK_LOCAL_IP ?= 127.0.0.1

.DEFAULT_GOAL := help
.PHONY: help demo browser test test-slow test-fast test-oldest test-airflow test-airflow-day chaos lint types check benchmark \
        package release-check docs redraw clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Try make PYTHON=python3.12"; exit 1; }
	@# Half an environment would be taken for a whole one the next time.
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Installed again only when the list of dependencies has changed.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local,dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local,docs]'
	@touch $@

demo: $(VENV)/.installed ## Run the whole pipeline on 981,756 real book ratings
	$(BIN)/recsys-spark pipeline --config conf/goodbooks.yaml

browser: ## Install headless Chromium, which the tests of pages use, where apt-get can
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null; } || \
	  echo "no Chromium was installed: the tests of pages in a browser are skipped"

test: $(VENV)/.installed-dev ## Run the tests, but not the long ones
	$(BIN)/python -m pytest $(TWO_AT_ONCE) $(SHORT)

test-slow: $(VENV)/.installed-dev ## Run the long tests: more pipelines, stress, Spark Connect, clusters that lose machines
	$(BIN)/python -m pytest $(TWO_AT_ONCE) -m '(slow or connect or cluster) and not airflow'

chaos: $(VENV)/.installed ## Inject faults into publishing, by the hundred
	$(BIN)/recsys-spark chaos

test-fast: $(VENV)/.installed-dev ## Run the tests that need no Spark
	$(BIN)/python -m pytest tests/kernels tests/starter tests/config tests/test_architecture.py tests/test_java.py \
	  tests/commands/test_end.py tests/runs/test_lineage.py

# The oldest Spark, and Airflow, which must not meet pyspark: each in an environment of its own.
OLDEST_PYSPARK := 4.0.2
OLDEST := $(VENV)-pyspark-$(OLDEST_PYSPARK)
# What differs between versions of Spark: sessions, Arrow in workers, writers, params of pyspark.ml; not the kernels.
CORE_TESTS := tests/ml tests/index tests/recommend/test_lists.py \
  tests/train/test_fit_factors.py::test_factors_equal_the_dense_reference \
  tests/jobs/test_pipeline.py::test_pipeline_publishes_a_table_that_keeps_every_promise \
  tests/jobs/test_pipeline.py::test_show_prints_the_published_list_with_titles
AIRFLOW := $(VENV)-airflow

$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check 'pyspark==$(OLDEST_PYSPARK)' \
	  --editable '.[local]' chispa hypothesis pytest pytest-timeout pytest-xdist
	@touch $@

test-oldest: $(OLDEST)/.installed ## Run a core of the tests on the oldest Spark that is supported
	@# That PySpark leaves sockets of results to the garbage collector.
	$(OLDEST)/bin/python -m pytest $(TWO_AT_ONCE) -W 'ignore:unclosed <socket:ResourceWarning' $(SHORT) $(CORE_TESTS)

$(AIRFLOW)/.installed: docker/airflow-requirements.txt docker/airflow-constraints.txt
	$(PYTHON) -m venv $(AIRFLOW)
	$(AIRFLOW)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r docker/airflow-requirements.txt -c docker/airflow-constraints.txt
	@touch $@

test-airflow: $(VENV)/.installed-dev $(AIRFLOW)/.installed ## Load and run the DAG in a real Airflow, without Spark
	RECSYS_TEST_AIRFLOW=$(abspath $(AIRFLOW)) $(BIN)/python -m pytest -m 'airflow and not slow' tests/airflow

test-airflow-day: $(VENV)/.installed-dev $(AIRFLOW)/.installed ## Run a day of real data in Airflow by spark-submit
	RECSYS_TEST_AIRFLOW=$(abspath $(AIRFLOW)) $(BIN)/python -m pytest -m 'airflow and slow' tests/airflow

package: $(VENV)/.installed-dev ## Build the wheel, the zip for --py-files and the packed environment into dist/
	$(BIN)/python -m shipping.package

release-check: $(VENV)/.installed-dev ## Install the wheel into an empty environment and run the demo from it
	$(BIN)/python -m shipping.release_check

docs: $(VENV)/.installed-docs ## Build the documentation into docs/_build; warnings are errors
	rm -rf docs/_build docs/api
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build
	@echo docs/_build/index.html

redraw: $(VENV)/.installed ## Draw docs/architecture.svg and list docs/tables.md from the code
	$(BIN)/python docs/draw_architecture.py
	$(BIN)/python docs/list_tables.py

lint: $(VENV)/.installed-dev ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## Check types
	$(BIN)/mypy

check: lint types docs test test-slow test-oldest test-airflow test-airflow-day ## Everything that .ci/run checks

benchmark: $(VENV)/.installed-dev ## Time training beside Spark MLlib
	$(BIN)/python benchmarks/training.py

clean: ## Remove the environment, caches and runs
	rm -rf $(VENV) $(OLDEST) $(AIRFLOW) dist docs/_build docs/api runs .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
