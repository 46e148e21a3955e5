#!/bin/sh
# Tells this hospital's own monitoring how @site@ is doing; the health section of site.yaml says where.
set -eu
cd "$(dirname "$0")"
exec @bin@/fedsteph health site.yaml
