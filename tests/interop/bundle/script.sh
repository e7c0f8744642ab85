#!/bin/sh
# Runs inside of a bundle: script.sh DIR [READ-ONLY-DIR]. Works on DIR, which the host compares afterwards; every
# step that must fail is tried too. The last line is "done N steps".
set -eu
umask 022
dir=$1 readonly=${2-} steps=0

ok() { steps=$((steps + 1)); }
fail() { echo "fault: $*"; exit 1; }
refused() { if "$@" 2>/dev/null; then fail "not refused: $*"; fi; ok; }

cd "$dir"
mkdir work work/sub && chmod 1777 work/sub && ok
echo alpha >work/a && [ "$(cat work/a)" = alpha ] && ok
echo beta >>work/a && [ "$(wc -l <work/a)" -eq 2 ] && ok
ln work/a work/hard && [ "$(stat -c %h work/a)" -eq 2 ] && ok
ln -s ../a work/sub/soft && [ "$(cat work/sub/soft)" = "$(cat work/a)" ] && ok
mv work/hard work/sub/harder && [ ! -e work/hard ] && ok
mv work/sub moved && [ "$(cat moved/harder)" = "$(cat work/a)" ] && ok
chmod 751 work/a && [ "$(stat -c %a moved/harder)" = 751 ] && ok
dd if=/dev/zero bs=65536 count=40 2>/dev/null | tr '\0' x >work/big && [ "$(stat -c %s work/big)" -eq 2621440 ] && ok
truncate -s 1000003 work/big && [ "$(wc -c <work/big)" -eq 1000003 ] && ok
truncate -s 4096 work/a && [ "$(stat -c %s moved/harder)" -eq 4096 ] && ok
echo old >work/over && echo new >work/new && mv work/new work/over && [ "$(cat work/over)" = new ] && ok
echo x >work/x.dated && touch -d '2009-02-13 23:31:30' work/x.dated && ok
mkdir gone && echo f >gone/f && rm gone/f && rmdir gone && [ ! -e gone ] && ok
exec 3<>work/held && rm work/held && echo kept >&3 && exec 3>&- && [ ! -e work/held ] && ok
refused mkdir work
refused rmdir moved
refused cat none
refused ln -s x work/a
name=$(printf '%0255d' 0) && echo long >"work/$name" && [ "$(cat "work/$name")" = long ] && ok
refused sh -c ": >work/${name}0"
(cd work && for i in 1 2 3 4; do (j=0; while [ $j -lt 50 ]; do echo $i >p$i-$j; j=$((j + 1)); done) & done; wait) && [ "$(ls work | grep -c '^p[1-4]-')" -eq 200 ] && ok

# The tar of 10,000 files, compared by what the host says that it holds.
mkdir unpacked && tar -xf /input.tar -C unpacked && ok
(cd unpacked && find . -type f | sort | xargs sha256sum) >sums && cmp sums /input.sums && ok
[ "$(find unpacked -type l | wc -l)" -eq 200 ] && ok
tar -cf again.tar -C unpacked . && mkdir again && tar -xf again.tar -C again && rm again.tar && ok
(cd again && find . -type f | sort | xargs sha256sum) | cmp - /input.sums && rm -r again && ok
find unpacked -name '*7' -type f | xargs rm && [ "$(find unpacked -name '*7' -type f | wc -l)" -eq 0 ] && ok

if [ -n "$readonly" ]; then
    [ "$(cat "$readonly/there")" = there ] && ok
    refused sh -c ": >$readonly/new"
    refused sh -c ": >$readonly/there"
    refused mkdir "$readonly/dir"
    refused rm "$readonly/there"
    refused mv "$readonly/there" "$readonly/here"
    refused chmod 600 "$readonly/there"
    refused sh -c ": >/new"
    refused mkdir /dir
    refused rm /script.sh
fi
if [ -x /bin/sqlite3 ]; then
    /bin/sqlite3 base.db 'create table t (n integer, text); with recursive c(n) as (select 1 union all select n + 1 from c where n < 5000) insert into t select n, hex(n) from c;'
    [ "$(/bin/sqlite3 base.db 'select count(*) || " " || sum(n) from t')" = "5000 12502500" ] && ok
    /bin/sqlite3 base.db 'delete from t where n % 2; vacuum; pragma integrity_check' | grep -qx ok && ok
    /bin/sqlite3 base.db .dump >base.sql && rm base.db && ok
fi
echo "done $steps steps"
