//! Memory slots as the guest sees them.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod common;

use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use common::{Event, Guest, Log, kvm, long_mode};
use krun_vcpu::vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};
use krun_vcpu::{Error, Exit, ExitHandler, Flow, SlotFlags, SlotProblem, Stop, VmOptions};

/// Where the tests put slots of their own.
const SLOT: u64 = 0x20_0000;

/// Reads 8 bytes at SLOT into rbx, writes 0x55 at SLOT + 8, reads that into ecx.
const READ_WRITE_READ: &[u8] = &[
    0xbe, 0x00, 0x00, 0x20, 0x00, // mov esi, 0x200000
    0x48, 0x8b, 0x06, // mov rax, [rsi]
    0x48, 0x89, 0xc3, // mov rbx, rax
    0xc7, 0x46, 0x08, 0x55, 0x00, 0x00, 0x00, // mov dword ptr [rsi+8], 0x55
    0x8b, 0x4e, 0x08, // mov ecx, [rsi+8]
    0xf4, // hlt
];

fn region(at: u64, size: usize) -> Arc<GuestRegionMmap> {
    Arc::new(GuestRegionMmap::new(MmapRegion::new(size).unwrap(), GuestAddress(at)).unwrap())
}

#[test]
fn unmapped_memory_is_mmio() {
    let Some(kvm) = kvm() else { return };
    let (_guest, mut vcpu) = long_mode(&kvm, READ_WRITE_READ);
    let log = Log::answering(0xab);
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    let expected = [Event::Read(SLOT, 8), Event::Write(SLOT + 8, vec![0x55, 0, 0, 0]), Event::Read(SLOT + 8, 4)];
    assert_eq!(log.take(), expected);
    assert_eq!(vcpu.fd().get_regs().unwrap().rbx, 0xab);
}

#[test]
fn a_read_only_slot_is_read_directly_and_written_by_exits() {
    let Some(kvm) = kvm() else { return };
    let (guest, mut vcpu) = long_mode(&kvm, READ_WRITE_READ);
    let rom = region(SLOT, 0x1000);
    GuestMemoryMmap::from_arc_regions(vec![Arc::clone(&rom)])
        .unwrap()
        .write_obj(0x1122_3344_u64, GuestAddress(SLOT))
        .unwrap();
    guest.vm.add_region(&rom, SlotFlags::READ_ONLY).unwrap();
    let log = Log::default();
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    assert_eq!(log.take(), [Event::Write(SLOT + 8, vec![0x55, 0, 0, 0])]);
    let regs = vcpu.fd().get_regs().unwrap();
    assert_eq!((regs.rbx, regs.rcx), (0x1122_3344, 0));
}

#[test]
fn several_slots_and_their_removal() {
    let Some(kvm) = kvm() else { return };
    let (guest, mut vcpu) = long_mode(&kvm, READ_WRITE_READ);
    let slots: Vec<_> =
        (0..8).map(|n| guest.vm.add_region(&region(SLOT + n * 0x1000, 0x1000), SlotFlags::empty()).unwrap()).collect();
    let overlap = guest.vm.add_region(&region(SLOT + 0x3000, 0x2000), SlotFlags::empty()).unwrap_err();
    assert!(
        matches!(overlap, Error::Slot { problem: SlotProblem::Overlaps(at), .. } if at == SLOT + 0x3000),
        "{overlap}"
    );

    let log = Log::default();
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    assert_eq!(log.take(), []);
    assert_eq!(vcpu.fd().get_regs().unwrap().rcx, 0x55);

    guest.vm.remove_slot(slots[0]).unwrap();
    let again = guest.vm.remove_slot(slots[0]).unwrap_err();
    assert!(matches!(again, Error::Slot { problem: SlotProblem::Unknown(_), .. }), "{again}");
    let mut vcpu = guest.restart(vcpu);
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    assert_eq!(log.take().len(), 3, "what was memory is MMIO now");

    guest.vm.add_region(&region(SLOT, 0x1000), SlotFlags::empty()).unwrap();
    let mut vcpu = guest.restart(vcpu);
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    assert_eq!(log.take(), []);
}

#[test]
fn two_vms_share_memory() {
    let Some(kvm) = kvm() else { return };
    let shared = region(SLOT, 0x1000);
    let (first, mut writer) = long_mode(&kvm, READ_WRITE_READ);
    first.vm.add_region(&shared, SlotFlags::empty()).unwrap();
    let reader_code = [
        0xbe,
        0x00,
        0x00,
        0x20,
        0x00, // mov esi, 0x200000
        0x8a,
        0x46,
        0x08, // mov al, [rsi+8]
        0xe6,
        common::DONE, // out DONE, al
    ];
    let (second, mut reader) = long_mode(&kvm, &reader_code);
    second.vm.add_region(&shared, SlotFlags::READ_ONLY).unwrap();
    assert_eq!(writer.run(&Log::default()).unwrap(), Stop::Halted);
    assert_eq!(reader.run(&Log::default()).unwrap(), Stop::Code(0x55));
}

