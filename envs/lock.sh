#!/bin/sh
# Resolve every environment anew into its lock files: sh envs/lock.sh   (needs uv: pip install uv)
# A lock holds everything but torch; torch-ENV.txt is installed before it.
set -eu
cd "$(dirname "$0")/.."
compile() { # environment, python, torch version, extras…
    glibc=2_28; [ "$1" = dev ] && glibc=2_31 # nvidia-resiliency-ext has no wheel for an older one
    environment=$1 python=$2 torch=$3; shift 3
    out=envs/$environment-py$(echo "$python" | tr -d .).lock
    constraint=$(mktemp)
    echo "torch==$torch" >"$constraint"
    case $environment in dev | driver) grep -E '^[A-Za-z0-9]' "envs/cpu-py$(echo "$python" | tr -d .).lock" | sed 's/ \\$//' >>"$constraint" ;; esac
    extras=; for extra in "$@"; do extras="$extras --extra $extra"; done
    # shellcheck disable=SC2086
    uv pip compile pyproject.toml $extras --python-version "$python" --python-platform x86_64-manylinux_$glibc \
        --constraint "$constraint" --generate-hashes --no-emit-package torch --no-emit-package transformer-engine --no-emit-package transformer-engine-cu13 --no-annotate --no-header --quiet -o "$out" --upgrade
    rm -f "$constraint"
    echo "$out: $(grep -c == "$out") packages"
}
for python in 3.11 3.12; do
    compile cpu $python 2.13.0 train deepspeed data rewards evaluate
    compile driver $python 2.13.0
    compile dev $python 2.13.0 train deepspeed data rewards evaluate dev
done
compile gpu 3.12 2.11.0 train deepspeed data rewards evaluate gpu
