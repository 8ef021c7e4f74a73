# Become PID 1: a real systemd, on a copy of the running machine that is thrown away.
#
# usage: boot.sh ROOT SCRATCH CONSOLE SHOWN...      in fresh namespaces, as root
#
#   ROOT     the file system to boot: / or a tree; never written
#   SCRATCH  an empty directory; a tmpfs is mounted on it, and goes with the namespace
#   CONSOLE  a file that takes what systemd says
#   SHOWN    directories of the real machine that are seen inside, where they are
set -eu
root=$1 scratch=$2 console=$3
shift 3

mount --make-rprivate /
shown=()
for path in "$@"; do shown+=("$(realpath "$path")"); done
mount -t tmpfs -o mode=755 tmpfs "$scratch"
# the originals are covered by the new /tmp and /run: keep a way to them
mkdir "$scratch"/{upper,work,new,kept}
for i in "${!shown[@]}"; do
    mkdir "$scratch/kept/$i"
    mount --bind "${shown[$i]}" "$scratch/kept/$i"
done
mount -t overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" \
    overlay "$scratch/new"
new=$scratch/new

mkdir -p "$new"/{proc,sys,dev,run,tmp}
mount -t proc -o nosuid,nodev,noexec proc "$new/proc"
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs "$new/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$new/sys/fs/cgroup"
# sysctls and the magic key are the real machine's
mount --bind "$new/proc/sys" "$new/proc/sys"
mount -o remount,bind,ro "$new/proc/sys"
[ ! -e "$new/proc/sysrq-trigger" ] || mount --bind /dev/null "$new/proc/sysrq-trigger"

mount -t tmpfs -o mode=755,nosuid tmpfs "$new/dev"
mkdir "$new"/dev/{pts,shm}
while read -r name major minor; do
    mknod -m 666 "$new/dev/$name" c "$major" "$minor"
done <<'NODES'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
NODES
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$new/dev/pts"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$new/dev/shm"
: >"$new/dev/console"
mount --bind "$console" "$new/dev/console"
mount -t tmpfs -o mode=755 tmpfs "$new/run"
mount -t tmpfs -o mode=1777 tmpfs "$new/tmp"
for i in "${!shown[@]}"; do
    mkdir -p "$new${shown[$i]}"
    mount --bind "$scratch/kept/$i" "$new${shown[$i]}"
done

# What else the machine has enabled stays asleep: this target pulls in what is needed.
mkdir -p "$new/run/systemd/system"
cat >"$new/run/systemd/system/boot-test.target" <<'UNIT'
[Unit]
Requires=dbus.socket
Wants=systemd-journald.service systemd-sysusers.service
After=dbus.socket systemd-journald.service systemd-sysusers.service
UNIT
for unit in systemd-sysctl.service systemd-modules-load.service \
    systemd-journald-audit.socket systemd-udevd.service systemd-udev-trigger.service \
    systemd-remount-fs.service dev-hugepages.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-kernel-config.mount; do
    ln -s /dev/null "$new/run/systemd/system/$unit"
done
rm -f "$new/etc/machine-id"
tr -d - </proc/sys/kernel/random/uuid >"$new/etc/machine-id"

hostname boot-test
cd "$new"
mkdir -p .old
pivot_root . .old
umount -l /.old
exec /usr/bin/env -i container=holdingpen-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    TERM=dumb LANG=C.UTF-8 /lib/systemd/systemd --system --unit=boot-test.target \
    --log-target=console --show-status=no
