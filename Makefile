.PHONY: all lint
all:
	cargo build --release
lint:
	cargo fmt --all -- --check
	cargo clippy --all-targets -- -D warnings
