#!/usr/bin/env bash
# Runs the built gofer against peers of other lineages: tests/interop/run.sh [one of these]
#
#   suite        the client package against our gofer, over sockets and over channels, then against the package's own
#                server, which has no channels, and where there is one, against the original, both ways; and whether
#                the client of the bench runs, which is built as target/interop/bin/driver (docs/bench.md)
#   ours         the part with our gofer
#   gvisor       gVisor's own client of 2022, which has channels, against our gofer and against gVisor's own server over
#                plain host files, over channels and over the socket; Debian 12 packages the last of it that had 9P
#   gvisor-bench the same four, measured: prints the table (docs/bench.md)
#   runsc        OCI bundles under a real runsc, its own gofer beside ours; RUNSC and RUNSC_FRONT name the two builds of
#                it. Without them the same harness runs on a stand-in that starts gofers as a runsc does
#   build-runsc  builds the two from gVisor's module, where the module proxy serves it, and prints their paths
#   all          suite, gvisor, runsc (the default)
#
# The client package of the suite has no channels: harness/ carries its frames over them as gVisor's client does, as
# many at once as there are channels, the others over the socket. A run in which none goes over a channel is red.
#
# GOFER_BIN    the gofer (default: target/gofer)
# CONTRACT     S, L or "S L": how it is started; default: S, and L as soon as the gofer takes it
# ORIGINAL_GOFER, ORIGINAL_CONTRACT   a runsc that serves 9P: the suite runs on it too, as UNDER_TEST=original
# SKIP         tests that are left out, a pattern
# BUNDLES, RUNSC_FLAGS, NO_ROOTLESS, ROOTLESS_ONLY, NO_CHANNELS, SQLITE3   see runsc/bundles_test.go
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

module=gvisor.dev/gvisor@v0.0.0-20221214043228-a5c225b58688
top=$(cd ../.. && pwd)
work=$top/target/interop
bin=$work/bin
export GOFER_BIN=${GOFER_BIN:-$top/target/gofer}
export GOCACHE=$work/gocache GOTOOLCHAIN=local GOFLAGS=-buildvcs=false GO111MODULE=on GOWORK=off CGO_ENABLED=0

say() { printf '%s\n' "$*"; }
die() { printf 'interop: %s\n' "$*" >&2; exit 1; }

packages_log=$work/packages.log
# shellcheck source=tests/packages.sh
. "$top/tests/packages.sh"

# Whether a go is late enough for the client package.
is_late() {
    local version
    version=$("$1" env GOVERSION 2>/dev/null) || return 1
    [[ $version =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 20 ]
}

# The client package needs Go 1.20, later than Debian 12's own, which fetches one as a module.
need_go() {
    is_late go && return
    command -v go >/dev/null || need_packages golang-go ca-certificates
    local later=golang.org/toolchain@v0.0.1-go1.22.12.linux-amd64 answer
    answer=$(cd / && GOFLAGS=-modcacherw go mod download -json "$later") || die "cannot download $later: $answer"
    GOROOT=$(sed -n 's/.*"Dir": "\(.*\)",/\1/p' <<<"$answer")
    chmod +x "$GOROOT"/bin/* "$GOROOT"/pkg/tool/*/*
    export GOROOT PATH=$GOROOT/bin:$PATH
    is_late go || die "$(go env GOVERSION) is too old: the client package needs Go 1.20 or later"
}

build() {
    mkdir -p "$bin"
    need_go
    [ -x "$GOFER_BIN" ] || die "no $GOFER_BIN: ./build.sh builds it"
    go vet ./...
    go build -o "$bin/fork" ./cmd/fork
    go test -c -o "$bin/driver" ./bench
    export FORK_BIN=$bin/fork
}

# The contracts that a gofer takes: S always, L unless it says that it does not.
contracts() {
    if [ -n "${CONTRACT-}" ]; then say "$CONTRACT"; return; fi
    local answer
    answer=$("$GOFER_BIN" --lisafs=false gofer --bundle /none --spec-fd=9 --mounts-fd=9 --io-fds=9 2>&1 </dev/null 9>&-) || true
    case $answer in
        *"not served yet"* | *"flag provided but not defined"*) say S ;;
        *) say S L ;;
    esac
}

