# Programs that users run, for suites.sh. Some need what run.sh puts into $PROGRAMS before a guest boots: packages of Debian, and tests of Go
# as programs.

# ---- rsync, cp ----------------------------------------------------------------------------------

rsync_all() { rsync -aHAXS --numeric-ids --itemize-changes "$@"; }
rsync_into() { rsync_all "$source/" "$here/tree/"; }
rsync_nothing() { is "$(rsync_all "$1/" "$2/")" ""; }
rsync_back() { rsync_all "$here/tree/" "$BACK/rsync-returned/"; tar_same "$BACK/rsync-returned"; }

# What changed, and nothing else, goes over; what is gone goes.
rsync_changes() {
    echo changed >"$source/deep/512"
    mv "$source/deep/er/1" "$source/deep/er/one"
    chmod 600 "$source/deep/er/2"
    rsync_all --delete "$source/" "$here/tree/" | sed 's/^\(.\{11\}\) /\1:/' | grep -v '^\.d' | LC_ALL=C sort >"$scratch/changes"
    diff "$scratch/changes" - <<'LINES'
*deleting  :deep/er/1
.f...p.....:deep/er/2
>f+++++++++:deep/er/one
>f.st......:deep/512
LINES
    tar_same "$here/tree"
}

suite_rsync() {
    source=$BACK/rsync-source
    (tar_tree "$source")
    (cd "$source" && truncate -s 5M sparse && printf x | dd of=sparse bs=1 seek=3000000 conv=notrunc status=none)
    check into rsync_into
    check same tar_same "$here/tree"
    check sparse test "$(stat -c %b "$there/tree/sparse")" -le 64
    check again rsync_nothing "$source" "$here/tree"
    check back rsync_back
    check back_again rsync_nothing "$here/tree" "$BACK/rsync-returned"
    check changes rsync_changes
}

copy_same() { cp -a "$1" "$2"; tar_same "$2"; }

suite_copy() {
    source=$BACK/copy-source
    (tar_tree "$source")
    check into copy_same "$source" "$here/tree"
    check within copy_same "$here/tree" "$here/second"
    check back copy_same "$here/second" "$BACK/copy-returned"
    check update cp -au "$source/." "$here/tree"
    check update_same tar_same "$here/tree"
}

# ---- dpkg ---------------------------------------------------------------------------------------

