#!/usr/bin/env bash
# roberta_jax on a slice of Cloud TPUs, from nothing to the run's end: ./launch_tpu.sh --help
#
# `run` looks at what there is and does what is missing, again and again. So a preemption is no case of its own, and the
# command may be stopped and given again at any time. All of the cloud's commands go through `cloud`.
set -euo pipefail

usage() {
  cat <<'END'
usage: ./launch_tpu.sh COMMAND --name=NAME [options] [-- flags of roberta_jax.main]

commands
  run      all of what follows, up to the run's end: create, install, start, watch
  create   make the slice and wait until it is there
  install  copy the commit that is checked out here to every worker, into a virtual environment
  start    start the run on every worker; it goes on when the connection ends
  watch    follow a run to its end; after a preemption make the slice anew and go on from the last checkpoint
  logs     copy every worker's log into the folder NAME-logs
  delete   delete the slice

options
  --name=NAME               of the slice [$TPU_NAME]
  --project=ID --zone=ZONE  [$PROJECT_ID, $ZONE, or what gcloud is configured with]
  --type=TYPE               of accelerator, such as v5litepod-256 [$ACCELERATOR_TYPE]
  --version=VERSION         of the TPU's software [$RUNTIME_VERSION, or what goes with the type]
  --spot                    cheaper, and may be preempted
  --queued                  wait in the queue until there is room; the other commands need it too
  --valid_until_duration=D  leave the queue after that time, such as 6h
  --config=FILE             of the run, such as configs/large.py
  --workdir=gs://…          of the run
  --retries=N               failures in a row after which to give up [3]
  --poll=SECONDS            between two looks [60]
  --yes                     agree to deletions: by delete at once, by run and watch after a preemption
  --dry_run                 print the commands of the cloud, and run none

exit status: 0 the run finished, 2 a mistake in the command, 1 the cloud failed, else the run's own

example, with a slice that is deleted at the end
  ./launch_tpu.sh run --name=roberta --zone=us-west4-a --type=v5litepod-256 --spot --yes \
      --config=configs/large.py --workdir=gs://bucket/run -- --config.data.source=gs://bucket/corpus &&
    ./launch_tpu.sh delete --name=roberta --zone=us-west4-a --yes
END
}

say() { $dry_run || printf 'launch_tpu: %s\n' "$1" >&2; }
die() { printf 'error: %s\n' "$1" >&2; exit "${2:-1}"; }
misused() { die "$1; ./launch_tpu.sh --help tells more" 2; }

farewell() { # every exit: a slice that is there costs, whatever ended this
  if [[ $standing == maybe ]] && ! $interrupted; then look 2>/dev/null || true; fi
  local costs='is there and costs'
  if [[ $standing == maybe ]]; then costs='may be there, and then costs'; fi
  local delete=("$0" delete --name="$name" "${where[@]}")
  if $queued; then delete+=(--queued); fi
  [[ $standing == no ]] || say "$name $costs; this deletes it:$(printf ' %q' "${delete[@]}")"
  rm -rf "$scratch"
}

interrupted() { # a status
  trap '' INT TERM HUP # what is said at the end is said
  interrupted=true
  exit "$1"
}

# --- the workers' side: these functions travel by `declare -f`, and run in the home folder there ---

install_on_worker() {
  set -e
  mkdir -p roberta_jax
  tar -xzf roberta_jax.tar.gz -C roberta_jax # over what is there: a workdir may lie in it
  cd roberta_jax
  if [ ! -x .venv/bin/pip ]; then
    if python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'; then
      python3 -m venv .venv
    else # TPU images come with Python 3.10
      python3 -m pip install --quiet --target ../uv uv
      ../uv/bin/uv venv --quiet --clear --seed --python 3.12 .venv
    fi
  fi
  .venv/bin/pip install --quiet -e '.[tpu]'
}

# The lock is held by the run and all its children, and the kernel lets go of it when they or the machine die: unlike a
# process id it is never another's. SIGTERM reaches the inner shell too, which has an exit status to write yet.
start_on_worker() {
  exec 9>>roberta_jax.lock
  if ! flock -w 0.3 9; then
    [ -e roberta_jax.exit ] || return 0 # it runs
    echo "$HOSTNAME: processes of an ended run are alive; expected none" >&2
    return 1
  fi
  rm -f roberta_jax.exit
  echo "== $(date -u) roberta_jax.main $*" >>roberta_jax.log
  # shellcheck disable=SC2016 # $@ and $? are the inner shell's
  setsid bash -c 'trap : TERM; cd roberta_jax && .venv/bin/python -m roberta_jax.main "$@"; code=$?
    cd && echo "$code $(date +%s.%N)" >roberta_jax.part && mv roberta_jax.part roberta_jax.exit' \
    bash "$@" >>roberta_jax.log 2>&1 </dev/null &
}

