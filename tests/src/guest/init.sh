#!/bin/busybox sh
# The first program of a guest. It mounts what programs expect, loads the modules the host listed, brings
# the network up, and then serves the host: every request on the channel is a line "NONCE BYTES" and so many
# bytes of shell script; the answer is what the script wrote, and a line "NONCE STATUS". What a script writes goes to
# the console too, so that it can be seen there when no answer ever comes.

/bin/busybox mkdir -p /dev /proc /sys /run /tmp /mnt /etc
/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp

for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || echo "init: $module cannot be loaded"
done

ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    ip addr add 10.0.2.15/24 dev eth0
    ip route add default via 10.0.2.2
fi

# Who this machine is as an NVMe host: what installing nvme-cli would have written.
id=$(cat /proc/sys/kernel/random/uuid)
mkdir -p /etc/nvme
echo "$id" >/etc/nvme/hostid
echo "nqn.2014-08.org.nvmexpress:uuid:$id" >/etc/nvme/hostnqn

cd /tmp || exit
exec 3<>/dev/vport0p1
echo ready >&3
while IFS=' ' read -r nonce bytes <&3; do
    if [ "$bytes" = off ]; then
        break
    fi
    head -c "$bytes" <&3 >/run/script
    {
        sh /run/script </dev/null 2>&1 3>&-
        echo $? >/run/status
    } | tee /dev/console >&3
    printf '\n%s %s\n' "$nonce" "$(cat /run/status)" >&3
done
sync
poweroff -f
