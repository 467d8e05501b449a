#!/usr/bin/env bash
# A Slurm cluster of one node on this host (Debian: apt install slurm-wlm munge; run as root), and a
# small sweep on it through hydra/launcher=stacked_slurm. Everything lies in a temporary folder and
# ends with the script.   PYTHON=.venv/bin/python tests/slurm/one_node.sh
set -euo pipefail
repo="$(cd "$(dirname "$0")/../.." && pwd)"
python="$(realpath -s "${PYTHON:-$repo/.venv/bin/python}")"
work="$(mktemp -d /tmp/noisy-kd-slurm.XXXXXX)"
chmod 755 "$work"
export SLURM_CONF="$work/slurm.conf"
cpus="$(nproc)"
host="$(hostname -s)"

cleanup() {
    for name in slurmd slurmctld munged; do
        [ -f "$work/$name.pid" ] && kill "$(cat "$work/$name.pid")" 2>/dev/null || true
    done
    sleep 1
    rm -rf "$work"
}
trap cleanup EXIT

# munge: authentication between the daemons
dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 status=none
chmod 400 "$work/munge.key"
munged --force --key-file="$work/munge.key" --socket="$work/munge.socket" \
    --pid-file="$work/munged.pid" --log-file="$work/munged.log" --seed-file="$work/munge.seed"

cat >"$SLURM_CONF" <<EOF
ClusterName=noisykd
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=60 State=UP
EOF
mkdir "$work/state" "$work/spool"
slurmctld
slurmd
for _ in $(seq 30); do
    sinfo --noheader --format=%T 2>/dev/null | grep -q idle && break
    sleep 1
done
sinfo

cd "$work"
set +e
"$python" "$repo/train.py" -cn quick hydra/launcher=stacked_slurm hydra.launcher.jobs=2 \
    hydra.launcher.cpus_per_task=1 hydra.launcher.timeout_min=30 \
    trainer.max_epochs=20 seed=1,2 method.sigma=0,0.5 callbacks=quiet \
    "hydra.launcher.folder=$work/slurm" "$@"
code=$?
set -e
scontrol show job --oneliner | grep -o -E 'JobId=[0-9]+|JobState=[A-Z_]+|RunTime=[0-9:]+' | paste - - - || true
[ "$code" -eq 0 ] || tail -n 20 "$work"/*.log "$work"/slurm/*.err 2>/dev/null
exit "$code"