# A line: worker, what its process is doing, exit status, time of exit, the log's last line.
status_on_worker() {
  local state=absent code='' at=''
  if [ -e roberta_jax.exit ]; then
    read -r code at <roberta_jax.exit
    state=failed
    if [ "$code" = 0 ]; then
      state=finished
      # main ends well in two ways; the lines since the last start tell which
      if tac roberta_jax.log | sed '/^== /q' | grep -q 'the same command goes on from there'; then state=saved; fi
    fi
  elif [ -e roberta_jax.lock ]; then
    state=killed
    flock --shared --nonblock roberta_jax.lock true || state=running
  fi
  echo "roberta_jax-status $HOSTNAME $state ${code:--} ${at:--} $(tail -n 1 roberta_jax.log 2>/dev/null | cut -c -200)"
}

tail_on_worker() { [ "$HOSTNAME" != "$1" ] || tail -n 20 roberta_jax.log; }

# --- this side. Functions that talk to the cloud return 1 with a sentence in $problem, and whether waiting is in vain ---

cloud() { # a command of gcloud; its errors are shown, and kept to be explained
  if $dry_run; then show gcloud "$@"; return; fi
  { gcloud "$@" </dev/null 2>&1 >&3 | tee "$scratch/errors" >&2; } 3>&1
}

show() { printf '%s\n' "$1$(printf ' %q' "${@:2}")" >&"$commands"; }

on_workers() { # an action in words, a function, its arguments
  local quoted=''
  [[ $# -lt 3 ]] || quoted=$(printf ' %q' "${@:3}")
  cloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$(declare -f "$2"); $2$quoted" || explain "$1"
}

explain() { # what was being done; the rest is what gcloud said last, without what the workers said
  local said
  said=$(sed -n '/^ERROR: (gcloud/,$p' "$scratch/errors")
  hopeless=true
  case $said in
    *'auth login'* | *invalid_grant* | *UNAUTHENTICATED*) problem="gcloud is not logged in; run: gcloud auth login" ;;
    *'not present in the SSH agent'*) problem="an ssh-agent has to hold the key; run: ssh-add ~/.ssh/google_compute_engine" ;;
    *PERMISSION_DENIED* | *'does not have permission'*)
      problem="the account may not; it needs roles/tpu.admin, and the project tpu.googleapis.com enabled" ;;
    *[Qq]uota*) problem="the project's quota is too small; ask for more, or try another --zone, --type, or --spot or not" ;;
    *ALREADY_EXISTS* | *'already exists'*) problem="the name is taken; watch or delete what has it, or take another --name" ;;
    *'attribute [zone]'* | *'property [zone]'*) problem="no zone is configured; expected --zone=ZONE" ;;
    *'attribute [project]'* | *'property [project]'*) problem="no project is configured; expected --project=ID" ;;
    *INVALID_ARGUMENT* | *' unrecognized arguments'*)
      problem="gcloud refuses it with the message above; see --name, --type, --version, --zone" ;;
    *NOT_FOUND*)
      hopeless=false problem="it is not found, see the message above; create makes a slice"
      $queued || standing=no ;;
    *capacity* | *RESOURCE_EXHAUSTED* | *stockout*)
      hopeless=false problem="the zone has no room for it now; wait, try another --zone, or --queued" ;;
    *) hopeless=false problem="see the message above" ;;
  esac
  problem="$1 $name${zone:+ in $zone} failed: $problem"
  return 1
}

# Sets $state: READY, another word of the API, or ABSENT; $why a queued resource has failed; $its_type and $its_version;
# and of a slice the number of $workers.
look() {
  local node='tpu.nodeSpec[0].node'
  why='' workers=''
  if $queued; then
    describe queued-resources "state.state,$node.acceleratorType,$node.runtimeVersion,state.failedData.error.message" || return
    why=$rest
    [[ $state == ACTIVE ]] || $dry_run || return 0
  fi
  describe tpu-vm 'state,acceleratorType,runtimeVersion,networkEndpoints.len()' || return
  workers=$rest
  if $queued && [[ $state == ABSENT ]]; then state=SUSPENDED standing=yes; fi # what asked for it is there still
}

