#!/bin/sh
# Runs the ClientApp of @site@, in a process of its own. Without this secret, anyone on this machine could take the
# SuperNode's tasks. The connection stays on this machine.
set -eu
cd "$(dirname "$0")"
set -a && . ./flower.env && set +a
umask 077
exec flower-superexec \
  --runtime-api-address 127.0.0.1:@site_port@ --insecure \
  --superexec-auth-secret-file superexec.secret
