//! A running VM from the host's side: pause, signals, terminals, several at once.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use common::*;
use krun_builder::{Command, ExitStatus};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

mod every_make {
    use super::*;

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn a_paused_guest_stands_still_and_goes_on() {
        // The trap may come between the counting and the telling, so it does not tell itself.
        let script = "trap end=yes TERM; i=0
            while [ -z \"$end\" ]; do i=$((i + 1)); echo $i; done; echo $i is the last";
        let running = start(guest().vcpus(2), sh(script));
        running.wait_for("\n10\n");
        for _ in 0..10 {
            running.vm.pause();
            let seen = running.out_so_far().len();
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(running.out_so_far().len(), seen);
            running.vm.resume().unwrap();
            // Resuming what runs does nothing.
            running.vm.resume().unwrap();
            running.wait_until("to go on", |out| out.len() > seen);
        }
        running.vm.shutdown().unwrap();
        let out = running.wait().success();
        let (numbers, end) = out.trim_end().rsplit_once('\n').unwrap();
        let last = numbers.lines().count();
        assert!(last > 20 && end == format!("{last} is the last"), "{last} lines, then {end}");
        assert!(numbers.lines().zip(1..).all(|(line, i)| line == i.to_string()), "{numbers}");
    }

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn signals_reach_the_command() {
        let script = "trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let running = start(guest(), sh(script));
        assert!(running.vm.handle().signal(libc::SIGUSR1).is_err(), "before there is a command");
        running.wait_for("ready");
        assert!(running.vm.handle().signal(0).is_err() && running.vm.handle().signal(65).is_err());
        running.vm.handle().signal(libc::SIGUSR1).unwrap();
        running.wait_for("usr1");
        running.vm.shutdown().unwrap();
        let handle = running.vm.handle();
        let outcome = running.wait();
        assert_eq!((&outcome.status, outcome.out().as_str()), (&ExitStatus::Exited(5), "ready\nusr1\nterm\n"));
        assert!(handle.signal(libc::SIGTERM).is_err());
        assert_eq!(handle.wait(), ExitStatus::Exited(5));
    }
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn the_end_shows_on_the_descriptor() {
    let running = start(guest(), sh("exit 9"));
    let mut ready = [rustix::event::PollFd::new(&running.vm, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut ready, None).unwrap();
    assert_eq!(running.vm.try_wait(), Some(ExitStatus::Exited(9)));
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_killed_vm_does_not_wait_for_its_reader() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let vm = guest().stdout(writer).command(sh("yes")).build().unwrap().start().unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let begin = Instant::now();
    vm.kill();
    assert_eq!(vm.wait().unwrap(), ExitStatus::Stopped);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn two_vms_at_once_see_nothing_of_each_other() {
    // Each writes its mark all over its memory and into its kernel's data (where Linux keeps both names), and looks for
    // the other's when both have.
    let script = |mine: &str, other: &str| {
        sh(&format!(
            "mark={mine}; until [ ${{#mark}} -gt 4000 ]; do mark=$mark$mark; done
             i=0; while [ $i -lt 200 ]; do echo $mark; i=$((i + 1)); done > /tmp/marks
             hostname {mine}; echo {mine} > /proc/sys/kernel/domainname
             trap 'go=1' TERM; echo ready; until [ $go ]; do sleep 0.1; done
             hostname; cat /proc/sys/kernel/domainname
             grep -c {other} /dev/mem /proc/kallsyms 2>/dev/null; grep -c {other} /tmp/marks; true"
        ))
    };
    let vms = [start(guest(), script("MARKONE", "MARKTW[O]")), start(guest(), script("MARKTWO", "MARKON[E]"))];
    vms.iter().for_each(|vm| vm.wait_for("ready"));
    // Both run, each on a copy: nothing of the library that brought the kernel is mapped any more.
    let kernel = std::fs::canonicalize(asset("KRUN_TEST_KERNEL")).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(kernel.file_name().unwrap().to_str().unwrap()) && maps.contains("[stack]"), "{maps}");
    vms.iter().for_each(|vm| vm.vm.shutdown().unwrap());
    for (vm, name) in vms.into_iter().zip(["MARKONE", "MARKTWO"]) {
        let text = vm.wait().success();
        let rest = text.strip_prefix(&format!("ready\n{name}\n{name}\n")).unwrap_or_else(|| panic!("{text}"));
        let found = rest.lines().filter(|line| !line.ends_with('0')).count();
        assert!(found == 0 && !rest.is_empty(), "{text}");
    }
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_terminal_is_one_in_the_guest() {
    let size = |columns, rows| Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let terminal = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let mut raw = rustix::termios::tcgetattr(&terminal).unwrap();
    raw.make_raw();
    rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Now, &raw).unwrap();
    tcsetwinsize(&master, size(100, 40)).unwrap();

    let script = "trap 'stty size' WINCH; tty -s && stty size; read line; echo \"got $line\"
        trap : INT; sleep 1000; echo interrupted $?; read end; stty size; exit 4";
    let builder = guest().terminal(terminal.try_clone().unwrap(), terminal).command(sh(script));
    let running = builder.build().unwrap().start().unwrap();
    let mut screen = Screen { master: master.into(), text: String::new() };
    screen.wait_for("40 100\r\n");
    screen.master.write_all(b"typed\r").unwrap();
    screen.wait_for("typed\r\ngot typed\r\n");
    std::thread::sleep(Duration::from_secs(1));
    screen.master.write_all(&[3]).unwrap();
    screen.wait_for("interrupted 130\r\n");
    running.handle().resize(90, 30);
    std::thread::sleep(Duration::from_secs(1));
    screen.master.write_all(b"\r").unwrap();
    screen.wait_for("30 90\r\n");
    assert_eq!(running.wait().unwrap(), ExitStatus::Exited(4));
}

/// What a terminal shows.
struct Screen {
    master: File,
    text: String,
}

impl Screen {
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.text.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.text);
            let mut fds = [rustix::event::PollFd::new(&self.master, rustix::event::PollFlags::IN)];
            let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if rustix::event::poll(&mut fds, Some(&second)).unwrap() > 0 {
                let mut bytes = [0; 1024];
                let count = self.master.read(&mut bytes).unwrap_or_else(|error| panic!("{error}: {:?}", self.text));
                self.text += &String::from_utf8_lossy(&bytes[..count]);
            }
        }
    }
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn streams_that_are_not_there() {
    // No stdin reads as an end, no stdout takes everything.
    let vm = guest().command(Command::new("/bin/sh").args(["-c", "cat; seq 1 100000; exit 6"]));
    assert_eq!(vm.build().unwrap().start().unwrap().wait().unwrap(), ExitStatus::Exited(6));
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_device_of_ones_own() {
    let received = tempfile::tempfile().unwrap();
    let port = krun_console::Port::named("mine").output_fd(received.try_clone().unwrap()).unwrap();
    let device = krun_console::Console::new(vec![port]).unwrap();
    let script = "for port in /sys/class/virtio-ports/*; do
            [ \"$(cat $port/name 2>/dev/null)\" = mine ] && echo hello > /dev/${port##*/}; done; true";
    run(guest().device(device), sh(script)).success();
    assert_eq!(read_all(received), b"hello\n");
}