# Runs a package's tests; prints what failed, the counts and the checks.
go_test() {
    local package=$1 name=$2 log=$work/$2.log begun=$SECONDS status=0
    "${go[@]}" test -count=1 -v ${SKIP:+-skip "$SKIP"} "${@:3}" "$package" >"$log" 2>&1 || status=$?
    [ $status -eq 0 ] || grep -aEv '^=== |^ *--- PASS|^PASS' "$log" | cut -c1-400 | head -n 80 || true # more than that ends it by a signal
    grep -aE '^server |^known_differences' "$log" || true
    grep -aE -B 1 '^ *--- SKIP' "$log" | grep -aE '_test\.go:[0-9]+: ' | sed -E 's/^ *[a-z_]+\.go:[0-9]+: /  skipped: /' | sort | uniq -c | sed -E 's/^ +([0-9]+) /  \1 x/' || true
    say "interop $name: $(grep -acE '^ *--- PASS' "$log" || true) passed, $(grep -acE '^ *--- FAIL' "$log" || true) failed, $(grep -acE '^ *--- SKIP' "$log" || true) skipped, $((SECONDS - begun)) s"
    passed=$((passed + $(grep -acE '^ *--- PASS' "$log" || true)))
    failed=$((failed + $(grep -acE '^ *--- FAIL' "$log" || true)))
    [ $status -eq 0 ] || broken=1
}

ours() {
    local contract transport
    for contract in $(contracts); do
        for transport in socket channels; do
            UNDER_TEST=ours CONTRACT=$contract TRANSPORT=$transport go_test ./suite "ours-$contract-$transport"
        done
    done
}

suite() {
    [ "$(id -u)" -eq 0 ] || die "the suite makes devices and gives files away: run it as root"
    local contract transport
    ours
    for contract in $(contracts); do
        UNDER_TEST=fork CONTRACT=$contract go_test ./suite "fork-$contract"
    done
    if [ -n "${ORIGINAL_GOFER-}" ]; then
        for transport in socket channels; do
            UNDER_TEST=original CONTRACT=${ORIGINAL_CONTRACT:-L} TRANSPORT=$transport go_test ./suite "original-$transport"
        done
    else
        say "interop original: neither column is run, ORIGINAL_GOFER names no runsc"
    fi
    BENCH_INTO=$work/bench.md BENCH_ROUNDS=1 BENCH_MS=1 go_test ./bench bench # whether it runs
}

runsc() {
    need_packages busybox-static
    if [ -z "${BUNDLES-}" ] && [ -w /dev/shm ] && [ "$(df --output=avail /dev/shm | tail -n 1)" -gt 1000000 ]; then
        export BUNDLES=/dev/shm # many small files: seconds there, half a minute on a disk
    fi
    # More than Go's own ten minutes: with a runsc 18 bundles, each twice.
    if [ -n "${RUNSC-}" ]; then
        go_test ./runsc runsc -timeout 60m
        return
    fi
    say "interop runsc: no runsc (RUNSC, RUNSC_FRONT): a stand-in starts the gofers, programs run on the host's files"
    go build -ldflags "-X main.fork=$bin/fork" -o "$bin/standin" ./cmd/standin
    go build -ldflags "-X main.gofer=$GOFER_BIN -X main.runtime=$bin/standin" -o "$bin/standin-front" ./front
    go build -ldflags "-X main.fork=$bin/fork -X main.exe=$bin/standin-front" -o "$bin/standin-patched" ./cmd/standin
    local period
    for period in 2018-12 2019-11 2022-12; do
        PERIOD=$period NO_ROOTLESS=1 RUNSC=$bin/standin RUNSC_FRONT=$bin/standin-patched go_test ./runsc "stand-in-$period" -timeout 20m
    done
}

