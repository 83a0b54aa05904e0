#!/bin/sh
# The servers and the sandbox some tests need. With CI or SERVERS=1, as root on Debian, they are installed; otherwise say what
# is skipped.
set -eu
PACKAGES="slurmctld slurmd slurm-client munge slurmdbd mariadb-server chromium bubblewrap"
missing=
for pair in slurmctld:slurmctld sbatch:slurm-client munged:munge slurmdbd:slurmdbd mariadbd:mariadb-server chromium:chromium bwrap:bubblewrap; do
    PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
if [ -n "${CI:-}${SERVERS:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $PACKAGES >/dev/null
else
    echo "tests that need them are skipped; missing:$missing"
    echo "to run them, as root on Debian: SERVERS=1 make test"
fi
