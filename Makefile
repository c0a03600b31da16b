# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
STUDY  ?= runs/demo
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test lint docs bench fuzz clean study-controlled study-observational study-observational-text study-observational-shapes study-evolution study-definitions
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 30

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sift-graph needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[torch]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.torch

demo: $(VENV)/.torch ## train a small Sparse-IFT study on real images, analyze it, write the report
	$(BIN)/sift-graph sweep analysis/studies/demo.toml --out $(STUDY) -j $(JOBS)
	$(BIN)/sift-graph analyze $(STUDY) -j $(JOBS)
	$(BIN)/sift-graph correlate $(STUDY) --with val_accuracy
	@report=$$($(BIN)/sift-graph report $(STUDY) --title 'Demo: Sparse Wide on digits') && \
	  echo && echo "The report: file://$(CURDIR)/$$report"

study-controlled: $(VENV)/.torch ## rerun the controlled experiment: 620 runs, about 45 minutes of a core
	$(BIN)/sift-graph sweep analysis/studies/controlled.toml --out runs/controlled -j $(JOBS)
	$(BIN)/sift-graph sweep analysis/studies/controlled_mlp.toml --out runs/controlled_mlp -j $(JOBS)
	$(BIN)/python -m analysis.controlled.summarise runs/controlled runs/controlled_mlp analysis/controlled

study-observational: $(VENV)/.torch ## rerun the observational study: 610 runs
	$(BIN)/sift-graph sweep analysis/studies/observational.toml --out runs/observational -j $(JOBS)
	$(BIN)/python -m analysis.observational.summarise runs/observational analysis/observational -j $(JOBS)

study-observational-text: $(VENV)/.torch ## rerun the observational study on text: 95 runs
	$(BIN)/sift-graph sweep analysis/studies/observational_text.toml --out runs/observational_text -j $(JOBS)
	$(BIN)/python -m analysis.observational.summarise runs/observational_text analysis/observational_text --target val_loss -j $(JOBS)

study-observational-shapes: $(VENV)/.torch ## rerun the observational study on shapes: 80 runs
	$(BIN)/sift-graph sweep analysis/studies/observational_shapes.toml --out runs/observational_shapes -j $(JOBS)
	$(BIN)/python -m analysis.observational.summarise runs/observational_shapes analysis/observational_shapes -j $(JOBS)

study-evolution: $(VENV)/.torch ## rerun the study of how masks move: 120 runs, every snapshot
	$(BIN)/sift-graph sweep analysis/studies/evolution.toml --out runs/evolution -j $(JOBS)
	$(BIN)/python -m analysis.evolution.summarise runs/evolution analysis/evolution -j $(JOBS)

study-definitions: $(VENV)/.torch ## rerun the study of the field's definitions: 125 runs
	$(BIN)/sift-graph sweep analysis/studies/definitions.toml --out runs/definitions -j $(JOBS)
	$(BIN)/python -m analysis.definitions.summarise runs/definitions analysis/definitions -j $(JOBS)

test: $(VENV)/.dev ## set up, and pass the whole suite
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(VENV)/.dev ## format, style, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(VENV)/.dev ## alter files of every kind for five minutes, and read them
	$(BIN)/python -m analysis.stress.fuzz --minutes 5 --out runs/found

docs: $(VENV)/.dev ## run the notebooks, build docs/_build/html
	SIFT_GRAPH_RUN_NOTEBOOKS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The docs: file://$(CURDIR)/docs/_build/html/index.html"

clean: ## remove what make made, but not runs/
	rm -rf $(VENV) docs/_build docs/api docs/studies docs/notebooks build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
