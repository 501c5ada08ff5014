# Everything a developer or a CI job calls. Needs make and Python >= 3.11; the rest goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.PHONY: help setup check test test-os demo bench images soak clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(READY) ## build .venv with everything in it

check: $(READY) ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: $(READY) ## every test but the long ones
	$(BIN)/pytest -m "not soak and not os"

test-os: $(READY) ## boot whole operating systems from their Debian packages
	$(BIN)/pytest -m "os and not soak"

demo: $(READY) ## one piece of work over every I/O path
	$(BIN)/emu compare
	$(BIN)/emu compare --op net-rr --qd 8

bench: $(READY) ## exits, instructions a second, boots; beside QEMU where it is installed
	$(BIN)/emu bench exits
	$(BIN)/emu bench mips
	$(BIN)/emu bench boot
	$(BIN)/emu bench irq
	$(BIN)/python tests/perf/beside_qemu.py
	$(BIN)/python -m tests.perf.linux_beside_qemu
	$(BIN)/python -m tests.perf.vhost_user_beside_qemu

images: $(READY) ## rebuild the guest images
	$(MAKE) -C guest-images PYTHON=../$(BIN)/python

soak: $(READY) ## the long tests
	$(BIN)/pytest -m soak

clean: ## remove what was built here
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find emu tests guest-images -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("emu needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--config-settings editable_mode=compat --editable '.[dev]'
	$(BIN)/python -m compileall -q emu
	@touch $@
