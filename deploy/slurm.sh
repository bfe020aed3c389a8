#!/usr/bin/env bash
# A run on Slurm: Ray's head on the job's first node, Ray on the others, and the run submitted to it.
#
#   sbatch deploy/slurm.sh --config /shared/my_model.yaml run.output=/shared/runs
#
# What follows the script goes to `python -m advdmd_ray.run`. The package must be in the environment that sbatch is called
# from, and run.output on a file system of all nodes. Numbers of nodes, GPUs and hours are set here or given to sbatch.
#
# Five minutes before the end of its time the job saves the cycle that it is at, and queues again; then it goes on from there.
# SIGTERM (preemption, or scancel --signal=TERM --batch JOB) saves too; whether it is queued again Slurm decides.
#SBATCH --job-name=advdmd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# Jobs that share a node get ports of their own: ten for each, below those that Linux gives out and beside Ray's workers'.
first_port=$((20000 + SLURM_JOB_ID % 1000 * 10))
gcs_port=$first_port dashboard_port=$((first_port + 1)) metrics_port=$((first_port + 2))
node_ports=(
  --node-manager-port=$((first_port + 3)) --object-manager-port=$((first_port + 4))
  --metrics-export-port=$((first_port + 5)) --runtime-env-agent-port=$((first_port + 6))
  --dashboard-agent-listen-port=$((first_port + 7)) --dashboard-agent-grpc-port=$((first_port + 8))
)

# Of this job alone. srun hands the environment to all nodes; nothing is written to a disk.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
RAY_TMPDIR=${TMPDIR:-/tmp}/ray-$SLURM_JOB_ID
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_TMPDIR

# A step that says nothing gets one core.
whole_node=(--overlap --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --cpu-bind=none --mem=0)
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head_address=$(srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" hostname --ip-address)
head_address=${head_address%% *}
server=http://$head_address:$dashboard_port
submission=advdmd-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}

steps=()
# shellcheck disable=SC2317  # a trap calls it
end_ray() {
  kill "${steps[@]}" 2>/dev/null || true
  wait "${steps[@]}" 2>/dev/null || true
}
trap end_ray EXIT

srun --nodes=1 --ntasks=1 "${whole_node[@]}" --nodelist="$head" \
  ray start --head --block --node-ip-address="$head_address" --port="$gcs_port" --num-cpus="$SLURM_CPUS_ON_NODE" \
  --dashboard-host="$head_address" --dashboard-port="$dashboard_port" --ray-client-server-port=$((first_port + 9)) \
  --temp-dir="$RAY_TMPDIR" --disable-usage-stats "${node_ports[@]}" &
steps+=($!)
if ((SLURM_JOB_NUM_NODES > 1)); then
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --nodes="$others" --ntasks="$others" "${whole_node[@]}" --exclude="$head" \
    ray start --block --address="$head_address:$gcs_port" --num-cpus="$SLURM_CPUS_ON_NODE" \
    --disable-usage-stats "${node_ports[@]}" &
  steps+=($!)
fi
for _ in {1..60}; do
  if ray job list --address="$server" >/dev/null 2>&1; then break; fi
  sleep 2
done

# Ray waits so long for a run that it has told to stop: run.drain_s, and a minute to leave Ray.
ray job submit --address="$server" --submission-id="$submission" \
  --runtime-env-json='{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "180"}}' -- \
  python -m advdmd_ray.run "$@" --resume auto metrics.port="$metrics_port" &
run=$!

ending=
# shellcheck disable=SC2317  # traps call it
save() {
  ending=$1
  # It sends the run SIGTERM, and returns once that has ended.
  ray job stop --address="$server" "$submission" &
}
trap 'save time' USR1
trap 'save stop' TERM

code=0
while :; do
  wait "$run" && code=0 || code=$?
  # A signal ends the wait, and not the run.
  kill -0 "$run" 2>/dev/null || break
done
if [[ $ending == time ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
