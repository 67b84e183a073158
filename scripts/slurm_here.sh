#!/usr/bin/env bash
# One-node SLURM on this machine, without systemd, for tests in a container or a virtual machine.
#   scripts/slurm_here.sh          install (Debian, as root) and start; says nothing to do where it runs already
#   scripts/slurm_here.sh stop     stop what was started here
# Exit status 3 and one line where it cannot or must not be: not root, a SLURM configured by somebody else, systemd.
set -euo pipefail
mark="# made by slurm_here.sh of dfxm_dask"
conf=/etc/slurm/slurm.conf
no() { echo "no SLURM here: $1" >&2; exit 3; }
# The file may outlive its process, and the number may be that of another one by now.
running() { [ -s "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = "$(basename "$1" .pid)" ]; }

[ "$(id -u)" = 0 ] || no "needs root"
for file in "$conf" /etc/slurm-llnl/slurm.conf; do
    [ ! -e "$file" ] || grep -qF "$mark" "$file" || no "$file was made by somebody else"
done

if [ "${1:-start}" = stop ]; then
    [ -e "$conf" ] || exit 0
    for daemon in slurmd slurmctld munge/munged; do
        running "/run/$daemon.pid" || continue
        process=$(cat "/run/$daemon.pid")
        kill "$process"
        for _ in $(seq 50); do running "/run/$daemon.pid" || break; sleep 0.1; done
    done
    rm -rf "$conf" /var/spool/slurmctld /var/spool/slurmd
    exit 0
fi

if [ -e "$conf" ] && running /run/slurmctld.pid && running /run/slurmd.pid && sinfo >/dev/null 2>&1; then
    echo "SLURM runs already"
    exit 0
fi
# A machine under systemd is somebody's machine: nothing is installed or started behind its back.
[ ! -d /run/systemd/system ] || no "systemd runs this machine"
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    command -v apt-get >/dev/null || no "needs slurmctld, slurmd, munged, or apt-get to install them"
    export DEBIAN_FRONTEND=noninteractive
    quick=(-qq -o Acquire::Retries=0 -o Acquire::http::Timeout=5 -o Acquire::https::Timeout=5 -o DPkg::Lock::Timeout=60)
    install=(apt-get install "${quick[@]}" -y --no-install-recommends)
    fetch() { timeout 60 "${install[@]}" --download-only slurm-wlm munge >/dev/null 2>&1; }
    fetch || { timeout 30 apt-get update "${quick[@]}" >/dev/null 2>&1 && fetch; } || no "apt-get finds no slurm-wlm and munge"
    "${install[@]}" --no-download slurm-wlm munge >/dev/null 2>&1 || no "apt-get could not install slurm-wlm and munge"
fi

host=$(hostname -s)
getent hosts "$host" >/dev/null || echo "127.0.1.1 $host" >>/etc/hosts
if ! running /run/munge/munged.pid; then
    [ -s /etc/munge/munge.key ] || (umask 077 && dd if=/dev/urandom bs=1 count=1024 of=/etc/munge/munge.key status=none)
    mkdir -p /run/munge
    chown -R munge:munge /etc/munge /var/lib/munge /var/log/munge /run/munge
    chmod 700 /etc/munge
    chmod 400 /etc/munge/munge.key
    chmod 755 /run/munge
    su -s /bin/sh munge -c "$(command -v munged)"
fi
munge -n | unmunge >/dev/null || no "munge does not work"

mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /var/log/slurm
# Four processors whatever is there, so that jobs run at the same time; everything listens on loopback only.
cat >"$conf" <<C
$mark
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
MpiDefault=none
KillWait=3
MinJobAge=60
DefMemPerCPU=1024
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=$(awk '/MemTotal/{print int($2/1024*0.9)}' /proc/meminfo) State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
C
running /run/slurmctld.pid || slurmctld
running /run/slurmd.pid || slurmd
for _ in $(seq 40); do
    sinfo -h -o %T 2>/dev/null | grep -qE '^(idle|mixed|allocated)' && { echo "SLURM runs on $host"; exit 0; }
    sleep 0.25
done
no "the node does not come up: $(sinfo -h -R 2>&1 | head -1)"
