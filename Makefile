# vdsm-agent. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

LDFLAGS = -s -w $(shell scripts/version.sh ldflags)
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s
KILLS ?= 100
SEED ?= 0

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r t d; do printf '  make %-12s %s\n' "$$t" "$$d"; done

.PHONY: build
build: ## build bin/vdsm-agentd and bin/vdsm-agentctl, static
	@CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: demo
demo: ## show the main job on a real disk image: copy, stop, kill, resume, revert, delete, take back
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory build
	@scripts/demo.sh

.PHONY: run
run: ## start the daemon in the foreground on .run, to play with
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory build
	@scripts/run.sh

.PHONY: test
test: ## every test: vet, unit, race detector, end to end (as root)
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	go vet ./...
	go test -race -timeout 30m ./...

.PHONY: test-vm
test-vm: ## virtual machines: real guests on a libvirt of the tests' own (as root)
	@scripts/setup.sh vm
	@scripts/guest.sh .vm
	VM_GUEST=$(CURDIR)/.vm go test -race -tags vm -count=1 -timeout 30m -run '^TestReal' ./vmops/...

.PHONY: test-systemd
test-systemd: ## boot real systemd in a container with the deb: units, restarts, watchdog, journal, upgrade, purge (as root)
	@scripts/setup.sh systemd
	@test/systemd/run.sh

.PHONY: prove
prove: ## prove the cancel contract in full: 300,000 stops, crashes and failures
	@scripts/prove.sh

.PHONY: everywhere
everywhere: ## stop and crash each storage verb at every one of its records, and fail each operation of the store (make test takes a part)
	@scripts/setup.sh test
	EVERYWHERE=all go test ./storageops -count=1 -timeout 60m -run 'Everywhere'
	go test ./tasks/store -count=1

.PHONY: planted
planted: ## plant bugs, one after the other: the tests must catch every one
	@go run ./test/planted

.PHONY: repro
repro: ## run the case of one seed with its trace: make repro SEED='mock/one step/a:stop@3'
	@PROVE_SEED='$(SEED)' go test -count=1 -run '^TestProve' -v ./tasks/... ./storageops ./vmops | grep -vE '^(=== |ok|\?|testing: warning)'

.PHONY: soak
soak: ## kill the daemon KILLS times (default 100) under real work, as root; SEED=… for the same decisions
	@scripts/setup.sh test
	go test ./test/soak -count=1 -v -timeout 30m -kills=$(KILLS) -seed=$(SEED)

.PHONY: bench
bench: ## measure speed and memory, as ratios within one run
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	@scripts/bench.sh

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (default 30s)
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r f; do \
		for t in $$(grep -oE '^func Fuzz[A-Za-z0-9_]+' $$f | cut -d' ' -f2); do \
			echo "$$t in $$(dirname $$f)"; go test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) $$(dirname $$f); \
		done; \
	done

.PHONY: lint
lint: ## golangci-lint, pinned
	go run $(GOLANGCI_LINT) run ./...

.PHONY: generate
generate: ## write the generated documents in docs
	@$(MAKE) --no-print-directory build
	go test ./agent ./agent/config ./cmd/vdsm-agentctl ./cmd/vdsm-agentd ./storageops/domaincheck ./metrics -run 'TestGeneratedDocuments|TestOpenRPC|TestManual|TestShippedFile|TestGuide' -update

.PHONY: packages
packages: ## build the deb and the rpm of this commit in dist
	@scripts/packages.sh

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist .demo .run
