#!/bin/sh
# Tells your own monitoring how this server is doing; the health section of server.yaml says where.
set -eu
cd "$(dirname "$0")"
exec @bin@/fedsteph health .
