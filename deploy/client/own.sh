#!/bin/sh
# Gives each compartment its own files, and takes them from everybody else. Run as root after init, keys and approve:
#   own.sh [SITE-FOLDER [STATE-FOLDER [LINK COURIER AGENT]]]     (users by name or number; AGENT as user:group)
set -eu
site=${1:-/etc/polyclinic}
state=${2:-/var/lib/polyclinic}
link=${3:-polyclinic-link}
courier=${4:-polyclinic-courier}
agent=${5:-polyclinic-agent:polyclinic-relay}

chown -R "$link" "$site/keys/link"
chown -R "$courier" "$site/keys/courier"
chown -R "$agent" "$site/keys/agent" "$state"
chmod -R u=rwX,go= "$site/keys/link" "$site/keys/courier" "$site/keys/agent" "$state"
chmod 0711 "$site/keys"
chmod 0644 "$site/site.toml"
