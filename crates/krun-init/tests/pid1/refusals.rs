//! What PID 1 refuses, and how it says so.

use krun_init::protocol::Stage;
use krun_init::{Event, Stdio};

use crate::machine::{Machine, is_possible, script};
use crate::{ENOENT, ENOTDIR};

#[test]
fn no_file_of_the_root_configures_anything() {
    if !is_possible() {
        return;
    }
    let config = r#"printf '{"Env":["X=1"],"args":["/bin/false"],"Cwd":"/usr"}' > .krun_config.json"#;
    let mut machine = Machine::boot_with(&script("pwd; echo $X"), b"", config);
    machine.started();
    assert_eq!(machine.outcome().text(), "/\n\n");
}

#[test]
fn a_missing_directory_is_named() {
    if !is_possible() {
        return;
    }
    let mut machine = Machine::boot_with(&script("true"), b"", "rmdir proc; mount -o remount,ro .");
    let Event::Failed(failure) = machine.event() else { panic!("it ran") };
    assert_eq!((failure.stage, failure.errno), (Stage::Mount, ENOENT));
    assert_eq!(failure.detail, b"/proc");
}

#[test]
fn a_link_in_the_place_of_proc_is_no_proc() {
    if !is_possible() {
        return;
    }
    // The root itself is a mount, but not of procfs. With the directories that would be written to, and without.
    for extra in ["", "; mkdir -p sys/kernel/usermodehelper; touch sys/kernel/usermodehelper/bset"] {
        let extra = format!("rmdir proc; ln -s / proc{extra}");
        let mut machine = Machine::boot_with(&script("true"), b"", &extra);
        let Event::Failed(failure) = machine.event() else { panic!("it ran") };
        assert_eq!((failure.stage, failure.errno), (Stage::Mount, ENOTDIR));
        assert_eq!(failure.detail, b"/proc");
        machine.expect_power_off();
    }
}

#[test]
fn a_link_in_the_place_of_sys_or_dev_names_no_control_port() {
    if !is_possible() {
        return;
    }
    // Everything that stands for the ports is below the root itself, which a link offers as /sys or as /dev. PID 1
    // looks into the kernel's own, where nothing stands for them.
    for extra in [
        "mkdir class; cp -r sys/class/virtio-ports class; umount sys; rmdir sys; ln -s / sys",
        "for node in dev/*; do
            if test -d $node; then continue; fi
            touch ${node#dev/}; mount --bind $node ${node#dev/}; umount $node
        done
        umount dev; rmdir dev; ln -s / dev",
    ] {
        let machine = Machine::launch(&script("true"), b"", &format!("{extra}; touch $FILES/booted"));
        machine.expect_power_off();
        machine.expect_silence();
        assert!(machine.has_file("booted"));
    }
}

#[test]
fn a_missing_port_is_named() {
    if !is_possible() {
        return;
    }
    let mut start = script("true");
    start.stdout = Stdio::Port("no-such-port".into());
    let failure = Machine::fail(&start);
    assert_eq!((failure.stage, failure.errno), (Stage::Stdio, ENOENT));
    assert_eq!(failure.detail, b"no-such-port");
}

#[test]
fn a_host_that_hangs_up_or_talks_nonsense_ends_the_machine() {
    if !is_possible() {
        return;
    }
    let mut machine = Machine::boot(&script("sleep 1000"), b"");
    machine.started();
    machine.send_raw(b"nonsense that is longer than a header");
    machine.expect_power_off();

    let mut machine = Machine::boot(&script("sleep 1000"), b"");
    machine.started();
    machine.hang_up();
    machine.expect_power_off();
    assert!(machine.console().contains("krun-init: the host"), "{}", machine.console());
}

#[test]
fn without_a_control_port_the_machine_says_so_and_ends() {
    if !is_possible() {
        return;
    }
    let machine = Machine::launch(&script("true"), b"", "rm -r sys/class/virtio-ports/vport0p1");
    machine.expect_power_off();
    assert_eq!(machine.console(), "krun-init: cannot open the control port: error 2\n");
}

#[test]
fn a_start_that_is_not_one_is_answered() {
    if !is_possible() {
        return;
    }
    let mut machine = Machine::launch(&script("true"), b"", "");
    assert!(matches!(machine.event(), Event::Greeted { .. }));
    // A frame of a later version's, with no argument in it.
    machine.send_raw(b"kr\x01\x01\0\0\0\0\x08\0\0\0\x63\0\0\0\0\0\0\0");
    let Event::Failed(failure) = machine.event() else { panic!("it ran") };
    assert_eq!((failure.stage, failure.errno, failure.status()), (Stage::Protocol, 0, 125));
    machine.expect_power_off();
}
