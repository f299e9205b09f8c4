# Every target makes what it needs. `make play` and `make test` are all that a newcomer runs.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
ENV ?= dream-doom
VERSION = $(shell $(RUN) -c 'import videogpt_dream; print(videogpt_dream.__version__)')

.PHONY: setup play test test-slow check docs smoke bench release can-release clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[dev]'
	$(RUN) -c 'from worldmodel.prior import fast; fast.compile_all()'
	touch $@

play: setup
	$(RUN) -m play --env $(ENV)

test: setup
	$(RUN) -m pytest -n auto --dist loadfile

test-slow: setup
	$(RUN) -m pytest -m slow -n auto --dist loadfile

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(RUN) -m pytest -n auto --dist loadfile

docs: setup
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

# Collect, train and play on the real ViZDoom, all tiny: minutes, and nothing worth seeing.
smoke: setup
	rm -rf runs/smoke
	$(RUN) -m collect.vizdoom --scenario hgs --episodes 10 --length 40 --train-steps 4096 \
		--evaluate-episodes 4 --out runs/smoke/data
	$(RUN) -m worldmodel.data verify runs/smoke/data
	$(RUN) -m worldmodel.train tiny --data runs/smoke/data --out runs/smoke/dream
	$(RUN) -m play --env runs/smoke/dream --headless --steps 50 --record runs/smoke/dream.mp4
	$(RUN) -m play --replay runs/smoke/dream.json --headless

bench: setup
	$(RUN) -m benchmarks.dream_step
	$(RUN) -m benchmarks.first_frame
	$(RUN) -m benchmarks.busy_neighbour
	$(RUN) -m benchmarks.browser
	$(RUN) -m benchmarks.vector_dream
	$(RUN) -m benchmarks.attention
	$(RUN) -m benchmarks.sampling
	$(RUN) -m benchmarks.train_step vizdoom-hgs
	$(RUN) -m benchmarks.pushing_step

# All of a release in dist/: wheel and sdist, tried from an empty folder; a dream's page in the
# browser; the documentation. Then the tag, which is left to push.
release: can-release check docs
	rm -rf dist
	$(VENV)/bin/pip install --quiet build
	$(RUN) -m build --outdir dist
	PYTHON=$(PYTHON) .ci/try-distribution dist/*.whl
	PYTHON=$(PYTHON) .ci/try-distribution dist/*.tar.gz
	$(RUN) -m play.web --env $(ENV) --out dist/page
	cp -r site dist/docs
	git tag -a v$(VERSION) -m "Version $(VERSION)"

can-release: setup
	@[ -z "$$(git status --porcelain)" ] || { echo "commit your changes first: a release is of a commit"; false; }
	@! git rev-parse -q --verify v$(VERSION) > /dev/null || \
		{ echo "there is a tag v$(VERSION): raise the version in pyproject.toml"; false; }
	@grep -q '^## $(VERSION)$$' CHANGELOG.md || \
		{ echo "CHANGELOG.md has no section '## $(VERSION)'"; false; }

clean:
	rm -rf $(VENV) runs/smoke site dist
