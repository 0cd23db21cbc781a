# make run     start Warden on http://127.0.0.1:8000     (settings: WARDEN_*, see docs/reference/settings.md)
# make test    ruff, mypy, and the quick tests, some minutes   (PYTEST_ARGS="-k name" selects, JOBS=0 runs one after the other)
# make test-all  all other tests: Docker, the real vLLM, every page in the browser   (PYTEST_ARGS and JOBS as above)
# make coverage  both, with the branch coverage of each
# make images  the parts of the Docker tests' images       (some minutes and 3 GB, once)
# make check   ruff and mypy only
# make reference  write docs/reference from the code
# make words   update the Russian catalogue from the texts of the program
# make bench   the measurements of bench/RESULTS.md
# make clean   remove the environment and the tools' files
#
# Everything is installed into .venv, from constraints.txt; stamp files in it make a second run quick.

VENV        ?= .venv
BIN         := $(VENV)/bin
PYTEST_ARGS ?=
JOBS        ?= 2

CATALOGUES  := $(wildcard webapp/translations/*/LC_MESSAGES/*.po)
COMPILED    := $(CATALOGUES:.po=.mo)

PYTEST = CHROMIUM=$$(BIN=$(BIN) scripts/ensure_chromium.sh) && export CHROMIUM && $(BIN)/python -m pytest --numprocesses $(JOBS)

# -qq: pip prints only errors; the constraints apply to the build's own requirements, too.
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

# Each part has its own folder, so that each can be reported alone and both together.
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

# The build requirements first: pip takes them from here instead of downloading its own copies.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt hatch_build.py
	@echo "Installing what Warden needs (some minutes the first time)" >&2
	@$(PIP_INSTALL) hatchling babel
	@$(PIP_INSTALL) -e '.[all]'
	@touch $@

# One installation for both: resolving twice takes half a minute.
$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt hatch_build.py
	@echo "Installing what Warden and its tests need (some minutes the first time)" >&2
	@$(PIP_INSTALL) hatchling babel
	@$(PIP_INSTALL) -e '.[all,test]'
	@touch $(VENV)/.installed $@

%.mo: %.po | $(VENV)/.installed
	@$(BIN)/pybabel --quiet compile --input-file $< --output-file $@
