//! The kernel's console, for last words.

use core::fmt::Write as _;
use core::panic::PanicInfo;

use crate::sys::{self, Base, Fd};
use crate::text::Text;

/// Makes the console PID 1's standard streams. Whatever happens, all three numbers are taken afterwards, so no
/// descriptor made later stands for one of them.
pub(crate) fn claim(devices: Option<&Fd>) {
    while let Ok(filler) = sys::open(Base::Root, c"/", sys::PATH) {
        if filler.number() > 2 {
            break;
        }
        core::mem::forget(filler);
    }
    let console = devices.map(|devices| sys::open(Base::Tree(devices), c"console", sys::RDWR | sys::NOCTTY));
    if let Some(Ok(console)) = console {
        for number in 0..3 {
            // Cannot fail: both are open.
            let _ = sys::duplicate(&console, number);
        }
    }
}

/// Tells the console why the machine ends, and ends it.
pub(crate) fn give_up(reason: &str, errno: Option<sys::Errno>) -> ! {
    let mut text = Text::<256>::new();
    // A `Text` takes everything.
    let _ = match errno {
        Some(errno) => writeln!(text, "krun-init: {reason}: error {}", errno.0),
        None => writeln!(text, "krun-init: {reason}"),
    };
    sys::complain(text.bytes());
    sys::power_off()
}

/// A mistake in PID 1: the machine ends rather than hangs.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut text = Text::<512>::new();
    let _ = writeln!(text, "krun-init: {info}");
    sys::complain(text.bytes());
    sys::power_off()
}
