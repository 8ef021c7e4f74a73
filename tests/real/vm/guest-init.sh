#!/bin/busybox sh
# The first process of the virtual machine: run.py puts it into the initramfs.
#
# The host's / becomes the guest's, under a layer in memory that takes what is written.
# Kernel messages go to ttyS0, what the script prints to ttyS1, its status to ttyS2.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do
    $b insmod "/modules/$module" || echo "guest-init: cannot load $module"
done </modules/order

$b mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=512000,ro host /host
$b mount -t tmpfs -o mode=755 layer /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work \
    overlay /root
$b mount --move /proc /root/proc
$b mount --move /sys /root/sys
$b mount --move /dev /root/dev
$b mount -t tmpfs -o mode=755 run /root/run
$b mkdir -p /root/dev/shm /root/dev/pts
$b mount -t tmpfs shm /root/dev/shm
$b mount -t devpts devpts /root/dev/pts
# as systemd mounts it
$b mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /root/sys/fs/cgroup
for controller in $($b cat /root/sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/root/sys/fs/cgroup/cgroup.subtree_control
done
$b ip link set lo up
$b hostname holdingpen-guest

# disks are known by the serial numbers that run.py gave them
for serial in /root/sys/block/vd*/serial; do
    [ -e "$serial" ] || continue
    disk=/root/dev/$($b basename "$($b dirname "$serial")")
    case $($b cat "$serial") in
        swap) $b mkswap "$disk" >/dev/null && $b swapon "$disk" ;;
        scratch) $b ln -s "$($b basename "$disk")" /root/dev/scratch ;;
    esac
done

for word in $($b cat /root/proc/cmdline); do
    case $word in holdingpen.script=*) script=${word#*=} ;; esac
done
for port in 1 2; do $b stty -F /root/dev/ttyS$port raw -echo; done
$b chroot /root /bin/bash "$script" </root/dev/null >/root/dev/ttyS1 2>&1
echo "$?" >/root/dev/ttyS2
# the serial lines empty themselves before the power goes
for port in 1 2; do $b stty -F /root/dev/ttyS$port sane; done
$b poweroff -f