# A root for dpkg: its database without a package.
dpkg_root() { mkdir -p "$1/var/lib/dpkg/info" "$1/var/lib/dpkg/updates" "$1/var/lib/dpkg/triggers"; : >"$1/var/lib/dpkg/status"; }
dpkg_unpack() { dpkg --root="$1" --force-depends --log=/dev/null --unpack "$PROGRAMS"/*.deb; }

# The packages' own lists of what is in them, on what was unpacked.
dpkg_sums() { cat "$1"/var/lib/dpkg/info/*.md5sums >"$scratch/sums"; (cd "$1" && md5sum --quiet -c "$scratch/sums"); }

dpkg_same() {
    local deb
    mkdir -p "$scratch/plain"
    for deb in "$PROGRAMS"/*.deb; do dpkg-deb -x "$deb" "$scratch/plain"; done
    diff <(dpkg_list "$scratch/plain") <(dpkg_list "$1")
}
dpkg_list() { (cd "$1" && find . -path ./var/lib/dpkg -prune -o ! -type d -printf '%p %y %m %U %G %n %s %T@ %l\n' | sed -E 's/(\.[0-9]+)( |$)/\2/' | LC_ALL=C sort); }

dpkg_remove() {
    dpkg --root="$1" --force-all --log=/dev/null --remove manpages
    fails test -e "$1/usr/share/man/man7/epoll.7.gz"
    is "$(dpkg --root="$1" -l manpages 2>/dev/null | grep -c '^ii\|^iU')" 0
}

# Milliseconds that a command takes.
milliseconds() {
    local begun=${EPOCHREALTIME/./}
    "$@" >&2
    printf '%s\n' $(((${EPOCHREALTIME/./} - begun) / 1000))
}

# The same on the tree by itself, for the time; once before, or one of them alone would read the packages from the host.
dpkg_times() {
    local here_ms there_ms
    there_ms=$(milliseconds dpkg_unpack "$BACK/dpkg-tree")
    here_ms=$(milliseconds dpkg_unpack "$here/timed")
    printf 'dpkg --unpack: %s ms, on the tree by itself %s ms\n' "$here_ms" "$there_ms" >"$OUT/dpkg.measured"
}

suite_dpkg() {
    local root
    for root in root timed; do dpkg_root "$here/$root"; done
    dpkg_root "$BACK/dpkg-tree"
    check unpack dpkg_unpack "$here/root"
    check sums dpkg_sums "$here/root"
    check same dpkg_same "$here/root"
    check host dpkg_same "$there/root"
    check over_itself dpkg_unpack "$here/root"
    check over_itself_same dpkg_same "$here/root"
    check remove dpkg_remove "$here/root"
    check times dpkg_times
}

# ---- PostgreSQL ---------------------------------------------------------------------------------

pg() { (cd "$scratch" && setpriv --reuid postgres --regid postgres --init-groups env HOME="$scratch" "$pg_bin/$1" "${@:2}"); }
pg_sql() { pg psql -h "$scratch" -U postgres -X -q -A -t -v ON_ERROR_STOP=1 "$@" postgres; }

pg_start() {
    pg pg_ctl -D "$pg_data" -w -t 120 -l "$scratch/postgres.log" -o "-k $scratch -c listen_addresses= -c wal_level=minimal -c max_wal_senders=0" start ||
        { tail -n 20 "$scratch/postgres.log"; return 1; }
}

postgres_initdb() { pg initdb -k -D "$pg_data" -U postgres -E UTF8 --locale=C; }
postgres_start() { pg_start; is "$(pg_sql -c 'SELECT 1')" 1; }

postgres_load() {
    pg_sql -c "CREATE TABLE t(id integer PRIMARY KEY, v text); CREATE INDEX ON t(v);
        INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) i; CREATE TABLE acknowledged(id integer PRIMARY KEY, v text);"
    pg_sql -c "UPDATE t SET v = v || 'x' WHERE id % 7 = 0; DELETE FROM t WHERE id % 11 = 0;" -c "VACUUM t"
    is "$(pg_sql -c "SELECT count(*), sum(length(v)) FROM t")" "18182|$((18182 * 32 + 2598))"
}

# Three hundred commits that psql has told of, then kill -9 of the whole server while it goes on.
postgres_killed() {
    local line id last=0
    coproc PSQL { for ((id = 1; ; id++)); do printf "INSERT INTO acknowledged VALUES (%s, md5('%s')) RETURNING id;\n" $id $id; done |
        pg psql -h "$scratch" -U postgres -X -q -A -t postgres 2>/dev/null; }
    exec 8<&"${PSQL[0]}" # bash closes its own when psql has ended
    while read -r line <&8; do
        last=$line
        [ "$last" -lt 300 ] || break
    done
    kill -9 "$(head -n 1 "$pg_data/postmaster.pid")" $(ps -o pid= --ppid "$(head -n 1 "$pg_data/postmaster.pid")")
    # What was told of until it was dead.
    while read -r line <&8; do last=$line; done
    [ "$last" -ge 300 ]
    echo "$last" >"$scratch/last"
}

# Every row that was acknowledged is there, and at most one more; nothing else has changed.
postgres_recovered() {
    local last
    last=$(cat "$scratch/last")
    pg_start
    grep -q 'database system was not properly shut down' "$scratch/postgres.log"
    is "$(pg_sql -c "SELECT count(*) FROM acknowledged WHERE id <= $last AND v = md5(id::text)")" "$last"
    is "$(pg_sql -c "SELECT count(*) <= 1 FROM acknowledged WHERE id > $last")" t
    is "$(pg_sql -c "SELECT count(*), sum(length(v)) FROM t")" "18182|$((18182 * 32 + 2598))"
    is "$(pg_sql -c "SET enable_seqscan = off; SELECT count(*) FROM t WHERE v > ''")" 18182
}

postgres_stop() { pg pg_ctl -D "$pg_data" -w -m fast stop; }
postgres_checksums() { pg pg_checksums --check -D "$pg_data"; }

suite_postgres() {
    pg_bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    pg_data=$here/data
    # Not the mount's: the server's shared memory and its socket.
    mkdir -p /dev/shm
    mount -t tmpfs shm /dev/shm
    chmod 1777 /dev/shm
    mkdir "$pg_data"
    chown postgres:postgres "$pg_data" "$scratch"
    chmod 700 "$pg_data"
    local step
    for step in initdb start load killed recovered stop checksums; do check $step postgres_$step; done
    umount -l /dev/shm
}

# ---- Go's and Python's own tests ----------------------------------------------------------------

# Some of the tests talk to themselves: the guest's 127.0.0.1 is down (SIOCSIFFLAGS with IFF_UP).
loopback_up() { perl -MSocket -e 'socket S, PF_INET, SOCK_DGRAM, 0; my $request = pack "a16 s x14", "lo", 1; ioctl S, 0x8914, $request or die "lo: $!\n"'; }

# go_package PACKAGE: its test program in the folder of its source, with its files on the mount; each of its tests is a case. Two of them, which
# try thousands of combinations of names for minutes, are left out.
go_package() {
    local name=${1##*/} root
    root=$(cat "$PROGRAMS/goroot")
    (cd "$root/src/$1" && TMPDIR=$here/$name GOTMPDIR=$here/$name GOROOT=$root GOCACHE=$scratch/cache "$PROGRAMS/$name.test" -test.v -test.skip "^TestRootMulti(Link|Rename)$" -test.timeout $((LIMIT - 10))s) \
        </dev/null >"$scratch/$name" 2>&1 || true # its lines say it
    cat "$scratch/$name"
    awk -v name="golang::$name." '
        /^=== RUN / { why = "" }
        /^ +[A-Za-z0-9_]+\.go:[0-9]+: / && why == "" { why = $0; sub(/^ +/, "", why); why = substr(why, 1, 200) }
        /^--- PASS: / { print "ok", name $3 }
        /^--- FAIL: / { print "FAIL", name $3, why }
        /^--- SKIP: / { print "skipped", name $3, why }
        /^(PASS|FAIL)$/ { whole = 1 }
        END { exit !whole }
    ' "$scratch/$name" >>"$OUT/results" || result FAIL "$name" "no end: $(tail -n 1 "$scratch/$name" | cut -c1-200)"
}

suite_golang() {
    local package
    loopback_up
    while read -r package; do
        mkdir "$here/${package##*/}"
        go_package "$package"
    done <"$PROGRAMS/gopackages"
}

# The modules' tests in the current directory, each a case.
suite_python() {
    loopback_up
    mkdir -p /dev/pts
    mount -t devpts devpts /dev/pts
    TMPDIR=$here /usr/bin/python3 "$TOP/tests/v9fs/python_tests.py" "$OUT/results" test_os test_pathlib test_shutil test_mailbox
}
