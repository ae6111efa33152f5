# make demo   install, train on phantoms, open the Space on http://127.0.0.1:7860
# make test   install, run the tests
# make lungs  train the lung network anew (a quarter of an hour; needs outlines: MASKS=table.csv)
# All paths are relative, so that a folder with a space in its name works.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 7860
TASKS := tb covid three-class
# A small residual network learns phantoms from random weights in a minute; it is spared what fine-tuning needs.
NETWORK := {"model_type": "resnet", "layer_type": "basic", "embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]}
FROM_NOTHING := --backbone demo/network --set image_size=160 --set epochs=9 --set batch_size=16 --set learning_rate=0.003 --set augment=none \
	--set input_dropout=0 --set weight_decay=0.0001 --set gradient_clip=5

.PHONY: demo install install-dev test test-slow lint lungs clean

demo: install $(TASKS:%=demo/%/metrics.json)
	CXR_TB=../demo/tb CXR_COVID=../demo/covid CXR_THREE_CLASS=../demo/three-class PYTHONPATH= GRADIO_SERVER_NAME=127.0.0.1 GRADIO_SERVER_PORT=$(PORT) sh -c 'cd space && exec ../$(BIN)/python app.py'

install: .venv/installed
install-dev: .venv/installed-dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

# Python compiles what it imports; all that lies in the packages would take a minute.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint requirements.txt

.venv/installed: .venv/bin/python requirements.txt pyproject.toml
	$(PIP) --editable '.[dicom]'
	touch $@

.venv/installed-dev: .venv/bin/python requirements.txt pyproject.toml
	$(PIP) --editable '.[dicom,dev]'
	touch .venv/installed $@

.PRECIOUS: demo/phantoms-%
demo/phantoms-%: | .venv/installed
	rm -rf $@.part $@.part_masks
	$(BIN)/python -m trainer data phantom --output $@.part --task $* --count 1200
	mv $@.part $@

demo/network/config.json:
	mkdir -p demo/network
	echo '$(NETWORK)' > $@

demo/%/metrics.json: | demo/phantoms-% demo/network/config.json
	$(BIN)/python -m trainer train $* --data demo/phantoms-$* --output demo/$* --no-pretrained --resume \
		$(FROM_NOTHING)

test: install-dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-slow: install-dev
	$(BIN)/python -m pytest -m slow

lint: install-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# The lung network that ships: outlines made by hand, a CSV with file,mask,collection,split,heart.
MASKS ?= ../shared/radiographs/lung_masks.csv
lungs: install
	$(BIN)/python -m trainer.training.lungs --data $(MASKS)

clean:
	rm -rf .venv demo build *.egg-info