describe() {
  local ask=(compute tpus "$1" describe "$name" "${where[@]}" --format="value[separator=\"|\"]($2)")
  its_type='' its_version='' rest=''
  if cloud "${ask[@]}" >"$scratch/output" 2>"$scratch/shown"; then
    IFS='|' read -r state its_type its_version rest <"$scratch/output" || true
    standing=yes
  elif grep -q NOT_FOUND "$scratch/errors"; then
    state=ABSENT standing=no
  else
    cat "$scratch/shown" >&2
    explain "looking at"
  fi
}

ask() { # sets $status: what the processes of all workers do, taken together; of a failed run $culprit and $code
  local tag host state exit_code at line first='' last_line=''
  local -A count=([absent]=0 [running]=0 [killed]=0 [failed]=0 [saved]=0 [finished]=0)
  on_workers "asking the workers of" status_on_worker >"$scratch/output" || return
  while read -r tag host state exit_code at line; do
    [[ $tag == roberta_jax-status ]] || continue
    count[$state]=$((count[$state] + 1))
    [[ $host != *-w-0 && -n $last_line ]] || last_line=$line
    # The first that fails is the cause, the others fail for want of it. Times have the same width: they compare as text.
    if [[ $state == failed && (-z $first || $at < $first) ]]; then first=$at culprit=$host code=$exit_code; fi
  done <"$scratch/output"
  # Which word stands for all of them: a killed process (its machine went down) makes the others fail a while later.
  if ((count[running] && count[absent])); then status=partly
  elif ((count[absent])); then status=absent
  elif ((count[killed] && count[running] == 0)); then status=killed
  elif ((count[killed])); then status=running
  elif ((count[failed])); then status=failed
  elif ((count[running])); then status=running
  elif ((count[saved])); then status=saved
  elif ((count[finished])) || $dry_run; then status=finished
  else status=unknown; fi
  local answered=0 number
  for number in "${count[@]}"; do answered=$((answered + number)); done
  if [[ $status != running ]] && ! $dry_run && ((answered < ${workers:-1})); then
    problem="$answered of ${workers:-1} workers of $name answered; expected all"
    return 1
  fi
  if [[ $status == running && $last_line != "$told" ]]; then say "running: $last_line"; told=$last_line; fi
}

create() {
  say "creating $name"
  $dry_run || standing=maybe
  local request=(tpu-vm create "$name" --version="$version")
  if $queued; then request=(queued-resources create "$name" --node-id="$name" --runtime-version="$version"); fi
  if $spot; then request+=(--spot); fi
  [[ -z $valid_until_duration ]] || request+=(--valid-until-duration="$valid_until_duration")
  cloud compute tpus "${request[@]}" --accelerator-type="$type" "${where[@]}" || explain "creating"
}

delete() {
  say "deleting $name"
  local request=(tpu-vm delete "$name")
  if $queued; then request=(queued-resources delete "$name" --force); fi
  $dry_run || standing=maybe
  cloud compute tpus "${request[@]}" "${where[@]}" --quiet || explain "deleting" || return
  standing=no
}

require_commit() { # before anything is made that costs
  $dry_run || git -C "$root" log -1 >/dev/null || die "$root has no commit to install; expected a git checkout"
}

require_same() { # a slice that is there already is taken only if it is what was asked for
  local found=''
  if [[ -n $its_type && ${its_type,,} != "${type,,}" ]]; then found+=" --type=$its_type"; fi
  if [[ -n $its_version && -n $version && $its_version != "$version" ]]; then found+=" --version=$its_version"; fi
  found=${found:+"$name is there already, with$found; expected --type=$type --version=$version"}
  [[ -z $found ]] || die "$found. Take another --name, delete it, or ask for what it is"
}

install() {
  local archive=$scratch/roberta_jax.tar.gz archiving
  if $dry_run; then archive=${TMPDIR:-/tmp}/roberta_jax.tar.gz; fi
  archiving=(git -C "$root" archive --format=tar.gz --output="$archive" HEAD)
  if $dry_run; then
    show "${archiving[@]}"
  else
    say "installing $(git -C "$root" log -1 --format='%h: %s')"
    [[ -z $(git -C "$root" status --porcelain) ]] || say "uncommitted changes here do not travel; workers get the commit alone"
    "${archiving[@]}" || { problem="the commit cannot be archived, see the message above" hopeless=true; return 1; }
  fi
  cloud compute tpus tpu-vm scp "$archive" "$name:roberta_jax.tar.gz" "${where[@]}" --worker=all ||
    explain "copying to" || return
  on_workers "installing on" install_on_worker
}

