#!/bin/sh
# What only a GPU can show, in parts of under nine minutes; all that they say lies below OUT.
#
#     sh bench/gpu.sh OUT WEIGHTS IMAGES [PART ...]   ResNet-20 for CIFAR-10, and its folder
#     sh bench/gpu.sh OUT --dry [PART ...]            tiny numbers and digits, on any machine
#
# PYTHON names the interpreter; no name may have blanks. A fine-tuning that had no time goes on where
# it was when its part is asked for again: `paper` may take several. OUT/parts.tsv has a line for
# each: name, exit code, seconds.
set -u
out=$1 python=${PYTHON:-python}
for given in "$@"; do
  case $given in *[[:space:]]*) echo "$given: names must have no blanks"; exit 2 ;; esac
done
mkdir -p "$out"
export HAST_BENCH_OUT="$out"
deadline=$(($(date +%s) + 530))
left() { echo $((deadline - $(date +%s))); }
run() { [ "$(left)" -gt 0 ] || return 124; timeout -k 5 "$(left)" "$python" "$@"; }
if [ "$2" = --dry ]; then
  shift 2
  few="--rounds 1" network="--network ResNet-20" only="without compilation"
  sizes="--first 8 --last 8" device=cpu paper="--steps 20" long="--steps 1000"
  teacher="--source builtin:digits_resnet --weights $out/digits.safetensors --images digits
    --mean 0.3053 --std 0.3760 --samples 64"
  [ -f "$out/digits.safetensors" ] || run -m bench.teachers digits_resnet --epochs 1 \
    --images digits --mean 0.3053 --std 0.3760 --out "$out/digits.safetensors" || exit
else
  few="" network="" only="" sizes="" device=cuda paper="--size paper"
  long="--samples 512 --steps 6000"
  teacher="--source pytorchcv:resnet20_cifar10 --weights $2 --images $3
    --mean 0.49139968,0.48215827,0.44653124 --std 0.24703233,0.24348505,0.26158768"
  shift 3
fi
student="bench.accuracy $teacher --variants hast --widths w3a3 --seeds 1 --device $device"
student="$student --banks $out/banks"

part_tests() { run -m pytest -q -m gpu -p no:cacheprovider; }
part_steps() { run -m bench.run $few $network; }
part_techniques() { run -m bench.techniques $few ${only:+--only "$only"}; }
part_batches() { run -m bench.batches $sizes; }
part_two() { run -m bench.scaling --device $device 1 2; }
part_paper() { run -m $student $paper --looks 10 --out gpu_paper; }
# Killed -9 amid its fine-tuning and started again, a student must be the one that was left alone.
part_resume() {
  run -m $student $long --checkpoint 3600 --out gpu_whole || return
  rm -f "$out"/gpu_killed*
  "$python" -m $student $long --checkpoint 1 --out gpu_killed &
  until ls "$out"/gpu_killed-*.safetensors 2>/dev/null; do
    sleep 1
    [ "$(left)" -gt 0 ] && kill -0 $! || { kill -9 $!; echo "no checkpoint came"; return 1; }
  done
  kill -9 $!
  wait $!
  run -m $student $long --out gpu_killed || return
  run -c 'import json, sys
whole, killed = (json.load(open(f"{sys.argv[1]}/gpu_{n}.json"))["rows"] for n in ("whole", "killed"))
raise SystemExit(None if whole == killed else f"differ: {whole} {killed}")' "$out"
}

failed=0
for part in ${*:-tests steps techniques batches two resume paper}; do
  start=$(date +%s)
  deadline=$((start + 530))
  "part_$part" >"$out/$part.log" 2>&1
  code=$?
  [ $code = 0 ] || failed=1
  printf '%s\t%s\t%s\n' "$part" $code $(($(date +%s) - start)) | tee -a "$out/parts.tsv"
done
exit $failed
