#!/bin/busybox sh
# The first program of a nested machine: makes it look like a system, loads KVM, then serves the host.
b=/bin/busybox
export PATH=/bin HOME=/root
$b mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
$b mkdir -p /proc /sys /dev/pts /dev/shm /run /tmp /root /var/tmp
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t debugfs debugfs /sys/kernel/debug
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
$b mount -t devpts -o ptmxmode=666 devpts /dev/pts
$b mount -t tmpfs -o mode=1777 tmpfs /dev/shm
$b mount -t tmpfs -o mode=755 tmpfs /run
# The root is a tmpfs itself; nothing is mounted over what the image holds.
$b chmod 1777 /tmp /var/tmp
$b ln -s /proc/self/fd /dev/fd
for module in $($b cat /modules/order); do
    $b insmod /modules/$module
done
$b ip link set lo up
$b hostname nested
# The limits of an ordinary host: programs may raise the soft one.
ulimit -H -n 524288
ulimit -S -n 1024
echo "machine: up after $($b cut -d' ' -f1 /proc/uptime) s"
/xtask agent $($b cat /agent-device)
echo "machine: agent ended with $?"
$b poweroff -f
