#!/usr/bin/env bash
# Installs what was built, programs and all that belongs to them. `make install` calls it; it builds nothing, so that a person may build as a
# user and install as root. By environment:
#
#   PREFIX=/usr/local      where to
#   DESTDIR=               put before every path, for packages
#   SYSCONFDIR=/etc        where configurations are; those that are there are left alone
#   BUILT=target/release   where the programs were built
#   WITHOUT_SPDK=          if set, leaves spdk_vdo_tgt out
#   PYTHON=python3         whose client of SPDK the plugin is for
#   PYTHON_DIR=            where that looks for modules; asked for if not given
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${PREFIX:-/usr/local}
destdir=${DESTDIR:-}
sysconfdir=${SYSCONFDIR:-/etc}
built=${BUILT:-target/release}

# Those that cannot be missing, and those that are installed if they were built.
programs=(vdo_tgt vdo_top vdo_exporter vdo_estimate)
[ -n "${WITHOUT_SPDK:-}" ] || [ ! -x "$built/spdk_vdo_tgt" ] || programs+=(spdk_vdo_tgt)
for program in "${programs[@]}" vdo_pages; do
    if [ ! -x "$built/$program" ]; then
        echo "install: $built/$program is not there; run make first" >&2
        exit 1
    fi
done

# file MODE SOURCE TARGET
file() {
    install -D -m "$1" "$2" "$destdir$3"
    echo "$3"
}

for program in "${programs[@]}"; do
    file 755 "$built/$program" "$prefix/bin/$program"
done

pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
"$built/vdo_pages" "$pages"
while read -r page; do
    file 644 "$pages/$page" "$prefix/share/$page"
done < <(cd "$pages" && find . -type f -printf '%P\n' | sort)

for program in vdo_tgt spdk_vdo_tgt vdo_exporter; do
    [[ " ${programs[*]} " == *" $program "* ]] || continue
    unit=$pages/$program.service
    sed "s|/usr/bin/|$prefix/bin/|; s|/etc/vdo/|$sysconfdir/vdo/|g" "install/systemd/$program.service" >"$unit"
    file 644 "$unit" "$prefix/lib/systemd/system/$program.service"
    config=$sysconfdir/vdo/$program.json
    [ ! -e "install/config/$program.json" ] || [ -e "$destdir$config" ] || file 644 "install/config/$program.json" "$config"
done
file 644 install/examples/file-nbd.json "$prefix/share/doc/spdk-vdo/examples/file-nbd.json"
if [[ " ${programs[*]} " == *" spdk_vdo_tgt "* ]]; then
    file 644 install/man/spdk_vdo_tgt.8 "$prefix/share/man/man8/spdk_vdo_tgt.8"
    for example in spdk/examples/*; do
        file 644 "$example" "$prefix/share/doc/spdk-vdo/examples/$(basename "$example")"
    done
fi
for page in README.md CHANGELOG.md docs/operations.md docs/rpc.md docs/grafana-dashboard.json; do
    file 644 "$page" "$prefix/share/doc/spdk-vdo/$(basename "$page")"
done

# Where this Python looks for modules: below the prefix, if it looks there at all.
python_dir() {
    "${PYTHON:-python3}" - "$prefix" <<'END'
import site, sys, sysconfig
prefix = sys.argv[1].rstrip('/') + '/'
found = [place for place in site.getsitepackages() if place.startswith(prefix)]
print(found[0] if found else sysconfig.get_path('purelib', vars={'base': prefix.rstrip('/')}))
END
}
if python_dir=${PYTHON_DIR:-$(python_dir)}; then
    for module in rpc/python/*.py; do
        file 644 "$module" "$python_dir/$(basename "$module")"
    done
else
    echo "install: no Python on this machine: the plugin of SPDK's client was left out" >&2
fi
