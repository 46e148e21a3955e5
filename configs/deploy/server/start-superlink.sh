#!/bin/sh
# The SuperLink: relays messages between the ServerApp and the sites. Loopback only; the proxy lets the Fleet API out.
# Killed and back within half a minute, with its database, it goes on with the runs that it had.
set -eu
cd "$(dirname "$0")"
set -a && . ./flower.env && FLWR_HOME="$PWD/flwr" && set +a
umask 077   # the database is made readable to everyone otherwise
mkdir -p logs
exec flower-superlink \
  --host @superlink_host@ --port @superlink_port@ \
  --ssl-ca-certfile ca.crt --ssl-certfile server.crt --ssl-keyfile server.key \
  --enable-supernode-auth \
  --database superlink.db \
  --log-file logs/superlink.log --log-rotation-interval-hours 24 --log-rotation-backup-count 90 \
  --isolation process --superexec-auth-secret-file superexec.secret \
  --disable-runtime-dependency-installation