launch() {
  local arguments=(--config="$config" --workdir="$workdir" "${flags[@]}")
  say "starting roberta_jax.main$(printf ' %q' "${arguments[@]}")"
  on_workers "starting the run on" start_on_worker "${arguments[@]}"
}

logs() { # gcloud copies from one worker at a time
  local folder=$name-logs worker workers=1
  cloud compute tpus tpu-vm describe "$name" "${where[@]}" --format='value(networkEndpoints.len())' >"$scratch/output" ||
    explain "looking at" || return
  if $dry_run; then
    printf '# for each worker\n'
  else
    workers=$(<"$scratch/output")
    mkdir -p "./$folder"
  fi
  for ((worker = 0; worker < workers; worker++)); do
    cloud compute tpus tpu-vm scp "$name:roberta_jax.log" "./$folder/worker-$worker.log" "${where[@]}" --worker="$worker" ||
      explain "copying from" || return
  done
  say "logs are in $folder"
}

agreed() { # a question; without a terminal to ask it on, the answer is no
  if $yes; then return; fi
  [[ -t 0 ]] || return 1
  local answer
  read -r -p "$1 [y/N] " answer
  [[ $answer == [yY] || $answer == yes ]]
}

stumble() { # after a failure: wait, or give up
  if $hopeless; then die "$problem"; fi
  if ((++failures > retries)); then die "$problem (failure $failures in a row; a run that has begun goes on)"; fi
  say "$problem; trying again in $((poll * failures)) s ($failures of $retries)"
  hopeless=false counted=true
  sleep $((poll * failures))
}

follow() { # looks, and does what is missing, until the run ends
  local started=false seen=false before='' may_delete=false
  if [[ $command == watch ]]; then started=true; fi
  if agreed "If $name is preempted, may it be deleted and made anew?"; then
    may_delete=true
  else
    say "a preemption will end this: without --yes nothing is deleted"
  fi
  say "interrupting this does not end the run"
  while :; do
    if ! look; then stumble; continue; fi
    [[ $state == ABSENT ]] || seen=true
    [[ $state == "$before" || $state == READY ]] || say "$name is $state${why:+: $why}"
    require_same
    case $state in
      READY) counted=false ;;
      ABSENT)
        if $started && ! $seen; then die "there is no $name${zone:+ in $zone} to watch; run makes it"; fi
        create || stumble
        continue ;;
      PREEMPTED | TERMINATED | SUSPENDED | FAILED)
        $may_delete || die "$name is $state; to go on it must be deleted and made anew, which needs --yes; nothing was deleted"
        if delete; then problem="$name was $state"; fi
        if $counted; then failures=$((failures - 1)) counted=false; fi # what failed before failed for want of the slice
        stumble
        continue ;;
      STOPPED | STOPPING | HIDDEN) die "$name is $state; start it (gcloud compute tpus tpu-vm start) or delete it" ;;
      *) before=$state; sleep "$poll"; continue ;;
    esac
    if ! ask; then stumble; continue; fi
    $started || [[ $status == running ]] || status=absent # how an earlier run ended is not asked
    case $status in
      running) started=true failures=0; sleep "$poll" ;;
      absent) if install && launch; then started=true; else stumble; fi ;;
      partly) launch || stumble ;;
      finished) say "the run has finished"; return ;;
      *) # Processes often end because a preemption has begun: two looks have to agree.
        if [[ $status != "$before" ]]; then
          sleep "$poll"
        elif [[ $status == failed ]]; then
          on_workers "reading the log of" tail_on_worker "$culprit" || say "$problem"
          die "the run ended with exit status $code, first on $culprit (above its log's end)" "$code"
        else
          problem="the run was $status"
          stumble
          launch || stumble
        fi ;;
    esac
    before=$status
  done
}

# --- the command line ---

name=${TPU_NAME:-} project=${PROJECT_ID:-} zone=${ZONE:-} type=${ACCELERATOR_TYPE:-} version=${RUNTIME_VERSION:-}
valid_until_duration='' config='' workdir='' retries=3 poll=60 spot=false queued=false yes=false dry_run=false flags=()
problem='' hopeless=false failures=0 counted=false state='' why='' status='' culprit='' code='' told=''
its_type='' its_version='' rest='' workers='' interrupted=false
standing=no # whether a slice is there that costs: no, maybe or yes
known=' name project zone type version valid_until_duration config workdir retries poll '
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || die "this is bash $BASH_VERSION; expected 4.4 or newer"
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

