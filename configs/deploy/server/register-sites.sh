#!/bin/sh
# Tells the running SuperLink which nodes may connect: one public key per site, in nodes/. Once per site; a key that
# was unregistered can never be registered again (make the site a new one).
set -eu
cd "$(dirname "$0")"
set -a && . ./flower.env && FLWR_HOME="$PWD/flwr" && set +a
failed=0
for key in nodes/*.pub; do
  site=$(basename "$key" .pub)
  answer=$(flwr supernode register "$key" fedsteph --name "$site" --format json) || true
  case $answer in   # its exit code is 0 whatever happened
    *'"success": true'*)
      echo "$site: registered"
      # Flower's id of the node: 'fedsteph status' knows the site by it before its first run.
      printf '%s\n' "$answer" | sed -n 's/.*"node-id": *"\{0,1\}\([0-9][0-9]*\).*/\1/p' > "nodes/$site.id" ;;
    *'already in use'*) echo "$site: this key was registered before" ;;
    *) echo "$site: not registered: $answer" >&2; failed=1 ;;
  esac
done
exit $failed
