# Sourced by scripts/demo and scripts/test: the project's virtual environment, built once and reused.
# It is rebuilt when pyproject.toml changes. PYTHON names another interpreter than python3.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "Python 3.10 or newer is needed, $python is $("$python" -V): name another with PYTHON=..." >&2
    exit 1
}
wanted=$(cksum < "$root/pyproject.toml")
if [ "$(cat "$venv/.installed" 2> /dev/null || true)" != "$wanted" ]; then
    echo "Setting up the environment in $venv (some minutes, once)"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[dev]"
    echo "$wanted" > "$venv/.installed"
fi
export PATH="$venv/bin:$PATH"
