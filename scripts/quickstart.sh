#!/usr/bin/env bash
# The whole story on two CPU cores: set up, compute data, pretrain, fine-tune on 50 frames, evaluate, relax, run MD.
# A phase whose output is there and was made by the same command and settings is skipped; FRESH=1 starts over. Phases that do not wait for
# each other run side by side; what those in the background print is in outputs/quickstart/logs.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
make_environment .venv quickstart
PATH="$PWD/.venv/bin:$PATH"
export WANDB_MODE=offline

WORK=outputs/quickstart
SAMPLE=data_recipes/malonaldehyde_pbe/sample
LEVEL=$(sed -n 's/^level_of_theory: //p' data_recipes/malonaldehyde_pbe/card.yaml)
HEAD=malonaldehyde-pbe
if [ "${FRESH:-0}" = 1 ]; then rm -rf "$WORK"; fi
mkdir -p "$WORK/done" "$WORK/logs"
CHAIN=$(cat conf/*.yaml conf/*/*.yaml scripts/quickstart.sh | cksum)

# phase OUTPUT TITLE COMMAND...: run COMMAND unless OUTPUT is there and stamped with this command and all that went before.
phase() {
  local output=$1 title=$2 stamp mark begin=$SECONDS
  shift 2
  stamp=$(printf '%s %s' "$CHAIN" "$*" | cksum)
  mark="$WORK/done/$(basename "$output")"
  if [ -e "$output" ] && [ "$(cat "$mark" 2>/dev/null)" = "$stamp" ]; then
    say "$title: $output is there"
    return
  fi
  say "$title"
  if [ "$(cat "$mark.begun" 2>/dev/null)" != "$stamp" ]; then rm -rf "$output"; fi # of another command: not to be continued
  printf '%s\n' "$stamp" >"$mark.begun"
  "$@"
  printf '%s\n' "$stamp" >"$mark"
  printf '%s\t%s s\n' "$title" "$((SECONDS - begin))" >>"$WORK/seconds.txt"
}

# beside OUTPUT TITLE COMMAND...: the same in the background, with its output in a log file; `together` waits for all of them.
RUNNING=() NAMES=()
beside() {
  local log
  log="$WORK/logs/$(basename "$1").txt"
  say "$2 (in the background, see $log)"
  (phase "$@") >"$log" 2>&1 &
  RUNNING+=("$!") NAMES+=("$2: $log")
}
together() {
  local k
  for k in "${!RUNNING[@]}"; do
    if ! wait "${RUNNING[$k]}"; then
      echo "quickstart: failed in ${NAMES[$k]}" >&2
      tail -n 5 "${NAMES[$k]##*: }" >&2
      exit 1
    fi
  done
  RUNNING=() NAMES=()
}
# a phase that runs beside others must not outlive them
trap 'kill "${RUNNING[@]}" 2>/dev/null || true' EXIT

# after WORD...: what comes next depends on these phases and on the settings named
after() { CHAIN=$(printf '%s %s' "$CHAIN" "$*" | cksum); }

# half of what fine-tuning does by default, for a first look: fewer structures of the teacher, a shorter search
SHORTER=(teacher.frames=1000 teacher.max_steps=1200 teacher.own_steps=400 small_data.search_budget=10.5 trainer.threads=1)
USER_DATA=(data="$SAMPLE/train.extxyz" test_data="$SAMPLE/test.extxyz" name=malonaldehyde_pbe "level_of_theory='$LEVEL'")

for recipe in emt_slabs xtb_crystals xtb_molecules; do
  CHAIN=$(cat "data_recipes/$recipe/recipe.py" - <<<"$CHAIN" | cksum)
  beside "$WORK/data/$recipe.unipot" "1. data: computing $recipe" unipot prepare recipe="$recipe" out="$WORK/data/$recipe.unipot"
done
together
phase "$WORK/pretrain" "2. pretraining on three datasets at three levels of theory" \
  unipot pretrain experiment=quickstart run="$WORK/pretrain"
after pretraining
beside "$WORK/from-scratch" "4. 50 DFT frames of malonaldehyde from random weights, which have further to go" \
  unipot finetune checkpoint="$WORK/pretrain/best.safetensors" "${USER_DATA[@]}" from_scratch=true optimizer.learning_rate=0.005 schedule.max_steps=1500 trainer.threads=1 run="$WORK/from-scratch"
phase "$WORK/finetune" "3. fine-tuning on the same 50 frames" \
  unipot finetune checkpoint="$WORK/pretrain/best.safetensors" "${USER_DATA[@]}" pretrain_run="$WORK/pretrain" "${SHORTER[@]}" run="$WORK/finetune"
together
after "${SHORTER[@]}"
beside "$WORK/evaluate" "5. evaluating on 200 test frames" \
  unipot evaluate checkpoint="$WORK/finetune/best.safetensors" data="$SAMPLE/test.extxyz" head="$HEAD" output="$WORK/evaluate"
phase "$WORK/relaxed.extxyz" "6. relaxing malonaldehyde with the fine-tuned model" \
  unipot relax checkpoint="$WORK/finetune/best.safetensors" structure="$SAMPLE/train.extxyz" head="$HEAD" out="$WORK/relaxed.extxyz" overwrite=true
phase "$WORK/md.extxyz" "7. molecular dynamics from the relaxed structure" \
  unipot md checkpoint="$WORK/finetune/best.safetensors" structure="$WORK/relaxed.extxyz" head="$HEAD" out="$WORK/md.extxyz" overwrite=true
together
rm -f "$WORK/report.html"
phase "$WORK/report.html" "8. report" \
  unipot report output="$WORK/report.html" title="unipot quickstart" pretrain_run="$WORK/pretrain" \
  finetune_runs="[$WORK/finetune,$WORK/from-scratch]" evaluations="[$WORK/evaluate]"
say "done in $SECONDS s; the report is $WORK/report.html"
# on a desk, show it
if [ -z "${CI:-}" ] && [ -n "${DISPLAY:-}" ] && command -v xdg-open >/dev/null; then xdg-open "$WORK/report.html" >/dev/null 2>&1 || true
elif [ -z "${CI:-}" ] && [ "$(uname)" = Darwin ]; then open "$WORK/report.html" || true; fi
