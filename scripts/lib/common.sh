# Shared by the scripts: where things are, how they speak, and the local cluster's processes.
# Sourced by bash scripts that run under `set -euo pipefail`.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034 # for the scripts that source this file
LOCAL_DIR="$ROOT/.local"
# shellcheck disable=SC2034
LOCAL_NODES="1 2 3"

say() {
    printf '%s\n' "$*"
}

warn() {
    printf '%s\n' "$*" >&2
}

fail() {
    warn "${0##*/}: $*"
    exit 1
}

# Prints the comment block at the top of the calling script: its help text.
usage() {
    sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
}

jobs_count() {
    nproc 2>/dev/null || echo 2
}

# --- the local cluster -------------------------------------------------------------------------

node_dir() {
    printf '%s/node-%s' "$LOCAL_DIR" "$1"
}

node_config() {
    printf '%s/node-%s/invoke-kvd.conf' "$LOCAL_DIR" "$1"
}

node_log() {
    printf '%s/node-%s/invoke-kvd.log' "$LOCAL_DIR" "$1"
}

node_pid_file() {
    printf '%s/node-%s/invoke-kvd.pid' "$LOCAL_DIR" "$1"
}

# Last value of a key in a node's configuration file.
node_setting() {
    sed -n "s/^[[:space:]]*$2[[:space:]]*=[[:space:]]*\\([^#[:space:]]*\\).*/\\1/p" \
        "$(node_config "$1")" | tail -n 1
}

node_client_port() {
    local listen
    listen=$(node_setting "$1" listen)
    printf '%s' "${listen##*:}"
}

# Process id of a node when it is ours and runs, else nothing. A pid file alone proves nothing: after
# a crash or a reboot its number may belong to any other program, so the process must have been
# started with this very configuration file.
node_pid() {
    local file pid
    file=$(node_pid_file "$1")
    [ -r "$file" ] || return 0
    pid=$(tr -cd '0-9' <"$file")
    [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] || return 0
    if tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -- "$(node_config "$1")" &&
        tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | head -n 1 | grep -q 'invoke-kvd$' &&
        [ "$(process_state "$pid")" != Z ]; then
        printf '%s' "$pid"
    fi
}

# One letter, as in ps(1); empty when the process is gone.
process_state() {
    sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null || true
}
