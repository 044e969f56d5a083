#!/bin/sh
# Run one stage, for DVC: with the Python that runs `hast`, else the environment's that is active,
# else that of .venv, so that `.venv/bin/dvc repro` needs no activation (cron and editors do none).
stage=$1
shift
can='from importlib.util import find_spec; exit(not all(map(find_spec, ("hast", "pydantic", "torch"))))'
for python in "${HAST_PYTHON:-python}" .venv/bin/python python3; do
  "$python" -P -c "$can" 2>/dev/null || continue
  [ -n "$HAST_RECORD" ] || exec "$python" -m "hast.stages.$stage" "$@"
  echo "$stage started" >> "$HAST_RECORD/stages" # for flows: hast/flows/records.py
  "$python" -m "hast.stages.$stage" "$@"
  code=$?
  echo "$stage $code" >> "$HAST_RECORD/stages"
  exit $code
done
echo "error: $stage: neither python nor .venv/bin/python has hast; activate its environment" >&2
exit 2
