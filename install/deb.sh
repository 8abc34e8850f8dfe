#!/usr/bin/env bash
# Makes a Debian package of what was built, but for what needs SPDK. `make deb` calls it. BUILT is where the programs were built,
# DEB_DIR where the package goes, DEB_OPTIONS what else cargo-deb is told.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo deb --version >/dev/null 2>&1; then
    echo 'deb: cargo-deb is not there, and is being installed' >&2
    if ! cargo install --quiet --locked cargo-deb@3.8.0; then
        echo 'deb: cargo-deb cannot be installed on this machine, so there is no package' >&2
        exit 1
    fi
fi

root=target/deb
rm -rf "$root"
PREFIX=/usr DESTDIR=$root PYTHON_DIR=/usr/lib/python3/dist-packages WITHOUT_SPDK=1 install/install.sh >/dev/null
# shellcheck disable=SC2086
cargo deb --package vdo-install --no-build --output "${DEB_DIR:-target/debian/}" ${DEB_OPTIONS:-}
