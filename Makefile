# Two commands do everything on a fresh machine that has Rust and make:  make demo   ·   make test
# Each target first installs what is missing: the PostgreSQL server (15 or newer) and the C tools for the vendored SQLCipher.

.PHONY: demo serve test check bench bench-server torture deps
CARGO ?= cargo

demo: deps          ## two people talk, encrypted, through the real server
	$(CARGO) run --quiet --bin chat -- demo

serve: deps         ## a server on this machine, data in ~/.local/share/chat or /var/lib/chat
	$(CARGO) run --quiet --bin chat -- serve

test: deps          ## the whole suite
	$(CARGO) test

check: deps         ## formatting, lints, documentation, the list of duplicate dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --quiet --no-deps --document-private-items
	.ci/duplicates
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not installed: advisories and licences not checked"; fi

bench: deps         ## speed of the client, as ratios against controls in the same run; ends with a table
	$(CARGO) bench --bench client

bench-server: deps  ## the server under load beside pgbench and a bare fan-out, as ratios (docs/BENCHMARKS.md)
	$(CARGO) build --release --bin chat --example control
	$${CARGO_TARGET_DIR:-target}/release/chat load --control $${CARGO_TARGET_DIR:-target}/release/examples/control

torture: deps       ## twenty senders while the server is killed every few seconds, for a minute
	CHAT_TORTURE_SECONDS=60 $(CARGO) test --test it torture -- --nocapture

deps:
	@.ci/deps
