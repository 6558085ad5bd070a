#!/bin/sh
# Prints the absolute path of the first Python that can carry the environment; says on stderr why others cannot.
#
# usage: [PYTHON=name-or-path] sh scripts/find_python.sh
#
# Each candidate is started, not just looked up: a version manager leaves shims on PATH for versions that it
# then refuses to run. Exit status 1, with one paragraph that names the remedy, when none fits.

probe='
import sys
if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 13):
    print("range", "{} {}.{}.{}".format(sys.implementation.name, *sys.version_info[:3]), sep="|")
    sys.exit(0)
try:
    import ensurepip, venv
except ImportError:
    print("venv", "{}.{}".format(*sys.version_info[:2]), sep="|")
else:
    # Not sys.executable: inside an activated environment that one may be about to be removed.
    print("ok", getattr(sys, "_base_executable", None) or sys.executable, sep="|")
'

say() { printf '%s\n' "$*" >&2; }

without_venv=
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    answer=$("$candidate" -c "$probe" </dev/null 2>/dev/null) || answer=
    asked=no
    [ "$candidate" = "${PYTHON:-}" ] && asked=yes
    case $answer in
    "ok|"*)
        printf '%s\n' "${answer#*|}"
        exit 0
        ;;
    "venv|"*)
        version=${answer#*|}
        [ -n "$without_venv" ] || without_venv=$version
        say "$candidate is Python $version but lacks the venv module, so it cannot make an environment." \
            "On Debian or Ubuntu: sudo apt install python$version-venv (or python3-venv)."
        ;;
    "range|"*)
        [ $asked = no ] || say "PYTHON=$candidate is ${answer#*|}; hybridopt needs CPython 3.11 to 3.13. Trying others."
        ;;
    *)
        [ $asked = no ] || say "PYTHON=$candidate does not run. Trying others."
        ;;
    esac
done

if [ -n "$without_venv" ]; then
    say "error: Python $without_venv is here, but its venv module is missing. Install it (Debian, Ubuntu:" \
        "sudo apt install python$without_venv-venv) and run the same make command again, or name another" \
        "interpreter: make demo PYTHON=/path/to/python3.12"
else
    say "error: no suitable Python. hybridopt needs CPython 3.11, 3.12 or 3.13; none of python3, python3.13," \
        "python3.12, python3.11 on PATH runs and is in that range. Install one (for example:" \
        "sudo apt install python3 python3-venv, or brew install python@3.12), or name it:" \
        "make demo PYTHON=/path/to/python3.12"
fi
exit 1
