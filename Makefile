# Everything starts here: each target works as the first command after a clone, and asks no question.
# PYTHON=/path/to/python chooses the Python (3.11 to 3.13) that .venv is made with.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?=
BIN := .venv/bin
SET ?= imagenet-lt
SCALE ?= 1

.PHONY: help install install-dev demo rehearsal test clean

help:  ## list these targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
		|| sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1: \2/p' Makefile

install:  ## system packages, .venv and the package in it; a second when nothing changed
	@PYTHON="$(PYTHON)" tools/install.sh package

install-dev:  ## the same with what the tests and the linters need
	@PYTHON="$(PYTHON)" tools/install.sh dev

demo: install  ## convert the handwritten digits, train two methods, compare them, draw the pictures
	$(BIN)/python tools/convert_datasets.py digits --out data/digits_lt
	$(BIN)/python -m training.train --config configs/digits_lt_ce.yaml
	$(BIN)/python -m training.train --config configs/digits_lt_glmc.yaml
	$(BIN)/python tools/compare_runs.py runs/digits_lt_ce runs/digits_lt_glmc --out runs/digits_lt_comparison
	$(BIN)/python tools/preview.py --config configs/digits_lt_glmc.yaml --out runs/digits_lt_comparison/pairs.png

rehearsal: install  ## ImageNet-LT (SET=inaturalist18: that) at its true count in tiny pictures, list to tables
	$(BIN)/python tools/rehearsal.py $(SET) --scale $(SCALE)

test: install-dev  ## lint, formatting, types and all tests that need no GPU
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

clean:  ## remove .venv and what the demo made
	rm -rf .venv data/digits_lt runs/digits_lt_ce runs/digits_lt_glmc runs/digits_lt_comparison
