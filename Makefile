# make book      the book, in _build/html
# make test      lint, types, tests, doctests, and every chapter compared with what it stores
# make lab       JupyterLab on book/
# make assignments   the students' versions of the assignments, as zips in _build/assignments
# make refresh   run the chapters in place and store what they print
# make experiments/digits   measure anew what the chapters show of one experiment; make experiments lists them
# make clean     remove what was built; the environment stays
# Each makes .venv from requirements.txt on first use. Another Python: make book PYTHON=python3.12

PYTHON ?= python3
# For the small matrices of the book a second thread costs more than it brings.
export OPENBLAS_NUM_THREADS ?= 1
BIN := .venv/bin
ENV := .venv/.complete
LIBRARY := $(shell find ssmlab -type f -not -name '*.pyc' 2>/dev/null)
# A chapter reads what an experiment stored, never its script.
RECORDS := $(shell find book/experiments -type f -not -name '*.py' -not -name '*.pyc')
PAGES := _config.yml _toc.yml $(shell find book -type f -not -path '*/.*' -not -path '*/__pycache__/*' \
  -not -path 'book/experiments/*.py' \
  -not -path 'book/assignments/*')
SOURCES := book/assignments/nbgrader_config.py $(shell find book/assignments/source -type f)

.PHONY: book assignments test lab refresh experiments clean

book: _build/html/.complete
	@echo "The book: $(CURDIR)/_build/html/index.html"

assignments: _build/assignments/.complete

test: $(ENV)
	$(BIN)/python tools/verify.py

lab: $(ENV)
	$(BIN)/jupyter lab --notebook-dir=book

refresh: $(ENV)
	$(BIN)/python tools/notebooks.py refresh

experiments:
	@echo $(patsubst book/%.json,%,$(wildcard book/experiments/*.json))

experiments/%: $(ENV)
	$(BIN)/python book/$@.py

clean:
	rm -rf _build .mypy_cache .pytest_cache .ruff_cache .coverage .hypothesis

$(ENV): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is older or missing: try make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

# The execution cache knows the notebooks only: a change of what they import or read empties it.
_build/.library: $(ENV) $(LIBRARY) $(RECORDS)
	rm -rf _build/.jupyter_cache
	@mkdir -p _build && touch $@

# What students get: without solutions and hidden tests. The course folder stays as it is.
_build/assignments/.complete: $(ENV) $(SOURCES)
	$(BIN)/python -m ssmlab.classroom release --course book/assignments --zip $(@D)
	@touch $@

# After a failure the pages are read anew, else Sphinx would forget their warnings.
_build/html/.complete: _build/.library _build/assignments/.complete $(PAGES)
	$(BIN)/jupyter-book build . -W --keep-going -n || { rm -rf _build/.doctrees; exit 1; }
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir _build/html/_static .
	mkdir -p _build/html/_static/assignments
	cp _build/assignments/*.zip _build/html/_static/assignments
	@touch $@
