.PHONY: all lint sim
all:
	cargo build --release
lint:
	cargo fmt --all -- --check
	cargo clippy --all-targets -- -D warnings

# Random volumes under random requests and faults: make sim SEEDS=1000, and FROM= to begin at another seed.
SEEDS ?= 1000
FROM ?= 0
sim:
	cargo run -p vdo-tests --bin sim -- --seeds $(SEEDS) --from $(FROM)
