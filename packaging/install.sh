#!/usr/bin/env bash
# Puts UPMT-NF on a host, or takes it off: `make install`, `make uninstall`, with PREFIX=/usr/local by default.
# A virtual environment of its own holds the program and its libraries, so that neither the distribution's Python nor
# another program's versions are touched. Every other file is listed in $LIBRARY/installed and removed by that list.
set -euo pipefail

prefix=${PREFIX:-/usr/local}
python=${PYTHON:-python3}
tree=$(cd "$(dirname "$0")/.." && pwd)
library=$prefix/lib/upmt
list=$library/installed
work=$(mktemp -d)
new_list=$work/installed
trap 'rm -rf -- "$work"' EXIT

die() { echo "$*" >&2; exit 1; }

reload_systemd() {
  if [ -d /run/systemd/system ] && command -v systemctl >/dev/null; then systemctl daemon-reload; fi
}

# Makes a directory and lists those that were not there, outermost first.
make_directory() {
  [ -d "$1" ] && return
  make_directory "$(dirname "$1")"
  mkdir -m 755 "$1"
  echo "$1/" >>"$new_list"
}

# put TARGET: standard input becomes a file that anybody may read.
put() {
  make_directory "$(dirname "$1")"
  cat >"$1"
  chmod 644 "$1"
  echo "$1" >>"$new_list"
}

install_program() {
  local pip="$library/bin/pip --quiet --disable-pip-version-check"
  [ -x "$library/bin/pip" ] || "$python" -m venv "$library"
  $pip wheel --no-deps --wheel-dir "$work" "$tree"
  $pip install --constraint "$tree/constraints.txt" "$work"/*.whl
  # The number of a version stays while main moves on: an upgrade would change nothing.
  $pip install --no-deps --force-reinstall "$work"/*.whl
}

install_all() {
  # What an earlier installation made is still ours to remove.
  if [ -e "$list" ]; then grep '/$' "$list" >"$new_list" || true; fi
  make_directory "$prefix/lib"
  install_program
  make_directory "$prefix/bin"
  ln -sfn "$library/bin/upmt" "$prefix/bin/upmt"
  echo "$prefix/bin/upmt" >>"$new_list"
  local file
  for file in "$tree"/packaging/systemd/*.service; do
    sed "s|/usr/bin/upmt|$prefix/bin/upmt|" "$file" | put "$prefix/lib/systemd/system/${file##*/}"
  done
  for file in "$tree"/packaging/man/*.1; do put "$prefix/share/man/man1/${file##*/}" <"$file"; done
  put "$prefix/share/bash-completion/completions/upmt" <"$tree/packaging/completions/upmt.bash"
  put "$prefix/share/zsh/site-functions/_upmt" <"$tree/packaging/completions/_upmt"
  put "$prefix/share/fish/vendor_completions.d/upmt.fish" <"$tree/packaging/completions/upmt.fish"
  if [ -e "$list" ]; then
    # What an earlier version had and this one has not.
    { grep -v '/$' "$list" | grep -vxFf "$new_list" || true; } | while IFS= read -r file; do rm -f -- "$file"; done
  fi
  cp "$new_list" "$list"
  reload_systemd
  echo "installed: $prefix/bin/upmt ($("$prefix/bin/upmt" --version)). Next: upmt doctor, and docs/installation.md"
}

remove_all() {
  [ -e "$list" ] || die "there is no UPMT-NF below $prefix"
  # It refuses while a daemon runs, and says so; nothing is removed then.
  "$library/bin/upmt" --quiet cleanup ||
    die "not removed: end the daemons first (systemctl disable --now upmt-mobile-host upmt-anchor)"
  cp "$list" "$new_list"
  rm -rf -- "$library"
  local file
  tac "$new_list" | while IFS= read -r file; do
    case $file in
      */) rmdir --ignore-fail-on-non-empty -- "$file" 2>/dev/null || true ;;
      *) rm -f -- "$file" ;;
    esac
  done
  reload_systemd
  echo "removed from $prefix. Kept: /etc/upmt (configuration and secrets), /var/lib/upmt (leases, history)"
}

[ "$(id -u)" = 0 ] || die "needs root: sudo make ${1:-install}"
case ${1:-} in
  install) install_all ;;
  uninstall) remove_all ;;
  *) die "usage: PREFIX=/usr/local $0 install|uninstall" ;;
esac
