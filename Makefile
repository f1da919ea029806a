# Two commands for a newcomer: `make demo` and `make test`. Each installs what it needs first.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/pytest

SYSTEM_PACKAGES := iptables iproute2 iputils-ping tcpdump curl dnsutils iperf3 openssh-server openssh-client \
	socat conntrack procps build-essential python3-dev python3-venv libnetfilter-queue-dev libnfnetlink-dev \
	clang libbpf-dev libbpf1 ethtool zsh fish dbus-daemon

# What a host needs to have the program built and run: no peers, no test tools.
HOST_PACKAGES := iptables iproute2 conntrack build-essential python3-dev python3-venv libnetfilter-queue-dev \
	libnfnetlink-dev clang libbpf-dev libbpf1

INTEROP_PACKAGES := sip-tester sipsak kamailio
BENCH_PACKAGES := wireguard-go wireguard-tools openvpn openssl vtun
INTEROP_STAMP := $(VENV)/.installed-interop

.PHONY: help setup system setup-interop system-interop setup-bench system-bench system-host install uninstall demo test test-pure test-interop \
	lint format manual bench bench-handover fuzz clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: system $(STAMP) ## install system packages and the virtual environment; leaves .venv/bin/upmt

system: PACKAGES := $(SYSTEM_PACKAGES)
system-interop: PACKAGES := $(INTEROP_PACKAGES)
system-host: PACKAGES := $(HOST_PACKAGES)
system-bench: PACKAGES := $(BENCH_PACKAGES)
system: FOR := setup
system-interop: FOR := setup-interop
system-host: FOR := install
system-bench: FOR := setup-bench
system system-interop system-host system-bench:
	@missing=""; for package in $(PACKAGES); do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q '^install ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "installing system packages:$$missing"; \
	  [ "$$(id -u)" = 0 ] || { echo "needs root: run 'sudo make $(FOR)' once"; exit 4; }; \
	  command -v apt-get >/dev/null || { echo "no apt-get here: install$$missing by hand"; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

$(STAMP): pyproject.toml constraints.txt $(wildcard bpf/*)
	@echo "installing the virtual environment"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup-interop: setup system-interop $(INTEROP_STAMP) ## install the foreign SIP programs that test-interop talks to

$(INTEROP_STAMP): $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,interop]'
	@touch $@

PREFIX ?= /usr/local
install: system-host ## put it on this host: program, systemd units, manual pages, completions; again to upgrade
	@PREFIX=$(PREFIX) PYTHON=$(PYTHON) packaging/install.sh install

uninstall: ## take it off this host; configuration and leases stay
	@PREFIX=$(PREFIX) packaging/install.sh uninstall

demo: setup ## see a video call move from Wi-Fi to LTE while a backup stays (needs root, under a minute)
	@$(BIN)/upmt lab demo

test: setup ## every test: pure, kernel and lab (needs root)
	@$(PYTEST) -q -n 2 -m 'not lab and not interop'
	@{ $(PYTEST) -q -n 2 --dist loadscope --no-loadscope-reorder -m 'lab and not alone'; beside=$$?; \
	  $(PYTEST) -q -m 'lab and alone' && [ $$beside = 0 ]; } || \
	  { echo; echo "What failed is run once more, by itself; a defect all the same: please report it."; \
	  $(PYTEST) -q -m lab --last-failed --last-failed-no-failures none --maxfail 1; }

test-interop: setup ## foreign SIP programs against ours; skips those that `make setup-interop` has not installed
	@$(PYTEST) -q -m interop

test-pure: $(STAMP) ## only the tests that need neither root nor the kernel
	@$(PYTEST) -q -n 2 -m 'not kernel and not lab and not interop'

lint: $(STAMP) ## formatting, lint, strict types, import direction
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

format: $(STAMP) ## put the formatting right
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

manual: $(STAMP) ## manual pages and completions in packaging/, from the commands themselves
	@$(BIN)/python -m upmt_nf.cli.manual packaging

setup-bench: setup system-bench ## install the other tunnels that bench measures beside ours

BENCH_RESULTS ?= /tmp
bench: setup-bench ## measure both datapaths beside other tunnels; 15 minutes, results in BENCH_RESULTS=/tmp
	@$(BIN)/python -m benchmarks --json $(BENCH_RESULTS)/bench.json --svg $(BENCH_RESULTS)/bench.svg

bench-handover: setup-bench ## measure what streams feel of handovers; 8 minutes
	@$(BIN)/python -m benchmarks.handover --json $(BENCH_RESULTS)/handover.json

FUZZ_SECONDS ?= 600
fuzz: $(STAMP) ## search for input that breaks a parser, FUZZ_SECONDS=600 for each of five
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]' || true
	@PYTHONPATH=.:tests nice -n 19 $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS)

clean: ## remove what was built (not the system packages)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