command=${1:-}
case $command in
  run | create | install | start | watch | logs | delete) shift ;;
  -h | --help | help) usage; exit ;;
  '') misused "no command is given; expected run, create, install, start, watch, logs or delete" ;;
  *) misused "unknown command $command; expected run, create, install, start, watch, logs or delete" ;;
esac
while (($#)); do
  option=${1%%=*} option=${option#--}
  case $1 in
    --) flags=("${@:2}"); break ;;
    -h | --help) usage; exit ;;
    --spot | --queued | --yes | --dry_run) printf -v "$option" true; shift ;;
    --*)
      [[ $known == *" $option "* ]] || misused "unknown option $1; flags of roberta_jax.main go behind --"
      if [[ $1 == *=* ]]; then value=${1#*=}; shift; else value=${2-} && shift $(($# < 2 ? 1 : 2)); fi
      [[ -n $value ]] || misused "--$option has no value"
      printf -v "$option" '%s' "$value"
      ;;
    *) misused "unexpected argument $1; flags of roberta_jax.main go behind --" ;;
  esac
done

[[ -n $name ]] || misused "--name is missing; expected the name of the slice"
[[ $name != -* && $name != *[:@]* ]] || misused "--name is $name; expected lower-case letters, digits and hyphens"
[[ $retries =~ ^[0-9]+$ ]] || misused "--retries is $retries; expected a number"
[[ $poll =~ ^[0-9]+$ ]] || misused "--poll is $poll; expected whole seconds"
[[ -z $valid_until_duration ]] || $queued || misused "--valid_until_duration needs --queued"
if [[ $command == create || $command == run || $command == watch ]]; then # watch too may have to make it anew
  [[ -n $type ]] || misused "--type is missing; expected an accelerator type such as v5litepod-256"
fi
if [[ $command == start || $command == run || $command == watch ]]; then
  [[ -n $config ]] || misused "--config is missing; expected a file such as configs/large.py"
  [[ -n $workdir ]] || misused "--workdir is missing; expected a folder such as gs://bucket/run"
  [[ $workdir == gs://* ]] || say "$workdir is a folder of the workers and is lost with them; gs://… is not"
fi
case ${version:-$type} in # https://cloud.google.com/tpu/docs/runtimes
  v6e-*) version=v2-alpha-tpuv6e ;;
  v5p-*) version=v2-alpha-tpuv5 ;;
  v5litepod-*) version=v2-alpha-tpuv5-lite ;;
  v[234]-[0-9]*) version=tpu-ubuntu2204-base ;;
esac
where=()
[[ -z $project ]] || where+=(--project="$project")
[[ -z $zone ]] || where+=(--zone="$zone")

exec {commands}>&1 # of a dry run, even where output goes to a file
scratch=$(mktemp -d)
trap farewell EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP
$dry_run || [[ -n $(type -P gcloud) ]] || die "gcloud is not in PATH; see https://cloud.google.com/sdk/docs/install"

case $command in run | watch | install) require_commit ;; esac
case $command in
  run | watch)
    if ! $dry_run; then follow; exit; fi
    [[ $command == watch ]] || { create && install && launch; }
    printf '# every %s s\n' "$poll" && look && ask
    printf '# after a preemption, if that is agreed to\n' && delete && create && install && launch
    ;;
  create)
    create || die "$problem"
    while look || die "$problem"; do
      if $dry_run || [[ $state == READY ]]; then break; fi
      [[ $state != @(ABSENT|FAILED|SUSPENDED|PREEMPTED|TERMINATED) ]] || die "$name is $state${why:+: $why}; expected READY"
      say "$name is $state"
      sleep "$poll"
    done
    ;;
  install | logs) "$command" || die "$problem" ;;
  start)
    ask || die "$problem"
    [[ $status != running ]] || die "a run is going on on $name; watch follows it"
    launch || die "$problem"
    ;;
  delete)
    $dry_run || agreed "Delete $name${zone:+ in $zone} and all that is on it?" ||
      die "$name was not deleted; that needs --yes, or a yes at the terminal"
    delete || die "$problem"
    ;;
esac
