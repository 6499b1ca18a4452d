# make demo    install what is missing, start a pool in a scratch directory, show it at work
# make test    install what is missing, run every test that needs no root
# make deb     the Debian package, in dist/
# make test-system  the package on a host of its own, with systemd: needs root
# make check   formatting, lint, types, and whether the generated documents are current
# make bench   our tunnel beside stunnel, haproxy and hitch, in one run
# make fuzz    every parser for a minute, the recogniser and a whole pool: ninety minutes
# make soak    a broker killed 200 times while it writes, and policy edited under load, for ten minutes
# make soak-service   a whole pool under mixed load whose processes are killed and slowed, for half an hour
# make venv    only the virtual environment, with the commands in .venv/bin
# make clean   remove what the above have made

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-system deb check bench fuzz soak soak-service venv need-demo need-test need-deb need-bench clean docs

demo: need-demo venv
	@$(BIN)/python examples/demo.py

test: need-test .venv/.tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore=tests/system

# One world, in which one test follows the other.
test-system: need-test need-deb .venv/.tests
	$(BIN)/python -m pytest -q tests/system

deb: need-deb
	@scripts/deb

check: need-demo .venv/.tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

bench: need-bench .venv/.tests
	$(BIN)/python -m bench

fuzz: need-test .venv/.tests
	$(BIN)/python -m tests.fuzz.long --target all --seconds 60
	$(BIN)/python tests/fuzz/fuzz_recognise.py --runs 10000000
	$(BIN)/python -m tests.fuzz.fuzz_applications --minutes 10

soak: need-test .venv/.tests
	$(BIN)/python -m tests.crash_databases --kills 200
	$(BIN)/python -m tests.crash_databases --kills 200 --broker
	$(BIN)/python -m tests.e2e.live_edit --seconds 60 --threads 16

soak-service: need-test .venv/.tests
	$(BIN)/python -m tests.soak --minutes 30 --broker-restarts keep

docs: .venv/.tests
	$(BIN)/python docs/generate.py

venv: .venv/.installed

need-demo:
	@scripts/need demo

need-test:
	@scripts/need test

need-deb:
	@scripts/need deb

need-bench:
	@scripts/need bench

# Editable, so that the commands run the tree; made again when the build files or the C sources change.
.venv/.installed: setup.cfg setup.py $(wildcard tlspool_worker/native/*.[ch])
	@test -x $(BIN)/python || { echo "Making the virtual environment .venv"; $(PYTHON) -m venv .venv; }
	@echo "Installing Python packages"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

.venv/.tests: .venv/.installed
	@echo "Installing Python packages for tests"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f tlspool_worker/native/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