#[test]
fn written_pages_are_recorded() {
    let Some(kvm) = kvm() else { return };
    let (guest, mut vcpu) = long_mode(&kvm, READ_WRITE_READ);
    let slot = guest.vm.add_region(&region(SLOT, 0x3000), SlotFlags::LOG_DIRTY).unwrap();
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Halted);
    assert_eq!(guest.vm.take_dirty_pages(slot).unwrap(), [0b001]);
    assert_eq!(guest.vm.take_dirty_pages(slot).unwrap(), [0]);
}

/// An anonymous file of `size` bytes mapped at SLOT.
fn file_region(size: u64) -> (File, Arc<GuestRegionMmap>) {
    // SAFETY: a constant name; the descriptor returned is new and owned by nobody else.
    #[expect(unsafe_code, reason = "an anonymous file")]
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"slot".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(size).unwrap();
    let offset = FileOffset::new(file.try_clone().unwrap(), 0);
    let mapping = MmapRegion::from_file(offset, usize::try_from(size).unwrap()).unwrap();
    (file, Arc::new(GuestRegionMmap::new(mapping, GuestAddress(SLOT)).unwrap()))
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_page_the_host_truncated_is_a_named_error() {
    let Some(kvm) = kvm() else { return };
    let (guest, mut vcpu) = long_mode(&kvm, READ_WRITE_READ);
    let (file, region) = file_region(0x1000);
    guest.vm.add_region(&region, SlotFlags::empty()).unwrap();
    file.set_len(0).unwrap();
    let error = vcpu.run(&Log::default()).unwrap_err();
    let Error::MemoryFault(fault) = error else { panic!("{error:?}") };
    assert_eq!(fault.rip, common::CODE + 5, "{fault}");
    assert!(fault.address.is_none_or(|address| address & !0xfff == SLOT), "{fault}");
    println!("{fault}");
}

/// Makes the file long enough again when its page is missed.
struct Repair(File);

impl ExitHandler for Repair {
    fn mmio_read(&self, _address: u64, _data: &mut [u8]) -> Flow {
        ControlFlow::Break(Stop::Code(-1))
    }

    fn mmio_write(&self, _address: u64, _data: &[u8]) -> Flow {
        ControlFlow::Break(Stop::Code(-1))
    }

    fn exit(&self, _vcpu: u32, exit: &mut Exit) -> Option<Flow> {
        let Exit::MemoryFault(_) = exit else { return None };
        self.0.set_len(0x1000).unwrap();
        Some(ControlFlow::Continue(()))
    }
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_handler_may_repair_a_truncated_page() {
    let Some(kvm) = kvm() else { return };
    let (guest, mut vcpu) = long_mode(&kvm, READ_WRITE_READ);
    let (file, region) = file_region(0x1000);
    guest.vm.add_region(&region, SlotFlags::empty()).unwrap();
    file.set_len(0).unwrap();
    assert_eq!(vcpu.run(&Repair(file)).unwrap(), Stop::Halted);
    assert_eq!(vcpu.fd().get_regs().unwrap().rcx, 0x55);
}

#[test]
fn memory_outlives_the_vm_value_as_long_as_a_vcpu_lives() {
    let Some(kvm) = kvm() else { return };
    let guest = Guest::new(&kvm, &VmOptions::bare());
    let mut vcpu = guest.load(READ_WRITE_READ).long_mode();
    guest.vm.add_region(&region(SLOT, 0x1000), SlotFlags::empty()).unwrap();
    drop(guest);
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Halted);
    assert_eq!(vcpu.fd().get_regs().unwrap().rcx, 0x55);
}

#[test]
fn memory_of_several_regions() {
    let Some(kvm) = kvm() else { return };
    let memory =
        GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(SLOT), 0x1000), (GuestAddress(1 << 32), 0x2000)]).unwrap();
    let (guest, mut vcpu) = long_mode(&kvm, READ_WRITE_READ);
    assert_eq!(guest.vm.add_memory(&memory).unwrap().len(), memory.num_regions());
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Halted);
    assert_eq!(memory.read_obj::<u32>(GuestAddress(SLOT + 8)).unwrap(), 0x55);

    // All or nothing: the second region of this lies over one that is there.
    let overlapping =
        GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(SLOT + 0x1000), 0x1000), (GuestAddress(1 << 32), 0x1000)])
            .unwrap();
    guest.vm.add_memory(&overlapping).unwrap_err();
    guest.vm.add_region(&region(SLOT + 0x1000, 0x1000), SlotFlags::empty()).unwrap();
}
