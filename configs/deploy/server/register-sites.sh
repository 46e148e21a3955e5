#!/bin/sh
# Tells the running SuperLink which nodes may connect: one public key per site, in nodes/. Once per site; a key that
# was unregistered can never be registered again (make the site a new one).
set -eu
cd "$(dirname "$0")"
set -a && . ./flower.env && set +a
for key in nodes/*.pub; do
  flwr supernode register "$key" fedsteph --name "$(basename "$key" .pub)"
done
