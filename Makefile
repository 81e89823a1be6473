.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-full check bench dist clean java redis

PY := .venv/bin/python
ANY_ZONE := tests/unit/feature_pipelines tests/unit/jobs/tables $(addprefix tests/laws/test_,as_of.py row_local.py one_contract.py portable_bits.py)
PINS := setup.cfg pyproject.toml .ci/constraints.txt .ci/make-venv

help: ## show this list
	@echo "make <verb>; PYTHON=python3.12 chooses the interpreter of .venv"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: java .venv/.demo ## ingest real flights, train, register, score a million requests, show the result
	@$(PY) -m jobs.run_demo

test: java redis .venv/.test check ## the checks and every test but the slow ones (up to 25 minutes)
	@$(PY) -m pytest -m "not slow"

test-full: java redis .venv/.test ## the slow tests: kill sweeps, clusters; and the law tests in another time zone
	@$(PY) -m pytest -m "slow"
	@TZ=Asia/Kathmandu $(PY) -m pytest -m "not slow" $(ANY_ZONE)

check: .venv/.test ## ruff, formatting, mypy --strict, import contracts
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/lint-imports --no-logo

bench: java redis .venv/.bench ## measure against the alternatives; writes .onescore/bench.json
	@$(PY) tests/benchmarks/bench_score.py --full
	@$(PY) tests/benchmarks/bench_as_of.py
	@$(PY) -m tests.benchmarks.bench_stores
	@$(PY) -m tests.benchmarks.bench_serving
	@$(PY) -m tests.benchmarks.bench_reconcile
	@$(PY) -m tests.benchmarks.bench_trees
	@$(PY) -m tests.proof.confusion

dist: .venv/.test ## build wheel and sdist into dist/
	@rm -rf build dist
	@$(PY) -m build --outdir dist

clean: ## remove .venv, caches, and all that runs made (.onescore)
	@rm -rf .onescore .venv build dist *.egg-info spark-warehouse metastore_db derby.log mlruns mlartifacts htmlcov \
	    .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

java:
	@.ci/check-java

redis:
	@.ci/check-redis

.venv/.demo: $(PINS)
	@.ci/make-venv all $@

.venv/.test: $(PINS)
	@.ci/make-venv all,test,dev $@ .venv/.demo

.venv/.bench: $(PINS)
	@.ci/make-venv all,test,dev,bench $@ .venv/.demo .venv/.test
