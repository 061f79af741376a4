# Two commands: `make demo` shows the product, `make test` proves it. Both set up what they need and can be repeated.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NGINX := $(VENV)/nginx/usr/sbin/nginx
PORT ?= 8501

.PHONY: demo test lint types unit bench demo-data clean

$(VENV)/.run: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/.run
	$(BIN)/moyu fetch default
	$(BIN)/moyu serve --port $(PORT)

test: lint types unit

lint: $(VENV)/.test
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/pyright

# The browser tests need some Chrome; Debian's Chromium is installed where there is none and apt is at hand. nginx, for the test of the
# path prefix, is only unpacked beside the packages: installed, it would be started as a service.
unit: $(VENV)/.test
	@command -v chromium google-chrome chromium-browser >/dev/null || { command -v apt-get >/dev/null && \
	  { apt-get update -qq && apt-get install -y -qq chromium fonts-noto-color-emoji >/dev/null; }; } || true
	@command -v nginx >/dev/null || test -x $(NGINX) || { command -v apt-get dpkg-deb >/dev/null && cd $(VENV) && \
	  { apt-get download -qq nginx || { apt-get update -qq && apt-get download -qq nginx; }; } && \
	  dpkg-deb -x nginx_*.deb nginx && rm nginx_*.deb; } || true
	$(BIN)/moyu fetch default
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

demo-data: $(VENV)/.run
	$(BIN)/moyu fetch default
	$(BIN)/python -m moyu_core.demo

clean:
	rm -rf $(VENV) .ruff_cache build *.egg-info