# Not part of "all": the module has to be had. It builds with Go 1.18 to 1.20 only.
build_runsc() {
    need_packages golang-1.19-go
    local go=/usr/lib/go-1.19/bin/go dir=$work/gvisor
    mkdir -p "$dir" "$bin"
    printf 'module build\n\ngo 1.19\n' >"$dir/go.mod"
    (cd "$dir" && GOFLAGS=-mod=mod "$go" get "$module") || die "the module $module can't be had here"
    (cd "$dir" && GOFLAGS=-mod=mod "$go" build -o "$bin/runsc" gvisor.dev/gvisor/runsc)
    (cd "$dir" && GOFLAGS=-mod=mod "$go" build -ldflags "-X gvisor.dev/gvisor/runsc/specutils.ExePath=$bin/front" -o "$bin/runsc-front" gvisor.dev/gvisor/runsc)
    go build -ldflags "-X main.gofer=$GOFER_BIN -X main.runtime=$bin/runsc" -o "$bin/front" ./front
    say "RUNSC=$bin/runsc RUNSC_FRONT=$bin/runsc-front ORIGINAL_GOFER=$bin/runsc"
}

# gVisor's packages, unpacked. They build with Go 1.18 to 1.20 only.
need_gvisor() {
    local version=0.0~20221219.0-2 unpacked=$top/target/gvisor
    need_packages golang-1.19-go ca-certificates
    [ -e "$unpacked/$version" ] && return
    local package=golang-gvisor-gvisor-dev
    rm -rf "$unpacked"
    mkdir -p "$unpacked"
    (cd "$unpacked" && { apt-get download "$package=$version" || { apt-get update && apt-get download "$package=$version"; }; }) \
        >"$packages_log" 2>&1 || { tail -n 20 "$packages_log" >&2; die "cannot download $package $version, a package of Debian 12"; }
    dpkg -x "$unpacked/$package"_*.deb "$unpacked"
    : >"$unpacked/$version"
}

# Runs something where the client's package is, with the Go and the two servers that it takes.
with_gvisor() {
    [ "$(id -u)" -eq 0 ] || die "gVisor's client gives files away: run it as root"
    [ -x "$GOFER_BIN" ] || die "no $GOFER_BIN: ./build.sh builds it"
    need_gvisor
    mkdir -p "$bin"
    cd gvisor
    local SKIP='' go=(env -u GOROOT /usr/lib/go-1.19/bin/go)
    "${go[@]}" vet -tags table ./...
    "${go[@]}" build -o "$bin/gvisor-server" ./server
    GVISOR_SERVER=$bin/gvisor-server "$@"
    cd ..
}

gvisor_columns() {
    local name transport
    for name in ours original; do
        for transport in channels socket; do
            UNDER_TEST=$name TRANSPORT=$transport go_test . "gvisor-$name-$transport"
        done
    done
    BENCH_INTO=$work/gvisor.md BENCH_ROUNDS=1 BENCH_MS=1 gvisor_table # whether it runs
}

gvisor_table() { go_test . gvisor-table -tags table -run '^TestTable$' -timeout 1h; }

passed=0 failed=0 broken=0 go=(go)
mkdir -p "$work"
case "${1-all}" in
    suite) build; suite ;;
    ours) build; ours ;;
    gvisor) with_gvisor gvisor_columns ;;
    gvisor-bench) BENCH_INTO=$work/gvisor.md with_gvisor gvisor_table; cat "$work/gvisor.md" ;;
    runsc) build; runsc ;;
    build-runsc) need_go; build_runsc; exit ;;
    all) build; suite; with_gvisor gvisor_columns; runsc ;;
    *) sed -n '2,23s/^# \{0,1\}//p' run.sh >&2; exit 2 ;;
esac
say "$passed passed, $failed failed"
[ $broken -eq 0 ]
