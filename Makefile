# make run     start Warden on http://127.0.0.1:8000     (settings: WARDEN_*, see docs/reference/settings.md)
# make test    ruff, mypy, and the tests of some minutes   (PYTEST_ARGS="-k name" for some of them, JOBS=0 for one after the other)
# make test-all  all other tests: Docker, the real vLLM, every page in the browser   (PYTEST_ARGS and JOBS as above)
# make coverage  both, with the branches that each of the two runs through
# make images  what the Docker tests' images need          (some minutes and 3 GB, once)
# make check   ruff and mypy alone
# make reference  write docs/reference from the code
# make words   bring the Russian catalogue up to date with the texts of the program
# make bench   the measurements that bench/RESULTS.md records
# make clean   remove the environment and what the tools left
#
# Everything is installed into .venv, from constraints.txt; stamp files in it make a second run quick.

VENV        ?= .venv
BIN         := $(VENV)/bin
PYTEST_ARGS ?=
JOBS        ?= 2

CATALOGUES  := $(wildcard webapp/translations/*/LC_MESSAGES/*.po)
COMPILED    := $(CATALOGUES:.po=.mo)

PYTEST = CHROMIUM=$$(BIN=$(BIN) scripts/ensure_chromium.sh) && export CHROMIUM && $(BIN)/python -m pytest --numprocesses $(JOBS)

# -qq: pip says only what goes wrong; the constraints hold for what the build itself needs, too.
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-build-isolation -c constraints.txt

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: run test test-all coverage check images words reference bench clean

run: $(VENV)/.installed $(COMPILED)
	@exec $(BIN)/python -m gunicorn -c webapp/server/gunicorn_conf.py wsgi:app

test: check $(COMPILED)
	@$(PYTEST) --part quick $(PYTEST_ARGS)

test-all: $(VENV)/.installed-test $(COMPILED)
	@$(PYTEST) --part rest $(PYTEST_ARGS)

# A part's files lie in a folder of its own, so that each can be reported alone and both together.
coverage: $(VENV)/.installed-test $(COMPILED)
	@rm -rf build/coverage && mkdir -p build/coverage/quick build/coverage/rest
	@for part in quick rest; do \
	    export COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml COVERAGE_FILE=$(CURDIR)/build/coverage/$$part/data; \
	    $(PYTEST) --part $$part $(PYTEST_ARGS); \
	done
	@scripts/coverage.sh $(BIN) build/coverage

check: $(VENV)/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

images: $(VENV)/.installed-test
	@$(BIN)/python -m tests.engine.images

words: $(VENV)/.installed
	@$(BIN)/python scripts/words.py

reference: $(VENV)/.installed
	@$(BIN)/python -m scripts.reference

bench: $(VENV)/.installed-test $(COMPILED)
	@$(BIN)/python -m bench

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis test-results $(COMPILED)

$(VENV)/bin/python:
	@python=$$(scripts/find_python.sh) && echo "Making $(VENV) with $$python" >&2 && "$$python" -m venv $(VENV)

# What builds the package first: pip takes it from here instead of fetching copies of its own.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt hatch_build.py
	@echo "Installing what Warden needs (some minutes the first time)" >&2
	@$(PIP_INSTALL) hatchling babel
	@$(PIP_INSTALL) -e '.[all]'
	@touch $@

# One installation of both: resolving twice costs half a minute.
$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt hatch_build.py
	@echo "Installing what Warden and its tests need (some minutes the first time)" >&2
	@$(PIP_INSTALL) hatchling babel
	@$(PIP_INSTALL) -e '.[all,test]'
	@touch $(VENV)/.installed $@

%.mo: %.po | $(VENV)/.installed
	@$(BIN)/pybabel --quiet compile --input-file $< --output-file $@
