//! Somebody else's drivers over our registers: the crate `virtio-drivers` reads the specification on its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, numbers are small"
)]
#![expect(unsafe_code, reason = "a Hal hands out memory by address")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use krun_virtio::mmio::registers as reg;
use krun_virtio::vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use krun_virtio::{
    Context, Inline, MmioTransport, Ram, Sink, Source, Step, Task, VirtioDevice, Worker, read_config_bytes,
};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const BASE: u64 = 0x8000_0000;
const MEMORY: usize = 64 << 20;

/// The drivers' memory: pages are handed out and never come back.
fn memory() -> &'static Arc<GuestMemoryMmap> {
    static MEMORY_OF_ALL: OnceLock<Arc<GuestMemoryMmap>> = OnceLock::new();
    MEMORY_OF_ALL.get_or_init(|| Arc::new(GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(BASE), MEMORY)]).unwrap()))
}

fn pages(count: usize) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(BASE);
    let address = NEXT.fetch_add((count * PAGE_SIZE) as u64, Ordering::Relaxed);
    assert!(address + ((count * PAGE_SIZE) as u64) < BASE + MEMORY as u64);
    address
}

struct Bounce;

// SAFETY: pages are page-aligned, zero and given out once; `share` and `unshare` copy through guest memory of their own.
unsafe impl Hal for Bounce {
    fn dma_alloc(count: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let address = pages(count);
        let host = memory().get_host_address(GuestAddress(address)).unwrap();
        (address, NonNull::new(host).unwrap())
    }

    unsafe fn dma_dealloc(_address: PhysAddr, _host: NonNull<u8>, _pages: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(_address: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("for PCI only")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let address = pages(buffer.len().div_ceil(PAGE_SIZE));
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the caller promises a valid buffer that nobody else touches during the call.
            let bytes = unsafe { buffer.as_ref() };
            memory().write_slice(bytes, GuestAddress(address)).unwrap();
        }
        address
    }

    unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: as in `share`.
            let bytes = unsafe { buffer.as_mut() };
            memory().read_slice(bytes, GuestAddress(address)).unwrap();
        }
    }
}

/// Their transport over our registers.
struct Registers {
    device: Arc<MmioTransport>,
    inline: Inline,
}

impl Registers {
    fn new(device: impl VirtioDevice + 'static) -> (Self, Arc<MmioTransport>) {
        let inline = Inline::new();
        let ram = Ram::new(memory().clone());
        let device = Arc::new(MmioTransport::new(Box::new(device), Arc::new(inline.clone()), ram).unwrap());
        (Self { device: device.clone(), inline }, device)
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.device.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u64, value: u32) {
        self.device.write(offset, &value.to_le_bytes());
    }

    fn write_64(&self, low: u64, value: u64) {
        self.write(low, value as u32);
        self.write(low + 4, (value >> 32) as u32);
    }
}

impl Transport for Registers {
    fn device_type(&self) -> DeviceType {
        assert_eq!((self.read(reg::MAGIC_VALUE), self.read(reg::VERSION_ID)), (0x7472_6976, 2));
        self.read(reg::DEVICE_ID).try_into().unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        self.write(reg::DEVICE_FEATURES_SEL, 0);
        let low = u64::from(self.read(reg::DEVICE_FEATURES));
        self.write(reg::DEVICE_FEATURES_SEL, 1);
        low | u64::from(self.read(reg::DEVICE_FEATURES)) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(reg::DRIVER_FEATURES_SEL, select);
            self.write(reg::DRIVER_FEATURES, half);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.write(reg::QUEUE_SEL, queue.into());
        self.read(reg::QUEUE_SIZE_MAX)
    }

