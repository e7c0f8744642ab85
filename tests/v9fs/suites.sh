# The suites, for guest.sh: a suite NAME is the function suite_NAME, which runs in a directory of its own below $MOUNT. It is in this file
# or in another one of this folder, which is read for that suite alone: a change there makes the results of others no older.

tools=$TOP/target/tools/bin

# Calls the suite in its directory.
run() {
    suite=$1
    local file
    file=$(grep -l "^suite_$suite() " "$TOP"/tests/v9fs/*.sh) || die "no suite $suite"
    [ "$file" = "$TOP/tests/v9fs/suites.sh" ] || . "$file"
    here=$MOUNT/$suite there=$BACK/$suite scratch=$WORK/$suite
    mkdir -p "$scratch"
    mkdir "$here"
    cd "$here"
    umask 022
    "suite_$suite"
}

# result ok|FAIL CASE [WHY...]
result() {
    local status=$1 name=$2
    shift 2
    printf '%s %s::%s %s\n' "$status" "$suite" "$name" "$*" | sed 's/ *$//' >>"$OUT/results"
}

# A case: a command or function, under set -e in a shell of its own; its last line is the reason if it fails.
check() {
    local name=$1 status=0
    shift
    printf '== %s\n' "$name"
    (set -euo pipefail; "$@") >"$scratch/log" 2>&1 </dev/null &
    wait $! || status=$?
    cat "$scratch/log"
    if [ $status -eq 0 ]; then result ok "$name"; else result FAIL "$name" "$(tail -n 1 "$scratch/log" | cut -c1-200)"; fi
}

# Each function whose name begins so is a case.
check_all() {
    local name
    for name in $(compgen -A function "$1"); do
        mkdir "$here/${name#"$1"}"
        cd "$here/${name#"$1"}"
        check "${name#"$1"}" "$name"
    done
}

is() { [ "$1" = "$2" ] || { printf '%s, not %s\n' "$1" "$2"; return 1; }; }
fails() { ! "$@" || { printf 'did not fail: %s\n' "$*"; return 1; }; }

# ---- pjdfstest, fsx, fio, dbench, stress-ng: other people's -------------------------------------

# NAME  ok|FAILED|skipped, and then lines that begin with a tab, as lines of results.
pjdfstest_results() {
    awk '
        function done() { if (name != "") print status, "pjdfstest::" name, why; name = "" }
        / (ok|FAILED|skipped)$/ { done(); name = $1; status = $NF == "FAILED" ? "FAIL" : $NF; why = ""; next }
        /^\t/ && why == "" { why = substr($0, 2, 160) }
        /^Summary/ { done(); whole = 1 }
        END { done(); exit !whole }
    ' "$1" | sed 's/ *$//' >>"$OUT/results"
}

# Those for a read-only file system go first: they remount it, which other cases prevent by what they leave behind.
suite_pjdfstest() {
    cat >"$scratch/config.toml" <<TOML
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
secondary_fs = "$scratch"
[settings]
naptime = 0.03
allow_remount = true
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
TOML
    chmod 755 "$scratch"
    "$tools/pjdfstest" -c "$scratch/config.toml" -p "$here" erofs | tee "$scratch/erofs" || true
    sed -i '/allow_remount/d' "$scratch/config.toml"
    "$tools/pjdfstest" -c "$scratch/config.toml" -p "$here" | tee "$scratch/rest" || true
    sed -i '/::erofs_/d' "$scratch/rest"
    pjdfstest_results "$scratch/erofs"
    pjdfstest_results "$scratch/rest"
}

fsx_run() {
    cat >"$scratch/fsx.toml"
    "$tools/fsx" -f "$scratch/fsx.toml" -N "${FSX_STEPS-10000}" -S "$1" -P "$scratch" "$here/fsx-$1"
}

# fsx maps shared and writable whatever it does with the map.
fsx_calls() {
    fsx_run 1 <<'TOML'
[weights]
close_open = 1
mapread = 0
mapwrite = 0
read = 10
write = 10
truncate = 3
fsync = 1
fdatasync = 1
sendfile = 2
posix_fadvise = 1
copy_file_range = 1
TOML
}

fsx_mapped() {
    fsx_run 2 <<'TOML'
[weights]
close_open = 1
invalidate = 1
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 3
fsync = 1
TOML
}

suite_fsx() {
    check calls fsx_calls
    check mapped fsx_mapped
}

fio_job() {
    local name=$1
    shift
    fio --name="$name" --directory="$here" --size=4M --bsrange=512-64k --ioengine=psync --randseed=7 --verify=crc32c --verify_fatal=1 \
        --verify_state_save=0 --thread --output="$scratch/fio" "$@" || { cat "$scratch/fio"; grep -m 1 -E '^(verify|fio): ' "$scratch/fio"; return 1; }
}

suite_fio() {
    check sequential fio_job sequential --rw=write --end_fsync=1
    check random fio_job random --rw=randwrite
    check mixed fio_job mixed --rw=randrw --bs=4k --fsync=64
    check appended fio_job appended --rw=write --file_append=1 --nrfiles=4
    check vectored fio_job vectored --rw=randwrite --ioengine=pvsync2
    check jobs fio_job jobs --rw=randwrite --numjobs=4 --size=1M
    check direct fio_job direct --rw=randwrite --direct=1 --bs=4k
    check synchronous fio_job synchronous --rw=randwrite --sync=1 --size=1M
    check mapped fio_job mapped --rw=randwrite --ioengine=mmap --bs=4k
}

suite_dbench() {
    check four_clients dbench -c /usr/share/dbench/client.txt -t 20 -D "$here" 4
    check synchronous dbench -s -S -c /usr/share/dbench/client.txt -t 10 -D "$here" 1
}

stress() {
    stress-ng --temp-path "$here" --verify --timeout 4 "--$1" 1 >"$scratch/stress" 2>&1 || { cat "$scratch/stress"; return 1; }
    cat "$scratch/stress"
    fails grep -E 'fail:|error:' "$scratch/stress"
}

suite_stress() {
    local stressor
    for stressor in access chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl file-ioctl filename flock fpunch fstat getdent hdd io iomix \
        lease link locka lockf lockofd mknod null open readahead rename seek sendfile splice symlink sync-file touch utime xattr; do
        check "$stressor" stress "$stressor"
    done
}

# ---- sqlite3: locks, shared memory, journals ---------------------------------------------------

sql() { sqlite3 -bail -cmd '.timeout 60000' "$@"; }

sqlite_load() {
    is "$(sql "$db" "PRAGMA journal_mode=$mode;")" "$mode"
    sql "$db" "PRAGMA journal_mode=$mode; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) INSERT INTO t SELECT i, randomblob(200) FROM n;"
    is "$(sql "$db" "PRAGMA integrity_check; SELECT count(*) FROM t;" | xargs)" "ok 500"
}

# A shell of sqlite that obeys line by line; answers when it is through with what it was told.
sqlite_start() {
    coproc SQLITE { exec sqlite3 -bail "$db" 2>&1; }
    sqlite_tell "PRAGMA journal_mode=$mode; $1"
}

sqlite_tell() {
    printf '%s\nSELECT "told";\n' "$1" >&"${SQLITE[1]}"
    local line
    while read -r line <&"${SQLITE[0]}"; do [ "$line" != told ] || return 0; printf '%s\n' "$line"; done
    return 1
}

# Killed in the middle of a transaction that has reached the file, where the journal can take it back.
sqlite_killed() {
    local spill='PRAGMA cache_size=5;'
    case $mode in off | memory) spill= ;; esac
    sqlite_start "$spill BEGIN; UPDATE t SET v = randomblob(200); DELETE FROM t WHERE id > 400;"
    kill -9 "$SQLITE_PID"
    wait "$SQLITE_PID" || true
    is "$(sql "$db" "PRAGMA integrity_check; SELECT count(*) FROM t;" | xargs)" "ok 500"
}

# One holds the write lock: the other is told so at once, and may write after it.
sqlite_excluded() {
    sqlite_start "BEGIN IMMEDIATE; UPDATE t SET v = 1 WHERE id = 1;"
    fails sqlite3 "$db" "UPDATE t SET v = 2 WHERE id = 1;" 2>"$scratch/told"
    grep -q 'database is locked' "$scratch/told"
    sqlite_tell "COMMIT;"
    sql "$db" "UPDATE t SET v = v + 10 WHERE id = 1;"
    sqlite_tell "UPDATE t SET v = v + 100 WHERE id = 1;"
    is "$(sql "$db" "SELECT v FROM t WHERE id = 1;")" 111
}

sqlite_increments() {
    { echo "PRAGMA journal_mode=$mode;"; for ((i = 0; i < $1; i++)); do echo "BEGIN IMMEDIATE; UPDATE c SET n = n + 1; COMMIT;"; done; } | sql "$db"
}

sqlite_two_writers() {
    sql "$db" "CREATE TABLE c(n INTEGER); INSERT INTO c VALUES (0);"
    sqlite_increments 25 &
    sqlite_increments 25
    wait $!
    is "$(sql "$db" "PRAGMA integrity_check; SELECT n FROM c;" | xargs)" "ok 50"
}

suite_sqlite() {
    local mode
    for mode in delete truncate persist memory off wal; do
        db=$here/$mode.db
        check "$mode-load" sqlite_load
        check "$mode-killed-writer" sqlite_killed
        check "$mode-excluded" sqlite_excluded
        check "$mode-two-writers" sqlite_two_writers
    done
}

# ---- git, tar -----------------------------------------------------------------------------------

git_quiet() { git -c user.name=v9fs -c user.email=v9fs@localhost -c safe.directory='*' -c init.defaultBranch=main -c gc.autoDetach=false "$@"; }

git_commits() {
    git_quiet init -q repo
    cd repo
    local i
    for i in 1 2 3 4 5; do
        mkdir -p "dir $i"
        for name in one two three; do printf '%s %s\n' "$name" "$i" >"dir $i/$name"; done
        ln -sf "dir $i/one" link
        [ "$i" -ne 3 ] || chmod +x "dir 1/one"
        git_quiet add -A
        git_quiet commit -q -m "commit $i"
    done
    git_quiet mv "dir 2" moved
    git_quiet commit -q -m renamed
    is "$(git_quiet status --porcelain)" ""
    is "$(git_quiet rev-list --count HEAD)" 6
}

git_gc() { cd repo; git_quiet gc -q --prune=now; git_quiet repack -a -d -q; is "$(git_quiet rev-list --count HEAD)" 6; }
git_fsck() { git_quiet -C repo fsck --full --strict; }
git_branches() {
    cd repo
    git_quiet switch -q -c side HEAD~3
    echo side >side
    git_quiet add side
    git_quiet commit -q -m side
    git_quiet switch -q main
    git_quiet merge -q --no-edit side
    git_quiet stash list
    is "$(cat side)" side
}
git_worktree() { git_quiet -C repo worktree add -q ../tree side; is "$(git_quiet -C tree status --porcelain)" ""; git_quiet -C repo worktree remove ../tree; }
git_clone_local() { git_quiet clone -q repo copy; is "$(git_quiet -C copy rev-parse main)" "$(git_quiet -C repo rev-parse main)"; }
git_clone_project() {
    git_quiet clone -q --no-local "$TOP" project
    git_quiet -C project fsck
    is "$(git_quiet -C project status --porcelain)" ""
    is "$(git_quiet -C project rev-parse HEAD)" "$(git_quiet -C "$TOP" rev-parse HEAD)"
}

suite_git() {
    local step
    for step in commits gc fsck branches worktree clone_local clone_project; do check "$step" "git_$step"; done
}

# A tree with one of each, made at $1.
tar_tree() {
    mkdir "$1"
    cd "$1"
    local i
    mkdir -p deep/er/and/deeper empty "with space" sticky setgid
    chmod 1777 sticky
    chmod 2755 setgid
    for i in 0 1 511 512 513 4096 65536 300000; do head -c "$i" /dev/urandom >"deep/$i"; done
    for i in 000 400 644 755 4755 2711; do : >"mode-$i"; chmod "$i" "mode-$i"; done
    for i in {1..200}; do echo "$i" >"deep/er/$i"; done
    : >owned
    chown 1:2 owned
    ln deep/4096 deep/er/hard
    ln -s ../nowhere dangling
    ln -s "$(printf 'x%.0s' {1..255})" long-target
    chown -h 3:4 dangling
    : >"$(printf 'n%.0s' {1..255})"
    : >$'\001\n\t\\*?"\377'
    mkfifo fifo
    [ "$BACKING" = tmpfs ] || setfattr -n user.tag -v value owned deep # which tmpfs has not
    touch -h -d @1000000000 dangling owned
    find . -type d -exec touch -d @1200000000 {} +
}

# All that tar keeps, a line each.
tar_list() {
    cd "$1"
    find . -printf '%p %y %m %U %G %n %T@ %l' \( -type d -printf '\n' -o -printf ' %s\n' \) | sed -E 's/(\.[0-9]+)( |$)/\2/' | LC_ALL=C sort
    find . -type f -exec sha256sum {} + | sort
    getfattr -R -P -h -d . | grep -v '^$'
}

tar_copy() { tar -C "$1" --numeric-owner --xattrs --xattrs-include='user.*' -cf - . | tar -C "$2" --numeric-owner --xattrs --xattrs-include='user.*' -xpf -; }
tar_into() { tar_copy "$source" "$here"; }
tar_same() { diff <(tar_list "$source") <(tar_list "$1"); }
tar_back() {
    mkdir "$BACK/returned"
    tar_copy "$here" "$BACK/returned"
    tar_same "$BACK/returned"
}
tar_remove() { rm -rf "${here:?}"/*; is "$(find "$here" -mindepth 1)" ""; }

suite_tar() {
    source=$BACK/source # on the tree's own file system, for what that keeps
    (tar_tree "$source")
    check into tar_into
    check same tar_same "$here"
    check back tar_back
    check host tar_same "$there"
    check remove tar_remove
}

# ---- tests/hostile: what needs more descriptors than most hosts give -----------------------------

# Starts a gofer of its own; the last line is what was measured, or why it failed.
hostile_test() {
    local status=0
    TMPDIR=$scratch "$TOP/target/hostile" --exact --nocapture --ignored "$1" 2>"$scratch/told" || status=$?
    grep -v '^note: ' "$scratch/told"
    return $status
}

suite_hostile() {
    local tests name
    tests=$("$TOP/target/hostile" --list --ignored --format terse | sed -n 's/: test$//p' | grep .)
    for name in $tests; do
        check "${name##*::}" hostile_test "$name"
        tail -n 1 "$scratch/log" >>"$OUT/$suite.measured"
    done
}
