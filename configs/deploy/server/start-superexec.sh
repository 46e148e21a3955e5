#!/bin/sh
# Runs the ServerApp, in a process of its own. Without process isolation and this secret, anyone with the CA's
# certificate could take a ServerApp's task. It ends with code 0 when the secret is wrong: see its log.
set -eu
cd "$(dirname "$0")"
set -a && . ./flower.env && FLWR_HOME="$PWD/flwr" && set +a
umask 077
exec flower-superexec \
  --runtime-api-address @superlink@ --root-certificates ca.crt \
  --superexec-auth-secret-file superexec.secret
