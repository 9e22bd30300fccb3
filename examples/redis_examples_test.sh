#!/bin/sh
# redis_examples_test.sh <folder of the examples>: runs those that need Redis, with a server of its own on a Unix
# socket. The exit code is 77 if there is no redis-server.
set -eu
examples=$1
command -v redis-server >/dev/null || exit 77

home=$(mktemp -d)
server= worker=
end() {
  [ -z "$worker" ] || kill "$worker" 2>/dev/null || :
  [ -z "$server" ] || kill "$server" 2>/dev/null || :
  wait
  rm -rf "$home"
}
trap end EXIT

: >"$home/redis.log"
redis-server --port 0 --unixsocket "$home/redis.sock" --save '' --appendonly no --dir "$home" >"$home/redis.log" 2>&1 &
server=$!
url=redis-socket://$home/redis.sock
tries=0
until grep -q 'Ready to accept\|ready to accept' "$home/redis.log"; do
  tries=$((tries + 1))
  [ $tries -lt 100 ] || { cat "$home/redis.log"; exit 1; }
  sleep 0.1
done

"$examples/redis_worker" "$url" >"$home/worker.out" 2>"$home/worker.err" &
worker=$!
"$examples/redis_producer" "$url" 500
kill -TERM $worker
wait $worker || { cat "$home/worker.err"; exit 1; }
worker=
grep -q '^500 tasks done$' "$home/worker.out" || { cat "$home/worker.out" "$home/worker.err"; exit 1; }

"$examples/indexer" --broker "$url" --limit 300
echo 'the Redis examples did their work'
