#!/usr/bin/env bash
# The one entry: builds, tests and shows gofer. `./build.sh help` lists what it can do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'TEXT'
usage: ./build.sh [command]

  (none)       build the stripped release binary as target/gofer
  check        the quick part of it, in two minutes: build, lints, unit tests, wire, size, filter; as root some of the client's tests too
  test         everything that CI checks: build, lints, unit tests, the suite against the binary; as root
  demo [DIR]   serve DIR (default: a small tree made for it) through a confined gofer, and show what it does
  v9fs [--kernel 6.1|6.12|7.2|all] [SUITE...|all]
               mount the binary with Linux's own 9P client, in a guest, and run suites on it (default: those of CI); as root
  bench [OPTION...]
               measure the binary beside a limit and other servers; as root (OPTIONs: ./build.sh bench --help, docs/bench.md)
  fuzz [TARGET [SECONDS]]
               run one fuzzer (wire, argv, spec, filter), or each for some seconds (docs/fuzzing.md); as root
  interop      drive the binary with a Go client of gVisor's protocol, beside a second server, and start it as runtimes do
  traced       those two clients again, on a gofer under a tracer: every system call is in the filter's table
  help         this text
TEXT
}

say() { printf '%s\n' "$*"; }
die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

packages_log=target/packages.log
# shellcheck source=tests/packages.sh
. tests/packages.sh

need_tools() {
    mkdir -p target
    command -v cargo >/dev/null || die "no cargo: install Rust by rustup"
    need_packages gcc libc6-dev musl-dev
}

need_test_tools() {
    need_tools
    need_packages binutils strace
    # Go reads specs beside us; the certificates are for its module of the OCI's types.
    command -v go >/dev/null || need_packages golang-go ca-certificates
}

need_v9fs_tools() {
    need_tools
    need_packages user-mode-linux kmod e2fsprogs acl attr fio git sqlite3 dmsetup quota procps rsync
    [[ " $* " == *" ci "* ]] || need_packages dbench diod stress-ng
    [[ " $* " != *" all "* && " $* " != *" postgres "* ]] || need_packages postgresql
    if [[ " $* " == *" all "* || " $* " == *" python "* ]]; then
        need_packages python3
        need_packages "lib$(readlink /usr/bin/python3)-testsuite" # of the same version: libpython3.11-testsuite
    fi
    [[ " $* " != *" all "* && " $* " != *" golang "* ]] || command -v go >/dev/null || need_packages golang-go
    # Built once: cargo looks at what is installed and has nothing to do after that.
    cargo install --quiet --locked --root target/tools pjdfstest@0.2.2 fsx@0.3.2
}

need_fuzz_tools() {
    need_tools
    need_packages g++ perl-base
}

failed=() # stages, each with its seconds

# Runs a stage under its name and prints the seconds that it took. One that fails does not keep the later ones from running.
stage() {
    local name=$1 begun=$SECONDS status=0
    shift
    say "== $name"
    # In a shell of its own, where a command that fails ends it: bash ignores `set -e` in what stands before `||`.
    set +e
    (set -e; "$@")
    status=$?
    set -e
    if [ $status -eq 0 ]; then
        say "== $name: $((SECONDS - begun)) s"
    else
        say "== $name: FAILED with status $status after $((SECONDS - begun)) s"
        failed+=("$name ($((SECONDS - begun)) s)")
    fi
}

# The program is built by itself: with the tests in the same call, cargo would unify their features.
build() {
    cargo build --locked --release --bin gofer
    install -m 755 target/release/gofer target/gofer.new
    mv target/gofer.new target/gofer
    say "target/gofer: $(stat -c %s target/gofer) bytes"
}

lint() {
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
    cargo fmt --all --check
    cargo clippy --locked --release --lib --bin gofer -- -D warnings
    cargo clippy --locked --workspace --all-targets -- -D warnings
}

# Puts the program of tests/NAME at target/NAME, where a guest finds it.
install_test() {
    local program
    program=$(cargo test --locked --quiet --no-run --test "$1" --message-format json | sed -n "s|.*\"executable\":\"\([^\"]*/$1-[^\"]*\)\".*|\1|p")
    install -m 755 "$program" "target/$1"
}

