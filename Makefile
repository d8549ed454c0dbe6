# What a fresh clone needs: `make demo` shows the switch at work, `make test` tests it all.
# Both make network namespaces and TAPs, so they run as root or through sudo; the build itself never does.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
# For other users than root Cargo starts the test programs through sudo.
AS_ROOT := $(if $(ROOT),env CARGO_TARGET_$(shell ./perf/toolchain triple)_RUNNER="sudo -E env PATH=$(PATH):/usr/sbin:/sbin")

.NOTPARALLEL:
.PHONY: build demo test test-all test-loom test-docs bench bench-micro bench-tcp bench-compare bench-switch bench-discovery soak mutants fuzz lint packages toolchain clean

build: toolchain
	$(CARGO) build --release --locked -p ipop-switch -p ipop-perf

# Three hosts, two of them behind NATs, find each other over XMPP; ping and iperf3 across; then the XMPP server is killed.
# About a minute after the build, and nothing stays behind.
demo: packages build
	$(ROOT) $(TARGET)/release/ipop-perf demo

# The summary of the last run comes last.
test: packages toolchain test-loom test-docs test-all

# Every unit, property, simulation and end-to-end test, and the committed fuzz corpora.
test-all:
	@$(if $(ROOT),sudo -v)
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(AS_ROOT) $(CARGO) nextest run --locked --workspace; \
	else \
	    $(AS_ROOT) $(CARGO) test --locked --workspace --lib --bins --tests -- --test-threads=2; \
	fi

# The MAC table under every interleaving that loom finds. Other flags for all crates: a target directory of its own.
test-loom:
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(TARGET)/loom \
	    $(CARGO) test --locked --release -p ipop-learning --test loom

test-docs:
	$(CARGO) test --locked --workspace --doc

# Quick looks at everything; docs/BENCHMARKS.md says how to measure. Quiet machines give quiet figures.
bench: packages toolchain bench-micro bench-tcp bench-compare bench-switch bench-discovery

# Empty for figures: make bench QUICK=
QUICK ?= --quick

bench-micro:
	$(CARGO) bench --locked -p ipop-benches -- $(QUICK)

# One TCP flow through this switch and through the obvious implementation, in turn.
bench-tcp: build
	$(ROOT) $(TARGET)/release/ipop-perf tcp

# The same work for all tunnels that are installed; perf/install-peers installs them.
bench-compare: build
	$(ROOT) $(TARGET)/release/ipop-perf compare $(QUICK) --out $(TARGET)/perf-compare

# RFC 2544, RFC 2889, RFC 9004.
bench-switch: build
	$(ROOT) $(TARGET)/release/ipop-perf switch $(QUICK) --out $(TARGET)/perf-switch

# How fast nodes find each other, how soon traffic is back, what an idle network costs.
bench-discovery: build
	$(ROOT) $(TARGET)/release/ipop-perf discovery $(QUICK) --out $(TARGET)/perf-discovery

# An hour of traffic, churn, loss, cuts and kills.
soak: build
	$(ROOT) $(TARGET)/release/ipop-perf soak --out $(TARGET)/perf-soak

# Spoils each line of perf/mutants.txt in a copy of the tree and sees that its test fails. Three quarters of an hour on 2 cores; some of them: make mutants ONLY=storm
mutants: toolchain
	$(CARGO) build --locked --workspace --bin ipop-mutants
	$(TARGET)/debug/ipop-mutants $(ONLY)

# Random bytes to every parser of foreign ones, for so long in all: make fuzz SECONDS=3600
SECONDS ?= 600
fuzz: toolchain
	./perf/fuzz $(SECONDS)

lint: toolchain
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

packages:
	@./perf/install-packages

toolchain:
	@./perf/toolchain check

clean:
	$(CARGO) clean
