#!/usr/bin/env bash
# Builds the fuzzers and runs them; takes their inputs from, and packs them into, fuzz/corpus/TARGET.gz.
# docs/fuzzing.md says more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'TEXT'
usage: fuzz/run.sh [TARGET [SECONDS [libFuzzer option...]]]
       fuzz/run.sh pack [TARGET...]

Without a target, each one runs for a short while, as in CI. Inputs that are found lie in fuzz/corpus/TARGET/,
crashes in fuzz/artifacts/. `pack` leaves of the inputs as many as cover what all do, and packs them.
TEXT
}

die() { printf 'fuzz/run.sh: %s\n' "$*" >&2; exit 1; }

# With the seconds that each gets in CI.
targets=(wire=20 argv=4 spec=4 filter=4)
host=$(rustc -vV | sed -n 's/^host: //p')
out=target/fuzz

# As `cargo fuzz build -s none` does, with what the stable compiler has. By --target, or build scripts get the flags.
build() {
    local flags=(--cfg fuzzing -Cpasses=sancov-module -Cdebug-assertions -Ccodegen-units=1)
    local pass=(level=4 inline-8bit-counters pc-table trace-compares)
    RUSTFLAGS="${flags[*]} ${pass[*]/#/-Cllvm-args=-sanitizer-coverage-}" \
        cargo build --quiet --locked --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$out"
}

fuzzer() { printf '%s' "$out/$host/release/$1"; }

# A pack is a list of inputs, each behind its length in two bytes, the low one first; and pressed.
unpack() {
    mkdir -p "fuzz/corpus/$1" fuzz/artifacts
    [ ! -e "fuzz/corpus/$1.gz" ] || gzip -dc "fuzz/corpus/$1.gz" | perl -we '
        my ($dir) = @ARGV;
        local $/;
        binmode STDIN;
        my $at = 0;
        for my $input (unpack "(v/a*)*", <STDIN>) {
            my $name = sprintf "%s/packed-%05d", $dir, $at++;
            open my $out, ">:raw", $name or die "$name: $!";
            print $out $input;
        }' "fuzz/corpus/$1"
}

pack() {
    local few="$out/few-$1"
    rm -rf "$few"
    mkdir -p "$few"
    unpack "$1"
    "$(fuzzer "$1")" -set_cover_merge=1 "$few" "fuzz/corpus/$1" >"$out/log" 2>&1 || { tail "$out/log" >&2; die "cannot merge $1"; }
    perl -we '
        local $/;
        my @inputs = map { open my $in, "<:raw", $_ or die "$_: $!"; scalar <$in> } @ARGV;
        binmode STDOUT;
        @inputs = grep { length() < 65_536 } @inputs;
        print pack "(v/a*)*", sort { length $a <=> length $b or $a cmp $b } @inputs;' "$few"/* | gzip -9n >"$out/packed.gz"
    mv "$out/packed.gz" "fuzz/corpus/$1.gz"
    printf '%s: %d inputs, %d bytes\n' "$1" "$(find "$few" -type f | wc -l)" "$(stat -c %s "fuzz/corpus/$1.gz")"
    rm -rf "fuzz/corpus/$1"
}

# Options: of libFuzzer. Quiet but for the first and the last lines, and what was found.
run() {
    local target=$1 seconds=$2
    shift 2
    unpack "$target"
    [ ! -e "fuzz/$target.dict" ] || set -- "-dict=fuzz/$target.dict" "$@"
    printf '%s, %d s:\n' "$target" "$seconds"
    "$(fuzzer "$target")" "fuzz/corpus/$target" -max_total_time="$seconds" -max_len=1000 -timeout=20 \
        -artifact_prefix="$PWD/fuzz/artifacts/$target-" -print_final_stats=1 "$@" >"$out/log" 2>&1 ||
        { tail -n 60 "$out/log" >&2; die "$target: found something; its input is in fuzz/artifacts, this log in $out/log"; }
    grep -aE 'INITED|DONE|^stat::(number|average|peak)' "$out/log" || tail -n 3 "$out/log"
}

names() {
    if [ $# -gt 0 ]; then printf '%s\n' "$@"; else printf '%s\n' "${targets[@]%=*}"; fi
}

case "${1-}" in
    "")
        build
        for each in "${targets[@]}"; do
            run "${each%=*}" "${each#*=}"
        done
        ;;
    pack)
        build
        for each in $(names "${@:2}"); do
            pack "$each"
        done
        ;;
    wire | argv | spec | filter)
        build
        run "$1" "${2-60}" "${@:3}"
        ;;
    help | -h | --help) usage ;;
    *) usage >&2; exit 2 ;;
esac
