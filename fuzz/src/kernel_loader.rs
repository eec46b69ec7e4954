//! Fuzzes `krun-kernel-loader`.

use std::io::Cursor;

use krun_kernel_loader::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use krun_kernel_loader::{
    BootParams, Cmdline, Entry, Kernel, RamLayout, load_initrd, write_boot_params, write_pvh_start_info,
};

/// Enough for the corpus's kernels, and little to look through.
const RAM: u64 = RAM_BYTES as u64;
const RAM_BYTES: usize = 3 << 20;

/// The bytes are a kernel file: it is refused, or loaded within the rules and described to itself.
///
/// # Panics
///
/// When a kernel that was taken touches memory that is not its own.
pub fn image(data: &[u8]) {
    let Ok(mut kernel) = Kernel::from_image(Cursor::new(data)) else { return };
    let (Ok(layout), Ok(ram)) =
        (RamLayout::new(RAM), GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM_BYTES)]))
    else {
        return;
    };
    let Ok(loaded) = kernel.load(&ram, &layout) else { return };
    let entry = match loaded.entry {
        Entry::Linux64 { rip } => rip.0,
        Entry::Pvh { eip } => eip.0,
        _ => return,
    };
    assert!(loaded.range.start >= 1 << 20 && loaded.range.end <= RAM);
    assert!(loaded.range.contains(&entry));
    assert_eq!(untouched(&ram, 0, 1 << 20), Some(true));
    assert_eq!(untouched(&ram, loaded.range.end, RAM), Some(true));

    let initrd = load_initrd(&ram, &loaded, Cursor::new(data)).ok();
    if let Some(initrd) = &initrd {
        assert!(initrd.address().0 >= loaded.range.end && initrd.address().0 + initrd.size() <= RAM);
    }
    let mut cmdline = Cmdline::new();
    // It may be longer than this kernel says it reads; then that is the answer.
    let _ = cmdline.raw("console=ttyS0 panic=-1");
    let params = BootParams { kernel: &loaded, layout: &layout, cmdline: &cmdline, initrd, acpi_rsdp: None };
    let _ = write_boot_params(&ram, &params);
    let _ = write_pvh_start_info(&ram, &params);
}

/// Whether guest memory from `start` to `end` is still zero.
fn untouched(ram: &GuestMemoryMmap, start: u64, end: u64) -> Option<bool> {
    let mut bytes = vec![0u8; usize::try_from(end.checked_sub(start)?).ok()?];
    ram.read_slice(&mut bytes, GuestAddress(start)).ok()?;
    Some(bytes.iter().all(|byte| *byte == 0))
}
