#!/bin/bash
# A first task with curl, then the same sandbox with the command line. With the server running: bash examples/first-task.sh
set -euo pipefail
url="${DELTA_URL:-http://127.0.0.1:8000}"
key="${DELTA_API_KEY:-$(cat "${DELTA_DATA_DIR:-data}/api-key")}"
delta() { "$(dirname "$0")/../packages/cli/bin/delta.mjs" "$@"; }
call() { curl --fail-with-body --silent --show-error -H "Authorization: Bearer $key" "$@"; }

# Make a sandbox.
id=$(call "$url/v1/sandboxes" -d '{"timeoutMs":600000}' | sed 's/.*"id":"\(sbx_[a-z0-9]*\)".*/\1/')
trap 'call -X DELETE "$url/v1/sandboxes/$id"' EXIT
echo "sandbox $id runs"

# Put a file into it, run a command, get the result.
printf '3\n1\n2\n' | call -X PUT --data-binary @- -o /dev/null "$url/v1/sandboxes/$id/files?path=numbers"
call "$url/v1/sandboxes/$id/execs" -d '{"cmd":"sort numbers | paste -sd+ | tee sum"}'
echo
call "$url/v1/sandboxes/$id/files?path=sum"

# The same sandbox through the command line.
delta sandbox exec "$id" 'echo $(($(cat sum)))'
delta sandbox list --metadata none=none >/dev/null
