# Every target works in a fresh clone: `setup` is made when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: setup run listen study loop guard test test-slow test-faults test-web test-api test-postgres test-monitoring cluster-check dashboards lint format bench world card clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.stamp ## a virtual environment with everything in it

$(VENV)/.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Python 3.11 to 3.13 is needed, $$($(PYTHON) --version) found: make PYTHON=python3.12 …" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (a few minutes, about 2 GB) …"
	@$(BIN)/python -m pip install --quiet --editable ".[dev]" $(PIP_ARGS)
	@$(BIN)/python -c 'from codec.torchaudio_guard import import_torchaudio; import_torchaudio(); import encodec, ray'
	@$(BIN)/python -m policy.compiled
	@touch $@

run: setup ## the main job on the embedded default: MusicRL-R, then the report
	@$(BIN)/python -m learner.main $(ARGS)

listen: setup ## the listening app: two clips of a prompt, which is better? Its address is the last line
	@$(BIN)/python -m feedback.main $(ARGS)

study: setup ## MusicRL-R, -U, -RU and joint, judged by simulated listeners (at most 90 minutes a seed; resumable)
	@$(BIN)/python -m feedback.study $(ARGS)

loop: setup ## the continuing loop: votes, a new reward, the gate, tuning, publication, and again (resumable)
	@$(BIN)/python -m feedback.loop $(ARGS)

guard: setup ## over-trained on purpose: does the alarm ring before the harm is done? (simulated listeners; resumable)
	@$(BIN)/python -m feedback.simulated_guard $(ARGS)

test: setup ## the tests, below 15 minutes on two cores
	@$(BIN)/python -m pytest $(ARGS)

test-slow: setup ## the longer system tests
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-faults: setup ## seeded faults in whole runs: killed, paused, cut off, full disks (below 60 minutes)
	@$(BIN)/python -m pytest tests/faults -m "faults or not faults" $(ARGS)

test-web: setup ## the listening page in a real browser (Debian: apt-get install chromium)
	@$(BIN)/python -m pytest tests/feedback_app/test_web.py -m web $(ARGS)

test-api: setup ## the listening app's interface, searched for server errors and breaches of its schema
	@$(BIN)/python -m pytest tests/feedback_app/test_api.py -m api $(ARGS)

test-postgres: setup ## the preference log on a real PostgreSQL, which is installed if it is missing (Debian, root)
	@$(BIN)/python -m tests.postgres.serve --installed || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null; }
	@$(BIN)/python -m tests.postgres.serve $(BIN)/python -m pytest tests/feedback tests/feedback_app/test_kills.py \
	  -m "slow or not slow" -k "postgres or crash" $(ARGS)

test-monitoring: setup ## alerts against planted histories; a run, the app and Prometheus together (installs Prometheus; Debian, root)
	@command -v prometheus >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null && \
	    { systemctl disable --quiet --now prometheus prometheus-node-exporter 2>/dev/null || true; }; }
	@$(BIN)/python -m pytest tests/cluster -m "slow or not slow" -k "alert or dashboards" $(ARGS)

cluster-check: setup ## launch files, container file and pinned versions, checked offline
	@$(BIN)/python -m cluster.launch.check $(ARGS)

dashboards: setup ## write the Grafana dashboards and the Prometheus rules anew from the code
	@$(BIN)/python -m cluster.monitoring.build

lint: setup ## format, lint, types, import order of the folders
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## let ruff mend what it can
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: setup ## the benchmarks; tables for docs/performance.md
	@$(BIN)/python -m benchmarks $(ARGS)

world: setup ## build the tiny world's corpus and models again from nothing (hours; resumable)
	@$(BIN)/python -m learner.pretrain world $(ARGS)

card: setup ## measure every figure on the model card again from the shipped files
	@$(BIN)/python -m evaluation.model_card $(ARGS)

clean: ## remove the virtual environment and what builds leave; runs/ stays
	rm -rf $(VENV) build .pytest_cache .ruff_cache .mypy_cache *.egg-info
