//! A kick while the user's queue of real-time signals is full. Apart from the other tests, because the limit is the
//! process's.

mod common;

use std::thread;
use std::time::Duration;

use common::{kvm, long_mode};
use krun_vcpu::Stop;

/// sti; jmp to itself: an endless loop (why with interrupts: see the kick tests).
const LOOP: &[u8] = &[0xfb, 0xeb, 0xfe];

#[expect(unsafe_code, reason = "sets a resource limit")]
fn set_pending_signals(limit: libc::rlim_t) -> libc::rlim_t {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both pointers are to live structures.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_SIGPENDING, &raw mut old), 0);
        let new = libc::rlimit { rlim_cur: limit, rlim_max: old.rlim_max };
        assert_eq!(libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const new), 0);
    }
    old.rlim_cur
}

#[test]
fn it_waits_for_room_and_is_not_lost() {
    let Some(kvm) = kvm() else { return };
    let (_guest, mut vcpu) = long_mode(&kvm, LOOP);
    let handle = vcpu.handle();
    thread::scope(|scope| {
        let runner = thread::Builder::new()
            .name("vcpu".into())
            .spawn_scoped(scope, || vcpu.run(&common::Log::default()))
            .unwrap();
        thread::sleep(Duration::from_millis(20));
        let limit = set_pending_signals(0);
        let kicker = thread::Builder::new().name("kicker".into()).spawn_scoped(scope, || handle.kick()).unwrap();
        thread::sleep(Duration::from_millis(50));
        let early = (runner.is_finished(), kicker.is_finished());
        set_pending_signals(limit);
        assert_eq!(runner.join().unwrap().unwrap(), Stop::Kicked);
        kicker.join().unwrap();
        assert_eq!(early, (false, false), "the kernel had no room for the signal");
    });
}
