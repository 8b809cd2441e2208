# make book      the book, in _build/html
# make test      lint, types, tests, doctests, and every chapter compared with what it stores;
#                with COVERAGE=1 also how much of the library the tests reach
# make lab       JupyterLab on lab/, your own copy of the chapters; what you change there stays
# make assignments   the students' versions of the assignments, as zips in _build/assignments
# make refresh   run the chapters in place and store what they print
# make experiments/digits   measure anew what the chapters show of one experiment; make experiments lists them
# make clean     remove what was built; the environment and lab/ stay
# Each makes .venv from requirements.txt on first use. Another Python: make book PYTHON=python3.12

PYTHON ?= python3
# For the small matrices of the book a second thread costs more than it brings.
export OPENBLAS_NUM_THREADS ?= 1
# What numba compiles is kept here, for all stages.
export NUMBA_CACHE_DIR ?= $(CURDIR)/_build/numba
BIN := .venv/bin
ENV := .venv/.complete
# What the pages are made of. Which of them a change of the library touches, tools/freshness.py says.
PAGES := _config.yml _toc.yml tools/freshness.py tools/reader_copy.py $(shell find ssmlab book -type f \
  -not -path '*/.*' -not -path '*/__pycache__/*' -not -path 'book/assignments/*' \
  -not -path 'book/experiments/*.py')
SOURCES := book/assignments/nbgrader_config.py $(shell find book/assignments/source -type f) \
  $(shell find classroom -name '*.py')

.PHONY: book assignments test lab refresh experiments clean

book: _build/html/.complete
	@echo "The book: $(CURDIR)/_build/html/index.html"

assignments: _build/assignments/.complete

test: $(ENV)
	$(BIN)/python tools/verify.py $(if $(COVERAGE),--coverage)

lab: book
	$(BIN)/python tools/reader_copy.py open

refresh: $(ENV)
	$(BIN)/python tools/notebooks.py refresh

experiments:
	@echo $(patsubst book/%.json,%,$(wildcard book/experiments/*.json))

experiments/%: $(ENV)
	$(BIN)/python book/$@.py

clean:
	rm -rf _build .mypy_cache .pytest_cache .ruff_cache .coverage .hypothesis

$(ENV): requirements.txt pyproject.toml classroom/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is older or missing: try make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@mkdir -p .venv/etc/ipython # no advice about encryption from each kernel of a build
	@echo '{"IPKernelApp": {"log_level": 40}}' > .venv/etc/ipython/ipython_kernel_config.json
	@touch $@

# What students get: without solutions and hidden tests. The course folder stays as it is.
_build/assignments/.complete: $(ENV) $(SOURCES)
	$(BIN)/python -m ssm_classroom release --course book/assignments --zip $(@D)
	@touch $@

# After a failure the pages are read anew, else Sphinx would forget their warnings.
_build/html/.complete: $(ENV) _build/assignments/.complete $(PAGES)
	$(BIN)/jupyter-book build . -W --keep-going -n || { rm -rf _build/.doctrees; exit 1; }
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir _build/html/_static . ./classroom
	mkdir -p _build/html/_static/assignments
	cp _build/assignments/*.zip _build/html/_static/assignments
	$(BIN)/python tools/reader_copy.py pack
	@touch $@
