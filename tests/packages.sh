#!/usr/bin/env bash
# Sourced by what may lack packages: it has `say`, `die`, and in `packages_log` a file for what apt-get prints.

# Installs Debian packages that are missing, where that may be done; names them otherwise.
need_packages() {
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
        die "missing packages: ${missing[*]} (as root: apt-get install -y ${missing[*]})"
    fi
    say "installing ${missing[*]}"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
        >"$packages_log" 2>&1 || { tail -n 20 "$packages_log" >&2; die "cannot install ${missing[*]}"; }
}
