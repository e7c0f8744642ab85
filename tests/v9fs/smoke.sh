# The smoke suite, for suites.sh: each smoke_NAME is a case, in an empty directory of its own on the mount.
# $host is the same directory on the tree that is served, where the server's side can be seen and touched.

suite_smoke() { check_all smoke_; }

host() { printf '%s/%s' "$there" "$(basename "$PWD")"; }
as() { setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"; }
mode_of() { stat -c %a "$1"; }

smoke_write_and_read_back() {
    head -c 300000 /dev/urandom >"$scratch/bytes"
    cp "$scratch/bytes" file
    cmp "$scratch/bytes" file
    sync file
    cmp "$scratch/bytes" "$(host)/file"
    dd if="$scratch/bytes" of=file bs=777 skip=3 seek=5 count=9 conv=notrunc,fsync status=none
    cmp file "$(host)/file"
}

smoke_append_and_truncate() {
    echo one >file
    echo two >>file
    sync file
    is "$(xargs <"$(host)/file")" "one two"
    truncate -s 3 file
    is "$(stat -c %s file)" 3
    truncate -s 10000 file
    is "$(tail -c 9997 file | tr -d '\0' | wc -c)" 0
}

smoke_two_appenders_lose_nothing() {
    for _ in {1..50}; do echo aaaaaaa >>file; done &
    for _ in {1..50}; do echo bbbbbbb >>file; done
    wait $!
    is "$(wc -c <file)" 800
}

smoke_exclusive_create() {
    (set -o noclobber; echo 1 >file)
    fails bash -c 'set -o noclobber; echo 2 >file'
    is "$(cat file)" 1
}

smoke_deleted_open_file() {
    echo first >file
    exec 7<>file
    rm file
    is "$(cat <&7)" first
    echo second >&7
    is "$(stat -L -c '%s %h' /proc/self/fd/7)" "13 0"
    truncate -s 5 /proc/self/fd/7
    chmod 600 /proc/self/fd/7
    is "$(stat -L -c '%s %a' /proc/self/fd/7)" "5 600"
    is "$(cat /proc/self/fd/7)" first
}

smoke_renamed_open_file() {
    mkdir a b
    echo one >a/file
    exec 7<>a/file
    mv a/file b/other
    echo two >&7
    mv b c
    is "$(cat c/other)" two
    is "$(stat -L -c %i /proc/self/fd/7)" "$(stat -c %i c/other)"
}

smoke_rename_over() {
    echo new >new
    echo old >old
    exec 7<old
    mv new old
    is "$(cat old)" new
    is "$(cat <&7)" old
    mkdir full empty full/sub
    fails mv -T empty full
    mv -T full empty
    is "$(ls empty)" sub
}

smoke_links() {
    echo one >file
    ln file hard
    is "$(stat -c %h file)" 2
    is "$(stat -c %i file)" "$(stat -c %i hard)"
    ln -s file soft
    is "$(readlink soft)" file
    is "$(cat soft)" one
    ln -s "$(printf 'x%.0s' {1..1000})" long
    is "$(readlink long | wc -c)" 1001
    ln -P soft soft2
    is "$(readlink soft2)" file
    rm file
    is "$(stat -c %h hard)" 1
}

smoke_fifo_and_socket() {
    mkfifo fifo
    perl -MSocket -e 'socket S, AF_UNIX, SOCK_STREAM, 0; bind S, pack_sockaddr_un("socket") or die "bind: $!\n"'
    is "$(stat -c %F fifo socket | xargs)" "fifo socket"
    is "$(stat -c %F "$(host)"/{fifo,socket} | xargs)" "fifo socket"
    echo through >fifo &
    is "$(cat fifo)" through
    chmod 600 fifo socket
    chown 1:1 socket
    mv fifo fifo2
    is "$(stat -c '%a %u' fifo2 socket | xargs)" "600 0 600 1"
    rm fifo2 socket
}

smoke_devices() {
    mknod null c 1 3
    mknod block b 7 300
    is "$(stat -c '%F %t %T' null block | xargs)" "character special file 1 3 block special file 7 12c"
    is "$(stat -c '%F %t %T' "$(host)"/{null,block} | xargs)" "character special file 1 3 block special file 7 12c"
    echo gone >null
    chown 1:1 null
    rm null block
}

smoke_directories() {
    mkdir -p a/b/c
    is "$(stat -c %h a)" 3
    fails rmdir a
    fails rm a 2>/dev/null
    rmdir a/b/c a/b a
    is "$(ls -A)" ""
}

smoke_listing_of_3000_files() {
    mkdir many
    (cd many && seq 3000 | xargs touch)
    is "$(ls many | wc -l)" 3000
    is "$(find many -type f | wc -l)" 3000 # by the types in the entries
    rm -r many
    fails test -e many
}

smoke_listing_has_types_and_dots() {
    mkdir dir
    : >file
    ln -s file link
    mkfifo fifo
    is "$(perl -e 'opendir D, "."; print join " ", sort readdir D')" ". .. dir fifo file link"
    is "$(find . -mindepth 1 -printf '%y %f\n' | sort | xargs)" "d dir f file l link p fifo"
    is "$(stat -c %i dir/..)" "$(stat -c %i .)"
}

smoke_listing_seeks() {
    seq 500 | xargs touch
    perl -e '
        opendir D, "." or die; my (@at, @name);
        while (1) { push @at, telldir D; my $n = readdir D; last unless defined $n; push @name, $n }
        for (reverse 0 .. $#name) { seekdir D, $at[$_]; my $n = readdir D; $n eq $name[$_] or die "$_: $n, not $name[$_]\n" }
        rewinddir D; my @again = readdir D; "@again" eq "@name" or die "another list after rewinddir\n";
        @name == 502 or die scalar(@name) . " names\n"'
}

smoke_names_of_all_bytes() {
    perl -e 'for (1 .. 255) { next if chr eq "/" or chr eq "."; open my $f, ">", "a" . chr or die "$_: $!\n" } print ""'
    is "$(perl -e 'opendir D, "."; print scalar(grep { !/^\.\.?$/ } readdir D)')" 253
    local long
    long=$(printf 'n%.0s' {1..255})
    echo long >"$long"
    is "$(cat "$long")" long
    is "$(cat "${long}n" 2>&1 | grep -c 'File name too long')" 1
}

smoke_deeper_than_path_max() {
    perl -e 'my $n = "d" x 200; for (1 .. 40) { mkdir $n or die "mkdir $_: $!\n"; chdir $n or die "chdir $_: $!\n" }
        open my $f, ">", "file" or die "open: $!\n"; print $f "deep"; close $f or die "close: $!\n"; -s "file" == 4 or die "size\n"'
    is "$(find . -type f -printf '%s %f')" "4 file"
    rm -r d*
}

smoke_modes_and_owners() {
    : >file
    mkdir dir
    chmod 4751 file
    is "$(mode_of file)" 4751
    chmod 1777 dir
    is "$(mode_of dir)" 1777
    chown 5:6 file
    is "$(stat -c '%u %g %a' file)" "5 6 751"
    ln -s file link
    chown -h 7:8 link
    is "$(stat -c '%u %g' link file | xargs)" "7 8 5 6"
    chmod 000 file
    chown 0:0 file
    touch -d @5 file
    is "$(stat -c '%a %Y' file)" "0 5"
    (umask 077; : >private)
    is "$(mode_of private)" 600
}

smoke_setgid_directory_gives_its_group() {
    mkdir dir
    chown 0:9 dir
    chmod 2755 dir
    : >dir/file
    mkdir dir/sub
    is "$(stat -c '%g %a' dir/sub)" "9 2755"
    is "$(stat -c %g dir/file)" 9
}

smoke_times() {
    : >file
    mkdir dir
    ln -s nowhere link
    touch -a -d @1000 file
    touch -m -d @2000 file
    touch -d @3000 dir
    touch -h -d @4000 link
    is "$(stat -c '%X %Y' file)" "1000 2000"
    is "$(stat -c '%X %Y' dir)" "3000 3000"
    is "$(stat -c %Y link)" 4000
    touch file
    fails test "$(stat -c %Y file)" -le 2000
}

smoke_times_below_a_second() {
    : >file
    touch -d @1000.25 file
    is "$(stat -c %.2Y file)" 1000.25
}

smoke_ctime_and_mtime_move() {
    echo one >file
    touch -d @1000 file
    local before
    before=$(stat -c %.9Z file)
    # The kernel's clock for files has ticks: wait for the next one.
    until touch "$scratch/tick" && [ "$(stat -c %.9Z "$scratch/tick")" != "$before" ]; do :; done
    chmod 600 file
    fails test "$(stat -c %.9Z file)" = "$before"
    is "$(stat -c %Y file)" 1000
    echo two >>file
    fails test "$(stat -c %Y file)" = 1000
}

smoke_xattrs() {
    : >file
    mkdir dir
    local at
    for at in file dir; do
        setfattr -n user.one -v value "$at"
        setfattr -n user.two -v '' "$at"
        is "$(getfattr --only-values -n user.one "$at")" value
        is "$(getfattr -d "$at" 2>/dev/null | grep -c user)" 2
        setfattr -n user.one -v other "$at"
        is "$(getfattr --only-values -n user.one "$(host)/$at")" other
        setfattr -x user.one "$at"
        fails getfattr -n user.one "$at" 2>/dev/null
        fails setfattr -x user.one "$at" 2>/dev/null
    done
    setfattr -n user.big -v "$(printf 'v%.0s' {1..2000})" file
    is "$(getfattr --only-values -n user.big file | wc -c)" 2000
}

# No user attributes there: to be refused as a local file system does.
smoke_xattrs_of_a_symlink() {
    ln -s nowhere link
    is "$(setfattr -h -n user.one -v 1 link 2>&1 | grep -c 'not permitted\|not supported')" 1
    is "$(getfattr -h -d link)" ""
}

smoke_xattr_that_tools_ask_for() {
    cp /bin/true program
    is "$(getfattr -d -m - program | grep -c security.capability)" 0
    is "$(ls -l program | wc -l)" 1
    cp -a program copy
    ./copy
}

# Not served: what tools say of a file system without them, and no more.
smoke_acls() {
    : >file
    getfacl -c file | grep -q '^user::rw-'
    is "$(setfacl -m u:1234:r file 2>&1 | grep -c 'not supported')" 1
    is "$(ls -l file | cut -c 11)" " "
}

smoke_access_of_two_users() {
    chmod 777 .
    as 1234 bash -c 'umask 027; echo mine >file; mkdir dir; ln -s x link; mkfifo fifo'
    is "$(stat -c '%u %g' file dir link fifo | sort -u)" "1234 1234"
    is "$(stat -c '%u %g' "$(host)"/{file,dir,link,fifo} | sort -u)" "1234 1234"
    fails as 4321 cat file 2>/dev/null
    fails as 4321 chmod 777 file 2>/dev/null
    is "$(as 1234 cat file)" mine
    is "$(cat file)" mine
}

smoke_flock() {
    : >file
    exec 7<file
    flock -x 7
    fails flock -n -x file true
    flock -u 7
    flock -n -x file true
    flock -s 7
    flock -n -s file true
    fails flock -n -x file true
    exec 7<&-
    flock -n -x file true
}

# A flock waits until the other one is gone.
smoke_flock_waits() {
    : >file
    exec 7<file
    flock -x 7
    flock -x file echo got >"$scratch/got" 7<&- &
    exec 7<&-
    wait $!
    is "$(cat "$scratch/got")" got
}

lock_tool='
    use Fcntl qw(:DEFAULT :seek); use POSIX ();
    sub lock_on { my ($f, $type, $start, $len) = @_; my $l = pack "s s x4 q q l x4", $type, SEEK_SET, $start, $len, 0; fcntl $f, F_SETLK, $l }
    sub holder { my ($f, $type, $start, $len) = @_; my $l = pack "s s x4 q q l x4", $type, SEEK_SET, $start, $len, 0; fcntl $f, F_GETLK, $l or die "getlk: $!\n"; (unpack "s s x4 q q l", $l)[0] }
    sub child { my $pid = fork // die; if (!$pid) { POSIX::_exit(shift->() ? 0 : 1) } waitpid $pid, 0; $? == 0 }
    sub open_it { open my $f, "+<", shift or die "open: $!\n"; $f }
'

smoke_record_locks() {
    echo 0123456789 >file
    perl -e "$lock_tool"'
        my $f = open_it("file");
        lock_on($f, F_WRLCK, 0, 5) or die "lock: $!\n";
        child(sub { my $g = open_it("file"); !lock_on($g, F_WRLCK, 4, 1) }) or die "taken twice\n";
        child(sub { my $g = open_it("file"); lock_on($g, F_WRLCK, 5, 0) }) or die "the free rest refused\n";
        child(sub { my $g = open_it("file"); holder($g, F_WRLCK, 0, 1) == F_WRLCK }) or die "holder not told\n";
        child(sub { my $g = open_it("file"); holder($g, F_WRLCK, 5, 1) == F_UNLCK }) or die "free, but a holder told\n";
        lock_on($f, F_RDLCK, 0, 5) or die "to a read lock: $!\n";
        child(sub { my $g = open_it("file"); lock_on($g, F_RDLCK, 0, 5) }) or die "two readers refused\n";
        lock_on($f, F_UNLCK, 0, 2) or die "unlock: $!\n";
        child(sub { my $g = open_it("file"); lock_on($g, F_WRLCK, 0, 2) && !lock_on($g, F_WRLCK, 2, 1) }) or die "not split\n"'
}

# A child that closes what it shares with its parent: the lock stays its parent's.
smoke_record_lock_outlives_a_child() {
    echo 1 >file
    perl -e "$lock_tool"'
        my $f = open_it("file");
        lock_on($f, F_WRLCK, 0, 0) or die "lock: $!\n";
        child(sub { close $f }) or die "child\n";
        child(sub { my $g = open_it("file"); !lock_on($g, F_WRLCK, 0, 0) }) or die "released by the child\n"'
}

smoke_record_lock_against_the_host() {
    echo 1 >file
    HOST=$(host)/file perl -e "$lock_tool"'
        my $f = open_it("file");
        lock_on($f, F_WRLCK, 0, 0) or die "lock: $!\n";
        child(sub { my $g = open_it($ENV{HOST}); !lock_on($g, F_WRLCK, 0, 0) }) or die "the host has it too\n";
        close $f;
        my $g = open_it($ENV{HOST});
        lock_on($g, F_WRLCK, 0, 0) or die "not released: $!\n";
        child(sub { my $f = open_it("file"); !lock_on($f, F_WRLCK, 0, 0) }) or die "taken although the host has it\n"'
}

smoke_mapped_reading() {
    cp /bin/bash program
    ./program -c 'exit 7' || is $? 7
}

smoke_mapped_shared_writing() {
    fio --name=map --filename=file --size=64k --bs=4k --rw=write --ioengine=mmap --verify=crc32c --thread >/dev/null
    sync file
    cmp file "$(host)/file"
}

smoke_direct() {
    dd if=/dev/zero of=file bs=4096 count=4 oflag=direct status=none
    is "$(dd if=file bs=4096 iflag=direct status=none | wc -c)" 16384
}

smoke_sparse() {
    truncate -s 1G file
    is "$(stat -c '%s %b' file)" "1073741824 0"
    echo end >>file
    is "$(stat -c %s file)" 1073741828
    sync file
    is "$(tail -c 4 "$(host)/file")" end
}

smoke_allocated() {
    fallocate -l 8192 file
    is "$(stat -c '%s %b' "$(host)/file")" "8192 16"
}

smoke_fsync() {
    dd if=/dev/zero of=file bs=1000 count=3 conv=fsync status=none
    dd if=/dev/zero of=file bs=1000 count=3 conv=fdatasync status=none
    sync file .
}

smoke_statfs() {
    is "$(stat -f -c '%S %b' .)" "$(stat -f -c '%S %b' "$(host)")"
    [ "$SERVER" = none ] || is "$(stat -f -c %t .)" 1021997 # V9FS_MAGIC
    df . >/dev/null
    fails test "$(stat -f -c %a .)" = 0
}

smoke_interrupted_wait() {
    : >file
    exec 7<file
    flock -x 7
    fails timeout -s INT 1 flock -x file true
    flock -u 7
    flock -n -x file true
}

smoke_changes_of_the_host_are_seen() {
    echo one >file
    echo other >"$(host)/other"
    echo longer >"$(host)/file"
    [ "$CACHE" = loose ] || is "$(cat file)" longer
    is "$(cat other)" other
}
