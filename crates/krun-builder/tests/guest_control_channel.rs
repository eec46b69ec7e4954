//! Nothing in the guest but its first process speaks for the guest.

mod common;

use common::*;
use krun_builder::ExitStatus;

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn nobody_but_init_reaches_the_control_channel() {
    let script = "for port in /sys/class/virtio-ports/*; do
            [ \"$(cat $port/name 2>/dev/null)\" = krun-control ] && dev=/dev/${port##*/}; done
        { echo x > $dev; } 2>/dev/null && echo opened
        readlink /proc/1/fd/* 2>/dev/null; { true < /proc/1/mem; } 2>/dev/null && echo memory
        kill -KILL 1; sleep 1; echo still here
        echo by name > /dev/stdout; echo err > /dev/stderr; exit 11";
    let outcome = run(guest(), sh(script));
    assert_eq!(outcome.status, ExitStatus::Exited(11), "{outcome:?}");
    assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("still here\nby name\n", "err\n"));
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_forged_exit_is_not_believed() {
    // Root takes the device away from init, brings it back, and speaks the protocol itself.
    let forged = r"kr\1D\0\0\0\0\4\0\0\0\0\0\0\0";
    let script = format!(
        "cd /sys/bus/virtio/drivers/virtio_console; echo virtio0 > unbind; echo virtio0 > bind; sleep 1
         for port in /dev/vport*; do printf '{forged}' > $port & done; sleep 5; reboot -f"
    );
    let outcome = run(guest(), sh(&script));
    assert_eq!(outcome.status, ExitStatus::Rebooted, "{outcome:?}");
}