    fn notify(&mut self, queue: u16) {
        self.write(reg::QUEUE_NOTIFY, queue.into());
        assert!(self.inline.settle(1000));
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.read(reg::STATUS))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.write(reg::STATUS, status.bits());
    }

    fn set_guest_page_size(&mut self, _size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.write(reg::QUEUE_SEL, queue.into());
        self.write(reg::QUEUE_SIZE, size);
        self.write_64(reg::QUEUE_DESC_LOW, descriptors);
        self.write_64(reg::QUEUE_DRIVER_LOW, driver);
        self.write_64(reg::QUEUE_DEVICE_LOW, device);
        self.write(reg::QUEUE_READY, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.write(reg::QUEUE_SEL, queue.into());
        self.write(reg::QUEUE_READY, 0);
        assert_eq!(self.read(reg::QUEUE_READY), 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.write(reg::QUEUE_SEL, queue.into());
        self.read(reg::QUEUE_READY) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = self.read(reg::INTERRUPT_STATUS);
        self.write(reg::INTERRUPT_ACK, status);
        InterruptStatus::from_bits_truncate(status)
    }

    fn read_config_generation(&self) -> u32 {
        self.read(reg::CONFIG_GENERATION)
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let mut value = T::new_zeroed();
        self.device.read(reg::CONFIG + offset as u64, value.as_mut_bytes());
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> virtio_drivers::Result<()> {
        self.device.write(reg::CONFIG + offset as u64, value.as_bytes());
        Ok(())
    }
}

/// Entropy: counting bytes.
struct Rng;

struct RngWorker(u8);

impl Worker for RngWorker {
    fn queue_event(&mut self, index: u16, cx: &mut Context<'_>) {
        cx.queues.get(index).unwrap().drain(|mut chain| {
            let mut writer = chain.writer();
            while writer.remaining() > 0 {
                writer.write(&[self.0]).unwrap();
                self.0 = self.0.wrapping_add(1);
            }
            Step::Done(chain)
        });
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn tasks(&mut self) -> Vec<Task> {
        vec![Task::new(0..1, RngWorker(0))]
    }
}

/// A disk of 64 sectors in memory: header before the payload, status behind it.
struct Disk;

struct DiskWorker(Vec<u8>);

const SECTOR: usize = 512;

impl DiskWorker {
    fn serve(&mut self, from: &mut dyn Source, to: &mut dyn Sink) -> u8 {
        let mut header = [0; 16];
        if from.read(&mut header).is_err() {
            return 1;
        }
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        let at = usize::try_from(u64::from_le_bytes(header[8..].try_into().unwrap())).unwrap() * SECTOR;
        match kind {
            0 => {
                let len = to.remaining() - 1;
                self.0.get(at..at + len).map_or(1, |bytes| to.write(bytes).map_or(1, |()| 0))
            }
            1 => {
                let len = from.remaining();
                self.0.get_mut(at..at + len).map_or(1, |bytes| from.read(bytes).map_or(1, |()| 0))
            }
            4 => 0,
            8 => to.write(b"a disk of ours      ").map_or(1, |()| 0),
            _ => 2,
        }
    }
}

impl Worker for DiskWorker {
    fn queue_event(&mut self, index: u16, cx: &mut Context<'_>) {
        cx.queues.get(index).unwrap().drain(|mut chain| {
            let (mut from, mut to) = chain.split();
            let status = self.serve(&mut from, &mut to);
            let gap = to.remaining() - 1;
            to.skip(gap).unwrap();
            to.write(&[status]).unwrap();
            Step::Done(chain)
        });
    }
}

impl VirtioDevice for Disk {
    fn device_type(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        1 << 9
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&64u64.to_le_bytes(), offset, data);
    }

    fn tasks(&mut self) -> Vec<Task> {
        vec![Task::new(0..1, DiskWorker(vec![0; 64 * SECTOR]))]
    }
}

#[test]
fn their_entropy_driver() {
    let (registers, device) = Registers::new(Rng);
    let mut rng = VirtIORng::<Bounce, _>::new(registers).unwrap();
    let mut bytes = [0; 300];
    for round in 0..200usize {
        let want = 1 + round;
        assert_eq!(rng.request_entropy(&mut bytes[..want]).unwrap(), want);
        let first = bytes[0];
        assert!(bytes[..want].iter().enumerate().all(|(i, b)| *b == first.wrapping_add(i as u8)));
    }
    assert!(rng.ack_interrupt() == InterruptStatus::QUEUE_INTERRUPT);
    rng.disable_interrupts();
    rng.enable_interrupts();
    drop(rng);
    assert_eq!(device.faults(), 0);
}

#[test]
fn their_disk_driver() {
    let (registers, device) = Registers::new(Disk);
    let mut disk = VirtIOBlk::<Bounce, _>::new(registers).unwrap();
    assert_eq!(disk.capacity(), 64);
    let mut id = [0; 20];
    disk.device_id(&mut id).unwrap();
    assert_eq!(&id, b"a disk of ours      ");
    for round in 0..100usize {
        let (sector, count) = (round * 7 % 60, 1 + round % 4);
        let bytes: Vec<u8> = (0..count * SECTOR).map(|i| (i * 31 + round) as u8).collect();
        disk.write_blocks(sector, &bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        disk.read_blocks(sector, &mut back).unwrap();
        assert_eq!(back, bytes, "round {round}");
    }
    disk.flush().unwrap();
    assert!(disk.write_blocks(63, &[0; 2 * SECTOR]).is_err(), "beyond the end");
    drop(disk);
    assert_eq!(device.faults(), 0);
}

#[test]
fn their_driver_again_and_again() {
    let (_, device) = Registers::new(Rng);
    for _ in 0..20 {
        let inline = Inline::new();
        // Without turns: the device runs on the executor that it was made with.
        let registers = Registers { device: device.clone(), inline };
        let rng = VirtIORng::<Bounce, _>::new(registers).unwrap();
        drop(rng);
    }
    assert_eq!(device.faults(), 0);
}
