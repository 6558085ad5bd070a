#!/bin/sh
# Makes .venv ready, or finds at once that it is.
#
# usage: [PYTHON=...] [TORCH_INDEX=...] sh scripts/setup_venv.sh core|dev|bench|sweep
#
# .venv/.setup is written last and holds four lines: what the set-up depends on (checksum of pyproject.toml and
# constraints.txt, and this directory, since an environment cannot be moved), the prefix of the interpreter, the
# index torch came from, and the extras. Without that file the environment is half-made and is made anew.
# Checksums rather than time stamps, because git gives every file of a checkout a new time.
set -eu

venv=.venv
record=$venv/.setup
extra=${1:?usage: setup_venv.sh core|dev|bench|sweep}
root=$(pwd)
inputs="$(cat pyproject.toml constraints.txt | cksum) $root"
asked_index=${TORCH_INDEX:-}

say() { printf '%s\n' "$*"; }
line() { sed -n "$1p" "$record"; }
prefix() { "$1" -c 'import sys; print(sys.base_prefix)' 2>/dev/null; }

known_inputs= known_prefix= known_index= extras=
if [ -f "$record" ] && "$venv/bin/python" -c 'import sys' >/dev/null 2>&1; then
    known_inputs=$(line 1) known_prefix=$(line 2) known_index=$(line 3) extras=$(line 4)
fi

# An environment of another place, interpreter or torch build cannot be mended by pip: it is made anew.
python=
fresh=no
case $known_inputs in
*" $root") ;;
*) fresh=yes ;;
esac
if [ -n "$asked_index" ] && [ "$asked_index" != "$known_index" ]; then fresh=yes; fi
if [ $fresh = no ] && [ -n "${PYTHON:-}" ]; then
    python=$(sh scripts/find_python.sh)
    [ "$(prefix "$python")" = "$known_prefix" ] || fresh=yes
fi

if [ $fresh = no ] && [ "$known_inputs" = "$inputs" ]; then
    case " $extras " in *" $extra "*) exit 0 ;; esac
fi

index=${asked_index:-$known_index}
rm -f "$record"
if [ $fresh = yes ]; then
    [ -n "$python" ] || python=$(sh scripts/find_python.sh)
    known_prefix=$(prefix "$python")
    extras=core
    [ ! -e "$venv" ] || say "Set-up: $venv is incomplete or was made for something else; it is replaced."
    say "Set-up: new environment in $venv with $("$python" --version) ($python)."
    rm -rf "$venv"
    "$python" -m venv "$venv"
else
    say "Set-up: bringing $venv up to date."
fi
case " $extras " in *" $extra "*) ;; *) extras="$extras $extra" ;; esac

pip() {
    PYTHONPATH='' "$venv/bin/python" -m pip --disable-pip-version-check "$@" || {
        say "error: the set-up stopped in pip (message above). The next make starts it anew. Without a network," \
            "point pip at a local index (PIP_INDEX_URL or PIP_FIND_LINKS)." >&2
        exit 1
    }
}
pinned() { sed -n "s/^\($1==[^ ]*\).*/\1/p" constraints.txt; }

# The build tools come first and pinned, so that builds (this package, and ANTLR's runtime, which Hydra needs and
# which exists as source only) need no environments of their own.
pip install --quiet -c constraints.txt hatchling editables setuptools

if [ -n "$index" ]; then
    say "Set-up: torch from $index."
    torch=$(pinned torch)
    case " $extras " in *" bench "*) torch="$torch $(pinned torchvision)" ;; esac
    # --index-url alone: only this index may answer. The dependencies follow below, with the pins.
    # shellcheck disable=SC2086  # two requirements, two words
    pip install --quiet --no-deps --index-url "$index" $torch
    set -- --extra-index-url "$index"
else
    set --
    if [ $fresh = yes ] && [ "$(uname -s)" = Linux ]; then
        say "Set-up: on Linux the torch of PyPI is the CUDA build, a download of several GB. For the CPU build stop" \
            "here and use: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    fi
fi

say "Set-up: installing the versions pinned in constraints.txt (a few minutes the first time)."
list=$(printf '%s\n' $extras | grep -vx core | paste -s -d , -)
pip install --quiet --no-build-isolation -c constraints.txt "$@" -e ".${list:+[$list]}"

"$venv/bin/python" -c 'import hydra, rich, scipy, sklearn, torch, wandb, hybridopt' || {
    say "error: the packages are installed but cannot be imported (message above). Try another torch build for" \
        "this machine with TORCH_INDEX=..., or another interpreter with PYTHON=..." >&2
    exit 1
}
printf '%s\n' "$inputs" "$known_prefix" "$index" "$extras" >"$record"
say "Set-up: done."
