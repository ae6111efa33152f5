# make demo       install, open the Space with the models that ship on http://127.0.0.1:7860
# make test       install, run the tests
# make hostile    read hundreds of hostile files, with their time and memory
# make baselines  train the models that ship anew (needs radiographs: RADIOGRAPHS=folder, see bench/baselines.py)
# make lungs      train the lung network anew (a quarter of an hour; needs outlines: MASKS=table.csv)
# All paths are relative, so that a folder with a space in its name works.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 7860
.PHONY: demo install install-dev test test-slow lint hostile baselines lungs clean

shipped = CXR_$(1)="$$($(BIN)/python -c 'from trainer import load_run; print(load_run("$(2)").path.resolve())')"
demo: install
	@echo "The page comes up on http://127.0.0.1:$(PORT); Ctrl-C ends it."
	@export $(call shipped,TB,tb) $(call shipped,COVID,covid) $(call shipped,THREE_CLASS,three-class) && \
	cd space && PYTHONPATH= GRADIO_SERVER_NAME=127.0.0.1 GRADIO_SERVER_PORT=$(PORT) exec ../$(BIN)/python app.py

install: .venv/installed
install-dev: .venv/installed-dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

# Python compiles what it imports; all that lies in the packages would take a minute.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --constraint requirements.txt

.venv/installed: .venv/bin/python requirements.txt pyproject.toml
	$(PIP) --editable '.[dicom]'
	touch $@

.venv/installed-dev: .venv/bin/python requirements.txt pyproject.toml
	$(PIP) --editable '.[dicom,dev]'
	touch .venv/installed $@

test: install-dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-slow: install-dev
	$(BIN)/python -m pytest -m slow

hostile: install-dev
	$(BIN)/python -m tests.hostile.measure

lint: install-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# The lung network that ships: outlines made by hand, a CSV with file,mask,collection,split,heart.
MASKS ?= ../shared/radiographs/lung_masks.csv
lungs: install
	$(BIN)/python bench/lungs.py --data "$(MASKS)"

# The models that ship; BACKBONE may be a folder that holds google/mobilenet_v2_1.0_224.
RADIOGRAPHS ?= ../shared/radiographs
BACKBONE ?= google/mobilenet_v2_1.0_224
baselines: install
	$(BIN)/python bench/baselines.py "$(RADIOGRAPHS)" --backbone "$(BACKBONE)"

clean:
	rm -rf .venv build *.egg-info
