#!/usr/bin/env bash
# Sourced by run.sh: the results of `run.sh all`, kept in the cache folder, a folder for each server, configuration and suite. Its name ends
# in a hash of what the result depends on: what has changed is run again, what has not is not.

kept=$cache/results
declare -A result_key=() # of "SERVER KERNEL SUITE"

# What all suites of a server depend on but the kernel.
common_inputs() {
    say "$limit $steps"
    case $1 in
        gofer) sha256sum <"${GOFER_BIN:-target/gofer}" ;;
        diod) sha256sum <"$(command -v diod)" ;;
    esac
    cat Cargo.lock tests/v9fs/guest.sh tests/v9fs/suites.sh tests/v9fs/mount.rs target/tools/.crates.toml
}

# What one suite depends on beside: its file, and versions of what it runs.
inputs_of() {
    grep -l "^suite_$1() " tests/v9fs/*.sh | xargs -r cat
    case $1 in
        dbench | fio | git | rsync | tar) version_of "$1" ;;
        dpkg) version_of dpkg; ls target/programs ;;
        sqlite) version_of sqlite3 ;;
        stress) version_of stress-ng ;;
        postgres) version_of 'postgresql-[0-9]*' ;;
        python) version_of python3 'libpython3*-testsuite'; cat tests/v9fs/python_tests.py ;;
        golang) go version ;;
        hostile) cat tests/hostile/* ;;
        data) cat tests/v9fs/data.py ;;
    esac
}

# shellcheck disable=SC2016 # dpkg's
version_of() { dpkg-query -W -f '${Package} ${Version} ${Status}\n' "$@" 2>/dev/null || true; }

# Sets result_key for each line of a plan.
set_keys() {
    local line server config names suite kernel
    local -A common=()
    for line in "$@"; do
        read -r server config names <<<"$line"
        kernel=${config%%-*}
        [ -n "${common[$server]-}" ] || common[$server]=$(common_inputs "$server" | sha256sum)
        for suite in server $names; do
            [ -z "${result_key[$server $kernel $suite]-}" ] || continue
            result_key[$server $kernel $suite]=$({
                say "${common[$server]} ${kernel_version[$kernel]}"
                inputs_of "$suite"
            } | sha256sum | cut -c 1-16)
        done
    done
}

# kept_at SERVER CONFIG SUITE: the folder of the result.
kept_at() { printf '%s/%s-%s/%s-%s' "$kept" "$1" "$2" "$3" "${result_key[$1 ${2%%-*} $3]}"; }

# keep SERVER CONFIG SUITE...: what a guest that has ended has to show. A suite that it did not begin is not kept; the one that ran when
# the guest died has failed, unless the guest was killed from outside: then it is not kept either.
keep() {
    local server=$1 config=$2 out=target/v9fs/$1-$2 suite new at
    shift 2
    for suite in "$@" server; do
        case $suite in
            server) [ ! -e "$out/killed" ] || continue ;;
            power) [ -e "$out/seconds" ] || continue ;;
            *)
                [ -e "$out/$suite.log" ] || continue
                grep -q "^[a-zA-Z]* $suite::finished" "$out/results" || [ ! -e "$out/killed" ] || continue
                grep -q "^[a-zA-Z]* $suite::finished" "$out/results" || say "FAIL $suite::finished the guest ended" >>"$out/results"
                ;;
        esac
        mkdir -p "$kept/$server-$config"
        new=$(mktemp -d "$kept/$server-$config/new.XXXXXX")
        grep -E "^[a-zA-Z]+ $([ "$suite" = server ] && say '(server|guest)' || say "$suite")::" "$out/results" >"$new/results" || true
        grep "^$suite " "$out/seconds" >"$new/seconds" 2>/dev/null || true
        say "$commit $(date -u +%F) Linux ${kernel_version[${config%%-*}]}" >"$new/commit"
        [ ! -e "$out/$suite.log" ] || cp "$out/$suite.log" "$new/log"
        [ ! -e "$out/$suite.measured" ] || cp "$out/$suite.measured" "$new/measured"
        at=$(kept_at "$server" "$config" "$suite")
        # Of another guest for other suites of the configuration: its failures are kept.
        [ "$suite" != server ] || sort -u -o "$new/results" <(grep -h '^FAIL ' "$at/results" 2>/dev/null) "$new/results"
        rm -rf "$at"
        mv -T "$new" "$at" 2>/dev/null || rm -rf "$new" # another run was first
    done
    say "$server $config: $*: $(grep -c '^FAIL ' "$out/results") failed; $(cat "$out/total") s"
}

# Puts the kept results of a configuration where a guest would have put them. False if there is none of some suite.
assemble() {
    local server=$1 config=$2 out=target/v9fs/$1-$2 suite at total=0 seconds whole=true
    shift 2
    rm -rf "$out"
    mkdir -p "$out"
    : >"$out/results"
    : >"$out/seconds"
    for suite in "$@" server; do
        at=$(kept_at "$server" "$config" "$suite")
        [ -d "$at" ] || { whole=false; [ "$suite" = server ] || say "FAIL $suite::finished did not run" >>"$out/results"; continue; }
        cat "$at/results" >>"$out/results"
        cat "$at/seconds" >>"$out/seconds"
        [ ! -e "$at/log" ] || cp "$at/log" "$out/$suite.log"
        [ ! -e "$at/measured" ] || cp "$at/measured" "$out/$suite.measured"
    done
    while read -r _ seconds; do total=$((total + seconds)); done <"$out/seconds"
    say "$total" >"$out/total"
    say done >"$out/done"
    $whole
}

# Runs what is not kept; then judges all and prints the table.
run_kept() {
    local line server config names suite todo plan=() good=true count=0
    commit=$(git describe --always --dirty 2>/dev/null || say unknown)
    set_keys "$@"
    mkdir -p "$kept"
    find "$kept" -mindepth 2 -maxdepth 2 -mtime +60 -exec rm -rf {} + # old ones are run again
    for line in "$@"; do
        read -r server config names <<<"$line"
        todo=
        for suite in $names; do
            count=$((count + 1))
            [ -d "$(kept_at "$server" "$config" "$suite")" ] || todo+=" $suite"
        done
        [ -z "$todo" ] || plan+=("$server $config$todo")
    done
    say "$count results; $((count - $(printf '%s\n' "${plan[@]}" | wc -w) + 2 * ${#plan[@]})) of them are in $kept"
    run_guests keep "${plan[@]}"
    for line in "$@"; do
        # shellcheck disable=SC2086 # words
        assemble $line || good=false
        case $line in
            # shellcheck disable=SC2086
            gofer*) judge $line || good=false ;;
        esac
    done
    print_table "$@"
    print_commits "$@"
    print_ours_alone "$@"
    $good
}

# passed_failed OUT SUITE: "38/5", and the skipped ones where there are some.
passed_failed() {
    awk -v suite="$2" '
        index($2, suite "::") == 1 { if ($2 == suite "::finished" && $1 == "ok") next; n[$1]++; any = 1 }
        END { if (!any) printf "-"; else printf "%d/%d", n["ok"], n["FAIL"] }' "$1/results" 2>/dev/null || printf -- -
}

# In Markdown, for the documents: tmpfs, access=client, msize=131072.
print_table() {
    local kernel suite cache row out
    printf '\nEach cell: passed/failed with gofer, then with diod. On tmpfs, access=client, msize=131072.\n'
    for kernel in $kernel_names; do
        [[ " $* " == *" $kernel-tmpfs-"* ]] || continue
        printf '\n| Linux %s | none | mmap | loose | readahead |\n|---|---|---|---|---|\n' "${kernel_version[$kernel]}"
        for suite in $suites; do
            row="| $suite |"
            for cache in none mmap loose readahead; do
                [ $kernel-$cache != 6.1-readahead ] || { row+=" |"; continue; }
                out=$kernel-tmpfs-$cache-client-$([ "$suite" = power ] && say 8192 || say 131072)
                row+=" $(passed_failed "target/v9fs/gofer-$out" "$suite")"
                [[ $own_server == *" $suite "* ]] || row+=", $(passed_failed "target/v9fs/diod-$out" "$suite")"
                row+=" |"
            done
            say "$row"
        done
    done
}

# A result is of the commit that it was run on: a later one that changes nothing that it depends on does not run it again.
print_commits() {
    local line server config names suite
    printf '\nResults, each of the commit, day and kernel when it was run:\n'
    for line in "$@"; do
        read -r server config names <<<"$line"
        for suite in $names; do cat "$(kept_at "$server" "$config" "$suite")/commit" 2>/dev/null || true; done
    done | sort | uniq -c
}

# Failures of ours that diod has not, where both ran: those that expected.txt does not list, and how many it lists for which reason.
print_ours_alone() {
    local line server config names case configs reason why
    printf '\nFailures with gofer that diod has not:\n'
    for line in "$@"; do
        read -r server config names <<<"$line"
        [ "$server" = diod ] || continue
        local -A listed=()
        while read -r case configs reason; do
            # shellcheck disable=SC2053 # the right side is a pattern
            [[ $case && $case != \#* && $config == $configs ]] && listed[$case]=$reason
        done <tests/v9fs/expected.txt
        sed -n 's/^FAIL //p' "target/v9fs/gofer-$config/results" | while read -r case why; do
            ! grep -q "^ok $case\( \|$\)" "target/v9fs/diod-$config/results" || say "$config: ${listed[$case]-$case, NOT LISTED: $why}"
        done
    done | sort | uniq -c
}