run_v9fs() {
    cargo build --locked --quiet --release --example mount9p
    install_test hostile
    tests/v9fs/run.sh "$@"
}

# Others to measure beside us: those that are there.
run_bench() {
    local words=() fork=target/interop/bin/fork driver=target/interop/bin/driver
    ! command -v diod >/dev/null || words+=(--peer "diod=diod -f -n -r {} -w {} -e {tree} -L stderr")
    [ ! -x $fork ] || words+=(--peer "Go=$fork --bundle {bundle} --io-fds={}")
    [ ! -x $driver ] || words+=(--go $driver)
    cargo bench --locked --quiet --bench serving -- "${words[@]}" "$@"
}

# Real clients on a gofer under a tracer; then what it called is held against the filter's table.
run_traced() {
    rm -rf target/traces
    mkdir -p target/traces/go target/traces/v9fs
    export GOFER_BIN=$PWD/tests/traced.sh
    # Contract S: in the other's namespace of processes a tracer would be the first. The front starts what it was built for.
    CONTRACT=S SKIP='^TestThroughTheFront$' GOFER_TRACES=$PWD/target/traces/go tests/interop/run.sh ours
    GOFER_TRACES=$PWD/target/traces/v9fs run_v9fs smoke
    GOFER_TRACES=$PWD/target/traces cargo test --locked --quiet --test filter -- --ignored traces
}

# What a change breaks first. Tests of the built program need root, for chroot(2) and chown(2).
quick_tests() {
    cargo test --locked --quiet --lib --test vectors --test size
    cargo test --locked --quiet --test filter -- rows:: listing:: audit::
    if [ "$(id -u)" -eq 0 ]; then
        cargo test --locked --quiet --test client -- attach:: create:: data:: entries:: frames:: open:: readdir:: walk::
    else
        say "not run, since they need root: the client's tests"
    fi
}

check() {
    stage build build
    stage lint lint
    stage "quick tests" quick_tests
}

# Says which stages have failed, and fails if one has.
verdict() {
    say "== all stages: $((SECONDS - $1)) s"
    [ ${#failed[@]} -eq 0 ] && return
    local name
    for name in "${failed[@]}"; do say "FAILED: $name"; done
    exit 1
}

test_all() {
    [ "$(id -u)" -eq 0 ] || die "the tests drop privileges, chown and chroot: run them as root"
    local begun=$SECONDS
    stage packages need_test_tools
    rm -f target/gofer # nothing is tested on an older one
    check
    stage compile cargo test --locked --no-run
    stage test cargo test --locked --quiet --no-fail-fast
    stage "fuzz tools" need_fuzz_tools
    stage fuzz fuzz/run.sh
    stage interop tests/interop/run.sh all
    stage "v9fs tools" need_v9fs_tools ci
    stage v9fs run_v9fs ci
    stage traced run_traced
    verdict "$begun"
}

case "${1-}" in
    "") need_tools; build ;;
    check) need_tools; check; verdict 0 ;;
    test) test_all ;;
    demo)
        shift
        need_tools
        build
        cargo run --locked --quiet --release --example 9p -- demo "$@"
        ;;
    v9fs)
        shift
        case "$# ${1-}" in "0 " | "1 --kernel="* | "2 --kernel") set -- "$@" ci ;; esac
        need_v9fs_tools "$@"
        build
        run_v9fs "$@"
        ;;
    bench)
        [ "$(id -u)" -eq 0 ] || die "the bench mounts a tmpfs: run it as root"
        need_tools
        build
        run_bench "${@:2}"
        ;;
    fuzz)
        need_fuzz_tools
        fuzz/run.sh "${@:2}"
        ;;
    traced)
        need_test_tools
        need_v9fs_tools smoke
        build
        run_traced
        ;;
    interop)
        need_tools
        build
        tests/interop/run.sh all
        ;;
    help | -h | --help) usage ;;
    *) usage >&2; exit 2 ;;
esac
