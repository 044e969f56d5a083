#!/bin/sh
# Run one stage, for DVC: with the Python that runs `hast`, else the environment's that is active,
# else that of .venv, so that `.venv/bin/dvc repro` needs no activation (cron and editors do none).
stage=$1
shift
can='from importlib.util import find_spec; exit(not all(map(find_spec, ("hast", "pydantic", "torch"))))'
for python in "${HAST_PYTHON:-python}" .venv/bin/python python3; do
  if "$python" -P -c "$can" 2>/dev/null; then
    exec "$python" -m "hast.stages.$stage" "$@"
  fi
done
echo "error: $stage: neither ${HAST_PYTHON:-python} nor .venv/bin/python has hast; activate its environment" >&2
exit 2
