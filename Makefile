# `make` alone prints the targets.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DATA ?= var/demo
PORT ?= 8780
BASE ?= http://127.0.0.1:$(PORT)/dicomweb
export PIP_CONSTRAINT :=
# The tests start hundreds of processes; each would compile anew all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run install test test-slow fuzz check format lock docs bench bench-work bench-fhir bench-hl7 conformance clean ohif plugin contract

help: ## print these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP) ohif ## set everything up: .venv, dependencies, the OHIF viewer

run: install ## load the demo studies and serve on http://127.0.0.1:8780 (PORT=N for another)
	@$(PY) -m server.cli demo --data $(DATA)
	@$(PY) -m server.cli serve --data $(DATA) --port $(PORT)

test: $(STAMP) ohif ## install and run all tests
	@$(PY) -m pytest -n auto --dist worksteal $(ARGS)

test-slow: $(STAMP) ohif ## the long sets: fault loops, giant uploads
	@$(PY) -m pytest --runslow -m slow $(ARGS)

fuzz: $(STAMP) ## over 15,000 cases drawn from the OpenAPI documents by schemathesis
	@READINGROOM_FUZZ=10 $(PY) -m pytest -n auto --dist worksteal tests/server/test_openapi.py tests/server/fhir/test_openapi.py $(ARGS)

check: $(STAMP) ## format, lint, types, architecture
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(PY) -m pytest tests/test_architecture.py

format: $(STAMP) ## format the code
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

docs: $(STAMP) ## write the reference pages that are made from the code
	@$(PY) -m conformance.reference

bench: $(STAMP) ## measure against Orthanc and nginx, in one run
	@$(PY) -m benchmarks $(ARGS)

bench-work: $(STAMP) ## measure what plugins cost, how long studies wait for them, and ten thousand timers
	@$(PY) -m benchmarks.work

bench-fhir: $(STAMP) ## measure FHIR over 200,000 reports
	@$(PY) -m benchmarks.fhir

bench-hl7: $(STAMP) ## measure how many HL7 messages are kept in a second
	@$(PY) -m benchmarks.hl7

conformance: $(STAMP) ## check a running server against PS3.18 (BASE=http://... for another)
	@$(PY) -m server.cli conformance dicomweb --base $(BASE) $(ARGS)

plugin: $(STAMP) ## write a plugin to start from (NAME=acme, INTO=folder)
	@$(PY) -m server.cli plugins new $(NAME) --into $(or $(INTO),.)

contract: $(STAMP) ## build the distribution that a plugin's own interpreter needs, into dist/
	@cd packaging/contract && $(CURDIR)/$(PY) -m hatchling build -t wheel -d $(CURDIR)/dist

lock: $(STAMP) ## lock the dependencies again, with hashes
	@for f in bootstrap base dev; do \
	  case $$f in bootstrap) from=requirements/bootstrap.in;; base) from=pyproject.toml;; dev) from="pyproject.toml --group dev";; esac; \
	  $(VENV)/bin/uv pip compile --universal --python-version 3.12 --generate-hashes --no-header -q $$from -o requirements/$$f.txt; \
	done

ohif: $(STAMP)
	@$(PY) -m server.web.ohif

clean: ## remove the environment and the demo data
	rm -rf $(VENV) var server/web/static

$(STAMP): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	@python=$$(bash requirements/find-python.sh) || exit 1; \
	echo "readingroom: setting up $(VENV) with $$python"; \
	[ -x $(PY) ] || "$$python" -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/uv pip sync -q --require-hashes requirements/dev.txt requirements/bootstrap.txt
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/uv pip install -q --no-deps --no-build-isolation -e .
	@touch $(STAMP)
