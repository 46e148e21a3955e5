#!/bin/sh
# Joins the federation as @site@, by outgoing connections only. It retries a wrong address for ever, in silence:
# 'fedsteph doctor site site.yaml' first. After a kill, wait 65 s before the next start: until then the server takes it
# for a second node with the same key and turns it away.
set -eu
cd "$(dirname "$0")"
set -a && . ./flower.env && FLWR_HOME="$PWD/flwr" && PATH="$FLWR_HOME/bin:$PATH" && set +a
umask 077
exec flower-supernode \
  --superlink @address@ --root-certificates ca.crt \
  --auth-supernode-private-key auth.key \
  --node-config "site-config=\"$PWD/site.yaml\"" \
  --isolation process --superexec-auth-secret-file superexec.secret \
  --host 127.0.0.1 --port @site_port@
