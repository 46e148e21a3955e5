#!/bin/sh
# Runs the ClientApp of @site@, in a process of its own. Without this secret, anyone on this machine could take the
# SuperNode's tasks. The connection stays on this machine.
set -eu
cd "$(dirname "$0")"
set -a && . ./flower.env && FLWR_HOME="$PWD/flwr" && PATH="$FLWR_HOME/bin:$PATH" && set +a
umask 077
# Without the guard, Flower would run the code that the server sends.
test "$(command -v flwr-clientapp)" = "$FLWR_HOME/bin/flwr-clientapp" ||
  { echo "no reviewed app in $FLWR_HOME: 'fedsteph app install' it first" >&2; exit 1; }
exec flower-superexec \
  --runtime-api-address 127.0.0.1:@site_port@ --insecure \
  --superexec-auth-secret-file superexec.secret
