# Two targets do everything on a fresh machine: `make demo` and `make test`.
# They need Python >= 3.11, make, and, where something is missing, root or sudo with apt.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# Tests run in as many processes as there are processors; WORKERS=0 is one, in which a debugger works.
WORKERS ?= $(shell nproc)
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal

.PHONY: demo test quick lint types unit quick-unit docker postgres aimock browser rlms strace mutants bench service-image clean

# Debian packages, where they may be installed: as root, or with a sudo that asks nobody.
install = root=$$([ "$$(id -u)" = 0 ] || echo sudo -n); \
	$$root apt-get update -q && $$root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -qy --no-install-recommends --no-remove $(1)
# What is said where something could not be installed, in the two parts around its comma: a failure under CI, and else
# tests are skipped.
unless_ci = { echo "belljar: cannot install $(1),$(2)" >&2; [ "$$CI" != true ]; }

demo: $(READY)
	$(BIN)/belljar demo $(ARGS)

test: lint types unit

# What one waits for between two edits: under a minute, so the three run side by side. It needs no Docker, and
# skips PostgreSQL where there is none.
quick: $(READY)
	@$(MAKE) --no-print-directory --jobs=3 lint types quick-unit

# What was compiled is kept whatever the environment says of it: tests start thousands of processes.
unit: export PYTHONDONTWRITEBYTECODE =

# Fewer examples of each property, no dump of the stacks of what hangs; and what was compiled is beside the sources of
# nobody.
quick-unit: export PYTHONDONTWRITEBYTECODE =
quick-unit: export PYTHONPYCACHEPREFIX = $(CURDIR)/$(VENV)/bytecode
quick-unit: $(READY)
	$(PYTEST) -m "not slow" --hypothesis-profile=quick -o faulthandler_timeout=0 tests/unit $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY) docker postgres aimock browser rlms strace
	$(PYTEST) --durations=30 $(ARGS)

# The tests of the docker and gvisor backends start a daemon of their own (tests/daemon.py), unless DOCKER_HOST names
# one. Without it they are skipped, but not under CI=true. Nobody is asked for a password here, and no package that is
# installed is removed. Debian's packages may start the machine's own daemon: it is neither needed nor in the way.
docker:
	@PATH="$$PATH:/usr/sbin:/sbin"; \
	missing=$$(command -v dockerd >/dev/null || echo '^docker[.]io$$' iptables; command -v runsc >/dev/null || echo runsc; \
		command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || echo docker-compose); \
	[ -n "$$DOCKER_HOST" ] || [ -z "$$missing" ] || { \
		$(call install,$$missing); \
	} || $(call unless_ci,Docker Engine and gVisor here: do it, or name a daemon in DOCKER_HOST)

# The tests of a journal on a server start one of their own (tests/postgres.py), never that of the machine, which
# Debian's package may start. Without it they are skipped, but not under CI=true.
postgres:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
		$(call install,postgresql); \
	} || $(call unless_ci,PostgreSQL here: do it, or its tests are skipped)

# Some tests of models talk to a provider's mock from npm, on loopback, at the version and digest of its lock file. It
# goes into the virtual environment, and nothing of it runs while it is installed.
aimock: $(READY)
	@cmp -s tests/aimock/package-lock.json $(VENV)/aimock/node_modules/package-lock.json || { \
		command -v npm >/dev/null || { \
			$(call install,nodejs npm); \
		} && mkdir -p $(VENV)/aimock && cp tests/aimock/package.json tests/aimock/package-lock.json $(VENV)/aimock && \
		npm ci --prefix $(VENV)/aimock --ignore-scripts --no-audit --no-fund --silent && \
		cp tests/aimock/package-lock.json $(VENV)/aimock/node_modules; \
	} || $(call unless_ci,aimock here: it needs Node.js 20.15 and npm; do it, or its tests are skipped)

# Some tests of exports open a page in a browser (tests/browser.py), which is Debian's: Playwright downloads none.
browser:
	@command -v chromium >/dev/null || { \
		$(call install,chromium); \
	} || $(call unless_ci,Chromium here: do it, or its tests are skipped)

# One test reads an export with the types of the reference RLM library: it alone, without all that it would bring.
rlms: $(READY)
	@cmp -s tests/rlms.lock $(VENV)/rlms/rlms.lock || { \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade \
			--target $(VENV)/rlms -r tests/rlms.lock && cp tests/rlms.lock $(VENV)/rlms; \
	} || $(call unless_ci,rlms here: do it, or its test is skipped)

# Tests of a failing disk let system calls fail with it. Without it they are skipped, but not under CI=true.
strace:
	@command -v strace >/dev/null || { \
		$(call install,strace); \
	} || $(call unless_ci,strace here: do it, or its tests are skipped)

# Every promise and every layer, broken on purpose in a copy: its test must fail. Takes long; ARGS="name..." takes some.
mutants: $(READY) docker postgres browser rlms strace
	$(BIN)/python -m tests.mutants $(ARGS)

bench: $(READY) docker postgres browser rlms
	$(BIN)/python -m benchmarks $(ARGS)

# An image of the service, made of this machine's Python and packages alone: no registry is asked (deploy/rootfs.py).
# Where `docker` is not that of the machine, DOCKER_HOST says which.
service-image: $(READY)
	$(BIN)/python deploy/rootfs.py | docker import \
		--change 'ENTRYPOINT ["/usr/local/bin/belljar"]' --change 'CMD ["serve"]' \
		--change 'USER 10001:10001' --change 'WORKDIR /var/lib/belljar' --change 'VOLUME /var/lib/belljar' \
		--change 'EXPOSE 8765' --change 'ENV BELLJAR_HOME=/var/lib/belljar PYTHONDONTWRITEBYTECODE=1' \
		--change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' - belljar-service:local

# Debian and Ubuntu split `venv` from Python; it is the one thing that may have to be installed first.
$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "belljar needs Python >= 3.11: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends python3-venv; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
